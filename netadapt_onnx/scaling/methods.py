"""Where widths come from: NeuralScale's laws, and the baselines that it is compared with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx

from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.scaling.generate import AllowedWidths, Path, along, uniform, widest
from netadapt_onnx.scaling.law import Law, fit
from netadapt_onnx.scaling.record import Record
from netadapt_onnx.scaling.result import Method
from netadapt_onnx.surgery.criteria.selection import importance
from netadapt_onnx.surgery.trace import Trace

# MorphNet and magnitude prune once to this share of the filters; widths are scaled uniformly from there.
PRUNED_SHARE = 0.5

Descend = Callable[[str, onnx.ModelProto, float, bool], Record]


@dataclass(frozen=True)
class Ground:
    """What every method starts from: the traced model, its groups' rungs, how to count parameters and to train.

    `at` makes the model of given widths, `fresh` initialises one; `descend(key, model, share, sparing)` trains and
    prunes one and returns the widths recorded.
    """

    found: Trace
    allowed: Mapping[str, AllowedWidths]
    family: str
    params: Callable[[Mapping[str, int]], float]
    at: Callable[[Mapping[str, int]], onnx.ModelProto]
    fresh: Callable[[onnx.ModelProto], onnx.ModelProto]
    trained: Callable[[str, onnx.ModelProto], onnx.ModelProto]
    traced: Callable[[onnx.ModelProto], Trace]
    descend: Descend

    @property
    def widths(self) -> dict[str, int]:
        """The original's."""
        return {name: allowed_widths.channels for name, allowed_widths in self.allowed.items()}


def law_of(ground: Ground, record: Record) -> Law:
    """The law fitted to a record of this model."""
    return Law(
        fit(
            record.named(ground.widths), {name: allowed_widths.floor for name, allowed_widths in ground.allowed.items()}
        ),
        ground.family,
    )


def path_of(law: Law, ground: Ground, allowed: Mapping[str, AllowedWidths]) -> tuple[Path, float]:
    """A law's path over the allowed widths, and the size it starts at; uniform where nothing could be fitted."""
    if not law.fitted:
        return uniform(ground.widths, allowed), 1.0
    return along(law, allowed), ground.params(ground.widths)


@dataclass(frozen=True)
class Descent:
    """The law that architecture descent ended with, and of each iteration the widths it started from and its record."""

    law: Law
    widths: tuple[Mapping[str, int], ...]
    records: tuple[Record, ...]


def neuralscale(ground: Ground, key: str, iterations: int) -> Descent:
    """Architecture descent: each iteration starts from the widths that the last one's law gives the original's size."""
    size = ground.params(ground.widths)
    law, widths, records = Law(()), [ground.widths], []
    for iteration in range(iterations):
        proto = ground.fresh(ground.at(widths[-1]))
        records.append(_whole(ground, ground.descend(f"{key}/{iteration}", proto, 0.95, False)))
        law = law_of(ground, records[-1])
        path, start = path_of(law, ground, ground.allowed)
        widths.append(widest(path, ground.params, size, start, f"params={size:.0f}"))
    return Descent(law, tuple(widths), tuple(records))


def _whole(ground: Ground, record: Record) -> Record:
    """A record with a column for every group: those without gates stay as they are."""
    columns = [
        record.widths[:, record.names.index(name)] if name in record.names else np.full(len(record.tau), width)
        for name, width in ground.widths.items()
    ]
    return Record(tuple(ground.widths), np.stack(columns, axis=1), record.tau)


def baseline(ground: Ground, key: str, method: Method) -> Mapping[str, float]:
    """The widths that a multiplier scales: the original's, or those left when half of the filters have gone.

    MorphNet (Gordon et al., CVPR 2018) is the paper's comparison, with Taylor importance; magnitude removes the filters
    with the smallest L2 norm, in units of their group's mean, from a trained network.
    """
    if method == "uniform":
        return ground.widths
    proto = ground.fresh(ground.at(ground.widths))
    if method == "morphnet":
        record = _whole(ground, ground.descend(key, proto, PRUNED_SHARE, True))
        if not len(record.tau):
            raise NetadaptError("no group has a filter to spare", code="nothing-to-prune")
        return dict(zip(record.names, record.widths[-1].tolist(), strict=True))
    found = ground.traced(ground.trained(key, proto))
    scores = importance(found, "l2", normalised=True)
    limit = float(np.quantile(np.concatenate(list(scores.values())), PRUNED_SHARE))
    return {name: max(1, int((scores[name] > limit).sum())) for name in ground.widths}
