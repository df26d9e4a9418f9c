"""Resources that are functions of a model: energy on this machine, and a program or a function of the user's own.

A few models of random widths are measured first; a non-negative fit on what is counted of them predicts all others."""

from __future__ import annotations

import math
import shlex
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from netadapt_onnx.common.budget import Budget
from netadapt_onnx.common.progress import counting
from netadapt_onnx.common.resources import CUSTOM, ENERGY
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.cost import CostModel
from netadapt_onnx.graph.runtime import random_inputs
from netadapt_onnx.graph.shapes import Specs
from netadapt_onnx.profilers import agent
from netadapt_onnx.profilers.device import write_model
from netadapt_onnx.profilers.devices.local import LocalDevice
from netadapt_onnx.profilers.energy import Meter, energy_mj, meter
from netadapt_onnx.profilers.execution import Execution, execution_record
from netadapt_onnx.profilers.int8_kernels import choose_quantisation
from netadapt_onnx.profilers.random_widths import random_widths
from netadapt_onnx.profilers.statistics import Timing
from netadapt_onnx.profilers.table.nonnegative_fit import robust_nonnegative
from netadapt_onnx.search.budget_check.measurements import Value
from netadapt_onnx.surgery.trace import Trace

PROGRAM_S = 600.0


def program(command: str) -> Value:
    """A user's program as a function of a model: it gets the file's path and prints a number in its last line.

    Raises:
        NetadaptError: The command is empty. The function raises it, too, if the program cannot be run, fails, takes
            longer than ten minutes, or prints no number.
    """
    words = shlex.split(command)
    if not words:
        raise NetadaptError("--resource-command is empty", code="usage")

    def value(proto: onnx.ModelProto) -> float:
        with tempfile.TemporaryDirectory(prefix="netadapt-") as folder:
            _, [path, *_rest] = write_model(proto, Path(folder), oldest=False)
            try:
                done = subprocess.run(
                    [*words, str(path)],
                    stdin=subprocess.DEVNULL,
                    capture_output=True,
                    text=True,
                    errors="replace",
                    timeout=PROGRAM_S,
                )
            except FileNotFoundError as error:
                raise NetadaptError(f"--resource-command: no program {words[0]}", code="resource") from error
            except subprocess.TimeoutExpired:
                raise NetadaptError(f"{words[0]} took longer than {PROGRAM_S:g} s", code="resource") from None
        lines = (done.stderr if done.returncode else done.stdout).strip().splitlines()
        last = lines[-1].strip() if lines else "nothing"
        if done.returncode:
            raise NetadaptError(f"{words[0]} failed ({done.returncode}): {last[:200]}", code="resource")
        try:
            number = float(last)
        except ValueError:
            number = math.nan
        if not (math.isfinite(number) and number > 0):
            raise NetadaptError(
                f"{words[0]} printed '{last[:80]}', which is no number above zero",
                hint="the last line of its output must be one",
                code="resource",
            )
        return number

    return value


def energy(specs: Specs, execution: Execution) -> Value:
    """Millijoules of one run on this machine, as a function of a model.

    Raises:
        NetadaptError: This machine has no counter of energy (code `unmeasurable`).
    """
    counter: Meter = meter(execution.ep)
    execution = choose_quantisation(execution, [LocalDevice()])
    inputs = random_inputs(specs)

    def value(proto: onnx.ModelProto) -> float:
        with tempfile.TemporaryDirectory(prefix="netadapt-") as folder:
            _, [path, *_rest] = write_model(execution.deploy.apply(proto), Path(folder), oldest=False)
            return energy_mj(agent.caller(path, execution_record(execution), inputs), counter)

    return value


def values(
    budgets: tuple[Budget, ...], command: str | Value | None, original: Trace, execution: Execution
) -> dict[str, Value]:
    """The function of each budgeted resource that is one.

    Args:
        budgets: The budgets of a run.
        command: The user's program, or function, for `custom`.
        original: The traced model.
        execution: How models run where their energy is measured.

    Raises:
        NetadaptError: A budgeted resource cannot be measured.
    """
    resources = {budget.resource for budget in budgets}
    functions: dict[str, Value] = {}
    if ENERGY in resources:
        functions[ENERGY] = energy(original.folded.specs, execution)
    if CUSTOM in resources:
        if command is None:
            raise NetadaptError("a budget for custom needs --resource-command", code="usage")
        functions[CUSTOM] = program(command) if isinstance(command, str) else _finite(command)
    return functions


def _finite(function: Value) -> Value:
    """The caller's function; its numbers may be numpy's. Raises NetadaptError for one that is no finite number."""

    def value(proto: onnx.ModelProto) -> float:
        result = function(proto)
        try:
            number = float(result)
        except (TypeError, ValueError) as error:
            raise NetadaptError(
                f"resource_command returned {result!r}", hint="a finite number", code="resource"
            ) from error
        if not math.isfinite(number):
            raise NetadaptError(f"resource_command returned {number}", hint="a finite number", code="resource")
        return number

    return value


Once = Callable[[str, Callable[[], Any]], Any]
VERSIONS = 16
COUNTS = ("macs", "params", "memory")


@dataclass(frozen=True)
class Fitted:
    """A fit that stands for a table: it predicts a resource from counts. `original` is the uncut model's value."""

    trace: Trace
    coefficients: tuple[float, ...]
    original: float

    def predict(self, shapes: Mapping[str, tuple[int, ...]]) -> float:
        """The predicted resource of the model at these tensor shapes."""
        return float(np.dot(self.coefficients, fit_terms(self._count, shapes)))

    @property
    def latency_ms(self) -> Timing:
        """The uncut model's value, as a table has its latency."""
        return Timing(self.original, (self.original, self.original), 1)

    @cached_property
    def _count(self) -> CostModel:
        return CostModel(self.trace.flat.proto)


def fit_terms(count: CostModel, shapes: Mapping[str, tuple[int, ...]]) -> list[float]:
    """The terms of the fit: a constant, and the counted resources at these tensor shapes."""
    resources = count(shapes).resources
    return [1.0, *(float(resources[name]) for name in COUNTS)]


def fitted(original: Trace, resource: str, value: Value, seed: int, once: Once) -> Fitted:
    """Measure the original and models of random widths, and fit their resource to what is counted of them.

    Args:
        original: The traced model.
        resource: The resource, which the keys of the measurements begin with.
        value: Measures it.
        seed: The seed of the random widths.
        once: Remembers each value by its key, so that a killed run goes on.
    """
    draw, count = random_widths(original), CostModel(original.flat.proto)
    rows, values = [], []
    for number in counting(f"measuring {resource} of versions", range(VERSIONS + 1)):
        if number:
            version = draw(np.random.default_rng([seed, number]))
            proto, shapes = version.proto, version.shapes
        else:
            proto, shapes = original.folded.proto, original.folded.shapes
        rows.append(fit_terms(count, shapes))
        values.append(float(once(f"{resource}/version/{number}", partial(value, proto))))
    weight = np.array([3.0, *[1.0] * VERSIONS])
    coefficients = robust_nonnegative(np.array(rows), np.array(values), weight)
    return Fitted(original, tuple(coefficients.tolist()), values[0])
