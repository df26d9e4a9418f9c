"""onnxruntime on the CPU, as every floor of the house uses it: one thread, quiet, errors in one line."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from netadapt_onnx.errors import NetadaptError

if TYPE_CHECKING:
    import onnxruntime

Arrays = dict[str, np.ndarray]
PROTOBUF_LIMIT = 2**31 - 1


def session(
    model: onnx.ModelProto | Path,
    *,
    optimise: bool = True,
    threads: int = 1,
    providers: Sequence[Any] = ("CPUExecutionProvider",),
    config: Mapping[str, str] | None = None,
    profile_prefix: str | None = None,
    optimised_path: Path | None = None,
) -> onnxruntime.InferenceSession:
    """Open `model` in onnxruntime.

    `config` are session config entries. `profile_prefix` turns profiling on and names its file; `optimised_path` is
    where onnxruntime writes the graph that it made of the model.
    Raises NetadaptError (code `unloadable`) with onnxruntime's own reason if it refuses the model.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    for key, value in (config or {}).items():
        options.add_session_config_entry(key, value)
    if not optimise:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    if profile_prefix is not None:
        options.enable_profiling = True
        options.profile_file_prefix = profile_prefix
    if optimised_path is not None:
        options.optimized_model_filepath = str(optimised_path)
    try:
        if isinstance(model, Path):
            return ort.InferenceSession(str(model), options, providers=list(providers))
        if model.ByteSize() <= PROTOBUF_LIMIT:
            return ort.InferenceSession(model.SerializeToString(), options, providers=list(providers))
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            onnx.save_model(model, str(path), save_as_external_data=True, location="model.data")
            return ort.InferenceSession(str(path), options, providers=list(providers))
    except Exception as error:  # onnxruntime raises a dozen unrelated types, some of them plain RuntimeError
        raise NetadaptError(
            f"onnxruntime cannot load the model: {one_line(error)}",
            hint="check it with `onnx.checker` or export it again",
            code="unloadable",
        ) from error


def exposing(proto: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """A copy of a model whose outputs are the named tensors (onnxruntime infers their types)."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    del copy.graph.output[:]
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    return copy


def run(active: onnxruntime.InferenceSession, inputs: Arrays, outputs: Sequence[str] | None = None) -> Arrays:
    """Run once; returns outputs by name. Raises NetadaptError (code `unrunnable`) with onnxruntime's reason."""
    names = list(outputs) if outputs is not None else [o.name for o in active.get_outputs()]
    try:
        return dict(zip(names, active.run(names, inputs), strict=True))
    except Exception as error:
        raise NetadaptError(f"onnxruntime cannot run the model: {one_line(error)}", code="unrunnable") from error


def one_line(error: BaseException, limit: int = 300) -> str:
    """The text of any exception as one line of at most `limit` characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= limit else text[: limit - 3] + "..."


def random_inputs(specs: Mapping[str, tuple[tuple[int, ...], np.dtype[Any]]], seed: int = 0) -> Arrays:
    """Inputs that exercise a model: standard normal floats, small non-negative integers, mixed booleans."""
    rng = np.random.default_rng(seed)
    made: Arrays = {}
    for name, (shape, dtype) in specs.items():
        if np.issubdtype(dtype, np.integer):
            made[name] = rng.integers(0, 2, shape).astype(dtype)
        elif dtype == np.bool_:
            made[name] = rng.integers(0, 2, shape).astype(bool)
        elif dtype.kind in "OUS":
            made[name] = np.full(shape, "a", dtype=object)
        else:
            made[name] = rng.standard_normal(shape).astype(dtype)
    return made
