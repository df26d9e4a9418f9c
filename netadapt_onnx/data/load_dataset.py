"""`--data` read and checked against the model: the one place where every command gets its samples from."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from netadapt_onnx.common.files import digest
from netadapt_onnx.common.missing_files import missing_file
from netadapt_onnx.common.progress import stage
from netadapt_onnx.data.batch_layout import Layout
from netadapt_onnx.data.dataset import SPLITS, Dataset, Split, UserFunctions, split_validation
from netadapt_onnx.data.find_batch_layout import find_layout
from netadapt_onnx.data.labels import check_labels
from netadapt_onnx.data.loaders.cifar import cifar_files, read_cifar
from netadapt_onnx.data.loaders.image_folder import StoredPictures, folder_hash, folder_splits, require_pictures
from netadapt_onnx.data.loaders.mnist import mnist_files, read_mnist
from netadapt_onnx.data.loaders.npz import npz_splits
from netadapt_onnx.data.preprocess import picture_scaling, pictures_from_bytes, preprocessing
from netadapt_onnx.data.shapes import Outputs
from netadapt_onnx.data.source import DataSource, is_code, source_of
from netadapt_onnx.data.tasks import class_output, require_task_fits
from netadapt_onnx.errors import NetadaptError, invalid_data
from netadapt_onnx.graph.folded_model import FoldedModel
from netadapt_onnx.graph.shapes import Specs

Splits = Mapping[str, Split | None]


@stage("reading the data")
def load_dataset(
    folded: FoldedModel, data: str | os.PathLike[str], *, train: bool = True, scored: bool = True
) -> Dataset:
    """Read data for a model and check them against it.

    Args:
        folded: The model, normalised.
        data: A path, "FILE.py:FUNCTION" or a `DataSource`.
        train: Whether training samples are needed.
        scored: Whether the outputs are scored, and not the inputs alone of interest.

    Raises:
        NetadaptError: The data and the model do not fit, which names both sides; or `scored`, and none of the model's
            outputs belongs to single samples.
    """
    layout = find_layout(folded)
    shapes = folded.shapes if layout is None else layout.shapes
    outputs = {value.name: shapes[value.name] for value in folded.proto.graph.output if value.name in shapes}
    metadata = {entry.key: entry.value for entry in folded.proto.metadata_props}
    if scored and layout is not None and not outputs:
        reasons = "; ".join(f"'{name}': {why}" for name, why in layout.omitted.items())
        raise NetadaptError(
            f"no output of the model can be scored sample by sample: {reasons}",
            hint="export the model with the tensor in front of it as an output, samples first",
            code="unsupported",
        )
    return read_dataset(data, folded.specs, outputs, train=train, metadata=metadata, layout=layout)


def read_dataset(
    data: str | os.PathLike[str],
    specs: Specs,
    outputs: Outputs,
    *,
    train: bool = True,
    metadata: Mapping[str, str] | None = None,
    layout: Layout | None = None,
) -> Dataset:
    """Read data for inputs and outputs: an .npz, a folder (pictures by class, CIFAR, MNIST) or a user's loaders.

    Without validation samples a tenth of the training samples is held out.

    Args:
        data: A path, "FILE.py:FUNCTION" or a `DataSource`.
        specs: Shape and type of the model's inputs by name.
        outputs: Shapes of its outputs by name, at the same batch size, samples first.
        train: Whether training samples are needed.
        metadata: The model's `metadata_props`, which may say how its pictures are prepared.
        layout: Where the outputs hold their samples; None: along the first axis of each.

    Raises:
        NetadaptError: The data and the model do not fit; the message names both sides.
    """
    source = source_of(data)
    if not specs:
        raise NetadaptError("the model has no inputs: its outputs are the same whatever the data", code="unsupported")
    if outputs:
        require_task_fits(source.label_task, outputs)
    read, user, data_hash, note = _read_splits(source, specs, outputs, metadata or {}, train)
    splits = {name: replace(split, layout=layout) for name in SPLITS if (split := read.get(name)) is not None}
    if train and "train" not in splits:
        names = ", ".join(splits) or "nothing"
        raise invalid_data(f"--data {source}: no training samples; it holds {names}", "add them")
    is_labelled = _labelled_splits(source, splits)
    if source.label_task is not None and not any(is_labelled.values()):
        raise invalid_data(
            f"--task {source.task} needs labels, and --data {source} has none",
            "add y_train, ..., or leave --task out: the original model is then the teacher",
        )
    no_samples = {name: np.zeros((0, *shape[1:]), dtype) for name, (shape, dtype) in specs.items()}
    empty = Split(no_samples, layout=layout)
    training, validation = splits.get("train") or empty, splits.get("val")
    val_from_train = validation is None and "train" in splits
    if val_from_train:
        training, validation = split_validation(training)
        validation = replace(validation, varies=False)
    if source.task == "distillation":
        training = replace(training, labels=None)
    return Dataset(
        training,
        validation or empty,
        splits.get("test"),
        source.path,
        _dataset_hash(data_hash, source),
        val_from_train,
        user,
        source.options,
        (*(() if layout is None else layout.notes), *([note] if note else [])),
    )


def _labelled_splits(source: DataSource, splits: Mapping[str, Split]) -> dict[str, bool]:
    """Which splits have labels. Training samples may lack them: the original model's outputs take their place.

    What is scored by labels is scored by them to the end, so a split has labels where one before it has.
    """
    is_labelled = {name: split.labels is not None for name, split in splits.items()}
    names = list(is_labelled)
    missing = [name for i, name in enumerate(names) if not is_labelled[name] and any(is_labelled[n] for n in names[:i])]
    if missing:
        raise invalid_data(
            f"--data {source}: labels for some splits only",
            f"add {', '.join(f'y_{name}' for name in missing)}, or drop the others; only training samples may do "
            "without",
        )
    metrics = {name: split.metric for name, split in splits.items() if is_labelled[name]}
    if len(set(metrics.values())) > 1:
        by_split = ", ".join(f"{name} {metric}" for name, metric in metrics.items())
        raise invalid_data(f"--data {source}: labels of the splits are for different tasks: {by_split}", "give --task")
    return is_labelled


def _read_splits(
    source: DataSource, specs: Specs, outputs: Outputs, metadata: Mapping[str, str], train: bool
) -> tuple[Splits, UserFunctions, str, str]:
    """The splits by name, the user's functions, what identifies the data, and a note on how they were read."""
    if is_code(source.path):
        from netadapt_onnx.data.loaders.python import user_splits

        return *user_splits(source, specs, outputs), ""
    path = Path(source.path)
    if not path.exists():
        raise missing_file(path, flag="--data")
    complete = source.with_metadata(metadata)
    if path.is_dir():
        splits, data_hash, note = _read_folder(path, complete, specs, outputs, metadata)
        return splits, UserFunctions(), data_hash, note
    if path.suffix != ".npz":
        raise invalid_data(
            f"--data {path}: not an .npz file, a folder or FILE.py:FUNCTION", "save x_train, ... with numpy.savez"
        )
    return npz_splits(source, complete, specs, outputs, train=train), UserFunctions(), _sha256([path]), ""


def _read_folder(
    folder: Path, source: DataSource, specs: Specs, outputs: Outputs, metadata: Mapping[str, str]
) -> tuple[Splits, str, str]:
    """Pictures with class numbers (the official files of CIFAR or MNIST, or picture files), their hash, and a note."""
    if source.task in ("regression", "segmentation"):
        raise invalid_data(
            f"--data {folder}: a folder holds classes, and --task {source.task} needs other labels",
            "give an .npz or FILE.py:FUNCTION",
        )
    cifar = cifar_files(folder)
    official = cifar or mnist_files(folder)
    if not official:
        require_pictures(folder)
    prepare = preprocessing(source, specs, metadata)
    scaling = picture_scaling(source, prepare, metadata)
    scores = class_output(outputs)
    classes = None if scores is None else scores[1]
    stored: StoredPictures = {}
    for split, files in official.items():
        pictures, labels = read_cifar(files, classes) if cifar else read_mnist(files)
        stored[split] = pictures_from_bytes(pictures, prepare, files[0].name), labels
    data_hash = _sha256(file for files in official.values() for file in files) if official else folder_hash(folder)
    note = ""
    if not official:
        stored, note = folder_splits(folder, prepare, classes)
    splits: dict[str, Split | None] = {}
    for split, (array, numbers) in stored.items():
        split_labels = None
        if numbers is not None and outputs:
            name, checked = check_labels(f"y_{split}", numbers, len(array), outputs, "classification")
            split_labels = checked if len(outputs) == 1 else {name: checked}
        splits[split] = Split({prepare.name: array}, split_labels, scaling)
    return splits, data_hash, note


def _dataset_hash(data_hash: str, source: DataSource) -> str:
    """The hash of the data, and of how they are read if the user chose that."""
    if not source.options:
        return data_hash
    text = " ".join([data_hash, *(f"{name}={value}" for name, value in source.options.items())])
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()


def _sha256(files: Iterable[Path]) -> str:
    """The hash of one file, or of the hashes of several."""
    hashes = [digest(file) for file in files]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256(" ".join(hashes).encode()).hexdigest()
