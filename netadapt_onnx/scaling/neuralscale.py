"""NeuralScale (Lee & Lee, CVPR 2020): laws of widths, found by descents that start at the widths of the last law."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from netadapt_onnx.scaling.network import ScalableNetwork
from netadapt_onnx.scaling.power_law import Law, fit_laws
from netadapt_onnx.scaling.target_widths import AllowedWidths, WidthSearch, law_path, uniform_path, widest
from netadapt_onnx.scaling.train_networks import NetworkTrainer
from netadapt_onnx.scaling.width_record import WidthRecord

# The share of all filters that a descent removes: with more a group would lose its last filter.
REMOVED_SHARE = 0.95


@dataclass(frozen=True)
class DescentResult:
    """The law with which architecture descent ended; of each iteration the widths at its start and its record."""

    law: Law
    widths: tuple[Mapping[str, int], ...]
    records: tuple[WidthRecord, ...]


def neuralscale(
    network: ScalableNetwork, trainer: NetworkTrainer, key: str, warm_up_epochs: int, iterations: int
) -> DescentResult:
    """Architecture descent: each iteration starts from the widths that the last law gives at the original's size.

    Args:
        network: The network to scale.
        trainer: Trains and prunes.
        key: The name of this search in the journal.
        warm_up_epochs: How long each iteration trains before filters are removed.
        iterations: The number of descents.
    """
    size = network.params(network.widths)
    law, widths, records = Law(()), [network.widths], []
    for iteration in range(iterations):
        started = time.monotonic()
        proto = trainer.initialised(network.at(widths[-1]))
        record = trainer.descend(f"{key}/{iteration}", proto, warm_up_epochs=warm_up_epochs, share=REMOVED_SHARE)
        records.append(with_all_groups(record, network))
        law = law_of(network, records[-1])
        search = law_search(law, network, network.allowed)
        if not iteration and iterations > 1:
            seconds = time.monotonic() - started
            left_min = (iterations - 1) * seconds / 60
            trainer.log(f"descent 1 of {iterations} took {seconds:.0f} s; the others take about {left_min:.0f} min")
        widths.append(widest(search.path, network.params, size, search.start, f"params={size:.0f}"))
    return DescentResult(law, tuple(widths), tuple(records))


def law_of(network: ScalableNetwork, record: WidthRecord) -> Law:
    """The law fitted to a record of this network.

    Raises:
        NetadaptError: The record is of another network.
    """
    floors = {name: allowed.floor for name, allowed in network.allowed.items()}
    return Law(fit_laws(record.named(network.widths), floors), network.family)


def law_search(law: Law, network: ScalableNetwork, allowed: Mapping[str, AllowedWidths]) -> WidthSearch:
    """A search along a law from the original's size; along uniform widths where nothing could be fitted."""
    if not law.fitted:
        return WidthSearch(uniform_path(network.widths, allowed), 1.0, allowed)
    return WidthSearch(law_path(law, allowed), network.params(network.widths), allowed)


def with_all_groups(record: WidthRecord, network: ScalableNetwork) -> WidthRecord:
    """A record with a column for every group; groups without gates keep the original's width."""
    columns = [
        record.widths[:, record.names.index(name)] if name in record.names else np.full(len(record.tau), width)
        for name, width in network.widths.items()
    ]
    return WidthRecord(tuple(network.widths), np.stack(columns, axis=1), record.tau)
