"""Resources that are measured whole, without a table: energy, and what a user's own program says of a model.

A few random-width versions are measured first; a non-negative fit on their counts then predicts all others, and every
accepted model is measured again, as with latency.
"""

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
from netadapt_onnx.common.progress import counting, stage
from netadapt_onnx.common.resources import CUSTOM, ENERGY
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.cost import CostModel
from netadapt_onnx.graph.original_file import AsGiven
from netadapt_onnx.graph.runtime import random_inputs
from netadapt_onnx.graph.shapes import Specs
from netadapt_onnx.profilers import agent
from netadapt_onnx.profilers.device import write_model
from netadapt_onnx.profilers.devices.local import LocalDevice
from netadapt_onnx.profilers.energy import Meter, energy_mj, meter
from netadapt_onnx.profilers.execution import CPU, Execution, execution_record
from netadapt_onnx.profilers.int8_kernels import choose_quantisation
from netadapt_onnx.profilers.random_widths import random_widths
from netadapt_onnx.profilers.statistics import Ratio, Timing, ratio_of_pairs
from netadapt_onnx.profilers.table.nonnegative_fit import robust_nonnegative
from netadapt_onnx.search.latency_check import CAREFUL_SESSIONS, MeasuredLatency
from netadapt_onnx.search.run_directory.run import Run
from netadapt_onnx.surgery.trace import Trace

Value = Callable[[onnx.ModelProto], float]
Once = Callable[[str, Callable[[], Any]], Any]
VERSIONS = 16
# Pairs of measurements for a final verdict, and to tell how an accepted model does: fewer, and two if they agree to the
# last digit. A single pair would have no interval, and its noise would steer.
CAREFUL_PAIRS, BRIEF_PAIRS = 5, 3
PROGRAM_S = 600.0
COUNTS = ("macs", "params", "memory")


def program(command: str) -> Value:
    """What a user's program says of a model: it is given the file's path and prints a number in its last line.

    Raises NetadaptError if it cannot be run, fails, takes longer than ten minutes, or prints no number.
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
        said = (done.stderr if done.returncode else done.stdout).strip().splitlines()
        last = said[-1].strip() if said else "nothing"
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
    """Millijoules of one run on this machine. Raises NetadaptError (code `unmeasurable`) where nothing tells."""
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
    """How each budgeted resource of this kind is measured. Raises NetadaptError if it cannot be."""
    asked = {budget.resource for budget in budgets}
    found: dict[str, Value] = {}
    if ENERGY in asked:
        found[ENERGY] = energy(original.folded.specs, execution)
    if CUSTOM in asked:
        if command is None:
            raise NetadaptError("a budget for custom needs --resource-command", code="usage")
        found[CUSTOM] = program(command) if isinstance(command, str) else _finite(command)
    return found


def _finite(function: Value) -> Value:
    """The caller's function; its numbers may be numpy's. Raises NetadaptError for one that is no finite number."""

    def value(proto: onnx.ModelProto) -> float:
        given = function(proto)
        try:
            number = float(given)
        except (TypeError, ValueError) as error:
            raise NetadaptError(
                f"resource_command returned {given!r}", hint="a finite number", code="resource"
            ) from error
        if not math.isfinite(number):
            raise NetadaptError(f"resource_command returned {number}", hint="a finite number", code="resource")
        return number

    return value


@dataclass(frozen=True)
class Fitted:
    """Predicts a resource from what the versions counted: a table's place. `original`: the uncut model's value."""

    trace: Trace
    coefficients: tuple[float, ...]
    original: float

    def predict(self, shapes: Mapping[str, tuple[int, ...]]) -> float:
        """The resource of the version with these tensor shapes."""
        return float(np.dot(self.coefficients, counted(self._count, shapes)))

    @property
    def latency_ms(self) -> Timing:
        """The uncut model's value, where a table has its latency."""
        return Timing(self.original, (self.original, self.original), 1)

    @cached_property
    def _count(self) -> CostModel:
        return CostModel(self.trace.flat.proto)


def counted(count: CostModel, shapes: Mapping[str, tuple[int, ...]]) -> list[float]:
    """The terms of the fit: a constant, and what is counted of a version."""
    resources = count(shapes).resources
    return [1.0, *(float(resources[name]) for name in COUNTS)]


def fitted(original: Trace, resource: str, value: Value, seed: int, once: Once) -> Fitted:
    """Measure random versions and fit. `once` remembers each value, so that a killed run goes on."""
    draw, count = random_widths(original), CostModel(original.flat.proto)
    rows, found = [], []
    for number in counting(f"measuring {resource} of versions", range(VERSIONS + 1)):
        if number:
            version = draw(np.random.default_rng([seed, number]))
            proto, shapes = version.proto, version.shapes
        else:
            proto, shapes = original.folded.proto, original.folded.shapes
        rows.append(counted(count, shapes))
        found.append(float(once(f"{resource}/version/{number}", partial(value, proto))))
    weight = np.array([3.0, *[1.0] * VERSIONS])
    coefficients = robust_nonnegative(np.array(rows), np.array(found), weight)
    return Fitted(original, tuple(coefficients.tolist()), found[0])


class MeasuredResource(MeasuredLatency):
    """A latency gauge's logic for any resource: predicted by a fit, corrected and judged by measurements."""

    def __init__(
        self,
        run: Run,
        original: Trace,
        fit: Fitted,
        value: Value,
        budget: Budget | None,
        resource: str,
        given: AsGiven | None = None,
    ) -> None:
        super().__init__(run, original, fit, CPU, budget, resource, given=given)
        self._value = value

    @stage("measuring beside the original")
    def _ratio(
        self, proto: onnx.ModelProto, seconds: float, sessions: int, reference: onnx.ModelProto | None = None
    ) -> Ratio:
        """Model and file as given (or `reference`) in turn."""
        beside = self.normalising.reference if reference is None else reference
        careful = sessions >= CAREFUL_SESSIONS
        found: list[tuple[float, float]] = []
        while len(found) < (CAREFUL_PAIRS if careful else BRIEF_PAIRS):
            found.append((self._value(proto), self._value(beside)))
            if not careful and found[-1:] == found[-2:-1]:
                break
        return ratio_of_pairs([float(ours) for ours, _ in found], [float(other) for _, other in found])
