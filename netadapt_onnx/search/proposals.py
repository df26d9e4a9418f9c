"""The proposals of one iteration: for each group the largest channel count that meets the step's target."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice, permutations

from netadapt_onnx.search.allowed_counts import ChannelChoices

Widths = Mapping[str, int]
Amounts = Mapping[str, float]

# More channels never make these cheaper, so the largest count that fits can be bisected. Latency is a staircase that
# also goes up when channels go, so its counts are tried one by one.
MONOTONE = frozenset({"macs", "params", "size", "memory"})
# The `group` of a proposal that changes many groups at once.
TOGETHER = "every group"
# How many pairs of groups are looked at for a swap, by how many choices one may go down, and how many are proposed.
MOST_PAIRS, MOST_CHOICES_DOWN, MOST_SWAPS = 1000, 4, 12


@dataclass(frozen=True)
class Goal:
    """What a proposal must do: bring resource `driver` to `target` or below, and no other budgeted one up.

    Attributes:
        driver: The resource that is to be lowered.
        target: What it may be after the iteration, in its base unit.
        current: The resources of the current model, in base units.
        limits: The budgets, in base units.
        converged_amount: The least of the driver that a model which has converged on its budget uses.
    """

    driver: str
    target: float
    current: Amounts
    limits: Amounts
    converged_amount: float = 0.0

    @property
    def reaches_budget(self) -> bool:
        """Whether this step is to reach the budget."""
        return self.target <= self.limits[self.driver]

    @property
    def ceilings(self) -> Amounts:
        """What no cut may exceed. Latency is among it whenever it is predicted: some cuts make models slower."""
        watched = {*self.limits, "latency"} & self.current.keys()
        return {name: self.current[name] for name in watched} | {self.driver: self.target}


@dataclass(frozen=True)
class Proposal:
    """One group at another channel count, the `widths` of all groups then, and the predicted resources.

    In a swap another group changes, too; the proposal is named after the group that gets channels. A joint proposal
    changes any number of groups: its channels are those of all groups together, and `method` chose them.
    """

    group: str
    channels: int
    widths: Widths
    resources: Amounts
    method: str | None = None

    @property
    def label(self) -> str:
        """What tells it from the other proposals of its iteration."""
        return self.method or self.group


def joint_proposal(method: str, widths: Widths, resources: Amounts) -> Proposal:
    """The widths that a method has chosen for all groups."""
    return Proposal(TOGETHER, sum(widths.values()), widths, resources, method)


class Proposer:
    """Makes the proposals of an iteration."""

    def __init__(
        self, choices: Sequence[ChannelChoices], resources: Callable[[Widths], Amounts], *, prune_small: bool = False
    ) -> None:
        """Propose for the groups of `choices`.

        Args:
            choices: The channel counts that each group may have.
            resources: Predicts the resources at given widths, in base units.
            prune_small: Whether a group that cannot reach a target alone proposes to go as far as it can.
        """
        self._choices = tuple(choices)
        self._resources = resources
        self._prune_small = prune_small

    def cuts(self, widths: Widths, goal: Goal) -> list[Proposal]:
        """A proposal per group that can meet the goal, in the groups' order; if none can, smaller steps.

        Empty only if no group can go down at all.
        """
        cuts = [self._cut(choice, widths, goal) for choice in self._choices]
        if self._prune_small:
            cuts = [p or self._least(choice, widths, goal) for p, choice in zip(cuts, self._choices, strict=True)]
        proposals = [p for p in cuts if p is not None]
        if proposals:
            return proposals
        # Nothing reaches the target alone: the smallest step of every group; past its last coarse count the fine ones.
        any_less = replace(goal, target=math.nextafter(goal.current[goal.driver], 0))
        for easier, fine in ((any_less, False), (goal, True), (any_less, True)):
            steps = [self._largest(c.group, c.fine if fine else c.coarse, widths, easier) for c in self._choices]
            proposals = [p for p in steps if p is not None]
            if proposals:
                break
        return proposals

    def widen_proposals(self, widths: Widths, goal: Goal) -> list[Proposal]:
        """For each group that was cut, the most channels it can be given back while every limit holds."""
        proposals = []
        for choice in self._choices:

            def widest(counts: Iterable[int], group: str = choice.group) -> Proposal | None:
                return self._first(group, [n for n in counts if n > widths[group]], widths, goal.limits)

            proposal = _preferred(choice, widest, goal)
            if proposal is not None and proposal.resources[goal.driver] > goal.current[goal.driver]:
                proposals.append(proposal)
        return proposals

    def swap_proposals(self, widths: Widths, goal: Goal) -> list[Proposal]:
        """For pairs of groups, one a choice up and the other down as far as that takes: those that meet the budget.

        They are for staircases so coarse that nothing can be given back alone. There are at most 12, those that keep
        most macs.
        """
        proposals = []
        for up, down in islice(permutations(self._choices, 2), MOST_PAIRS):
            above = [n for n in up.fine if n > widths[up.group]]
            if not above:
                continue
            wider = {**widths, up.group: above[-1]}
            below = [n for n in down.fine if n < widths[down.group]]
            paid = self._first(down.group, below[:MOST_CHOICES_DOWN], wider, goal.limits)
            if paid is not None and paid.resources[goal.driver] >= goal.converged_amount:
                proposals.append(replace(paid, group=up.group, channels=above[-1]))
        return sorted(proposals, key=lambda proposal: -proposal.resources.get("macs", 0.0))[:MOST_SWAPS]

    def _cut(self, choice: ChannelChoices, widths: Widths, goal: Goal) -> Proposal | None:
        if goal.reaches_budget:
            return self._onto_budget(choice, widths, goal)
        limit = goal.limits[goal.driver]
        proposal = self._largest(choice.group, choice.coarse, widths, goal)
        if (
            proposal is not None and proposal.resources[goal.driver] <= limit
        ):  # it jumps past the budget: meet it instead
            return self._onto_budget(choice, widths, replace(goal, target=limit)) or proposal
        return proposal

    def _onto_budget(self, choice: ChannelChoices, widths: Widths, goal: Goal) -> Proposal | None:
        """The largest count that meets the budget, among those that kernels like if that is near enough to it."""
        return _preferred(choice, lambda counts: self._largest(choice.group, counts, widths, goal), goal)

    def _least(self, choice: ChannelChoices, widths: Widths, goal: Goal) -> Proposal | None:
        """The count that leaves least of the driving resource and lets no other grow."""
        counts = [n for n in (choice.fine if goal.reaches_budget else choice.coarse) if n < widths[choice.group]]
        ceilings = {**goal.ceilings, goal.driver: math.nextafter(goal.current[goal.driver], 0)}
        proposals = (
            self._at(choice.group, n, widths) for n in (counts[-1:] if ceilings.keys() <= MONOTONE else counts)
        )
        fitting = [p for p in proposals if _fits(p, ceilings)]
        return min(fitting, key=lambda p: p.resources[goal.driver], default=None)

    def _largest(self, group: str, counts: Iterable[int], widths: Widths, goal: Goal) -> Proposal | None:
        return self._first(group, [n for n in counts if n < widths[group]], widths, goal.ceilings)

    def _first(self, group: str, counts: Sequence[int], widths: Widths, ceilings: Amounts) -> Proposal | None:
        """The first of `counts` (descending) at which no resource exceeds its ceiling."""

        if not counts:
            return None
        if not ceilings.keys() <= MONOTONE:
            proposals = (self._at(group, count, widths) for count in counts)
            return next((p for p in proposals if _fits(p, ceilings)), None)
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
        return Proposal(group, count, changed, self._resources(changed))


def _preferred(
    choice: ChannelChoices, propose: Callable[[Iterable[int]], Proposal | None], goal: Goal
) -> Proposal | None:
    """The proposal among the most preferred counts with which the model converges on its budget, or else among all.

    Only where what drives the step is counted: a latency says itself which counts a device likes.
    """
    if goal.driver in MONOTONE:
        for counts in choice.by_preference:
            proposal = propose(counts)
            if proposal is not None and proposal.resources[goal.driver] >= goal.converged_amount:
                return proposal
    return propose(choice.fine)


def _fits(proposal: Proposal, ceilings: Amounts) -> bool:
    return all(proposal.resources[name] <= ceiling for name, ceiling in ceilings.items())
