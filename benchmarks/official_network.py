"""The network_utils of the official NetAdapt code for the 5-layer ConvNet on CIFAR-10: what its README has users write.

Copied into `network_utils/` of a copy of that code by `official_netadapt.py`; imports are those of that folder. It
trains as the code's AlexNet example does, with cross entropy and on pictures of 32x32.
"""

from __future__ import annotations

import atexit
import json
import os
import time
from pathlib import Path
from typing import Any

import functions as fns  # type: ignore[import-not-found]
import torch

from small_networks import BATCH, Pictures

from .network_utils_abstract import NetworkUtilsAbstract  # type: ignore[import-not-found]

torch.set_num_threads(1)


@atexit.register
def _record_cpu_seconds() -> None:
    with Path(os.environ["NETADAPT_CPU_FILE"]).open("a") as lines:
        lines.write(json.dumps(time.process_time()) + "\n")


class ConvNetUtils(NetworkUtilsAbstract):  # type: ignore[misc]
    """Reads, cuts, trains and evaluates the network; all but the last two are the code's own functions."""

    def __init__(self, model: Any, input_data_shape: list[int], dataset_path: str, finetune_lr: float) -> None:
        super().__init__()
        self.input_data_shape = input_data_shape
        self.pictures = Pictures(Path(dataset_path))
        self.finetune_lr = finetune_lr
        self.blocks = len(self.get_network_def_from_model(model)) - 1  # all but the classifier

    def get_network_def_from_model(self, model: Any) -> Any:  # noqa: D102
        return fns.get_network_def_from_model(model, self.input_data_shape)

    def simplify_network_def_based_on_constraint(  # noqa: D102
        self, network_def: Any, block: int, constraint: float, resource_type: str, lookup_table_path: Any = None
    ) -> Any:
        return fns.simplify_network_def_based_on_constraint(
            network_def, block, constraint, resource_type, lookup_table_path
        )

    def simplify_model_based_on_network_def(self, simplified_network_def: Any, model: Any) -> Any:  # noqa: D102
        return fns.simplify_model_based_on_network_def(simplified_network_def, model)

    def extra_history_info(self, network_def: Any) -> str:  # noqa: D102
        return " ".join(str(layer["num_out_channels"]) for layer in network_def.values())

    def build_lookup_table(self, network_def: Any, resource_type: str, lookup_table_path: str) -> None:  # noqa: D102
        raise NotImplementedError("multiply-accumulates need no table")

    def compute_resource(self, network_def: Any, resource_type: str, lookup_table_path: Any = None) -> Any:  # noqa: D102
        return fns.compute_resource(network_def, resource_type, lookup_table_path)

    def get_num_simplifiable_blocks(self) -> int:  # noqa: D102
        return self.blocks

    def fine_tune(self, model: Any, iterations: int, print_frequency: int = 100) -> Any:  # noqa: D102
        optimizer = torch.optim.SGD(model.parameters(), self.finetune_lr, momentum=0.9, weight_decay=1e-4)
        random = torch.Generator().manual_seed(0)
        labels = self.pictures.stored["y_train"]
        model.train()
        for _ in range(iterations):
            rows = torch.randint(len(labels), (BATCH,), generator=random)
            loss = torch.nn.functional.cross_entropy(model(self.pictures.augmented(rows, random)), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return model

    def evaluate(self, model: Any, print_frequency: int = 10) -> float:
        """Percent of the 5,000 validation pictures; the code's examples take all 50,000 training pictures."""
        return 100 * self.pictures.accuracy(model, "val")


def convnet(model: Any, input_data_shape: list[int], dataset_path: str, finetune_lr: float = 1e-3) -> ConvNetUtils:
    """What the code looks up by the name given as `--arch`."""
    return ConvNetUtils(model, input_data_shape, dataset_path, finetune_lr)
