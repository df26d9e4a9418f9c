"""NetAdapt's loop against its known answer and against small analytic problems where every step is plain to see."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.search.allowed_counts import ChannelChoices, channel_choices
from netadapt_onnx.search.netadapt import Step, amounts_after, met
from netadapt_onnx.search.proposals import Goal, Proposal, Proposer
from netadapt_onnx.search.schedule import Schedule
from search_problems import SimulatedProblem, problem, search

HELLO_WORLD = {"conv1": 16, "conv2": 32, "conv3": 64}
# Accuracy by which of conv1/2/3 differ from the original.
HELLO_WORLD_ACCURACY = {"": 95.0, "1": 1.0, "2": 5.0, "3": 80.0, "13": 85.0, "23": 10.0, "123": 90.0}
KNOWN_ANSWER = [
    (28476, {"conv1": 16, "conv2": 32, "conv3": 62}, 80.0),
    (27531, {"conv1": 13, "conv2": 32, "conv3": 62}, 85.0),
    (26181, {"conv1": 13, "conv2": 30, "conv3": 62}, 90.0),
]


def hello_world_weights(widths: Mapping[str, int]) -> dict[str, float]:
    c1, c2, c3 = widths["conv1"], widths["conv2"], widths["conv3"]
    return {"params": 9.0 * (3 * c1 + c1 * c2 + c2 * c3 + c3 * 10)}


def hello_world_accuracy(widths: Mapping[str, int]) -> float:
    changed = "".join(name[-1] for name, width in HELLO_WORLD.items() if widths[name] != width)
    return HELLO_WORLD_ACCURACY.get(changed, 95.0)


def hello_world(limit: float) -> SimulatedProblem:
    return problem(
        HELLO_WORLD, hello_world_weights, {"params": limit}, hello_world_accuracy,
        schedule=Schedule(0.025, 1.0), max_iterations=3,
    )  # fmt: skip


def path(steps: Sequence[Step]) -> list[tuple[float, dict[str, int], float]]:
    return [(s.resources["params"], dict(s.widths), s.accepted.accuracy) for s in steps]


@pytest.mark.parametrize("limit", [0.5 * 29232, 0.9 * 29232, 26200.0])
@pytest.mark.parametrize("resumed_at", [0, 1, 2])
def test_the_known_answer_of_hello_world(limit: float, resumed_at: int) -> None:
    first = list(search(hello_world(limit)))[:resumed_at]
    assert path([*first, *search(hello_world(limit), first)]) == KNOWN_ANSWER


def linear(widths: Mapping[str, int]) -> dict[str, float]:
    return {"macs": 10.0 * widths["a"] + 3.0 * widths["b"]}


def test_the_search_lands_on_the_budget() -> None:
    one = problem({"a": 64, "b": 64}, linear, {"macs": 400.0}, lambda w: -abs(w["a"] - w["b"]), step=8)
    steps = list(search(one))
    assert met(amounts_after(one, steps), one.limits)
    assert amounts_after(one, steps)["macs"] >= 0.97 * 400
    assert all(s.channels[1] % 8 == 0 for s in steps[:-1])


def test_a_group_that_would_jump_past_the_budget_lands_on_it_instead() -> None:
    one = problem({"a": 64}, lambda w: {"macs": 1.0 * w["a"]}, {"macs": 61.0}, lambda w: 0.0, step=32)
    assert [s.channels for s in search(one)] == [(64, 61)]


def test_landing_comes_before_accuracy() -> None:
    """`a` can only land at 0.9x of the budget (its step is 20), `b` exactly, at less accuracy."""
    one = problem({"a": 60, "b": 60}, lambda w: {"macs": 1.0 * w["a"] + w["b"]}, {"macs": 110.0}, lambda w: w["b"] / 60)
    coarse = ChannelChoices("a", 60, (40, 20), (60, 40, 20))
    steps = list(search(replace(one, choices=[coarse, one.choices[1]], schedule=Schedule(0.2, 1.0))))
    assert [(s.group, s.channels) for s in steps] == [("b", (60, 50))]


def test_where_nothing_can_be_given_back_alone_one_group_pays_for_another() -> None:
    """`a` has come down from 60 to 30, to 66 of 85; 96 would be too much, but not with `b` at 24 instead of 36."""
    one = problem({"a": 60, "b": 36}, lambda w: {"macs": 1.0 * w["a"] + w["b"]}, {"macs": 85.0}, lambda w: w["a"] / 60)
    coarse, stuck = ChannelChoices("a", 60, (30,), (60, 30)), ChannelChoices("b", 36, (), (36,))
    history = list(search(replace(one, choices=[coarse, stuck])))
    assert [s.widths for s in history] == [{"a": 30, "b": 36}]
    steps = list(search(replace(one, choices=[coarse, ChannelChoices("b", 36, (24,), (36, 24))]), history))
    assert [(s.group, s.channels, s.widths) for s in steps] == [("a", (30, 60), {"a": 60, "b": 24})]


def test_channels_are_given_back_when_no_proposal_lands() -> None:
    """`small` is cut first, then `big` overshoots the budget, whatever happens: `small` gets back what fits."""
    one = problem(
        {"big": 2, "small": 30},
        lambda w: {"macs": 60.0 * w["big"] + w["small"]},
        {"macs": 85.0},
        lambda w: w["big"] / 2 + w["small"] / 300,
        schedule=Schedule(0.1, 1.0),
    )
    steps = list(search(one))
    assert [(s.group, s.channels) for s in steps] == [("small", (30, 15)), ("big", (2, 1)), ("small", (15, 25))]
    assert amounts_after(one, steps)["macs"] == 85.0


def test_it_never_stalls_when_no_group_reaches_the_target() -> None:
    channels = {f"g{i}": 2 for i in range(10)}
    one = problem(
        channels, lambda w: {"macs": 1.0 * sum(w.values())}, {"macs": 12.0}, lambda w: 0.0, schedule=Schedule(0.5, 1.0)
    )
    steps = list(search(one))
    assert met(amounts_after(one, steps), one.limits)
    assert len(steps) == 8


def test_groups_narrower_than_the_step_still_go_down() -> None:
    one = problem({"a": 6, "b": 4}, lambda w: {"macs": 1.0 * w["a"] + w["b"]}, {"macs": 5.0}, lambda w: 0.0, step=8)
    assert met(amounts_after(one, list(search(one))), one.limits)


def test_it_stops_at_the_floor() -> None:
    one = problem({"a": 8, "b": 8}, linear, {"macs": 1.0}, lambda w: 0.0, structural=4)
    steps = list(search(one))
    assert steps[-1].widths == {"a": 4, "b": 4}
    assert not met(amounts_after(one, steps), one.limits)


def test_groups_that_cannot_reach_the_target_are_named() -> None:
    one = problem({"a": 64, "b": 2}, linear, {"macs": 400.0}, lambda w: 0.0, step=1, max_iterations=1)
    assert next(search(one)).skipped == ("b",)


def test_ties_go_to_the_earlier_group() -> None:
    one = problem({"a": 64, "b": 64}, lambda w: {"macs": 1.0 * w["a"] + w["b"]}, {"macs": 100.0}, lambda w: 0.5)
    assert next(search(one)).group == "a"


def test_selection_by_ratio_and_by_accuracy_differ() -> None:
    def accuracy(widths: Mapping[str, int]) -> float:
        return 1.0 - (0.02 if widths["a"] < 64 else 0) - (0.01 if widths["b"] < 64 else 0)

    one = problem({"a": 64, "b": 64}, linear, {"macs": 100.0}, accuracy, step=16, schedule=Schedule(0.01, 1.0))
    assert next(search(one)).group == "a"
    assert next(search(replace(one, select="accuracy"))).group == "b"


def test_a_failed_proposal_does_not_stop_the_search_but_all_do() -> None:
    one = problem({"a": 64, "b": 64}, linear, {"macs": 400.0}, lambda w: 0.5)
    half = replace(one, rank=lambda _, __, numbers: [None, *[0.5] * (len(numbers) - 1)])
    assert next(search(half)).group == "b"
    with pytest.raises(NetadaptError, match="all 2 proposals"):
        next(search(replace(one, rank=lambda _, __, numbers: [float("nan")] * len(numbers))))


def test_several_budgets_all_hold_and_the_furthest_drives() -> None:
    def resources(widths: Mapping[str, int]) -> dict[str, float]:
        return {"macs": 10.0 * widths["a"] + widths["b"], "params": 1.0 * widths["a"] + 10.0 * widths["b"]}

    limits = {"macs": 600.0, "params": 300.0}
    one = problem({"a": 64, "b": 64}, resources, limits, lambda w: 1.0 * w["a"], select="accuracy")
    steps = list(search(one))
    assert met(amounts_after(one, steps), one.limits)
    assert {s.driver for s in steps} == {"macs", "params"}
    assert steps[0].driver == "params"


def staircase(widths: Mapping[str, int]) -> dict[str, float]:
    """Flat in steps of 16; input channels that are no multiple of 4 cost more than the next multiple."""
    return {"latency": -(-widths["a"] // 16) * 2.0 + (1.5 if widths["a"] % 4 else 0.0)}


def test_latency_is_cut_to_the_top_of_a_stair_and_never_up() -> None:
    one = problem({"a": 64}, staircase, {"latency": 4.0}, lambda w: 0.0, step=1)
    assert [s.channels[1] for s in search(one)] == [48, 32]


def test_a_cut_for_macs_may_not_raise_a_budgeted_latency() -> None:
    one = problem(
        {"a": 64}, lambda w: {"macs": 1.0 * w["a"]} | staircase(w), {"macs": 62.0, "latency": 8.0}, lambda w: 0.0
    )
    assert [s.channels[1] for s in search(one)] == [60]


def test_measurements_correct_the_predictions() -> None:
    """Predicted 0.7x turns out to be measured 10% slower: one more step, aimed with that factor."""
    one = problem(
        {"a": 100}, lambda w: {"latency": 1.0 * w["a"]}, {"latency": 70.0}, lambda w: 0.0,
        schedule=Schedule(0.3, 1.0), corrections=[{"latency": 1.1}, {"latency": 1.1}],
    )  # fmt: skip
    steps = list(search(one))
    assert [s.channels[1] for s in steps] == [70, 63]
    assert amounts_after(one, steps)["latency"] == pytest.approx(69.3)


def test_drifting_measurements_do_not_make_it_swing() -> None:
    one = problem(
        {"a": 100}, lambda w: {"latency": 1.0 * w["a"]}, {"latency": 70.0}, lambda w: 0.0,
        schedule=Schedule(0.3, 1.0), corrections=[{"latency": f} for f in (0.8, 1.2, 0.8, 1.2, 0.8, 1.2)],
    )  # fmt: skip
    steps = list(search(one))
    assert [s.is_widening for s in steps] == [False, True, False]


def test_max_iterations_is_a_total_over_resumes() -> None:
    one = replace(hello_world(1000.0), max_iterations=2)
    steps = list(search(one))
    assert len(steps) == 2
    assert list(search(one, steps)) == []
    assert len(list(search(replace(one, max_iterations=3), steps))) == 1


def test_rungs_are_multiples_of_step_and_alignment_and_the_structural_step() -> None:
    group = cast(Any, SimpleNamespace(name="a", channels=30, step=2, floor=4))
    assert channel_choices(group, 8).coarse == (24, 16, 8)
    assert channel_choices(group, 1).fine == tuple(range(30, 3, -2))
    assert channel_choices(group, 8, alignment=4).fine == (30, 28, 24, 20, 16, 12, 8, 4)
    odd = cast(Any, SimpleNamespace(name="a", channels=3, step=1, floor=1))
    assert channel_choices(odd, 8, alignment=4) == ChannelChoices("a", 3, (), (3,))


def test_bisection_and_scan_agree() -> None:
    choices = [ChannelChoices("a", 97, tuple(range(97, 0, -1)), tuple(range(97, 0, -1)))]
    for target in range(1, 97, 7):
        proposals: list[Proposal] = []
        for name in ("macs", "custom"):
            goal = Goal(name, float(target), {name: 97.0}, {name: 1.0})
            proposals += Proposer(choices, lambda w, name=name: {name: 1.0 * w["a"]}).cuts({"a": 97}, goal)  # type: ignore[misc]
        assert [p.channels for p in proposals] == [target, target]


def test_finalists_are_trained_and_win_among_themselves() -> None:
    """By reconstruction `a` and `b` come before `c`; of these two short training prefers `b`."""
    calls: list[list[str]] = []

    def refine(_: int, proposals: Sequence[Proposal], numbers: Sequence[int]) -> list[float | None]:
        calls.append([proposals[number].group for number in numbers])
        return [{"a": 0.5, "b": 0.6}[proposals[number].group] for number in numbers]

    one = problem(
        {"a": 10, "b": 10, "c": 10},
        lambda w: {"macs": float(sum(w.values()))},
        {"macs": 27.0},
        lambda w: 1 - 0.01 * (10 - w["a"]) - 0.02 * (10 - w["b"]) - 0.03 * (10 - w["c"]),
        schedule=Schedule(0.1, 1.0),
        refine=refine,
        finalists=2,
        max_iterations=1,
    )
    (step,) = search(one)
    assert calls == [["a", "b"]]
    assert step.group == "b"
    assert [t.finetuned for t in step.tried] == [0.5, 0.6, None]


def test_finalists_that_all_fail_leave_the_choice_to_the_others() -> None:
    one = problem(
        {"a": 10, "b": 10},
        lambda w: {"macs": float(sum(w.values()))},
        {"macs": 18.0},
        lambda w: w["b"] / 10,
        refine=lambda _, __, numbers: [float("nan")] * len(numbers),
        finalists=1,
        schedule=Schedule(0.1, 1.0),
    )
    assert [s.group for s in search(one)] == ["a"]


def test_small_groups_propose_when_asked_to() -> None:
    """`small` can save 1 of the 5 that the step wants; it costs no accuracy."""
    one = problem(
        {"big": 10, "small": 2},
        lambda w: {"macs": 5.0 * w["big"] + w["small"]},
        {"macs": 40.0},
        lambda w: w["big"] / 10,
        schedule=Schedule(0.1, 1.0),
        max_iterations=1,
    )
    assert [s.group for s in search(one)] == ["big"]
    (step,) = search(replace(one, prune_small=True))
    assert (step.group, step.channels) == ("small", (2, 1))
