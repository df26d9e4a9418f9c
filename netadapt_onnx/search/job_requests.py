"""The requests of a search's jobs, a struct for each kind of job, and what a proposal's job results in.

They travel as JSON between processes and machines; an `EvaluationRequest` is `request.json` of a proposal's folder.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import msgspec

from netadapt_onnx.training.settings import Settings

BaseName = Literal["current", "original"]


@dataclass(frozen=True)
class ShortTraining:
    """A short training: steps of SGD, their learning rate, and how this run trains."""

    steps: int
    lr: float
    settings: Settings


class EvaluationRequest(msgspec.Struct, frozen=True):
    """A proposal to cut, adapt and evaluate.

    Attributes:
        iteration: The iteration that it is a proposal of.
        group: The group that proposes.
        channels: Its channel count.
        base: The model that is cut.
        removed: The branches that are removed first.
        keep: By group, the indices of the channels that stay.
        reconstruct: Whether the layers behind the cut are reconstructed.
        training: The short training after the cut; None: there is none.
        want: What is asked for: the only kind of request that a folder keeps.
    """

    iteration: int
    group: str
    channels: int
    base: BaseName
    removed: list[str]
    keep: dict[str, list[int]]
    reconstruct: bool = msgspec.field(name="mend")
    training: ShortTraining | None = None
    want: Literal["accuracy"] = "accuracy"


class CutRequest(msgspec.Struct, frozen=True):
    """A model to cut, with the fields of an `EvaluationRequest`."""

    base: BaseName
    removed: list[str]
    keep: dict[str, list[int]]
    reconstruct: bool


class SolveRequest(msgspec.Struct, frozen=True):
    """The original to cut to the channels of `keep`, without the branches `removed`, all layers solved in order."""

    keep: dict[str, list[int]]
    removed: list[str]


class ProposalResult(msgspec.Struct, frozen=True):
    """The accuracy of an evaluated proposal, None where it is not a finite number; or why it failed."""

    accuracy: float | None = None
    error: str | None = None


# msgspec reads a type's fields when it is first used, and two threads that do so at once end in a segmentation fault
# (seen with 0.22): jobs of this process run in threads, so the fields are read here.
for _kind in (EvaluationRequest, CutRequest, SolveRequest):
    msgspec.json.Decoder(_kind)
