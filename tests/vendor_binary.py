"""A stand-in for LiteRT's `benchmark_model`: its flags and its output, the inferences done by the Python package.

Its lines are worded as in the recorded output of tensorflow/tensorflow#43541 and mozilla/DeepSpeech#2270.
"""

from __future__ import annotations

import stat
import sys
from pathlib import Path

BODY = """
import sys, time
import numpy as np
from edgecnn.runtime.session import open_session

if "--help" in sys.argv:
    print("usage: benchmark_model\\nFlags:\\n\\t--graph=\\tstring\\tgraph file name")
    sys.exit(0)
flags = dict(word.lstrip("-").split("=", 1) for word in sys.argv[1:])
started = time.perf_counter()
session = open_session(flags["graph"], threads=int(flags["num_threads"]))
init = time.perf_counter() - started
files = flags.get("input_layer_value_files")
if files and NEW:
    arrays = []
    for spec, pair in zip(session.inputs, files.split(",")):
        name, _, file = pair.rpartition(":")
        assert name == spec.name.replace(":", "::"), (name, spec.name)
        arrays.append(np.fromfile(file, spec.dtype).reshape(spec.shape))
else:
    arrays = [np.zeros(spec.shape, spec.dtype) for spec in session.inputs]
session.set_inputs(arrays)
times = []
until = time.perf_counter() + float(flags["min_secs"])
while not times or time.perf_counter() < until:
    before = time.perf_counter()
    session.invoke()
    times.append((time.perf_counter() - before) * 1e6)
if "output_filepath" in flags and NEW:
    with open(flags["output_filepath"], "wb") as file:
        for output in session.outputs_now():
            file.write(output.tobytes())
print("INFO: Log parameter values verbosely: [0]")
print("INFO: Explicitly applied XNNPACK delegate, and the model graph will be completely executed by the delegate.")
print("count=1 first=9999999 curr=9999999 min=9999999 max=9999999 avg=9999999 std=0\\n")
mean, extra = np.mean(times), " p5=1 median=%.4g p95=3" % np.median(times) if NEW else ""
print("INFO: count=%d first=%d curr=%d min=%d max=%d avg=%g std=%d%s"
      % (len(times), times[0], times[-1], min(times), max(times), mean, np.std(times), extra))
print("INFO: Inference timings in us: Init: %d, First inference: %d, Warmup (avg): %g, Inference (avg): %g"
      % (init * 1e6, times[0], mean, mean))
print("INFO: Memory footprint delta from the start of the tool (MB): init=8.97656 overall=18.7227")
if flags.get("enable_op_profiling") == "true":
    print("============================== Run Order ==============================")
    print("\\t[node type]\\t[first]\\t[avg ms]\\t[%]\\t[cdf%]\\t[mem KB]\\t[times called]\\t[Name]")
    print("\\tConvolution (NHWC, QC8) IGEMM\\t0.7\\t0.75\\t75.0%\\t75.0%\\t0.000\\t1\\tDelegate/Conv:0")
    print("\\tMUL\\t0.2\\t0.25\\t25.0%\\t100.0%\\t0.000\\t1\\t[net/mul]:1")
    print("============================== Top by Computation Time ==============================")
"""


def write(path: Path, *, new: bool = True) -> Path:
    """The stand-in as an executable file; an old one writes no outputs and no median."""
    path.write_text(f"#!{sys.executable}\nNEW = {new}\n{BODY}")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path
