"""The page of files describes every field that runs and tables have, and none that they have not."""

from __future__ import annotations

import dataclasses
import importlib
import re

import msgspec
import pytest

from documentation import REPOSITORY
from netadapt_onnx.search.result import SearchResult, TargetResult

PAGE = REPOSITORY / "docs" / "files.md"
# The record that a table describes stands in a comment above it.
TABLES = re.findall(r"<!-- fields: (\S+) -->\n((?:\|.*\n)+)", PAGE.read_text(encoding="utf-8"))


def fields(record: type) -> set[str]:
    kinds = dataclasses.fields(record) if dataclasses.is_dataclass(record) else msgspec.structs.fields(record)
    names = {field.name for field in kinds}
    # The page describes what a target has beside the fields of every result.
    return names - {field.name for field in dataclasses.fields(SearchResult)} if record is TargetResult else names


@pytest.mark.parametrize(("place", "table"), TABLES, ids=[place for place, _ in TABLES])
def test_a_record_has_the_fields_of_its_table(place: str, table: str) -> None:
    module, _, name = place.partition(":")
    record = getattr(importlib.import_module(module), name)
    in_table = {field for row in table.splitlines()[2:] for field in re.findall(r"`(\w+)`", row.split("|")[1])}
    assert in_table == fields(record)


def test_the_files_of_a_run_and_of_a_table_have_tables() -> None:
    names = {place.rpartition(":")[2] for place, _ in TABLES}
    assert {"Step", "AdaptResult", "Header", "Cell", "EndToEndTime", "Reference", "Point"} <= names
