"""Samples are read and models scored where torch is not installed."""

from __future__ import annotations

import ast
from pathlib import Path

import netadapt_onnx.data

FOLDER = Path(netadapt_onnx.data.__file__).parent


def test_torch_is_imported_by_what_reads_users_loaders_alone() -> None:
    modules = {
        file.relative_to(FOLDER).as_posix()
        for file in FOLDER.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""])
        if name.partition(".")[0] in ("torch", "torchmetrics")
    }
    assert modules == {"loaders/python.py"}
