"""Where a produced model says it comes from: its `metadata_props`."""

from __future__ import annotations

from collections.abc import Mapping

from netadapt_onnx import __version__
from netadapt_onnx.model import Model


def provenance(model: Model, *, command: str, budget: str = "") -> dict[str, str]:
    """Entries for `metadata_props`: tool version, the original's SHA-256, the command and the budget if there was one.

    No dates and no places: the same work must write the same bytes.
    """
    entries = {"version": __version__, "source_sha256": model.sha256, "command": command, "budget": budget}
    return {f"netadapt_onnx.{key}": value for key, value in entries.items() if value}


def stored_bytes(metadata: Mapping[str, str]) -> int:
    """About how much larger a file is for holding these entries: their text, and protobuf's framing of each."""
    return sum(len(key) + len(value) + 8 for key, value in metadata.items())
