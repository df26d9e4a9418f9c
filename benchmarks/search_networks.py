"""The networks that searches are compared on: their files, their data and, where there is one, their torch module."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Places:
    """Where things lie: trained models, CIFAR-10 and unlabelled pictures, and what the benchmark writes."""

    models: Path
    work: Path
    cifar: Path | None
    pictures: Path | None

    @property
    def networks(self) -> Path:
        """The networks that were trained by the benchmark."""
        return self.work / "networks"


@dataclass(frozen=True)
class Module:
    """A network as a torch module: what makes it, and the layers whose outputs Torch-Pruning must leave alone."""

    make: Callable[[Places], Any]
    kept: Callable[[Any], list[Any]]
    image: tuple[int, ...] = (3, 32, 32)


@dataclass(frozen=True)
class SearchNetwork:
    """A network of the benchmark.

    Attributes:
        title: Its name in tables.
        file: The file of its model.
        is_small: Whether it takes 32x32 pictures: searched with several seeds, also for the smallest budget.
        training_steps: Of the final training that is the same for all methods.
        module: The torch module; None where none is at hand.
    """

    title: str
    file: Callable[[Places], Path]
    is_small: bool = True
    training_steps: int = 800
    module: Module | None = None

    def data(self, places: Places) -> Path:
        """Its data. Raises SystemExit where the user gave none."""
        data = places.cifar if self.is_small else places.pictures
        if data is None:
            raise SystemExit(f"{self.title}: give {'--cifar' if self.is_small else '--pictures'}")
        return data


def _stored(name: str, places: Places) -> Path:
    return places.models / name


def _trained(name: str, places: Places) -> Path:
    return places.networks / f"{name}.onnx"


def _small_module(name: str, places: Places) -> Any:
    from small_networks import trained

    return trained(name, places.networks)


def _resnet20(places: Places) -> Any:
    from resnet20 import resnet20

    return resnet20(places.models / "resnet20_cifar10.onnx")


def _outer_layers(module: Any) -> list[Any]:
    # The stream's channels are padded between stages, which Torch-Pruning does not follow: blocks' inner filters go.
    return [module.conv1, module.linear, *(block.conv2 for block in module.blocks)]


def _small(name: str, title: str) -> SearchNetwork:
    module = Module(partial(_small_module, name), lambda module: [module.classifier])
    return SearchNetwork(title, partial(_trained, name), module=module)


_RESNET20 = Module(_resnet20, _outer_layers)
NETWORKS = {
    "convnet": _small("convnet", "5-layer ConvNet"),
    "resnet20": SearchNetwork(
        "ResNet-20, BatchNorm folded", partial(_stored, "resnet20_cifar10_folded.onnx"), module=_RESNET20
    ),
    "resnet20-bn": SearchNetwork(
        "ResNet-20 with BatchNorm", partial(_stored, "resnet20_cifar10.onnx"), module=_RESNET20
    ),
    "mobilenet": _small("mobilenet", "MobileNetV1-like"),
    "efficientnet-lite0": SearchNetwork(
        "EfficientNet-Lite0", partial(_stored, "efficientnet_lite0.onnx"), is_small=False, training_steps=100
    ),
}
