"""What one iteration may try: for each group the largest channel count that meets the step's target."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice, permutations

from netadapt_onnx.search.channel_choices import ChannelChoices

Widths = Mapping[str, int]
Amounts = Mapping[str, float]

# More channels never make these cheaper, so the largest count that fits can be bisected. Latency is a staircase that
# also goes up when channels go, so its counts are tried one by one.
MONOTONE = frozenset({"macs", "params", "size", "memory"})
# How many pairs of groups are looked at for an exchange, how far down one may go, and how many are tried.
MOST_PAIRS, MOST_RUNGS_DOWN, MOST_EXCHANGES = 1000, 4, 12


@dataclass(frozen=True)
class Goal:
    """What a proposal must do: bring resource `driver` to `target` or below, and no other budgeted one up.

    `current` are the resources now, `limits` the budgets, in base units; `landed` is what a model that has landed on
    the driver's budget uses at least.
    """

    driver: str
    target: float
    current: Amounts
    limits: Amounts
    landed: float = 0.0

    @property
    def landing(self) -> bool:
        """Whether this step is to reach the budget."""
        return self.target <= self.limits[self.driver]

    @property
    def ceilings(self) -> Amounts:
        """What no cut may exceed. Latency is among it whenever it is known: some cuts make models slower."""
        watched = {*self.limits, "latency"} & self.current.keys()
        return {name: self.current[name] for name in watched} | {self.driver: self.target}


@dataclass(frozen=True)
class Proposal:
    """One group at another channel count: the whole model's `widths` then, and what it is predicted to cost.

    In an exchange another group has other widths, too; it is named after the group that was given channels.
    """

    group: str
    channels: int
    widths: Widths
    resources: Amounts


class Proposer:
    """Makes proposals; `resources` predicts what the budgeted resources of given widths are.

    With `prune_small` a group that cannot reach the step's target alone proposes to go as far as it can.
    """

    def __init__(
        self, ladders: Sequence[ChannelChoices], resources: Callable[[Widths], Amounts], *, prune_small: bool = False
    ) -> None:
        self.ladders = tuple(ladders)
        self.resources = resources
        self._prune_small = prune_small

    def cuts(self, widths: Widths, goal: Goal) -> list[Proposal]:
        """A proposal per group that can meet the goal, in the groups' order; if none can, smaller steps.

        Empty only if no group can go down at all.
        """
        made = [self._cut(rungs, widths, goal) for rungs in self.ladders]
        if self._prune_small:
            made = [p or self._least(rungs, widths, goal) for p, rungs in zip(made, self.ladders, strict=True)]
        found = [p for p in made if p is not None]
        if found:
            return found
        # Nothing reaches the target alone: the smallest step in every group; past the last coarse rung the fine ones.
        better = replace(goal, target=math.nextafter(goal.current[goal.driver], 0))
        for aim, fine in ((better, False), (goal, True), (better, True)):
            steps = [self._largest(r.group, r.fine if fine else r.coarse, widths, aim) for r in self.ladders]
            found = [p for p in steps if p is not None]
            if found:
                break
        return found

    def growths(self, widths: Widths, goal: Goal) -> list[Proposal]:
        """For each group that was cut, the most channels it can be given back while every limit holds."""
        found = []
        for rungs in self.ladders:
            above = [n for n in rungs.fine if n > widths[rungs.group]]
            proposal = self._first(rungs.group, above, widths, goal.limits)
            if proposal is not None and proposal.resources[goal.driver] > goal.current[goal.driver]:
                found.append(proposal)
        return found

    def exchanges(self, widths: Widths, goal: Goal) -> list[Proposal]:
        """For pairs of groups, one a rung up and the other down as far as that takes: those that land on the budget.

        For staircases so coarse that nothing can be given back alone. At most 12, those that keep most macs.
        """
        found = []
        for up, down in islice(permutations(self.ladders, 2), MOST_PAIRS):
            above = [n for n in up.fine if n > widths[up.group]]
            if not above:
                continue
            wider = {**widths, up.group: above[-1]}
            below = [n for n in down.fine if n < widths[down.group]]
            paid = self._first(down.group, below[:MOST_RUNGS_DOWN], wider, goal.limits)
            if paid is not None and paid.resources[goal.driver] >= goal.landed:
                found.append(replace(paid, group=up.group, channels=above[-1]))
        return sorted(found, key=lambda proposal: -proposal.resources.get("macs", 0.0))[:MOST_EXCHANGES]

    def _cut(self, rungs: ChannelChoices, widths: Widths, goal: Goal) -> Proposal | None:
        if goal.landing:
            return self._largest(rungs.group, rungs.fine, widths, goal)
        limit = goal.limits[goal.driver]
        proposal = self._largest(rungs.group, rungs.coarse, widths, goal)
        if proposal is not None and proposal.resources[goal.driver] <= limit:  # it jumps past the budget: land on it
            return self._largest(rungs.group, rungs.fine, widths, replace(goal, target=limit)) or proposal
        return proposal

    def _least(self, rungs: ChannelChoices, widths: Widths, goal: Goal) -> Proposal | None:
        """The count that leaves least of the driving resource and lets no other grow."""
        counts = [n for n in (rungs.fine if goal.landing else rungs.coarse) if n < widths[rungs.group]]
        ceilings = {**goal.ceilings, goal.driver: math.nextafter(goal.current[goal.driver], 0)}
        found = [self._at(rungs.group, n, widths) for n in (counts[-1:] if ceilings.keys() <= MONOTONE else counts)]
        able = [p for p in found if _fits(p, ceilings)]
        return min(able, key=lambda p: p.resources[goal.driver], default=None)

    def _largest(self, group: str, rungs: Iterable[int], widths: Widths, goal: Goal) -> Proposal | None:
        return self._first(group, [n for n in rungs if n < widths[group]], widths, goal.ceilings)

    def _first(self, group: str, counts: Sequence[int], widths: Widths, ceilings: Amounts) -> Proposal | None:
        """The first of `counts` (descending) at which no resource exceeds its ceiling."""

        if not counts:
            return None
        if not ceilings.keys() <= MONOTONE:
            tried = (self._at(group, count, widths) for count in counts)
            return next((p for p in tried if _fits(p, ceilings)), None)
        best = self._at(group, counts[-1], widths)
        if not _fits(best, ceilings):
            return None
        low, high = 0, len(counts) - 1
        while low < high:
            middle = (low + high) // 2
            proposal = self._at(group, counts[middle], widths)
            if _fits(proposal, ceilings):
                high, best = middle, proposal
            else:
                low = middle + 1
        return best

    def _at(self, group: str, count: int, widths: Widths) -> Proposal:
        changed = {**widths, group: count}
        return Proposal(group, count, changed, self.resources(changed))


def _fits(proposal: Proposal, ceilings: Amounts) -> bool:
    return all(proposal.resources[name] <= ceiling for name, ceiling in ceilings.items())
