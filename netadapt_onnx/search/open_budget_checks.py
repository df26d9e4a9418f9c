"""What a run measures with, reached before anything is written, and the check of every budget that it makes of that."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from netadapt_onnx.common.budget import Budget, Target
from netadapt_onnx.common.provenance import file_hash
from netadapt_onnx.common.resources import CUSTOM, ENERGY, LATENCY
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.original_file import AsGiven, as_given
from netadapt_onnx.graph.runtime import random_inputs
from netadapt_onnx.profilers.device import Device
from netadapt_onnx.profilers.devices.local import LocalDevice
from netadapt_onnx.profilers.devices.opening import open_device
from netadapt_onnx.profilers.execution import Execution
from netadapt_onnx.profilers.int8_kernels import choose_quantisation
from netadapt_onnx.profilers.statistics import Disturbance
from netadapt_onnx.profilers.table.best_counts import best_counts
from netadapt_onnx.profilers.table.predict import Table
from netadapt_onnx.search import tables
from netadapt_onnx.search.budget_check.check import BudgetCheck, MeasuredCheck
from netadapt_onnx.search.budget_check.measurements import (
    Comparison,
    DeviceComparison,
    FunctionComparison,
    MeasurementJournal,
    Value,
    measure_normalised,
)
from netadapt_onnx.search.budget_check.normalisation import MeasuredNormalisation, RecordedNormalisation
from netadapt_onnx.search.budget_check.prediction import Prediction
from netadapt_onnx.search.budget_check.resource_functions import fitted, values
from netadapt_onnx.search.context import SearchEnvironment
from netadapt_onnx.search.deployment import deployment
from netadapt_onnx.search.options import AdaptOptions
from netadapt_onnx.search.prepared_model import PreparedModel
from netadapt_onnx.search.run_directory.run import Run
from netadapt_onnx.search.tables import Predicting, reference_times_ms, table_file
from netadapt_onnx.search.target_devices import (
    TargetDevice,
    named_devices,
    named_tables,
    open_target_devices,
)
from netadapt_onnx.search.time_limit import TABLE_SHARE
from netadapt_onnx.surgery.trace import Trace


@dataclass(frozen=True)
class Instruments:
    """What a run measures with, all of it reached before anything is written.

    Attributes:
        devices: The devices that latencies are measured on, each with the user's table of it.
        execution: How models run there.
        functions: The resources that are functions of a model: energy, and the user's own program.
        tables: The user's tables, by resource.
    """

    devices: tuple[TargetDevice, ...]
    execution: Execution
    functions: Mapping[str, Value]
    tables: Mapping[str, Table]


def table_hashes(options: AdaptOptions) -> str | dict[str, str] | None:
    """The user's tables, as a run's identity has them: one hash, or several by resource."""
    files = named_tables(options.table, named_devices(options.device))
    hashes = {name: file_hash(file) for name, file in files.items()}
    return hashes.get(LATENCY) if hashes.keys() <= {LATENCY} else hashes


@contextmanager
def open_instruments(
    options: AdaptOptions,
    prepared: PreparedModel,
    budgets: Target,
    purpose: Path,
    log: Callable[[str], None] | None = None,
) -> Iterator[Instruments]:
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
    deploy = deployment(options.deploy, prepared.trace.folded, None, prepared.data)
    execution = Execution(options.ep, options.threads, dict(options.ep_options), options.ep_library, deploy)
    functions = values(budgets, options.resource_command, prepared.trace, execution)
    perf_test = None if options.perf_test is None else Path(options.perf_test)
    reach = partial(open_device, python=options.python, keep=options.keep, perf_test=perf_test, log=log)
    files = named_tables(options.table, devices)
    with open_target_devices(devices, files, budgets, execution, purpose, reach) as targets:
        local = [LocalDevice()] if ENERGY in functions else []
        execution = choose_quantisation(execution, [*(target.device for target in targets), *local])
        loaded = {t.resource: _loaded(t, prepared, execution, options.force) for t in targets if t.table is not None}
        yield Instruments(targets, execution, functions, loaded)


def _loaded(target: TargetDevice, prepared: PreparedModel, execution: Execution, force: bool) -> Table:
    assert target.table is not None
    anywhere = force or target.device is None
    execution = choose_quantisation(execution, [target.device])  # its own, also where a run's devices need another
    try:
        return tables.loaded_table(target.table, prepared.trace, execution, target.environment, anywhere=anywhere)
    except NetadaptError as error:
        if error.code != "other-device":
            raise
        hint = (
            "--device names the device of the table; with --device bundle the table alone predicts, and nothing is "
            "measured here; --force takes it for this device's"
        )
        raise NetadaptError(error.message, hint=hint, code=error.code) from error


@dataclass(frozen=True)
class CheckedResource:
    """A resource that is measured, the original that it is measured of, and its budget.

    Attributes:
        name: The resource: `latency`, `latency@NAME`, `energy` or `custom`.
        original: The traced model, normalised.
        file: The user's file; None: it is the normalised model.
        budget: The limit, if there is one.
    """

    name: str
    original: Trace
    file: AsGiven | None = None
    budget: Budget | None = None

    @property
    def relative(self) -> bool:
        """Whether the budget is a share of the original's amount."""
        return self.budget is None or self.budget.relative


def open_budget_checks(
    environment: SearchEnvironment,
    prepared: PreparedModel,
    instruments: Instruments,
) -> tuple[dict[str, BudgetCheck], PreparedModel]:
    """The check of every resource that is measured; tables that the user did not give are measured first.

    Args:
        environment: What the search runs in.
        prepared: The model.
        instruments: What the run measures with.

    Returns:
        The checks by resource, and the model with channel counts that run fast on these devices.
    """
    checks: dict[str, BudgetCheck] = {}
    devices, functions, own_tables = instruments.devices, instruments.functions, instruments.tables
    budgets = {budget.resource: budget for budget in environment.options.targets[-1]}
    file = as_given(prepared.model, prepared.trace.folded.proto) if devices or functions else None
    for device in devices:
        table = own_tables.get(device.resource) or _measured_table(environment, prepared, device)
        resource = CheckedResource(device.resource, prepared.trace, file, budgets.get(device.resource))
        # A table from another day does not say how fast the device is today.
        usual_ms = () if device.resource in own_tables else reference_times_ms(table)
        checks[device.resource] = _latency_check(environment, device.device, table, resource, usual_ms)
        if resource.budget is not None:
            prepared = prepared.aligned(table.staircase.alignment, partial(best_counts, table, prepared.trace))
        elif table.staircase.alignment > 1:
            prepared = prepared.preferring(table.staircase.alignment)
    for name, value in functions.items():
        fit = fitted(prepared.trace, name, value, environment.options.seed, environment.run.once)
        # A program may look at whatever no runtime sees.
        seen = as_given(prepared.model, prepared.trace.folded.proto, always=True) if name == CUSTOM else file
        resource = CheckedResource(name, prepared.trace, seen, budgets[name])
        checks[name] = measured_check(environment.run, resource, fit, FunctionComparison(value))
    return checks, prepared


def measured_check(
    run: Run,
    resource: CheckedResource,
    table: Predicting,
    comparison: Comparison,
    *,
    usual_ms: Sequence[float] = (),
    on_busy: Callable[[Disturbance], None] = lambda disturbance: None,
) -> MeasuredCheck:
    """A check that measures by `comparison`.

    Args:
        run: The run whose journal keeps the measurements.
        resource: What is checked.
        table: Predicts the resource.
        comparison: Measures it.
        usual_ms: Times of the original's fastest runs that were measured on the device just before.
        on_busy: Called when something disturbed every try of a measurement.
    """
    # The table was measured beside the normalised model: such times say nothing of a file that differs from it.
    has_own_file = resource.file is not None and resource.file.proto is not None
    journal = MeasurementJournal(
        run,
        resource.name,
        relative=resource.relative,
        just_before_ms=() if has_own_file else usual_ms,
        on_busy=on_busy,
    )
    measure = partial(measure_normalised, journal, comparison)
    folded = resource.original.folded
    normalisation = MeasuredNormalisation(run, resource.name, resource.file, folded.proto, measure)
    return MeasuredCheck(Prediction(table, folded, normalisation, resource.budget), journal, comparison)


def _latency_check(
    environment: SearchEnvironment,
    device: Device | None,
    table: Predicting,
    resource: CheckedResource,
    usual_ms: Sequence[float],
) -> BudgetCheck:
    """The check of a latency; notes of the table, and the first busy measurement without any, are logged."""
    cautions = table.notes if isinstance(table, Table) else ()
    for caution in cautions:
        environment.log(caution)
    if device is None:
        normalisation = RecordedNormalisation(table, resource.file, resource.original.folded.proto)
        return BudgetCheck(Prediction(table, resource.original.folded, normalisation, resource.budget))
    inputs = random_inputs(resource.original.folded.specs)
    comparison = DeviceComparison(environment.run, inputs, environment.execution, device)
    warnings: list[str] = []

    def on_busy(disturbance: Disturbance) -> None:
        # The table and the run are of one busy machine: that is said once.
        if not cautions and not warnings:
            warnings.append(disturbance.sentence(device.name))
            environment.log(warnings[0])

    return measured_check(environment.run, resource, table, comparison, usual_ms=usual_ms, on_busy=on_busy)


def _measured_table(environment: SearchEnvironment, prepared: PreparedModel, device: TargetDevice) -> Table:
    """A table measured into the run directory, in the share of the run's time that tables may take."""
    run = environment.run
    file = table_file(run.path, device.resource)
    plan = tables.table_plan(environment.options)
    plan = replace(plan, time_cap_s=min(plan.time_cap_s, TABLE_SHARE * run.left_s()))
    run.journal.require_unchanged(file)
    table = tables.built_table(file, prepared.trace, environment.execution, plan, environment.progress, device.device)
    run.journal.seal(file)
    if isinstance(table, Table) and run.left_s() < math.inf and table.reference.stopped != "done":
        measured = f"{len(table.end_to_end)} of {table.header.models} versions"
        environment.notes.add(
            f"The latency table was measured on {measured} to keep --max-time ({table.reference.stopped})"
        )
    return table
