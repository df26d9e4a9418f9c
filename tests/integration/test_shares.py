"""A share is written as 0.5x, 50% or (where a number alone is no amount) 0.5, and means the same wherever one goes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

import pytest

from gate_fixtures import document, save
from models import plain
from netadapt_onnx.api import options as api_options
from netadapt_onnx.api.options import GateOptions, PruneOptions
from netadapt_onnx.common.options import declared_options
from netadapt_onnx.gating.limits import parse_limits
from netadapt_onnx.scaling.options import ScaleOptions
from netadapt_onnx.search.options import AdaptOptions


def adapt(**options: Any) -> Any:
    return AdaptOptions(**{"budget": ("macs=0.5x",), **options}).identity()


# Of every option that takes a share, what becomes of a text.
TAKERS: dict[str, Callable[[str], Any]] = {
    "adapt --budget": lambda share: adapt(budget=f"macs={share},0.9x"),
    "adapt --budget of a device": lambda share: adapt(budget=f"latency@pi={share}"),
    "adapt --floor": lambda share: adapt(floor=f"conv1={share}"),
    "adapt --init-reduction": lambda share: adapt(init_reduction=share),
    "adapt --init-reduction-ratio": lambda share: adapt(init_reduction_ratio=share),
    "adapt --decay": lambda share: adapt(decay=share),
    "adapt --min-accuracy": lambda share: adapt(min_accuracy=share),
    "adapt --final-effort": lambda share: adapt(final_effort=share),
    "adapt --start-share": lambda share: adapt(start_share=share),
    "prune --ratio": lambda share: PruneOptions(ratio=share),  # type: ignore[arg-type]
    "scale --target": lambda share: ScaleOptions(target=f"params={share}").budgets,
    "gate --max-increase": lambda share: parse_limits({"max-increase": [f"size={share}"]}),
    "gate --min": lambda share: parse_limits({"min": [f"accuracy={share}"]}),
}
# Where a number alone is an amount.
AMOUNTS = ("adapt --budget", "adapt --budget of a device", "adapt --floor", "adapt --init-reduction", "scale --target")


@pytest.mark.parametrize("taker", TAKERS)
def test_a_share_means_the_same_however_it_is_written(taker: str) -> None:
    read = TAKERS[taker]
    for number in (0.07, 0.29, 0.5, 0.57, 0.7):
        as_factor = read(f"{number}x")
        assert read(f"{100 * number:g}%") == as_factor
        assert read(f"{number} x") == as_factor
        assert taker in AMOUNTS or read(str(number)) == as_factor
    assert read("0.5x") != read("0.7x")


@pytest.mark.parametrize("value", ["0.5x", "50%", "50 %"])
def test_prune_takes_shares_in_all_spellings(value: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = save(plain(), tmp_path / "m.onnx")
    group = next(name for name, (before, _) in document(capsys, "prune", model, "--ratio", 0.5)["groups"].items())
    ways = (["--ratio", value], ["--ratio", "0.5"], ["--keep", f"{group}={value}"], ["--budget", f"params={value}"])
    halved, plainly, kept, within = (document(capsys, "prune", model, *words) for words in ways)
    assert halved["groups"] == plainly["groups"]
    assert kept["groups"][group] == halved["groups"][group]
    assert within["after"]["params"] <= 0.5 * within["before"]["params"]


@pytest.mark.parametrize(
    "words", [["--ratio", "half"], ["--ratio", "50MB"], ["--keep", "conv1=half"], ["--keep", "conv1=150%"]]
)
def test_what_is_no_share_is_refused_with_an_example(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = save(plain(), tmp_path / "m.onnx")
    error = document(capsys, "prune", model, *words, code=2)["error"]
    assert error["code"] == "usage"
    assert "50%" in error["hint"]


def test_every_option_that_is_at_most_one_takes_shares() -> None:
    kinds = [AdaptOptions, ScaleOptions, GateOptions]
    kinds += [kind for kind in vars(api_options).values() if isinstance(kind, type) and is_dataclass(kind)]
    declared = [one for kind in kinds for one in declared_options(kind).values()]
    shares = [one for one in declared if one.type.startswith("float") and (one.option.at_most == 1)]
    assert len(shares) >= 3
    assert all(one.option.is_share for one in shares)
