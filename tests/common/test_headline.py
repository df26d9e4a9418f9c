"""A result's headline says what changed, by how much, and does not claim what no measurement can tell."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from netadapt_onnx.common.headline import Change, accuracy_phrase, headline, phrase


@dataclass(frozen=True)
class Scores:
    before: float
    after: float
    metric: str = "top1"


def test_the_headline_has_speed_size_and_accuracy_in_one_line() -> None:
    changes = [Change("latency", 0.78, 0.45, 0.558, (0.55, 0.57)), Change("size", 1e6, 390e3)]
    expected = "1.8x faster (0.45 ms, was 0.78), 61% smaller, accuracy 99.0% as before"
    assert headline(changes, Scores(0.9898, 0.9902)) == expected


@pytest.mark.parametrize(
    ("ratio", "ci95", "words"),
    [
        (0.558, (0.55, 0.57), "1.8x faster"),
        (0.95, (0.94, 0.96), "1.05x faster"),
        (0.05, (0.04, 0.06), "20x faster"),
        (1.3, (1.2, 1.4), "1.3x slower"),
        (0.97, (0.9, 1.04), "as fast as before"),
    ],
)
def test_speed_is_a_factor_unless_the_interval_holds_one(ratio: float, ci95: tuple[float, float], words: str) -> None:
    assert phrase(Change("latency", 10.0, 10.0 * ratio, ratio, ci95)) == f"{words} ({10 * ratio:.3g} ms, was 10)"


def test_devices_are_named_and_predictions_say_so() -> None:
    change = Change("latency@pi", 78.0, 45.0, 45 / 78, is_predicted=True)
    assert phrase(change) == "predicted to be 1.7x faster on pi (45 ms, was 78)"
    assert phrase(Change("energy", 8.0, 6.0, 0.75, (0.7, 0.8))) == "25% less energy (6 mJ, was 8)"
    assert phrase(Change("latency@pi", None, 4.2, is_predicted=True)) == "predicted latency 4.2 ms on pi"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (Change("size", 100, 103), "3% larger"),
        (Change("size", 1e6, 1e6), "as large as before"),
        (Change("size", 1e6, 996e3), "0.4% smaller"),
        (Change("size", 1e6, 1e3), "99.9% smaller"),
        (Change("macs", 40.6e6, 20.3e6), "50% fewer MACs"),
        (Change("params", 100, 75), "25% fewer parameters"),
        (Change("memory", 100, 100), "as much activation memory as before"),
        (Change("memory", 0, 0), "as much activation memory as before"),
    ],
)
def test_exact_amounts_change_by_a_percentage(change: Change, words: str) -> None:
    assert phrase(change) == words


@pytest.mark.parametrize(
    ("scores", "words"),
    [
        (Scores(0.9230, 0.9121), "accuracy 91.2%, was 92.3%"),
        (Scores(1.0, 0.973, "agreement"), "agreement with the original 97.3%"),
        (Scores(0.71, 0.71, "miou"), "mean IoU 71.0% as before"),
        (Scores(0.98, 0.95, "r2"), "R2 0.95, was 0.98"),
        (Scores(3.0, 2.0, "evaluate"), "score 2, was 3"),
        (Scores(3.0, 2.0, "bleu"), "bleu 2, was 3"),
    ],
)
def test_accuracy_is_called_by_its_metric(scores: Scores, words: str) -> None:
    assert accuracy_phrase(scores) == words
