"""`python -m edgecnn.runtime JOB.json [RUN.json]`, or `--worker` for requests on stdin."""

from __future__ import annotations

import sys

from .worker import main

sys.exit(main())
