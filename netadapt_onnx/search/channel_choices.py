"""Which channel counts a group may have: steps by operator, floors and freezes that the user gives."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from netadapt_onnx.common.amounts import parse_amount
from netadapt_onnx.errors import NetadaptError, did_you_mean

if TYPE_CHECKING:
    from netadapt_onnx.surgery.groups import Group
    from netadapt_onnx.surgery.trace import Trace

AUTO = "auto"
DEFAULT_STEP = 8
# The channel counts of a group at the best points of a table's latency steps.
Counts = Callable[[str], Sequence[int]]
Steps = int | str | Sequence[int | str]
Floors = Sequence[str] | Mapping[str, int | str]


@dataclass(frozen=True)
class ChannelChoices:
    """The channel counts a group may have, largest first: `coarse` while searching, `fine` to land on the budget."""

    group: str
    channels: int
    coarse: tuple[int, ...]
    fine: tuple[int, ...]


def ladder(group: Group, step: int, alignment: int = 1, floor: int = 1) -> ChannelChoices:
    """The rungs of one group: coarse are multiples of `step`, fine ones of `alignment`, both of the structural step.

    All channels are always a rung, the floor (the larger of the group's own and `floor`) is the lowest. `alignment`
    above 1 is for latency: widths that miss it run slower kernels, so that nothing is gained by them.
    """
    fine, coarse = math.lcm(group.step, alignment), math.lcm(group.step, step)
    counts = [n for n in range(group.channels - 1, 0, -1) if n >= max(group.floor, floor)]
    return ChannelChoices(
        group.name,
        group.channels,
        tuple(n for n in counts if n % coarse == 0),
        (group.channels, *(n for n in counts if n % fine == 0)),
    )


@dataclass(frozen=True)
class Rungs:
    """What the user asks of channel counts: `step` (None: the table's) but for the operators in `steps`.

    `floors` are pairs of a pattern and a count (or, if the flag beside it is set, a share); patterns name groups or
    their layers, with `*`, `?` and `[...]`.
    """

    step: int | None = DEFAULT_STEP
    steps: Mapping[str, int] = field(default_factory=dict)
    least: int = 1
    frozen: tuple[str, ...] = ()
    floors: tuple[tuple[str, float, bool], ...] = ()

    def ladders(self, trace: Trace, alignment: int = 1, counts: Counts | None = None) -> tuple[ChannelChoices, ...]:
        """A ladder for every prunable group that is not frozen. `counts` are those of a table, for `--step auto`.

        Raises NetadaptError for patterns that name nothing, operators that no group has, and if all are frozen.
        """
        ops = {group.name: _ops(trace, group) for group in trace.prunable}
        known = sorted(set().union(*ops.values()))
        for op in self.steps:
            if op not in known:
                hint = did_you_mean(op, known, f"groups hold {', '.join(known)}")
                raise NetadaptError(f"--step {op}={self.steps[op]}: no group holds a layer of {op}", hint=hint)
        frozen = self._frozen(trace)
        floors: dict[str, int] = {}
        for pattern, amount, share in self.floors:
            for name in matching(trace, pattern, "--floor"):
                floors[name] = math.ceil(amount * trace.group(name).channels - 1e-9) if share else int(amount)
        made = []
        for group in trace.prunable:
            if group.name in frozen:
                continue
            own = [self.steps[op] for op in ops[group.name] if op in self.steps]
            step = math.lcm(*own) if own else self.step or DEFAULT_STEP
            made.append(ladder(group, step, alignment, max(self.least, floors.get(group.name, 1))))
            if counts is not None and not own and self.step is None:
                found = set(counts(group.name))
                made[-1] = replace(made[-1], coarse=tuple(n for n in made[-1].fine[1:] if n in found))
        if not made:
            raise NetadaptError("every group is frozen: nothing can be cut", hint="freeze fewer", code="usage")
        return tuple(made)

    def held(self, trace: Trace) -> frozenset[str]:
        """The groups that are frozen or have a floor of their own: they must not go with a branch."""
        floored = {name for pattern, *_ in self.floors for name in matching(trace, pattern, "--floor")}
        return self._frozen(trace) | floored

    def _frozen(self, trace: Trace) -> frozenset[str]:
        return frozenset(name for pattern in self.frozen for name in matching(trace, pattern, "--freeze"))


def rungs(step: Steps, least: int, frozen: Sequence[str], floors: Floors) -> Rungs:
    """Read `--step N|auto|OP=N`, `--min-channels`, `--freeze GROUP` and `--floor GROUP=N`. Raises NetadaptError."""
    default: int | None = DEFAULT_STEP
    by_op: dict[str, int] = {}
    for text in [step] if isinstance(step, int | str) else step:
        op, equals, number = str(text).rpartition("=")
        if number == AUTO and not equals:
            default = None
        elif not number.strip().isdigit() or int(number) < 1 or bool(equals) != bool(op.strip()):
            raise NetadaptError(f"--step {text}: at least 1", hint="N, auto or OP=N, e.g. Gemm=64", code="usage")
        elif equals:
            by_op[op.strip()] = int(number)
        else:
            default = int(number)
    if least < 1:
        raise NetadaptError(f"--min-channels {least}: at least 1", code="usage")
    return Rungs(default, by_op, least, tuple(frozen), tuple(_floor(text) for text in _pairs(floors)))


def _pairs(floors: Floors) -> list[str]:
    return [f"{name}={value}" for name, value in floors.items()] if isinstance(floors, Mapping) else list(floors)


def _floor(text: str) -> tuple[str, float, bool]:
    name, _, value = text.rpartition("=")
    found = parse_amount("channels", value)
    if not name or found is None or found[0] <= 0 or (found[1] and found[0] > 1) or (not found[1] and found[0] % 1):
        raise NetadaptError(f"--floor {text}: not GROUP=N", hint="e.g. conv1=32 or 'layer3*=0.5x'", code="usage")
    return name, *found


def matching(trace: Trace, pattern: str, flag: str) -> tuple[str, ...]:
    """The groups that a name or a pattern means: of the group itself, or of any layer it holds.

    Raises NetadaptError, with the nearest names, if there is none.
    """
    for same in (str.__eq__, fnmatchcase):  # a name may contain what a pattern means otherwise
        found = tuple(g.name for g in trace.groups if any(same(n, pattern) for n in (g.name, *g.layers)))
        if found:
            return found
    known = [group.name for group in trace.prunable]
    hint = did_you_mean(pattern, known, "`netadapt-onnx inspect` lists them")
    raise NetadaptError(f"{flag} {pattern}: the model has no such group", hint=hint, code="unknown-group")


def _ops(trace: Trace, group: Group) -> frozenset[str]:
    return frozenset(layer.op for layer in trace.labels.layers if layer.name in group.layers)
