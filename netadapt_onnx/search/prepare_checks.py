"""How a run comes to know what models cost: its devices, the tables that predict, and a check for every budget."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from netadapt_onnx.common.budget import CUSTOM, ENERGY, LATENCY, Target
from netadapt_onnx.common.progress import Progress
from netadapt_onnx.graph.original_file import as_given
from netadapt_onnx.graph.provenance import file_hash
from netadapt_onnx.profilers.devices.local import LocalDevice
from netadapt_onnx.profilers.execution import Execution
from netadapt_onnx.profilers.int8_kernels import made_for
from netadapt_onnx.profilers.table.predict import Table
from netadapt_onnx.profilers.table.staircase import best_counts
from netadapt_onnx.search import tables
from netadapt_onnx.search.calibration import execution_of
from netadapt_onnx.search.latency_check import MeasuredLatency, PredictedLatency
from netadapt_onnx.search.measured_check import MeasuredResource, Value, fitted, values
from netadapt_onnx.search.options import Arguments
from netadapt_onnx.search.prepared_model import PreparedModel
from netadapt_onnx.search.run_directory.run import Run
from netadapt_onnx.search.tables import TABLE_S, reference_times_ms, table_file
from netadapt_onnx.search.target_device import TargetDevice, named_devices, named_tables, opened_places
from netadapt_onnx.search.time_limit import TABLE_SHARE


@dataclass(frozen=True)
class Measuring:
    """What a run measures with, all of it reached before anything is written.

    Attributes:
        devices: Where latencies are measured, each with its table if one was named.
        execution: How models run there.
        values: By resource, what measures a model whole: energy, and the user's own program.
        tables: The named tables by resource, read.
    """

    devices: tuple[TargetDevice, ...]
    execution: Execution
    values: Mapping[str, Value]
    tables: Mapping[str, Table]


@dataclass(frozen=True)
class Checks:
    """What is measured of a run: the model aligned to its devices, a check by resource, and notes on the tables."""

    prepared: PreparedModel
    by_resource: Mapping[str, MeasuredLatency]
    notes: tuple[str, ...]


def table_hashes(options: Arguments) -> str | dict[str, str] | None:
    """The tables that were named, as a run's identity has them: one hash, or several by resource."""
    files = named_tables(options.table, named_devices(options.device))
    hashes = {name: file_hash(file) for name, file in files.items()}
    return hashes.get(LATENCY) if hashes.keys() <= {LATENCY} else hashes


@contextmanager
def measuring(
    options: Arguments,
    prepared: PreparedModel,
    budgets: Target,
    purpose: Path,
    log: Callable[[str], None] | None = None,
) -> Iterator[Measuring]:
    """Reach the devices that budgets or tables ask for, read the tables, and leave the devices as they were.

    Args:
        options: Where to measure.
        prepared: The model that will be cut.
        budgets: The limits whose resources are to be measured.
        purpose: What the devices are held for: the run's directory.
        log: Gets a line per event on a device.

    Raises:
        NetadaptError: A device cannot be reached, a table is another model's, or nothing measures a budget.
    """
    devices = named_devices(options.device)
    execution = execution_of(options, prepared)
    own = values(budgets, options.resource_command, prepared.trace, execution)
    with opened_places(
        devices,
        named_tables(options.table, devices),
        budgets,
        execution,
        purpose=purpose,
        python=options.python,
        keep=options.keep,
        perf_test=None if options.perf_test is None else Path(options.perf_test),
        log=log,
    ) as places:
        execution = made_for(execution, [*(p.device for p in places), *([LocalDevice()] if ENERGY in own else [])])
        named = {p.resource: _loaded(p, prepared, execution, options.force) for p in places if p.table is not None}
        yield Measuring(places, execution, own, named)


def _loaded(place: TargetDevice, prepared: PreparedModel, execution: Execution, force: bool) -> Table:
    assert place.table is not None
    anywhere = force or place.device is None
    execution = made_for(execution, [place.device])  # its own, also where a run's devices need another
    return tables.loaded_table(place.table, prepared.trace, execution, place.environment, anywhere=anywhere)


def prepare_checks(
    run: Run,
    prepared: PreparedModel,
    options: Arguments,
    budgets: Target,
    measuring: Measuring,
    progress: Progress,
    log: Callable[[str], None],
) -> Checks:
    """A check for every resource that is measured, its table built first where none was named.

    Args:
        run: The run, which keeps tables and measurements.
        prepared: The model that will be cut.
        options: The options of the run.
        budgets: The limits; the tightest, where there are several targets.
        measuring: The devices, and what else measures.
        progress: Follows the measurements of a table.
        log: Gets a line per event.

    Raises:
        NetadaptError: A device fails, or the run's table is not the one that it wrote.
    """
    checks: dict[str, MeasuredLatency] = {}
    notes: list[str] = []
    limits = {budget.resource: budget for budget in budgets}
    file = as_given(prepared.model, prepared.trace.folded.proto) if measuring.devices or measuring.values else None
    for place in measuring.devices:
        table = _table(run, place, prepared, options, measuring, progress)
        cautions = table.notes if isinstance(table, Table) else ()
        if isinstance(table, Table) and run.left_s() < math.inf and table.reference.stopped != "done":
            versions = f"{len(table.wholes)} of {table.header.models} versions"
            notes.append(f"the table was built from {versions}: {table.reference.stopped}, for --max-time")
            log(notes[-1])
        for caution in cautions:  # the table and the run are of one busy machine: that is said once
            log(caution)
        limit = limits.get(place.resource)
        check = PredictedLatency if place.device is None else MeasuredLatency
        checks[place.resource] = check(
            run,
            prepared.trace,
            table,
            measuring.execution,
            limit,
            place.resource,
            place.device,
            file,
            # A table from another day tells nothing of how fast the device is today.
            usual_ms=() if place.resource in measuring.tables else reference_times_ms(table),
            log=None if cautions else log,
        )
        if limit is not None:
            prepared = prepared.aligned(table.stairs.alignment, partial(best_counts, table, prepared.trace))
    for resource, value in measuring.values.items():
        fit = fitted(prepared.trace, resource, value, options.seed, run.once)
        # A program may look at whatever no runtime sees.
        seen = as_given(prepared.model, prepared.trace.folded.proto, always=True) if resource == CUSTOM else file
        checks[resource] = MeasuredResource(run, prepared.trace, fit, value, limits[resource], resource, seen)
    return Checks(prepared, checks, tuple(notes))


def _table(
    run: Run,
    place: TargetDevice,
    prepared: PreparedModel,
    options: Arguments,
    measuring: Measuring,
    progress: Progress,
) -> Table:
    """The table of a device: the named one, or one that is built into the run's directory."""
    limited = {} if math.isinf(run.left_s()) else {"time_cap_s": min(TABLE_S, TABLE_SHARE * run.left_s())}
    run.journal.require_unchanged(table_file(run.path, place.resource))
    table = measuring.tables.get(place.resource) or tables.built_table(
        run.path,
        prepared.trace,
        measuring.execution,
        options.seed,
        progress,
        place.device,
        place.resource,
        **limited,
    )
    run.journal.seal(table_file(run.path, place.resource))
    return table
