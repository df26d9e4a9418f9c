"""When a run began and which machine it was on, in a few words, by its `run.json`."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from netadapt_onnx.common import render


def when(about: Mapping[str, Any]) -> list[str]:
    """The date and the time; nothing for a run of a version that recorded none."""
    try:
        started = datetime.fromisoformat(str(about["started"]))
    except (KeyError, ValueError):
        return []
    return [f"{started.day} {started:%B %Y, %H:%M} UTC"]


def machine(about: Mapping[str, Any]) -> list[str]:
    """The processor, its threads and onnxruntime."""
    device = about.get("device") or {}
    threads = device.get("threads")
    parts = [
        *([f"{device['cpu']} ({device.get('arch', '')})"] if device.get("cpu") else []),
        *([render.plural(threads, "thread")] if threads else []),
        *([f"onnxruntime {device['onnxruntime']}, {device.get('ep', 'cpu')}"] if device.get("onnxruntime") else []),
    ]
    return [", ".join(parts)] if parts else []
