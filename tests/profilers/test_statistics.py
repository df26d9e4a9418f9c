"""A busy machine is told from a quiet one by the times of one model and by what else runs there."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

import netadapt_onnx
from models import plain
from netadapt_onnx.profilers import agent, timing
from netadapt_onnx.profilers.records import MeasuredModel
from netadapt_onnx.profilers.statistics import (
    Disturbance,
    disturbance_of_ratio,
    disturbance_of_records,
    disturbance_of_sessions,
    pool_ratios,
    ratio_of_pairs,
)

RNG = np.random.default_rng(0)


def measured(
    reference_ms: list[float], others: float | None = None, own_ms: list[float] | None = None
) -> MeasuredModel:
    own = own_ms or [1.0]
    return MeasuredModel(
        0, 0, 20, 1.0, own, own, reference_ms, reference_ms, others=others, cores=2 if others else None
    )


def test_a_few_percent_between_sessions_are_usual_and_one_odd_session_tells_nothing() -> None:
    usual = np.exp(0.02 * RNG.standard_normal(40)).tolist()
    assert not disturbance_of_sessions(usual).busy
    assert not disturbance_of_sessions([*usual, 5.0]).busy
    assert not disturbance_of_sessions([1.0]).busy
    assert not disturbance_of_sessions([]).busy


def test_sessions_far_apart_are_those_of_a_busy_machine() -> None:
    result = disturbance_of_sessions(np.linspace(0.7, 1.3, 41).tolist())
    assert result.busy
    assert result.spread == pytest.approx(0.48)


def test_other_processes_that_leave_no_processor_free_are_told_even_if_sessions_agree() -> None:
    assert Disturbance(0.03, 1.8, 2).busy
    assert not Disturbance(0.03, 1.0, 2).busy  # one processor is free
    assert not Disturbance(0.03, 1.8, 8).busy
    assert not Disturbance(0.03, None).busy


def test_the_sentence_names_the_machine_or_the_device() -> None:
    assert (
        Disturbance(0.6).sentence()
        == "this machine is busy: times vary by 60%; results need a quiet machine or --device"
    )
    assert (
        Disturbance(0.6).sentence("ssh://pi").startswith("ssh://pi is busy: times vary by 60%; results need a quiet ")
    )
    assert ", other processes use 1.8 processors;" in Disturbance(0.04, 1.8, 2).sentence()


def test_records_tell_by_the_uncut_model_beside_them_or_else_by_themselves() -> None:
    disturbance = disturbance_of_records([measured([1.0, 1.5], 1.5), measured([2.0, 1.2], 1.7), measured([1.0], None)])
    assert disturbance.busy
    assert disturbance.others == pytest.approx(1.6)
    assert disturbance.cores == 2
    assert disturbance_of_records([measured([], own_ms=[1.0, 1.0, 2.0, 2.0])]).spread == pytest.approx(2 / 3)
    assert disturbance_of_records([]) == Disturbance(0.0)


def test_a_ratio_tells_by_its_references_sessions() -> None:
    quiet = ratio_of_pairs([0.5] * 9, [1.0] * 9)
    noisy = ratio_of_pairs([0.5] * 9, [1.0, 2.0, 3.0] * 3)
    assert not disturbance_of_ratio(quiet).busy
    assert disturbance_of_ratio(noisy).busy
    assert disturbance_of_ratio(pool_ratios([quiet, noisy])).busy


def stat(root: Path, *rows: str) -> Path:
    (root / "proc").mkdir(exist_ok=True)
    (root / "proc/stat").write_text("cpu  0 0 0 0 0 0 0 0 0 0\n" + "".join(f"{row}\n" for row in rows) + "intr 1\n")
    return root


def test_the_load_of_others_is_what_processors_did_less_our_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = [0.0]
    monkeypatch.setattr(agent.os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    monkeypatch.setattr(agent.os, "times", lambda: (own[0], 0.0, 0.0, 0.0, 0.0))
    tick = os.sysconf("SC_CLK_TCK")
    before = agent.ticks(
        stat(tmp_path, "cpu0 100 0 50 900 10 0 0 0 0 0", "cpu1 0 0 0 1000 0 0 0 0 0 0", "cpu2 5 0 0 0")
    )
    # In a second processor 0 works for us 80 ticks and is taken away for 20, 1 works 60 for others; 2 is not ours.
    stat(tmp_path, "cpu0 170 0 60 900 10 0 0 20 0 0", "cpu1 60 0 0 1040 0 0 0 0 0 0", "cpu2 999 0 0 0")
    own[0] = 80 / tick
    assert agent.crowd(before, agent.ticks(tmp_path)) == {"others": pytest.approx(0.8), "cores": 2}


def test_where_the_system_does_not_tell_nothing_is_said(tmp_path: Path) -> None:
    for root in (tmp_path, stat(tmp_path, "cpu0 1 2"), stat(tmp_path, "cpu0 1 2 3 4")):  # or no time went by
        assert agent.crowd(agent.ticks(root), agent.ticks(root)) == {}


def test_evaluate_says_once_that_the_machine_is_busy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    crowded = MeasuredModel(0, 0, 30, 1.0, [1.0] * 9, [1.0] * 9, others=1.9, cores=2)
    monkeypatch.setattr(timing, "measure_on", lambda _, order: dict.fromkeys(order.models, crowded))
    for name in ("a", "b"):
        (tmp_path / f"{name}.onnx").write_bytes(plain(size=8, classes=3).SerializeToString())
    np.savez(tmp_path / "d.npz", x_val=RNG.standard_normal((8, 3, 8, 8)).astype(np.float32), y_val=np.arange(8) % 3)
    models = [tmp_path / "a.onnx", tmp_path / "b.onnx"]
    busy = netadapt_onnx.evaluate(models, tmp_path / "d.npz")
    assert [note for note in busy.notes if note.startswith("this machine is busy: ")] == list(busy.notes)
    assert len(busy.notes) == 1
    quiet = MeasuredModel(0, 0, 30, 1.0, [1.0] * 9, [1.0] * 9, others=0.1, cores=2)
    monkeypatch.setattr(timing, "measure_on", lambda _, order: dict.fromkeys(order.models, quiet))
    assert not netadapt_onnx.evaluate(models, tmp_path / "d.npz").notes
