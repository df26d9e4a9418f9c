"""The options that a run directory records, in the spelling in which they are compared today."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from netadapt_onnx.common.budget import parse_targets
from netadapt_onnx.common.options import declared_options, in_one_spelling, plain
from netadapt_onnx.common.resources import SEARCHED
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.search.options import AdaptOptions
from netadapt_onnx.search.schedule import reduction_in_one_spelling


def recorded_in_one_spelling(recorded: Mapping[str, Any]) -> dict[str, Any]:
    """A run's recorded identity with its options as `AdaptOptions.identity` has them.

    Earlier versions recorded them as the user had spelled them. What makes no sense stays as it is.
    """
    declared, respelled = declared_options(AdaptOptions), dict(recorded)
    for name in recorded.keys() & declared.keys():
        with suppress(NetadaptError, TypeError, ValueError):
            value = in_one_spelling(declared[name], recorded[name])
            respelled[name] = plain(tuple(value.items()) if isinstance(value, Mapping) else value)
    with suppress(NetadaptError, TypeError, KeyError):
        kind = parse_targets(recorded["budget"], SEARCHED)[0][0].kind
        if recorded["init_reduction"] is not None:
            respelled["init_reduction"] = reduction_in_one_spelling(kind, recorded["init_reduction"])
    return respelled
