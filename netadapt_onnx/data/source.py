"""Where a user's data are and how they are read: `--data` and the options beside it. Imports nothing heavy."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Literal

import msgspec

from netadapt_onnx.errors import NetadaptError

Kind = Literal["classification", "regression", "segmentation"]
TaskName = Literal["classification", "regression", "segmentation", "distillation"]
# Entries of a model's `metadata_props` that say how its pictures are prepared, in the words of the command line.
METADATA = "netadapt_onnx."


class DataSource(msgspec.Struct, frozen=True):
    """Where the data are and how they are read; a path alone is the same without any option.

    Attributes:
        path: An .npz file, a folder of pictures or of the official CIFAR or MNIST files, or "FILE.py:FUNCTION".
        task: What labels mean, where they and the model's outputs leave a choice.
        resize: Pixels of the shorter side, or height and width.
        crop: Pixels of a square, or height and width.
        mean: Per channel, for `(pixel / 255 - mean) / std`.
        std: Likewise.

    >>> DataSource("data.npz", task="classification").flags
    ('--data', 'data.npz', '--task', 'classification')
    """

    path: str
    task: TaskName | None = None
    resize: tuple[int, ...] | None = None
    crop: tuple[int, ...] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def __fspath__(self) -> str:
        return self.path

    def __str__(self) -> str:
        return self.path

    @property
    def label_task(self) -> Kind | None:
        """What labels mean, if they are read and the task says it."""
        return None if self.task == "distillation" else self.task

    @property
    def options(self) -> dict[str, str]:
        """The options that are set, by name and as the command line spells them."""
        texts: dict[str, str] = {"task": self.task or ""}
        texts |= {name: "x".join(map(str, getattr(self, name) or ())) for name in ("resize", "crop")}
        texts |= {name: ",".join(f"{v:g}" for v in getattr(self, name) or ()) for name in ("mean", "std")}
        return {name: text for name, text in texts.items() if text}

    @property
    def flags(self) -> tuple[str, ...]:
        """The command line that means the same: `--data PATH --task regression ...`."""
        return ("--data", self.path, *(word for name, text in self.options.items() for word in (f"--{name}", text)))

    def with_metadata(self, metadata: Mapping[str, str]) -> DataSource:
        """The same with the options that are not set as a model's `metadata_props` have them.

        Raises:
            NetadaptError: An entry is not a size or a list of numbers.
        """
        options: dict[str, tuple[float, ...]] = {}
        for name in ("resize", "crop", "mean", "std"):
            text = metadata.get(METADATA + name)
            if text is not None and getattr(self, name) is None:
                try:
                    options[name] = parse_size(text) if name in ("resize", "crop") else parse_numbers(text)
                except ValueError:
                    raise NetadaptError(f"the model's metadata '{METADATA}{name}' is '{text}'") from None
        return msgspec.structs.replace(self, **options)


def source_of(data: str | os.PathLike[str]) -> DataSource:
    """A path as a DataSource, or the DataSource itself."""
    return data if isinstance(data, DataSource) else DataSource(os.fspath(data))


def is_code(path: str) -> bool:
    """Whether `path` names a function that returns loaders."""
    return ".py:" in path


def parse_size(text: str) -> tuple[int, ...]:
    """ "224" or "224x320" (height, width) in pixels. Raises ValueError for anything else."""
    sizes = tuple(int(part) for part in text.split("x"))
    if len(sizes) > 2 or min(sizes) < 1:
        raise ValueError(text)
    return sizes


def parse_numbers(text: str) -> tuple[float, ...]:
    """ "0.485,0.456,0.406": finite numbers. Raises ValueError for anything else."""
    numbers = tuple(float(part) for part in text.split(","))
    if not all(abs(number) < float("inf") for number in numbers):
        raise ValueError(text)
    return numbers
