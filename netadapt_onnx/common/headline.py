"""A result in one line: `1.8x faster (0.45 ms, was 0.78), 61% smaller, accuracy 99.0% as before`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from netadapt_onnx.common import render
from netadapt_onnx.common.resources import LATENCY

# Below this share of the original a change of an exact amount is no change.
SMALLEST_SHARE = 0.0005
# What a model has less of, or more of, by resource; those that are not listed are called by their name.
LESS = {
    "size": "smaller",
    "macs": "fewer MACs",
    "params": "fewer parameters",
    "memory": "less activation memory",
}
MORE = {"size": "larger", "macs": "more MACs", "params": "more parameters", "memory": "more activation memory"}
SAME = {
    "size": "as large as before",
    "macs": "as many MACs as before",
    "params": "as many parameters as before",
    "memory": "as much activation memory as before",
}
METRICS = {
    "top1": "accuracy",
    "agreement": "agreement with the original",
    "miou": "mean IoU",
    "r2": "R2",
    "evaluate": "score",  # by a function of the user's
}


class Accuracy(Protocol):
    """What an accuracy before and after is read from, such as `data.metrics.AccuracyChange`."""

    @property
    def before(self) -> float: ...  # noqa: D102
    @property
    def after(self) -> float: ...  # noqa: D102
    @property
    def metric(self) -> str: ...  # noqa: D102


@dataclass(frozen=True)
class Change:
    """An amount of a resource before and after, in base units (count, bytes, ms, mJ).

    Attributes:
        resource: The resource, perhaps of a named device: `latency@pi`.
        before, after: The amounts; `before` is None where it is not known.
        ratio: after / before as it was measured; None where the amounts are exact and say it themselves.
        ci95: The 95% interval of a measured ratio.
        is_predicted: Whether nobody has measured `after`.
    """

    resource: str
    before: float | None
    after: float
    ratio: float | None = None
    ci95: tuple[float, float] | None = None
    is_predicted: bool = False

    @property
    def share(self) -> float:
        """What is left: the measured ratio, or that of the amounts."""
        if self.ratio is not None:
            return self.ratio
        return self.after / self.before if self.before else 1.0

    @property
    def is_distinguishable(self) -> bool:
        """Whether after and before differ by more than the measurement can tell."""
        if self.ci95 is not None:
            return not self.ci95[0] <= 1.0 <= self.ci95[1]
        return abs(self.share - 1.0) >= SMALLEST_SHARE


def headline(changes: Sequence[Change], accuracy: Accuracy | None = None) -> str:
    """What a person wants to know first about a smaller model, as one line.

    Args:
        changes: What the model costs before and after, in the order to be said.
        accuracy: The accuracy before and after, if it is known.

    >>> headline([Change("latency", 0.78, 0.45, 0.57, (0.55, 0.59)), Change("size", 1e6, 390e3)])
    '1.8x faster (0.45 ms, was 0.78), 61% smaller'
    """
    phrases = [phrase(change) for change in changes]
    if accuracy is not None:
        phrases.append(accuracy_phrase(accuracy))
    return ", ".join(phrases)


def phrase(change: Change) -> str:
    """One change in words: `1.8x faster on pi (0.45 ms, was 0.78)`, `61% smaller`, `as large as before`."""
    kind, _, device = change.resource.partition("@")
    words = difference(change)
    on = f" on {device}" if device else ""
    predicted = "predicted " if change.is_predicted else ""
    if change.before is None:
        return f"{predicted}{kind} {render.amount(change.resource, change.after)}{on}"
    predicted += "to be " if predicted and kind == LATENCY else ""
    return f"{predicted}{words}{on}{'' if render.is_counted(kind) else f' ({amounts(change, change.before)})'}"


def difference(change: Change) -> str:
    """A change without its amounts: `1.8x faster`, `61% smaller`, `as large as before`."""
    kind = change.resource.partition("@")[0]
    return _speed(change) if kind == LATENCY else _amount(kind, change)


def metric_name(metric: str) -> str:
    """What a metric is called in running text."""
    return METRICS.get(metric, metric)


def amounts(change: Change, before: float) -> str:
    """The amounts after and before, with the unit once where both have the same: `0.45 ms, was 0.78`."""
    now, earlier = (render.amount(change.resource, value) for value in (change.after, before))
    unit = now.partition(" ")[2]
    return f"{now}, was {earlier.removesuffix(f' {unit}') if unit else earlier}"


def accuracy_phrase(accuracy: Accuracy) -> str:
    """An accuracy in words: `accuracy 91.2%, was 92.3%`, `accuracy 99.0% as before`."""
    name = metric_name(accuracy.metric)
    before, after = (render.score(accuracy.metric, value) for value in (accuracy.before, accuracy.after))
    if accuracy.metric == "agreement":  # with the original, which agrees with itself
        return f"{name} {after}"
    return f"{name} {after} as before" if before == after else f"{name} {after}, was {before}"


def _speed(change: Change) -> str:
    if not change.is_distinguishable or change.share <= 0:
        return "as fast as before"
    is_faster = change.share < 1
    factor = 1 / change.share if is_faster else change.share
    digits = 2 if factor < 1.095 else 1 if factor < 9.95 else 0
    return f"{factor:.{digits}f}x {'faster' if is_faster else 'slower'}"


def _amount(kind: str, change: Change) -> str:
    if not change.is_distinguishable:
        return SAME.get(kind, f"as much {kind} as before")
    share = abs(1 - change.share)
    digits = 1 if share < 0.01 or 0.99 < share < 1 else 0
    words = LESS.get(kind, f"less {kind}") if change.share < 1 else MORE.get(kind, f"more {kind}")
    return f"{100 * share:.{digits}f}% {words}"
