"""Where results come from: hashes of what went in, and what a produced model says in its `metadata_props`."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx

from netadapt_onnx._version import __version__
from netadapt_onnx.common.files import digest
from netadapt_onnx.common.missing_files import missing_file


def provenance(source_sha256: str, *, command: str, budget: str = "") -> dict[str, str]:
    """Entries for `metadata_props`: tool version, the original's SHA-256, the command and the budget if there was one.

    No dates and no places: the same work must write the same bytes.
    """
    entries = {"version": __version__, "source_sha256": source_sha256, "command": command, "budget": budget}
    return {f"netadapt_onnx.{key}": value for key, value in entries.items() if value}


def stored_bytes(metadata: Mapping[str, str]) -> int:
    """About how much larger a file is for holding these entries: their text, and protobuf's framing of each."""
    return sum(len(key) + len(value) + 8 for key, value in metadata.items())


def file_hash(file: Path) -> str:
    """SHA-256 of a file, in hexadecimal. Raises NetadaptError if there is none."""
    if not file.is_file():
        raise missing_file(file)
    return digest(file)


def versions() -> dict[str, str | None]:
    """What a run is made with; None for what is not installed."""
    import onnxruntime

    return {
        "python": platform.python_version(),
        "netadapt_onnx": __version__,
        "onnx": onnx.__version__,
        "onnxruntime": onnxruntime.__version__,
        "numpy": np.__version__,
        "torch": version("torch") if find_spec("torch") else None,
    }
