"""One thread per test process: the processes of a parallel run would otherwise fight for the cores."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
