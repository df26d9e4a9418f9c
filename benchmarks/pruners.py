"""Three pruners on the same file at the same ratio, and the same questions to what each of them makes.

Ours is proven by `verify`. For another's result the channels it kept are read off the biases that are left, and its
outputs are compared with those of our cut to the same channels: to a proven cut, that is, of the same original.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.cost import cost
from netadapt_onnx.graph.fold_shapes import fold
from netadapt_onnx.graph.model import load, save
from netadapt_onnx.graph.passes.pipeline import normalise
from netadapt_onnx.graph.runtime import random_inputs, run, session
from netadapt_onnx.surgery.criteria.selection import select
from netadapt_onnx.surgery.kept_counts import at_ratio
from netadapt_onnx.surgery.resize import resize
from netadapt_onnx.surgery.trace import Trace, trace
from netadapt_onnx.surgery.verify.prove import verify
from networks import example, export, network

TOLERANCE = 1e-4
CLASSES = 1000
INPUTS = 2


@dataclass(frozen=True)
class Outcome:
    """What one pruner made of one model.

    `equal` says whether it computes what the masked original computes; None where that cannot be judged. `macs` is the
    share of multiply-accumulates left, `seconds` the CPU time of the pruning itself.
    """

    smaller: bool
    macs: float | None
    equal: bool | None
    difference: float | None
    seconds: float | None
    proof_seconds: float | None = None
    failure: str = ""
    note: str = ""


def ours(file: Path, ratio: float, work: Path) -> Outcome:
    """This project: prune, prove on every tensor, write."""
    start = time.process_time()
    source = load(file)
    model_trace = trace(fold(source.proto))
    keep = select(model_trace, at_ratio(model_trace.prunable, ratio))
    small = resize(model_trace, keep)
    seconds = time.process_time() - start
    start = time.process_time()
    proof = verify(model_trace, keep, pruned=small)
    proof_seconds = time.process_time() - start
    written = save(small, work / f"{file.stem}.ours.onnx", overwrite=True)
    macs = _remaining(written, _macs(model_trace))
    written.unlink()
    note = "" if proof.exact else f"first difference in {proof.first_bad_tensor}"
    if proof.inexact_groups:
        note = f"no reference for {', '.join(proof.inexact_groups)}"
    return Outcome(macs < 1, macs, proof.exact, proof.max_rel_diff, seconds, proof_seconds, note=note)


def onnxsim(file: Path, ratio: float, work: Path) -> Outcome:
    """onnxsim's structured pruning of a simplified model, which is what it asks for."""
    import onnxsim as peer

    model = onnx.load(file)
    start = time.process_time()
    simplified, _ = peer.simplify(model)
    pruned = peer.apply_structured_pruning(simplified, sparsity=ratio)
    seconds = time.process_time() - start
    result = work / f"{file.stem}.onnxsim.onnx"
    onnx.save(pruned, result)
    return compared_outcome(file, result, seconds)


def torch_pruning(suite: str, name: str, file: Path, ratio: float, work: Path, image_size: int | None) -> Outcome:
    """Torch-Pruning on the module behind `file`, set up as its own tests set it up for torchvision's networks."""
    import torch
    import torch_pruning as peer

    module = network(suite, name)
    image = example(suite, module, image_size)
    kept = [m for m in module.modules() if getattr(m, "out_features", getattr(m, "out_channels", 0)) == CLASSES]
    transformer = type(module).__name__ == "VisionTransformer" and hasattr(module, "conv_proj")
    start = time.process_time()
    pruner = peer.pruner.MagnitudePruner(
        module,
        image,
        importance=peer.importance.MagnitudeImportance(p=2),
        pruning_ratio=ratio,
        ignored_layers=kept,
        round_to=module.encoder.layers[0].num_heads if transformer else None,
    )
    pruner.step()
    if transformer:  # its forward pass reads the width from here
        module.hidden_dim = module.conv_proj.out_channels
    seconds = time.process_time() - start
    with torch.no_grad():
        module(image)
    result = export(module, image, "legacy", work / f"{file.stem}.torch_pruning.onnx")
    return compared_outcome(file, result, seconds)


def compared_outcome(original: Path, result: Path, seconds: float) -> Outcome:
    """Whether a peer's file runs and is smaller, and whether it equals the masked original."""
    model_trace = trace(fold(load(original).proto))
    try:
        onnx.checker.check_model(str(result))
        active = session(result)
        inputs = [random_inputs(model_trace.folded.specs, seed) for seed in range(INPUTS)]
        outputs = [run(active, feed) for feed in inputs]
        macs = _remaining(result, _macs(model_trace))
    except (NetadaptError, onnx.checker.ValidationError) as error:
        result.unlink()
        return Outcome(False, None, None, None, seconds, failure=f"does not run: {error}"[:300])
    pruned = onnx.load(result)
    result.unlink()
    keep = kept_channels(model_trace, pruned)
    if isinstance(keep, str):
        return Outcome(macs < 1, macs, None, None, seconds, note=keep)
    reference = session(resize(model_trace, keep))
    expected = [run(reference, feed) for feed in inputs]
    difference = max(
        max(float(np.abs(w[name] - got).max()) for w, o in zip(expected, outputs, strict=True) for got in [o[name]])
        / max(float(np.std([w[name] for w in expected])), 1e-12)
        for name in expected[0]
    )
    return Outcome(macs < 1, macs, difference <= TOLERANCE, difference, seconds)


def kept_channels(model_trace: Trace, pruned: onnx.ModelProto) -> dict[str, np.ndarray] | str:
    """The channels of each group that another tool left, found by the values of its biases; else why not."""
    normalise(pruned)
    constants = [numpy_helper.to_array(t).reshape(-1) for t in pruned.graph.initializer]
    vectors = [v for v in constants if v.dtype.kind == "f" and v.size > 1]
    keep: dict[str, np.ndarray] = {}
    for group in model_trace.prunable:
        members = model_trace.members[group.name]
        indices = next(
            (k for vector in _vectors_of(model_trace, members) if (k := _within(vector, vectors)) is not None), None
        )
        if indices is None:
            return f"not judged: no vector tells which channels of '{group.name}' were kept"
        if len(indices) < group.channels:
            keep[group.name] = indices
    try:
        model_trace.resized_shapes(keep)
    except NetadaptError as error:
        return f"not judged: {error}"
    return keep


def _vectors_of(model_trace: Trace, members: np.ndarray) -> list[np.ndarray]:
    """Constants with one value for each of these channels, in their order."""
    vectors = []
    for use in model_trace.labels.uses:
        value = model_trace.labels.value(use.constant)
        for axis, line in map(model_trace.axis_labels_of, use.factors):
            if value.size == value.shape[axis] and np.array_equal(line, members) and np.ptp(value) > 0:
                vectors.append(value.reshape(-1))
    return vectors


def _within(vector: np.ndarray, candidates: list[np.ndarray]) -> np.ndarray | None:
    """Positions in `vector` of the candidate that is a part of it; None if none is, or several differ."""
    indices = []
    for candidate in candidates:
        kept = np.isin(vector, candidate)
        if kept.sum() == candidate.size and np.array_equal(vector[kept], candidate):
            indices.append(np.flatnonzero(kept))
    return indices[0] if indices and all(np.array_equal(indices[0], other) for other in indices) else None


def _macs(model_trace: Trace) -> int:
    return cost(model_trace.folded.proto, model_trace.folded.shapes).macs


def _remaining(file: Path, dense: int) -> float:
    folded = fold(load(file).proto)
    run(session(file), random_inputs(folded.specs))
    return cost(folded.proto, folded.shapes).macs / dense


PRUNERS: dict[str, Callable[..., Outcome]] = {"netadapt-onnx": ours, "torch-pruning": torch_pruning, "onnxsim": onnxsim}
