"""Numbers for people: what is left of an amount is never said to be nothing where something is."""

from __future__ import annotations

from netadapt_onnx.common import render


def test_a_small_share_is_not_rounded_to_nothing() -> None:
    assert [render.ratio(after, 1000) for after in (0, 4, 14, 500, 1000)] == [
        "0.00x",
        "0.004x",
        "0.01x",
        "0.50x",
        "1.00x",
    ]


def test_an_interval_has_its_unit_once() -> None:
    assert render.measured("latency", {"latency": 0.445}, {"latency": (0.432, 0.464)}) == "0.445 ms (0.432 to 0.464)"
    assert render.measured("size", {"size": 2e6}, {"size": (9e5, 3e6)}) == "2 MB (900 kB to 3 MB)"
