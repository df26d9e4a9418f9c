"""The section of a report that says how a run can be repeated: command, arguments, hashes, versions and device."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from netadapt_onnx.reporting.elements import collapsible, paragraph, words

# Arguments with one of these values are left out: they were not given.
EMPTY: tuple[object, ...] = (None, [], {})


def reproduction(identity: Mapping[str, Any], about: Mapping[str, Any]) -> str:
    """Tables of the content of `run.json`, below the command without its folders, if that was recorded."""
    parts = [
        _listed("argument", "value", identity),
        _listed("version of", "", about.get("versions", {})),
        _listed("device", "", about.get("device", {})),
    ]
    summary = "Every argument with its value, hashes of the files, versions, and the device"
    return paragraph(str(about.get("command", "")), "command") + collapsible(summary, *parts)


def _listed(what: str, value: str, entries: Mapping[str, Any]) -> str:
    rows = [[name, _plain(content)] for name, content in entries.items() if content not in EMPTY]
    return words([what, value], rows) if rows else ""


def _plain(value: Any) -> str:
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        return ", ".join(value)
    return value if isinstance(value, str) else json.dumps(value, default=str)
