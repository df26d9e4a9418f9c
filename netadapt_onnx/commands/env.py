"""`netadapt-onnx env`: what this machine has, for bug reports and for choosing providers."""

from __future__ import annotations

import shutil
from textwrap import fill
from typing import TYPE_CHECKING

import click

from netadapt_onnx.commands._options import common
from netadapt_onnx.commands._result import CommandResult
from netadapt_onnx.common import render

if TYPE_CHECKING:
    from netadapt_onnx.api.env import Environment


@click.command("env")
@common
def command() -> CommandResult:
    """Show versions, execution providers, this device's fingerprint and which extras are installed.

    \b
    Examples:  netadapt-onnx env
               netadapt-onnx env --json
    """
    with render.spinner("reading versions"):
        from netadapt_onnx.api.env import environment

        result = environment()
    return CommandResult(result, _text)


def _plain(value: object) -> str:
    if isinstance(value, list):
        return " ".join(map(str, value))
    return "" if value is None else str(value) if not isinstance(value, dict) else _plain([*value.items()])


def _text(result: Environment) -> str:
    rows = [[name, version] for name, version in result.versions.items()]
    rows += [["providers", ", ".join(result.providers)], ["cores", str(result.cores)]]
    width = min(80, shutil.get_terminal_size().columns - 16)
    device = [[key, fill(_plain(value), width)] for key, value in result.fingerprint.items() if value]
    extras = [
        [name, extra.enables, "installed" if extra.installed else extra.install]
        for name, extra in result.extras.items()
    ]
    tables = [render.listing(rows), render.listing(device, ["device", ""])]
    tables.append(render.listing(extras, ["extra", "enables", ""]))
    return "\n\n".join([*tables, render.next_command("demo")])
