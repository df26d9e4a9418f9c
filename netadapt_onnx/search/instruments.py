"""What a run measures with: its devices, how models run on them, and the tables that the user gave."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from netadapt_onnx.common.budget import Target
from netadapt_onnx.common.provenance import file_hash
from netadapt_onnx.common.resources import ENERGY, LATENCY
from netadapt_onnx.profilers.devices.local import LocalDevice
from netadapt_onnx.profilers.execution import Execution
from netadapt_onnx.profilers.int8_kernels import choose_quantisation
from netadapt_onnx.profilers.table.table import Table
from netadapt_onnx.search import tables
from netadapt_onnx.search.budget_check.comparison import Value
from netadapt_onnx.search.budget_check.resource_functions import values
from netadapt_onnx.search.calibration import execution_of
from netadapt_onnx.search.options import AdaptOptions
from netadapt_onnx.search.prepared_model import PreparedModel
from netadapt_onnx.search.target_devices import (
    DeviceAccess,
    TargetDevice,
    named_devices,
    named_tables,
    open_target_devices,
)


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
    execution = execution_of(options, prepared)
    functions = values(budgets, options.resource_command, prepared.trace, execution)
    perf_test = None if options.perf_test is None else Path(options.perf_test)
    access = DeviceAccess(purpose, options.python, options.keep, perf_test)
    files = named_tables(options.table, devices)
    with open_target_devices(devices, files, budgets, execution, access, log) as targets:
        local = [LocalDevice()] if ENERGY in functions else []
        execution = choose_quantisation(execution, [*(target.device for target in targets), *local])
        loaded = {t.resource: _loaded(t, prepared, execution, options.force) for t in targets if t.table is not None}
        yield Instruments(targets, execution, functions, loaded)


def _loaded(target: TargetDevice, prepared: PreparedModel, execution: Execution, force: bool) -> Table:
    assert target.table is not None
    anywhere = force or target.device is None
    execution = choose_quantisation(execution, [target.device])  # its own, also where a run's devices need another
    return tables.loaded_table(target.table, prepared.trace, execution, target.environment, anywhere=anywhere)
