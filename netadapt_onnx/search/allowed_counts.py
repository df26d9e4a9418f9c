"""Which channel counts a group may have: steps by operator, floors and freezes that the user gives.

A residual branch that may be removed is like a group of one channel, which the model has (1) or has not (0).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from netadapt_onnx.common.amounts import parse_amount
from netadapt_onnx.errors import NetadaptError, did_you_mean

if TYPE_CHECKING:
    from netadapt_onnx.surgery.groups import Group
    from netadapt_onnx.surgery.residual_branches import Branch
    from netadapt_onnx.surgery.trace import Trace

AUTO = "auto"
DEFAULT_STEP = 8
# By a group's name, the channel counts at the best points of a table's latency steps.
Counts = Callable[[str], Sequence[int]]
Steps = int | str | Sequence[int | str]
Floors = Sequence[str] | Mapping[str, int | str]


@dataclass(frozen=True)
class ChannelChoices:
    """The channel counts a group may have, largest first: `coarse` while searching, `fine` to meet the budget.

    `aligned` are those of the fine ones that are multiples of what kernels like; `branches` the residual branches that
    take the group with them.
    """

    group: str
    channels: int
    coarse: tuple[int, ...]
    fine: tuple[int, ...]
    aligned: tuple[int, ...] = ()
    branches: tuple[str, ...] = ()

    @property
    def by_preference(self) -> tuple[tuple[int, ...], ...]:
        """The counts to meet a budget with that does not say itself what kernels like, the most preferred first.

        A model of 37 channels has fewer macs than one of 40, and often takes longer.
        """
        return (self.channels, *self.coarse), self.aligned, self.fine

    def preferring(self, multiple: int) -> ChannelChoices:
        """The same for kernels that like multiples of so many channels."""
        return replace(self, aligned=tuple(n for n in self.fine if n % multiple == 0))


def channel_choices(group: Group, step: int, alignment: int = 1, floor: int = 1) -> ChannelChoices:
    """The channel counts that one group may have.

    Args:
        group: The group; its own number of channels is always among its choices.
        step: Coarse counts are multiples of it and of the group's structural step.
        alignment: Fine counts are multiples of it and of the group's structural step. It is above 1 for latency: other
            widths run slower kernels, so that nothing is gained by them.
        floor: The fewest channels, unless the group's own floor is higher.
    """
    fine, coarse = math.lcm(group.step, alignment), math.lcm(group.step, step)
    counts = [n for n in range(group.channels - 1, 0, -1) if n >= max(group.floor, floor)]
    return ChannelChoices(
        group.name,
        group.channels,
        tuple(n for n in counts if n % coarse == 0),
        (group.channels, *(n for n in counts if n % fine == 0)),
    )


def with_branches(choices: Sequence[ChannelChoices], branches: Sequence[Branch]) -> tuple[ChannelChoices, ...]:
    """The choices of groups, which then know the branches that take them with them, and those of each branch."""
    taking = {c.group: tuple(branch.name for branch in branches if c.group in branch.groups) for c in choices}
    groups = (replace(choice, branches=taking[choice.group]) for choice in choices)
    return (*groups, *(ChannelChoices(branch.name, 1, (0,), (1, 0)) for branch in branches))


def used_widths(choices: Sequence[ChannelChoices], widths: Mapping[str, int]) -> dict[str, int]:
    """The same model's widths with every group whole that a removed branch took with it: its count makes no difference.

    Args:
        choices: The channel counts that each group may have.
        widths: The channel count of every group; 0 of a branch that is removed.
    """
    unused = {choice.group: choice.channels for choice in choices if any(not widths[name] for name in choice.branches)}
    return {**widths, **unused}


def removed_branches(branches: Sequence[Branch], widths: Mapping[str, int]) -> frozenset[str]:
    """The names of the branches that a model of these widths does not have."""
    return frozenset(branch.name for branch in branches if not widths.get(branch.name, 1))


@dataclass(frozen=True)
class AllowedCounts:
    """The user's options on channel counts. Patterns name groups or their layers, with `*`, `?` and `[...]`.

    Attributes:
        step: The step of all operators that are not in `steps`; None: the one of the latency table.
        steps: The step of each operator that has its own.
        least: The fewest channels of any group.
        frozen: Patterns of groups that are not cut.
        floors: Triples of a pattern, an amount, and whether that is a share of the group's channels or a count.
    """

    step: int | None = DEFAULT_STEP
    steps: Mapping[str, int] = field(default_factory=dict)
    least: int = 1
    frozen: tuple[str, ...] = ()
    floors: tuple[tuple[str, float, bool], ...] = ()

    def choices(self, trace: Trace, alignment: int = 1, counts: Counts | None = None) -> tuple[ChannelChoices, ...]:
        """The choices of every prunable group that is not frozen.

        Args:
            trace: The traced model.
            alignment: Fine counts are multiples of it.
            counts: The best counts of a latency table, for `--step auto`.

        Raises:
            NetadaptError: A pattern names nothing, no group has an operator, or all groups are frozen.
        """
        ops = {group.name: _ops(trace, group) for group in trace.prunable}
        all_ops = sorted(set().union(*ops.values()))
        for op in self.steps:
            if op not in all_ops:
                hint = did_you_mean(op, all_ops, f"groups hold {', '.join(all_ops)}")
                raise NetadaptError(f"--step {op}={self.steps[op]}: no group holds a layer of {op}", hint=hint)
        frozen = self._frozen(trace)
        floors: dict[str, int] = {}
        for pattern, amount, share in self.floors:
            for name in matching(trace, pattern, "--floor"):
                floors[name] = math.ceil(amount * trace.group(name).channels - 1e-9) if share else int(amount)
        choices = []
        for group in trace.prunable:
            if group.name in frozen:
                continue
            own = [self.steps[op] for op in ops[group.name] if op in self.steps]
            step = math.lcm(*own) if own else self.step or DEFAULT_STEP
            floor = max(self.least, floors.get(group.name, 1))
            choice = channel_choices(group, step, alignment, floor).preferring(
                alignment if alignment > 1 else DEFAULT_STEP
            )
            if counts is not None and not own and self.step is None:
                choice = _at_best_counts(choice, counts(group.name), alignment)
            choices.append(choice)
        if not choices:
            raise NetadaptError("every group is frozen: nothing can be cut", hint="freeze fewer", code="usage")
        return tuple(choices)

    def protected(self, trace: Trace) -> frozenset[str]:
        """The names of groups that are frozen or have a floor of their own: they must not be removed with a branch."""
        floored = {name for pattern, *_ in self.floors for name in matching(trace, pattern, "--floor")}
        return self._frozen(trace) | floored

    def _frozen(self, trace: Trace) -> frozenset[str]:
        return frozenset(name for pattern in self.frozen for name in matching(trace, pattern, "--freeze"))


def _at_best_counts(choice: ChannelChoices, best: Sequence[int], alignment: int) -> ChannelChoices:
    """The choices with the best counts of a table as the coarse ones.

    A table without steps and without an alignment calls nearly every count a best one. It has no preference then, and
    multiples of the default step stay: other tables, and the next version of a runtime, may have one.
    """
    coarse = tuple(n for n in choice.fine[1:] if n in best)
    is_smooth = alignment == 1 and 2 * len(coarse) > len(choice.fine) - 1 and len(coarse) > len(choice.coarse)
    return choice if is_smooth else replace(choice, coarse=coarse)


def allowed_counts(step: Steps, least: int, frozen: Sequence[str], floors: Floors) -> AllowedCounts:
    """The options `--step N|auto|OP=N`, `--min-channels`, `--freeze GROUP` and `--floor GROUP=N`.

    Raises:
        NetadaptError: One of them is malformed.
    """
    if least < 1:
        raise NetadaptError(f"--min-channels {least}: at least 1", code="usage")
    default, by_op = _steps(step)
    return AllowedCounts(default, by_op, least, frozen_groups(frozen), tuple(_floor(text) for text in _pairs(floors)))


def _steps(step: Steps) -> tuple[int | None, dict[str, int]]:
    """The step of all operators, None for the table's, and those of operators that have their own."""
    default: int | None = DEFAULT_STEP
    by_op: dict[str, int] = {}
    for text in step if isinstance(step, Sequence) and not isinstance(step, str) else [step]:
        op, equals, number = str(text).rpartition("=")
        if number == AUTO and not equals:
            default = None
        elif not number.strip().isdigit() or int(number) < 1 or bool(equals) != bool(op.strip()):
            raise NetadaptError(f"--step {text}: at least 1", hint="N, auto or OP=N, e.g. Gemm=64", code="usage")
        elif equals:
            by_op[op.strip()] = int(number)
        else:
            default = int(number)
    return default, by_op


def step_in_one_spelling(step: Steps) -> Steps:
    """A number or `auto` where operators have no steps of their own, otherwise texts in order.

    Raises NetadaptError for a malformed one.
    """
    default, by_op = _steps(step)
    of_all = AUTO if default is None else default
    if not by_op:
        return of_all
    texts = [] if default == DEFAULT_STEP else [str(of_all)]
    return (*texts, *(f"{op}={number}" for op, number in sorted(by_op.items())))


def frozen_groups(patterns: str | Sequence[str]) -> tuple[str, ...]:
    """The patterns of `--freeze`, each once, in order."""
    return tuple(sorted({patterns} if isinstance(patterns, str) else set(patterns)))


def floors_in_one_spelling(floors: Floors) -> tuple[str, ...]:
    """Floors as texts, `GROUP=32` or `GROUP=0.5x`; of two that mean a group the later one counts.

    Raises NetadaptError for a malformed one.
    """
    parsed = [_floor(text) for text in _pairs(floors)]
    return tuple(f"{name}={amount:.15g}{'x' if is_share else ''}" for name, amount, is_share in parsed)


def _pairs(floors: Floors) -> list[str]:
    if isinstance(floors, Mapping):
        return [f"{name}={value}" for name, value in floors.items()]
    return [floors] if isinstance(floors, str) else list(floors)


def _floor(text: str) -> tuple[str, float, bool]:
    name, _, value = text.rpartition("=")
    parsed = parse_amount("channels", value)
    amount, share = parsed or (0.0, False)
    if not name or amount <= 0 or (share and amount > 1) or (not share and amount % 1):
        raise NetadaptError(f"--floor {text}: not GROUP=N", hint="e.g. conv1=32 or 'layer3*=0.5x'", code="usage")
    return name, amount, share


def matching(trace: Trace, pattern: str, flag: str) -> tuple[str, ...]:
    """The names of the groups that a name, a path or a pattern means: of a group, or of any layer it holds.

    Args:
        trace: The traced model.
        pattern: The name or pattern.
        flag: The option that it comes from, for the message.

    Raises:
        NetadaptError: No group matches; the hint has the nearest names.
    """
    for same in (str.__eq__, fnmatchcase):  # a name may contain what a pattern means otherwise
        names = tuple(g.name for g in trace.groups if any(same(name, pattern) for name in _names(trace, g)))
        if names:
            return names
    prunable = [group.name for group in trace.prunable]
    hint = did_you_mean(pattern, prunable, "`netadapt-onnx inspect MODEL` lists them")
    raise NetadaptError(f"{flag} {pattern}: the model has no such group", hint=hint, code="unknown-group")


def _names(trace: Trace, group: Group) -> Iterator[str]:
    """All that a group goes by: its own name and those of its layers, and where they stand in the network."""
    for name in (group.name, *group.layers):
        yield from (name, trace.paths[name])


def _ops(trace: Trace, group: Group) -> frozenset[str]:
    return frozenset(layer.op for layer in trace.labels.layers if layer.name in group.layers)
