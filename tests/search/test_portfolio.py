"""The portfolio: who competes, how often candidates are trained, and who wins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from netadapt_onnx.search.allowed_counts import ChannelChoices, used_widths
from netadapt_onnx.search.joint_iteration import JointIteration, joint_iteration
from netadapt_onnx.search.methods import Methods, PortfolioPlan
from netadapt_onnx.search.portfolio import PORTFOLIO, compete
from netadapt_onnx.search.proposals import Proposal, joint_proposal
from search_problems import problem, search

FULL = {"a": 16, "b": 16}


def iteration(methods: Sequence[str]) -> JointIteration:
    proposals = tuple(joint_proposal(method, {"a": n, "b": 16 - n}, {"macs": 1.0}) for n, method in enumerate(methods))
    return JointIteration(3, FULL, "macs", 1.0, proposals, PORTFOLIO)


def test_the_better_half_is_trained_for_twice_as_long_until_one_is_left() -> None:
    joint = iteration(["netadapt", "curves", "knapsack", "uniform"])
    after = {0: 0.7, 1: 0.8, 2: 0.6, 3: 0.9}
    rounds = []

    def train(numbers: Sequence[int], steps: int) -> list[float]:
        rounds.append((sorted(numbers), steps))
        return [after[number] for number in numbers]

    winner, evaluated = compete(joint, lambda numbers: [0.5, 0.4, 0.3, 0.2], train, 10)
    assert winner == 3
    assert rounds == [([0, 1, 2, 3], 10), ([1, 3], 20)]
    assert [(e.group, e.accuracy, e.finetuned) for e in evaluated] == [
        ("netadapt", 0.5, 0.7),
        ("curves", 0.4, 0.8),
        ("knapsack", 0.3, 0.6),
        ("uniform", 0.2, 0.9),
    ]


def test_uniform_widths_are_trained_however_bad_they_are_before() -> None:
    joint = iteration(["netadapt", "curves", "curves^2", "curves^0.5", "knapsack", "uniform"])
    trained: list[int] = []

    def train(numbers: Sequence[int], steps: int) -> list[float]:
        trained.extend(numbers)
        return [1.0 if number == 5 else 0.0 for number in numbers]

    winner, _ = compete(joint, lambda numbers: [0.9, 0.8, 0.7, 0.6, 0.5, 0.1], train, 10)
    assert winner == 5
    assert 3 not in trained and 4 not in trained


def test_a_training_that_harms_a_candidate_does_not_count() -> None:
    """A few steps on few samples may cost a model that had lost nothing more than one that had lost much."""
    joint = iteration(["netadapt", "curves", "uniform"])
    winner, evaluated = compete(joint, lambda _: [1.0, 0.8, 0.9], lambda numbers, _: [0.85 for _ in numbers], 10)
    assert winner == 0
    assert [(e.accuracy, e.finetuned) for e in evaluated] == [(1.0, 0.85), (0.8, 0.85), (0.9, 0.85)]


def test_without_training_the_solved_models_decide_and_ties_go_to_the_search() -> None:
    joint = iteration(["netadapt", "curves", "uniform"])
    assert compete(joint, lambda _: [0.5, 0.6, 0.4])[0] == 1
    assert compete(joint, lambda _: [0.5, 0.5, 0.5])[0] == 0


def test_a_training_that_harms_all_candidates_decides_nothing() -> None:
    joint = iteration(["netadapt", "curves", "uniform"])
    after = {0: 0.2, 1: 0.3, 2: 0.4}
    winner, evaluated = compete(joint, lambda _: [0.9, 0.8, 0.5], lambda numbers, _: [after[n] for n in numbers], 10)
    assert winner == 0
    assert [entry.finetuned for entry in evaluated] == [0.2, 0.3, 0.4]


def test_a_candidate_that_fails_does_not_win() -> None:
    joint = iteration(["netadapt", "curves", "uniform"])
    assert compete(joint, lambda _: [None, float("nan"), 0.1])[0] == 2
    assert compete(joint, lambda _: [0.3, 0.2, 0.1], lambda numbers, _: [None for _ in numbers], 10)[0] == 0
    assert compete(joint, lambda _: [None, None, None])[0] == 0


def test_the_history_says_who_competed_and_the_search_goes_on_from_the_winner() -> None:
    """Accuracy depends on the sum of squares, which uniform widths keep best; greedy cuts one group."""

    def accuracy(widths: Any) -> float:
        return 1.0 - 0.001 * (16 - widths["a"]) - 0.0011 * (16 - widths["b"]) - 0.01 * abs(widths["a"] - widths["b"])

    def macs(widths: Any) -> dict[str, float]:
        return {"macs": 1.0 * widths["a"] + widths["b"]}

    def solved(_: int, __: str, proposals: Any, numbers: Sequence[int]) -> list[float]:
        return [accuracy(proposals[number].widths) for number in numbers]

    one = problem(
        FULL,
        macs,
        {"macs": 24.0},
        lambda w: 1.0 - 0.001 * (16 - w["a"]) - 0.01 * (16 - w["b"]),
        solve_jointly=solved,
    )
    steps = list(search(one, methods=Methods(portfolio=PortfolioPlan("netadapt"))))
    last = steps[-1]
    assert last.group == PORTFOLIO
    assert [entry.group for entry in last.tried] == ["netadapt", "uniform"]
    assert last.tried[0].accuracy == accuracy(steps[-2].widths)
    assert dict(last.widths) == {"a": 12, "b": 12}
    assert sum(step.group == PORTFOLIO for step in steps) == 1


def test_what_was_solved_before_is_not_solved_again() -> None:
    joint = iteration(["netadapt", "curves", "curves^2", "uniform"])
    solved: list[int] = []

    def solve(numbers: Sequence[int]) -> list[float]:
        solved.extend(numbers)
        return [0.5 for _ in numbers]

    winner, evaluated = compete(joint, solve, earlier={"curves": 0.7, "curves^2": 0.6})
    assert solved == [0, 3]
    assert winner == 1
    assert [entry.accuracy for entry in evaluated] == [0.5, 0.7, 0.6, 0.5]


def test_the_search_s_own_solved_model_is_not_solved_again() -> None:
    """It has an accuracy already; the others are solved as it was."""
    solved: list[str] = []

    def macs(widths: Mapping[str, int]) -> dict[str, float]:
        return {"macs": float(widths["a"] + widths["b"])}

    def solve(_: int, __: str, proposals: Sequence[Proposal], numbers: Sequence[int]) -> list[float]:
        solved.extend(proposals[number].method or "" for number in numbers)
        return [0.1 for _ in numbers]

    def accuracy(widths: Mapping[str, int]) -> float:
        return 1.0 - 0.001 * (16 - widths["a"]) - 0.01 * (16 - widths["b"])

    one = problem(FULL, macs, {"macs": 24.0}, accuracy, solve_jointly=solve)
    for own_is_solved, expected in ((True, ["uniform"]), (False, ["netadapt", "uniform"])):
        solved.clear()
        plan = PortfolioPlan("netadapt", own_is_solved=own_is_solved)
        *before, last = search(one, methods=Methods(portfolio=plan))
        assert last.group == PORTFOLIO and solved == expected
        assert last.tried[0].accuracy == (before[-1].accepted.ranked if own_is_solved else 0.1)


def test_widths_that_differ_in_what_a_removed_branch_took_with_it_are_one_candidate() -> None:
    inner = ChannelChoices("inner", 16, (8,), (16, 8), branches=("block",))
    branch = ChannelChoices("block", 1, (0,), (1, 0))
    one = replace(problem({}, lambda w: {"macs": 1.0}, {"macs": 2.0}, lambda w: 0.5), choices=[inner, branch])
    widths = [{"inner": n, "block": block} for block in (0, 1) for n in (8, 16)]
    joint = joint_iteration(one, (), [joint_proposal(str(n), w, {"macs": 1.0}) for n, w in enumerate(widths)])
    assert [proposal.method for proposal in joint.proposals] == ["0", "2", "3"]
    assert used_widths(one.choices, widths[0]) == {"inner": 16, "block": 0}
