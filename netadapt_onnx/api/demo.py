"""`demo`: all steps on a small scale. A network is trained on images, this machine profiled, the network adapted."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from netadapt_onnx.api.adapt import adapt
from netadapt_onnx.api.evaluate import evaluate
from netadapt_onnx.api.export import export_module
from netadapt_onnx.api.profile import profile
from netadapt_onnx.api.prune import prune
from netadapt_onnx.common.options import File
from netadapt_onnx.common.progress import stage
from netadapt_onnx.errors import NetadaptError, require_package
from netadapt_onnx.graph.runtime import Arrays
from netadapt_onnx.search.result import AdaptResult
from netadapt_onnx.search.run_directory.file_names import MODEL_FILE, PLAN_FILE

BUDGET = "latency=0.6x"
# Larger steps than those of `adapt`: each cuts 6% of the latency, so that the demo ends in a minute or two.
FIRST_STEP = 0.06
DECAY = 0.97
FINAL_EPOCHS = 6
TRAINING, VALIDATION = 1197, 300
# Clean digits are so easy that half of a network does them as well, and nobody would see what a cut costs.
ENLARGED, CONTRAST, NOISE = 4, 0.5, 0.3
MODEL, DATA, TABLE, RUN = "model.onnx", "data.npz", "table.jsonl", "run"


def demo(
    folder: File = "netadapt-demo",
    *,
    overwrite: bool = False,
    log: Callable[[str], None] | None = None,
) -> AdaptResult:
    """Train a network on handwritten digits, profile this machine and adapt the network to 0.6x of its latency.

    Args:
        folder: Where model.onnx, data.npz, table.jsonl and run/ are written.
        overwrite: Whether the files of an earlier demo are replaced.
        log: Called with a line for every event of the adaptation.

    Returns:
        The result of `adapt`.

    Raises:
        NetadaptError: `folder` is not empty and not to be overwritten, or scikit-learn or torch is not installed.
    """
    directory = Path(folder)
    with stage("reading handwritten digits"):
        arrays = digits()
        import torch

        from netadapt_onnx.api.demo_network import train_network

    _prepare(directory, overwrite)
    np.savez_compressed(directory / DATA, **arrays)  # type: ignore[arg-type]
    images = torch.from_numpy((arrays["x_train"] / np.float32(255) - arrays["mean"]) / arrays["std"])
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # two threads lose more than they win as soon as another process takes a core
    try:
        network = train_network(images, torch.from_numpy(arrays["y_train"]))
    finally:
        torch.set_num_threads(threads)
    model, data, table = directory / MODEL, directory / DATA, directory / TABLE
    with stage("exporting the network"):
        export_module(network, {"image": images[:1]}, model, overwrite=True)
    profile(model, table)
    result = adapt(
        model,
        data,
        BUDGET,
        directory / RUN,
        table=table,
        init_reduction_ratio=FIRST_STEP,
        decay=DECAY,
        final_epochs=FINAL_EPOCHS,
        portfolio="off",
        log=log,
    )
    return replace(result, notes=(*result.notes, *_accuracies(result, model, data)))


def _accuracies(result: AdaptResult, model: Path, data: Path) -> tuple[str, ...]:
    """What the cut cost and what came back: accuracies of the original, of two states on the way and of the result."""
    folder = result.model.parent / "iterations" / f"{result.iterations:03d}"
    if result.iterations == 0:
        return ()
    with stage("evaluating the steps"), TemporaryDirectory() as temporary:
        bare = Path(temporary) / "cut.onnx"
        prune(model, bare, plan=folder / PLAN_FILE)
        evaluated = evaluate([bare, folder / MODEL_FILE], data, split="test", timed=False).models
    removed, solved = (one.accuracy for one in evaluated)
    accuracy = result.accuracy
    return (
        f"{accuracy.metric} on {accuracy.split}: {accuracy.before:.1%} before; {removed:.1%} with the channels removed "
        f"and nothing else; {solved:.1%} with what is left solved by least squares; {accuracy.after:.1%} after the "
        "final training",
    )


def digits() -> Arrays:
    """scikit-learn's 1,797 handwritten digits, enlarged from 8x8 to 32x32, with noise, in the layout of `--data`."""
    require_package("sklearn.datasets", "the demo needs scikit-learn and torch")
    from sklearn.datasets import load_digits

    bunch = load_digits()
    rng = np.random.default_rng(0)
    order = rng.permutation(len(bunch.images))
    enlarged = np.kron(bunch.images / 16, np.ones((1, ENLARGED, ENLARGED)))[:, None]
    noisy = 255 * (0.5 + CONTRAST * (enlarged - 0.5) + rng.normal(0.0, NOISE, enlarged.shape))
    images = np.clip(np.round(noisy), 0, 255).astype(np.uint8)
    x, y = images[order], bunch.target[order].astype(np.int64)
    training_pixels = x[:TRAINING].astype(np.float64) / 255
    arrays = {}
    ends = [TRAINING, TRAINING + VALIDATION]
    for name, *parts in zip(("train", "val", "test"), np.split(x, ends), np.split(y, ends), strict=True):
        arrays[f"x_{name}"], arrays[f"y_{name}"] = parts
    return arrays | {
        "mean": np.array([training_pixels.mean()], np.float32),
        "std": np.array([training_pixels.std()], np.float32),
    }


def _prepare(directory: Path, overwrite: bool) -> None:
    """Make the folder; with `overwrite` remove the files of an earlier demo from it, and nothing else."""
    if directory.exists() and not directory.is_dir():
        raise NetadaptError(f"{directory} is a file", hint="-o names a directory", code="exists")
    if directory.exists() and any(directory.iterdir()) and not overwrite:
        raise NetadaptError(f"{directory} exists", hint="choose another folder or pass --overwrite", code="exists")
    if not directory.absolute().parent.is_dir():
        raise NetadaptError(f"{directory.parent}: no such folder", code="missing-file")
    directory.mkdir(exist_ok=True)
    for name in (MODEL, DATA, TABLE):
        (directory / name).unlink(missing_ok=True)
    if (directory / RUN / "run.json").exists():
        shutil.rmtree(directory / RUN)
