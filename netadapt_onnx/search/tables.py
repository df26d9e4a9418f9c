"""Latency tables as a search uses them: loaded, or measured into the run directory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from netadapt_onnx.common.resources import LATENCY
from netadapt_onnx.profilers.device import Device
from netadapt_onnx.profilers.execution import Execution, fingerprint
from netadapt_onnx.profilers.random_widths import RandomWidthModel, random_widths
from netadapt_onnx.profilers.records import Environment
from netadapt_onnx.profilers.statistics import Timing
from netadapt_onnx.profilers.table.build import MODELS, TablePlan, build
from netadapt_onnx.profilers.table.predict import Table
from netadapt_onnx.search.options import AdaptOptions
from netadapt_onnx.surgery.trace import Trace

TABLE_FILE = "table.jsonl"


def table_plan(options: AdaptOptions) -> TablePlan:
    """How large the table of a search becomes; one of fewer models than usual gets as much less time."""
    plan = TablePlan(models=options.table_models, seed=options.seed)
    share = 1.0 if plan.models is None else min(1.0, plan.models / MODELS)
    return replace(plan, time_cap_s=share * plan.time_cap_s)


class Predicting(Protocol):
    """A table, or a fit that stands for one."""

    def predict(self, shapes: Mapping[str, tuple[int, ...]]) -> float:
        """The predicted resource of the model at these tensor shapes."""

    @property
    def latency_ms(self) -> Timing:
        """The measured resource of the uncut model."""


def latency_by_layer(table: Predicting, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, float]:
    """The predicted latency of every unit, by its main layer's name; empty if a fit stands for the table."""
    if not isinstance(table, Table):
        return {}
    units = table.predict_units(shapes)
    each = table.predict(shapes) / max(sum(units.values()), 1e-9)
    return {name: each * share for name, share in units.items()}


def reference_times_ms(table: Predicting) -> tuple[float, ...]:
    """What the uncut model's fastest runs took while a table was built, batch by batch; empty if that is unknown."""
    return tuple(time.mean_reference_ms for time in table.end_to_end) if isinstance(table, Table) else ()


def loaded_table(
    file: Path, original: Trace, execution: Execution, environment: Environment | None = None, *, anywhere: bool = False
) -> Table:
    """A table from its file.

    Args:
        file: The file.
        original: The traced model.
        execution: How models run where they are measured.
        environment: The device that the table must be of; None: this machine.
        anywhere: Whether the table may be of any device.

    Raises:
        NetadaptError: The table is of another model, or of another device.
    """
    device = None if anywhere else fingerprint(execution, environment)
    return Table.load(file, original.folded.proto, device=device)


def built_table(
    file: Path,
    original: Trace,
    execution: Execution,
    plan: TablePlan,
    progress: Callable[[int, int, str], None],
    device: Device | None = None,
) -> Table:
    """A table measured on `device` (None: this machine) and kept in `file`; continued if a kill interrupted it."""
    return build(
        file,
        RandomWidthModel(original.folded.proto, original.folded.shapes),
        random_widths(original),
        plan,
        execution=execution,
        device=device,
        progress=progress,
    )


def table_file(folder: Path, resource: str = LATENCY) -> Path:
    """The file of a resource's table in a run directory."""
    return folder / TABLE_FILE.replace("table", resource.replace(LATENCY, "table"))


def table_beside(run: Path, resource: str = LATENCY) -> Path:
    """The file of a resource's table beside the directory of a run that has not begun: `run.table.jsonl`."""
    return run.with_name(f"{run.name}.{table_file(run, resource).name}")
