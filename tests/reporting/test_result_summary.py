"""A result's headline and verdicts say what was measured, what is predicted, and what is deployed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from netadapt_onnx.common.resources import Resources
from netadapt_onnx.data.metrics import AccuracyChange
from netadapt_onnx.reporting.result_summary import budget_amount, budget_sentence, budget_state, result_headline
from netadapt_onnx.search.result import Compared, Deployed, Latency, Limit, SearchResult

BEFORE, AFTER = Resources(1000, 40_000_000, 1_000_000, 8000), Resources(500, 20_000_000, 390_000, 8000)
RESULT = SearchResult(
    met=True,
    before=BEFORE,
    after=AFTER,
    accuracy=AccuracyChange(0.9898, 0.9902, "top1", "test"),
    iterations=3,
    model=Path("model.onnx"),
    stopped="met",
    limits=(Limit("latency=0.6x", 0.468, 0.46, True),),
    groups={"conv": (16, 8)},
    latencies={"latency": Latency(0.78, 0.45, (0.44, 0.46), 0.577, (0.57, 0.59), 0.44, 5)},
)


def test_a_measured_result_leads_with_its_speed() -> None:
    assert result_headline(RESULT) == "1.7x faster (0.45 ms, was 0.78), 61% smaller, accuracy 99.0% as before"


def test_without_a_latency_the_macs_are_named_and_every_budget() -> None:
    result = replace(
        RESULT, latencies={}, limits=(Limit("macs=0.5x", 2e7, 2e7, True), Limit("memory=9k", 9e3, 8e3, True))
    )
    expected = "50% fewer MACs, 61% smaller, as much activation memory as before, accuracy 99.0% as before"
    assert result_headline(result) == expected


def test_predictions_are_called_predictions() -> None:
    limits = (Limit("latency@pi=0.6x", 46.8, 45.0, None), Limit("latency@tv=12ms", 12.0, 11.0, None))
    result = replace(RESULT, latencies={}, limits=limits)
    assert result_headline(result).startswith(
        "predicted to be 1.7x faster on pi (45 ms, was 78), predicted latency 11 ms on tv, 61% smaller"
    )
    assert budget_sentence(limits[0], result) == "latency@pi=0.6x predicted to be met: 45 ms predicted, 46.8 ms allowed"


def test_what_is_deployed_is_what_counts() -> None:
    deployed = Deployed("int8", "model.int8.onnx", (400_000, 100_000), AccuracyChange(0.9, 0.8, "top1", "test"))
    text = result_headline(replace(RESULT, deployed=deployed))
    assert "75% smaller" in text and "accuracy 80.0%, was 90.0%" in text


def test_energy_is_said_with_its_unit() -> None:
    energy = Compared(8.0, 6.0, (5.9, 6.1), 0.75, (0.74, 0.76), 6.0, 5)
    result = replace(RESULT, latencies={}, measured={"energy": energy}, limits=(Limit("energy=0.8x", 6.4, 6.1, True),))
    assert result_headline(result).startswith("25% less energy (6 mJ, was 8), 61% smaller")


def test_a_budget_is_said_in_its_unit() -> None:
    assert budget_amount("latency@pi=0.6x", 46.8) == "0.6x = 46.8 ms"
    assert budget_amount("size=4MB", 4e6) == "4 MB"


def test_verdicts_name_what_was_compared() -> None:
    limit = Limit("latency=0.6x", 0.468, 0.46, True)
    expected = "latency=0.6x met: up to 0.46 ms (95% interval), 0.468 ms allowed"
    assert budget_sentence(limit, RESULT) == expected
    unclear = replace(RESULT, met=None, stopped="could-not-judge")
    assert budget_sentence(replace(limit, met=None), unclear).startswith("latency=0.6x could not be judged: ")
    missed = Limit("size=1MB", 1e6, 1.2e6, False)
    assert budget_sentence(missed, RESULT) == "size=1MB missed: 1.2 MB, 1 MB allowed"


def test_what_is_predicted_to_be_missed_has_no_interval() -> None:
    limit = Limit("latency=0.6x", 0.468, 0.5, False)
    result = replace(RESULT, met=False, latencies={}, limits=(limit,))
    assert budget_sentence(limit, result) == "latency=0.6x predicted to be missed: 0.5 ms predicted, 0.468 ms allowed"
    assert budget_state(result) == "predicted to be missed"
    counted = Limit("macs=0.5x", 2e7, 3e7, False)
    assert budget_state(replace(result, limits=(limit, counted))) == "missed"
    assert budget_state(replace(RESULT, met=False, limits=(replace(limit, met=False),))) == "missed"
