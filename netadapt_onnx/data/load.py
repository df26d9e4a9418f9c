"""`--data` read and checked against the model: the one place where every command gets its samples from."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from netadapt_onnx.common.files import digest
from netadapt_onnx.common.progress import stage
from netadapt_onnx.data.batch_layout import Layout
from netadapt_onnx.data.dataset import SPLITS, Dataset, Own, Specs, Split, split_validation
from netadapt_onnx.data.find_batch_layout import find_layout
from netadapt_onnx.data.labels import Outputs, checked, class_output, require_fitting
from netadapt_onnx.data.loaders.cifar import cifar_files, read_cifar
from netadapt_onnx.data.loaders.image_folder import Found, folder_hash, folder_splits
from netadapt_onnx.data.loaders.mnist import idx_files, read_idx
from netadapt_onnx.data.loaders.npz import npz_splits
from netadapt_onnx.data.preprocess import arrays_of, picture_scaling, preparation
from netadapt_onnx.data.source import DataSource, is_code, source_of
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.folded_model import FoldedModel


@stage("reading the data")
def dataset_for(
    folded: FoldedModel, data: str | os.PathLike[str], *, train: bool = True, scored: bool = True
) -> Dataset:
    """Data checked against a model. Raises NetadaptError naming both sides of what does not fit.

    Unless `scored` only the inputs are of interest; else a model none of whose outputs belongs to single samples is
    refused.
    """
    layout = find_layout(folded)
    if layout is None:
        shapes = folded.shapes
        outputs = {value.name: shapes[value.name] for value in folded.proto.graph.output if value.name in shapes}
    else:
        outputs = dict(layout.shapes)
    metadata = {entry.key: entry.value for entry in folded.proto.metadata_props}
    if scored and layout is not None and not outputs:
        raise _unscorable(layout)
    return load_data(data, folded.specs, outputs, train=train, metadata=metadata, layout=layout)


def load_data(
    data: str | os.PathLike[str],
    specs: Specs,
    outputs: Outputs,
    *,
    train: bool = True,
    metadata: Mapping[str, str] | None = None,
    layout: Layout | None = None,
) -> Dataset:
    """Samples for a model: from an .npz, a folder (pictures by class, CIFAR, MNIST) or a function that makes loaders.

    `specs` are the model's inputs, `outputs` the shapes of its outputs at the same batch size, samples first (`layout`
    says where they are), `metadata` what it says of its pictures. With `train=False` there may be no training samples.
    Without validation samples a tenth of the training samples is held out. Raises NetadaptError naming both sides of
    what does not fit.
    """
    source = source_of(data)
    if not specs:
        raise NetadaptError("the model has no inputs: its outputs are the same whatever the data", code="unsupported")
    if outputs:
        require_fitting(source.task, outputs)
    own: Own | None = None
    splits: Mapping[str, Split | None]
    if is_code(source.path):
        from netadapt_onnx.data.loaders.python import user_splits

        splits, own, data_hash = user_splits(source, specs, outputs)
    else:
        splits, data_hash = _from_files(source, specs, outputs, metadata or {}, train)
    if train and splits.get("train") is None:
        raise _invalid(f"--data {source}: no training samples; it holds {_held(splits)}", "add them")
    labelled = _labelled(source, splits)
    if source.task not in (None, "distillation") and not any(labelled.values()):
        raise _invalid(
            f"--task {source.task} needs labels, and --data {source} has none",
            "add y_train, ..., or leave --task out: the original model is then the teacher",
        )
    absent = Split({name: np.zeros((0, *shape[1:]), dtype) for name, (shape, dtype) in specs.items()})
    training, validation, test = splits.get("train") or absent, splits.get("val"), splits.get("test")
    taken = validation is None and splits.get("train") is not None
    if taken:
        training, validation = split_validation(training)
        validation = replace(validation, varies=False)
    if source.task == "distillation":
        training = replace(training, labels=None)
    identity = _identified(data_hash, source)
    training, validation = (replace(one, layout=layout) for one in (training, validation or absent))
    test = None if test is None else replace(test, layout=layout)
    notes = () if layout is None else layout.notes
    return Dataset(training, validation, test, source.path, identity, taken, own, source.options, notes)


def _unscorable(layout: Layout) -> NetadaptError:
    said = "; ".join(f"'{name}': {why}" for name, why in layout.omitted.items())
    return NetadaptError(
        f"no output of the model can be scored sample by sample: {said}",
        hint="export the model with the tensor in front of it as an output, samples first",
        code="unsupported",
    )


def _labelled(source: DataSource, splits: Mapping[str, Split | None]) -> dict[str, bool]:
    """Which splits have labels. Training samples may lack them: the original model's answers teach in their place.

    What is judged by labels is judged by them to the end, so a split has labels where one before it has.
    """
    there = {name: splits[name] for name in SPLITS if splits.get(name) is not None}
    labelled = {name: split is not None and split.labels is not None for name, split in there.items()}
    names = list(labelled)
    missing = [name for i, name in enumerate(names) if not labelled[name] and any(labelled[n] for n in names[:i])]
    if missing:
        wanted = ", ".join(f"y_{name}" for name in missing)
        raise _invalid(
            f"--data {source}: labels for some splits only",
            f"add {wanted}, or drop the others; only training samples may do without",
        )
    metrics = {name: split.metric for name, split in there.items() if split is not None and labelled[name]}
    if len(set(metrics.values())) > 1:
        said = ", ".join(f"{name} {metric}" for name, metric in metrics.items())
        raise _invalid(f"--data {source}: labels of the splits are for different tasks: {said}", "give --task")
    return labelled


def _from_files(
    source: DataSource, specs: Specs, outputs: Outputs, metadata: Mapping[str, str], train: bool
) -> tuple[Mapping[str, Split | None], str]:
    path = Path(source.path)
    if not path.exists():
        raise NetadaptError(f"--data {path}: no such file", code="missing-file")
    complete = source.with_metadata(metadata)
    if path.is_dir():
        return _from_folder(path, complete, specs, outputs, metadata)
    if path.suffix != ".npz":
        raise _invalid(
            f"--data {path}: not an .npz file, a folder or FILE.py:FUNCTION", "save x_train, ... with numpy.savez"
        )
    return npz_splits(source, complete, specs, outputs, train=train), _sha256([path])


def _from_folder(
    folder: Path, source: DataSource, specs: Specs, outputs: Outputs, metadata: Mapping[str, str]
) -> tuple[Mapping[str, Split | None], str]:
    """Pictures with class numbers: the official files of CIFAR or MNIST, or picture files."""
    if source.task in ("regression", "segmentation"):
        raise _invalid(
            f"--data {folder}: a folder holds classes, and --task {source.task} needs other labels",
            "give an .npz or FILE.py:FUNCTION",
        )
    prepare = preparation(source, specs, metadata)
    scaling = picture_scaling(source, prepare, metadata)
    named = class_output(outputs)
    classes = None if named is None else named[1]
    cifar, idx = cifar_files(folder), idx_files(folder)
    found: Found = {}
    if cifar:
        for split, files in cifar.items():
            pictures, labels = read_cifar(files, classes)
            found[split] = arrays_of(pictures, prepare, files[0].name), labels
        data_hash = _sha256(file for files in cifar.values() for file in files)
    elif idx:
        for split, (picture_file, label_file) in idx.items():
            labels_or_none = None if label_file is None else read_idx(label_file)
            found[split] = arrays_of(read_idx(picture_file), prepare, picture_file.name), labels_or_none
        data_hash = _sha256(file for files in idx.values() for file in files if file is not None)
    else:
        found, data_hash = folder_splits(folder, prepare, classes), folder_hash(folder)
    splits: dict[str, Split | None] = {}
    for split, (stored, numbers) in found.items():
        named_labels = None
        if numbers is not None and outputs:
            name, checked_labels = checked(f"y_{split}", numbers, len(stored), outputs, "classification")
            named_labels = checked_labels if len(outputs) == 1 else {name: checked_labels}
        splits[split] = Split({prepare.name: stored}, named_labels, scaling)
    return splits, data_hash


def _identified(data_hash: str, source: DataSource) -> str:
    """The hash of the data, and of how they are read if that was said."""
    if not source.options:
        return data_hash
    return hashlib.sha256(
        f"{data_hash} {' '.join(f'{k}={v}' for k, v in source.options.items())}".encode(errors="surrogateescape")
    ).hexdigest()


def _held(splits: Mapping[str, Split | None]) -> str:
    return ", ".join(name for name in SPLITS if splits.get(name) is not None) or "nothing"


def _sha256(files: Iterable[Path]) -> str:
    """Of one file, or of the hashes of several."""
    found = [digest(file) for file in files]
    return found[0] if len(found) == 1 else hashlib.sha256(" ".join(found).encode()).hexdigest()


def _invalid(message: str, hint: str = "") -> NetadaptError:
    return NetadaptError(message, hint=hint, code="invalid-data")
