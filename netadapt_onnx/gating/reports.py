"""Reports in all formats, and the files they are written to."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Mapping
from pathlib import Path

from netadapt_onnx.common.files import refuse_existing, write_atomically
from netadapt_onnx.common.json_output import document
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.gating.formats.github import github, summarise
from netadapt_onnx.gating.formats.junit import junit
from netadapt_onnx.gating.formats.markdown import markdown
from netadapt_onnx.gating.formats.text import text
from netadapt_onnx.gating.result import Gate


def report(result: Gate, form: str, *, to_file: bool = False) -> str:
    """Format the result; colours only for text on a terminal, and not under NO_COLOR."""
    if form == "text":
        colour = not to_file and sys.stdout.isatty() and not os.environ.get("NO_COLOR")
        return text(result, colour=colour, to_file=to_file)
    if form == "json":
        return document(result, result.ok, result.error)
    return {"github": github, "junit": junit, "markdown": markdown}[form](result)


def refuse(outputs: Mapping[str, Path], overwrite: bool) -> None:
    """Raise NetadaptError if a report may not be written: before anything is measured."""
    for file in outputs.values():
        refuse_existing(file, overwrite)
    if len({file.absolute() for file in outputs.values()}) < len(outputs):
        raise NetadaptError("two reports are to go to one file", hint="give each a file of its own", code="usage")


def write(result: Gate, outputs: Mapping[str, Path], forms: Collection[str]) -> None:
    """Write the reports, and for `github` the step's summary. Raises NetadaptError rather than replace an input."""
    inputs = [model.path for model in result.models] + ([result.baseline] if result.baseline else [])
    for form, file in outputs.items():
        if any(file.exists() and one.exists() and file.samefile(one) for one in inputs):
            raise NetadaptError(f"{file} is an input, which is never overwritten", hint="name another", code="exists")
        write_atomically(file, report(result, form, to_file=True).rstrip("\n").encode() + b"\n")
    if "github" in forms:
        summarise(result)
