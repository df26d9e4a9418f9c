"""Declared options: what their fields carry, and what is refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from netadapt_onnx import inspect
from netadapt_onnx.common.options import check_options, declared_options, from_keywords, option, plain
from netadapt_onnx.errors import NetadaptError


@dataclass(frozen=True)
class Speed:
    place: str = option(help="Where to.", flag="--to")
    limit: float = option(1.0, "How fast.", above=0, at_most=2)
    way: str = option("left", "Which way.", choices=("left", "right"))


@dataclass(frozen=True)
class Journey(Speed):
    tags: dict[str, str] = option(factory=dict, help="What for.")
    stops: int | None = option(None, "How often.", at_least=0)
    derived: int = 3

    def __post_init__(self) -> None:
        check_options(self)


def test_what_a_field_declares() -> None:
    declared = declared_options(Journey)
    assert list(declared) == ["place", "limit", "way", "tags", "stops"]
    assert [one.flag for one in declared.values()] == ["--to", "--limit", "--way", "--tags", "--stops"]
    assert [one.is_required for one in declared.values()] == [True, False, False, False, False]
    assert (declared["limit"].default, declared["tags"].default, declared["stops"].type) == (1.0, None, "int | None")
    assert declared["way"].option.choices == ("left", "right")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"limit": 0.0}, "--limit 0: above 0, at most 2"),
        ({"limit": float("nan")}, "--limit nan: above 0, at most 2"),
        ({"limit": 3}, "--limit 3: above 0, at most 2"),
        ({"way": "rigt"}, "--way rigt: not known; did you mean right?"),
        ({"stops": -1}, "--stops -1: at least 0"),
    ],
)
def test_values_out_of_bounds_are_refused(value: dict[str, Any], message: str) -> None:
    with pytest.raises(NetadaptError) as refused:
        Journey(**{"place": "home", **value})
    assert str(refused.value) == message
    assert refused.value.code == "usage"


def test_values_within_bounds_are_taken() -> None:
    journey = Journey(place="home", limit=2, stops=0)
    assert (journey.limit, journey.way, journey.tags) == (2, "left", {})


def test_plain_values() -> None:
    assert plain({1: (2, [3])}) == {"1": [2, [3]]}
    assert plain(from_keywords) == "netadapt_onnx.common.options.from_keywords"


def test_a_keyword_that_is_none_is_left_out() -> None:
    assert from_keywords(Journey, {"place": "home", "limit": None, "stops": 0}) == Journey(place="home", stops=0)


def test_an_unknown_keyword_is_refused_as_the_functions_own() -> None:
    with pytest.raises(TypeError) as refused:
        inspect("model.onnx", nosuch=1)  # type: ignore[call-arg]
    assert str(refused.value) == "inspect() got an unexpected keyword argument 'nosuch'"
