"""onnxruntime on the CPU, as the whole package uses it: one thread, no output of its own, errors in one line."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx

from netadapt_onnx.errors import NetadaptError, one_line
from netadapt_onnx.graph.loop_limits import exceeded, limit_trips
from netadapt_onnx.graph.shapes import Specs
from netadapt_onnx.graph.weightless import file_bytes, light_copy

if TYPE_CHECKING:
    import onnxruntime

Arrays = dict[str, np.ndarray]
# What onnxruntime says of operators, types and opsets that it lacks, rather than of a model that is wrong.
LACKING = ("NOT_IMPLEMENTED", "not a registered function/op", "No Op registered for", "*guarantees* support")
PROTOBUF_LIMIT = 2**31 - 1
# What the shapes and constants of an untrusted model may take while they are computed.
BOUNDED_BYTES = 1 << 30
CANNOT_RUN = "onnxruntime cannot run the model"


def session(
    model: onnx.ModelProto | Path,
    *,
    outputs: Sequence[str] | None = None,
    optimise: bool = True,
    prepack: bool = True,
    threads: int = 1,
    bounded: bool = False,
) -> onnxruntime.InferenceSession:
    """Open a model in onnxruntime.

    A model that may be timed, an optimised one with its own outputs, is opened as users open it; weights of others are
    never serialised, and their loops end (`loop_limits.py`).

    Args:
        model: the model, or its file.
        outputs: the tensors that become its outputs instead of its own; their types are inferred.
        optimise: whether onnxruntime optimises the graph.
        prepack: whether kernels lay out weights anew, a copy that a file which is only opened does not need.
        threads: the number of threads within an operator.
        bounded: whether all that bounded sessions of this process hold takes at most `BOUNDED_BYTES`.

    Raises:
        NetadaptError: (code `unloadable`) with onnxruntime's own reason, if it refuses the model.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if not optimise:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.enable_cpu_mem_arena = False
    if not prepack:
        options.add_session_config_entry("session.disable_prepacking", "1")
    try:
        if isinstance(model, Path):
            return _open(str(model), options)
        if optimise and outputs is None and file_bytes(model) <= PROTOBUF_LIMIT:
            return _open(model.SerializeToString(), options)
        light, weights = light_copy(model, outputs)
        limit_trips(light)
        if bounded and _bounded_memory():
            options.add_session_config_entry("session.use_env_allocators", "1")
        values = [ort.OrtValue.ortvalue_from_numpy(value) for value in weights.values()]
        options.add_external_initializers(list(weights), values)
        opened = _open(light.SerializeToString(), options)
        opened.weights = weights  # onnxruntime reads the arrays in place for as long as the session lives
        return opened
    except Exception as error:  # onnxruntime raises a dozen unrelated types, some of them plain RuntimeError
        raise _refused(error, "check it with `onnx.checker` or export it again") from error


def _refused(error: Exception, hint: str = "") -> NetadaptError:
    return NetadaptError(f"onnxruntime cannot load the model: {one_line(error)}", hint=hint, code="unloadable")


def _open(model: str | bytes, options: onnxruntime.SessionOptions) -> onnxruntime.InferenceSession:
    """A session on the CPU. Without a fallback: onnxruntime would print why it failed, and try the same again."""
    import onnxruntime as ort

    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"], enable_fallback=0)


def lacks_operator(error: NetadaptError) -> bool:
    """Whether onnxruntime refused a model (`session`) for an operator, type or opset that it does not have."""
    return any(reason in str(error.__cause__) for reason in LACKING)


def optimised(model: onnx.ModelProto, folder: Path) -> onnx.ModelProto:
    """What onnxruntime's basic optimisations, which precede those of any execution provider, make of a model.

    Large constants are without their values. `folder` is for its files. Raises NetadaptError (code `unloadable`).
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    options.add_session_config_entry("session.optimized_model_external_initializers_file_name", "weights")
    options.add_session_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", "1024")
    try:
        _open(model.SerializeToString(), options)
    except Exception as error:
        raise _refused(error) from error
    return onnx.load(folder / "optimised.onnx", load_external_data=False)


@cache
def _bounded_memory() -> bool:
    """Register the allocator that bounded sessions of this process share; False if something else registered one."""
    import onnxruntime as ort

    where = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    doubling = 0  # the arena grows in regions twice as large, so that what is given back is of use again
    limits = ort.OrtArenaCfg({"max_mem": BOUNDED_BYTES, "arena_extend_strategy": doubling})
    try:
        ort.create_and_register_allocator(where, limits)
    except Exception:
        return False
    return True


def run(
    active: onnxruntime.InferenceSession,
    inputs: Arrays,
    outputs: Sequence[str] | None = None,
    options: onnxruntime.RunOptions | None = None,
) -> Arrays:
    """Run a session once.

    Args:
        active: the session.
        inputs: arrays by input.
        outputs: the outputs to compute, all of them by default.
        options: onnxruntime's options of one run.

    Returns:
        The outputs by name.

    Raises:
        NetadaptError: with onnxruntime's reason (code `unrunnable`), or where a bound ended the run (code `too-large`).
    """
    names = list(outputs) if outputs is not None else [o.name for o in active.get_outputs()]
    try:
        return dict(zip(names, active.run(names, inputs, options), strict=True))
    except Exception as error:
        beyond = _beyond_bounds(str(error))
        if beyond:
            raise NetadaptError(beyond, code="too-large") from error
        raise NetadaptError(f"{CANNOT_RUN}: {one_line(error)}", code="unrunnable") from error


def _beyond_bounds(reason: str) -> str | None:
    """What onnxruntime's reason means if a bound ended a run."""
    most = exceeded(reason)
    if most is not None:
        return f"a loop goes round more than {most} times"
    if "bfc_arena" in reason:
        return f"more than {BOUNDED_BYTES >> 20} MiB are needed"
    if "terminate flag" in reason:
        return "it is not done in time"
    return None


def random_inputs(specs: Specs, seed: int = 0) -> Arrays:
    """Inputs that exercise a model: standard normal floats, any bytes, integers 0 and 1, mixed booleans."""
    rng = np.random.default_rng(seed)
    inputs: Arrays = {}
    for name, (shape, dtype) in specs.items():
        if dtype.kind in "iu" and dtype.itemsize == 1:
            inputs[name] = rng.integers(np.iinfo(dtype).min, np.iinfo(dtype).max, shape, dtype, endpoint=True)
        elif dtype.kind in "iub":
            inputs[name] = rng.integers(0, 2, shape).astype(dtype)
        elif dtype.kind in "OUS":
            inputs[name] = np.full(shape, "a", dtype=object)
        else:
            inputs[name] = rng.standard_normal(shape).astype(dtype)
    return inputs
