"""The original model as the teacher: its outputs, remembered per training sample while they fit in memory."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import onnx
import torch
from torch import Tensor

from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.training.data import Split
from netadapt_onnx.training.settings import Settings
from netadapt_onnx.training.torch_graph import TorchGraph

MOST_REMEMBERED_BYTES = 256 * 2**20


class Teacher:
    """A frozen model whose outputs are computed once per training sample.

    `samples` is the length of the training split it teaches; 0 remembers nothing (augmented inputs). One teacher may
    serve many trainings over the same split, and several threads at once: each writes rows of its own.
    """

    def __init__(self, proto: onnx.ModelProto, samples: int = 0) -> None:
        self._graph = TorchGraph(proto).eval().requires_grad_(False)
        self._samples = samples
        self._known = np.zeros(samples, dtype=bool)
        self._memory: dict[str, Tensor] | None = None
        self._layout: bool | None = None
        self._checked: dict[str, tuple[int, ...]] | None = None

    def __call__(self, inputs: Mapping[str, Tensor], rows: np.ndarray, settings: Settings) -> dict[str, Tensor]:
        """Outputs for `inputs`, which are the training samples numbered `rows`."""
        if self._memory is not None and self._known[rows].all():
            index = torch.from_numpy(rows)
            return {name: values[index] for name, values in self._memory.items()}
        with torch.no_grad(), torch.autocast(
            "cpu", torch.bfloat16, enabled=settings.dtype == "bfloat16", cache_enabled=False
        ):  # fmt: skip
            found = {name: value.float() for name, value in self._graph(inputs).items()}
        self._remember(found, rows)
        return found

    def prepare(self, settings: Settings, split: Split, outputs: Mapping[str, tuple[int, ...]]) -> None:
        """Bring the weights into the settings' layout and make room. `outputs`: the student's, for two samples.

        Raises NetadaptError if the student's outputs are not the teacher's.
        """
        if self._layout != settings.channels_last:
            self._graph.arrange(settings.channels_last)
            self._layout = settings.channels_last
        if self._checked == outputs:
            return
        own = self._shapes(split)
        if own != outputs:
            raise NetadaptError(
                f"the teacher's outputs {_listed(own)} are not the model's {_listed(outputs)}", code="invalid-data"
            )
        self._checked = dict(outputs)
        size = 4 * self._samples * sum(math.prod(shape[1:]) for shape in outputs.values())
        batched = all(shape[:1] == (2,) for shape in outputs.values())
        if self._memory is None and batched and 0 < size <= MOST_REMEMBERED_BYTES:
            self._memory = {name: torch.zeros(self._samples, *shape[1:]) for name, shape in outputs.items()}

    def _shapes(self, split: Split) -> dict[str, tuple[int, ...]]:
        rows = np.array([0, len(split) - 1])
        inputs = {name: torch.from_numpy(np.array(value)) for name, value in split.batch(rows).items()}
        missing = set(self._graph.input_names) ^ set(inputs)
        if missing:
            raise NetadaptError(f"the teacher's inputs are not the model's: {sorted(missing)}", code="invalid-data")
        with torch.no_grad():
            return {name: tuple(value.shape) for name, value in self._graph(inputs).items()}

    def _remember(self, found: Mapping[str, Tensor], rows: np.ndarray) -> None:
        if self._memory is None:
            return
        index = torch.from_numpy(rows)
        for name, values in self._memory.items():
            values[index] = found[name]
        self._known[rows] = True


def _listed(shapes: Mapping[str, tuple[int, ...]]) -> str:
    return ", ".join(f"'{name}' Nx{'x'.join(map(str, shape[1:]))}" for name, shape in shapes.items())
