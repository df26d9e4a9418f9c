"""A model as a torch module for anybody's training loop: its state dict has the names of the file's initializers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from netadapt_onnx.common.render import plural
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.folded_model import FoldedModel
from netadapt_onnx.training.torch_graph import TorchGraph


@dataclass(frozen=True)
class OnnxSource:
    """The model that a module was made of. Copies of the module share it: it is never changed.

    Attributes:
        folded: The model.
        files: The file that it came from and its external data, which are never overwritten.
        sha256: The hash of these.
    """

    folded: FoldedModel
    files: tuple[Path, ...]
    sha256: str

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self


class OnnxModule(nn.Module):
    """A model whose parameters and buffers have the names of the file's initializers.

    As a torch module has no names with dots, 'layer1.conv.weight' is the parameter `weight` of a module `conv` in a
    module `layer1`, and the state dict has the name again as it is in the file. Where torch does not allow a part of a
    name (an empty one, one that the module uses itself, one that is a parameter and a module at once), underscores
    follow it; `initializers` has them all.

    Attributes:
        initializers: By name in the state dict, the name in the file.
    """

    _graph: TorchGraph

    def __init__(self, source: OnnxSource) -> None:
        """Build the module.

        Args:
            source: The model, normalised.

        Raises:
            NetadaptError: Operators have no torch function (`unsupported`), or no constant of the model is a weight.
        """
        super().__init__()
        graph = TorchGraph(source.folded.proto)
        if not graph.kinds:
            raise NetadaptError(
                "the model has no weights to train",
                hint="those of a quantised model are integers: train it before it is quantised",
                code="unsupported",
            )
        self.initializers: dict[str, str] = {}
        self._source = source
        # Inputs that the file takes as float16, which its weights here are not.
        self._halves = {name for name, (_, dtype) in source.folded.specs.items() if dtype == np.float16}
        # Not a child of this module: its tensors are this module's, under the names of the file.
        self.__dict__["_graph"] = graph
        graph.move_tensors(self._place)

    def _place(self, initializer: str) -> tuple[nn.Module, str]:
        *path, last = initializer.split(".")
        owner: nn.Module = self
        key = ""
        for part in path:
            name = _free_name(part, owner, or_module=True)
            if name not in owner._modules:
                owner.add_module(name, nn.Module())
            owner, key = owner.get_submodule(name), f"{key}{name}."
        name = _free_name(last, owner)
        self.initializers[f"{key}{name}"] = initializer
        return owner, name

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._graph._apply(fn, recurse)
        return self

    def forward(self, *inputs: Tensor | Mapping[str, Tensor], **named: Tensor) -> Tensor | dict[str, Tensor]:
        """Run the model.

        Args:
            inputs: The model's inputs in order, or all of them by name.
            named: Inputs by name.

        Returns:
            The output, or several by name.

        Raises:
            NetadaptError: Inputs are missing, the model has none of that name, or it takes floats and they are none.
        """
        graph = self._graph.train(self.training)
        values = _by_name(graph.input_names, inputs, named)
        for name in self._halves & values.keys():
            values[name] = values[name].to(next(self.parameters()).dtype)
        for name, value in values.items():
            self._check_type(name, value)
        outputs: dict[str, Tensor] = graph(values)
        return next(iter(outputs.values())) if len(outputs) == 1 else outputs

    def _check_type(self, name: str, value: Tensor) -> None:
        """Bytes of pictures would fail in the middle of the network, with a message that does not name the input."""
        takes_floats = self._source.folded.specs[name][1].kind == "f" if name in self._source.folded.specs else False
        if takes_floats and not value.is_floating_point():
            raise NetadaptError(
                f"input '{name}' takes floats, not {str(value.dtype).removeprefix('torch.')}",
                hint="convert and scale it as in the model's training; for pictures (x / 255 - mean) / std",
                code="invalid-data",
            )

    @property
    def source(self) -> OnnxSource:
        """The model that the module was made of."""
        return self._source

    def proto(self) -> onnx.ModelProto:
        """The model with the module's weights and running statistics.

        Raises:
            NetadaptError: Some of them are not finite.
        """
        state = {
            name: value.float() if value.dtype == torch.bfloat16 else value  # which numpy does not have
            for name, value in self._graph.state().items()
        }
        broken = next((name for name, value in state.items() if not bool(torch.isfinite(value).all())), None)
        if broken is not None:
            raise NetadaptError(
                f"weight '{broken}' is not finite: the training diverged",
                hint="train again from to_torch, at a lower learning rate",
                code="diverged",
            )
        return self._graph.write_back(self._source.folded.proto, state)


def _free_name(part: str, owner: nn.Module, *, or_module: bool = False) -> str:
    """A name that `owner` can give away: `part`, with as many underscores as it takes.

    With `or_module` it may be that of a module that is there already.
    """
    name = part or "_"
    while hasattr(owner, name) and not (or_module and name in owner._modules):
        name += "_"
    return name


def _by_name(
    names: tuple[str, ...], inputs: tuple[Tensor | Mapping[str, Tensor], ...], named: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The inputs of a call by name. Raises NetadaptError unless they are the model's."""
    values = dict(named)
    positional = 0
    for value in inputs:
        if isinstance(value, Mapping):
            values |= value
        elif positional < len(names):
            values[names[positional]] = value
            positional += 1
        else:
            raise NetadaptError(
                f"the model has {plural(len(names), 'input')}: {', '.join(names)}; got more", code="usage"
            )
    missing, unknown = set(names) - set(values), set(values) - set(names)
    if missing or unknown:
        wrong = f"lack {', '.join(sorted(missing))}" if missing else f"have {', '.join(sorted(unknown))}"
        raise NetadaptError(f"the inputs {wrong}: the model takes {', '.join(names)}", code="usage")
    return values
