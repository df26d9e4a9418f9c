"""Stands for `onnxruntime_perf_test`: its options, its files and what it prints, by Python's onnxruntime."""

import getopt
import os
import sys
import time
from pathlib import Path

os.environ["ORT_DISABLE_TELEMETRY"] = "1"
import numpy as np
import onnxruntime as ort

pairs, (model, result) = getopt.getopt(sys.argv[1:], "e:m:r:x:y:p:u:DI")
options = dict(pairs)
assert options["-m"] == "times" and options["-e"] == "cpu" and "-D" in options and "-I" in options
session_options = ort.SessionOptions()
session_options.intra_op_num_threads = int(options["-x"])
session_options.log_severity_level = 4
if "-p" in options:
    session_options.enable_profiling = True
    session_options.profile_file_prefix = options["-p"]
if "-u" in options:
    session_options.optimized_model_filepath = options["-u"]
try:
    session = ort.InferenceSession(model, session_options, providers=["CPUExecutionProvider"])
except Exception as error:
    sys.exit(f"{error}".splitlines()[0])
feeds = {i.name: np.ones([d if isinstance(d, int) else 1 for d in i.shape], np.float32) for i in session.get_inputs()}
session.run(None, feeds)
with Path(result).open("a") as file:
    for run in range(int(options["-r"])):
        started = time.perf_counter()
        session.run(None, feeds)
        file.write(f"{Path.cwd().name},{time.perf_counter() - started:.6g},1000,99,{run}\n")
if "-p" in options:
    session.end_profiling()
sys.stdout.write("Total iterations:" + options["-r"] + "\n")
