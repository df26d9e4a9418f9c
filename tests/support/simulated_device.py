"""A device that measures nothing: times follow from widths and a script of disturbances, on a clock of its own."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Callable, Iterator, Sequence
from math import prod
from pathlib import Path
from types import SimpleNamespace

import msgspec
import numpy as np
import onnx
import pytest

from netadapt_onnx.profilers import agent
from netadapt_onnx.profilers import validate as validating
from netadapt_onnx.profilers.records import REFERENCE, AgentRecord, End, Environment, Job, Manifest, MeasuredModel
from netadapt_onnx.profilers.table import build as building

# By how much a session of one model is slower than it should be: of the time in seconds and a source of randomness.
Slowness = Callable[[float, np.random.Generator], float]
BLOCK = 8
# A slow model is run so often at least in a session.
LEAST_ROUNDS = 5


def quiet(_: float, rng: np.random.Generator) -> float:
    """Fresh sessions differ by half a percent."""
    return float(np.exp(0.005 * rng.standard_normal()))


def bursts(now: float, rng: np.random.Generator) -> float:
    """Something else runs 7 of every 21 seconds, and takes from one session more than from another."""
    return quiet(now, rng) * (float(rng.uniform(2, 5)) if int(now / 7) % 3 == 1 else 1.0)


def drift(now: float, rng: np.random.Generator) -> float:
    """It grows hot."""
    return quiet(now, rng) * (1 + now / 100)


def one_in_three(now: float, rng: np.random.Generator) -> float:
    """One session in three is slow."""
    return quiet(now, rng) * (3.0 if rng.random() < 1 / 3 else 1.0)


def twice_from_the_middle(now: float, rng: np.random.Generator) -> float:
    """From the middle of the time on everything takes twice as long."""
    return quiet(now, rng) * (2.0 if now > 50 else 1.0)


INTERFERENCE = [bursts, drift, one_in_three, twice_from_the_middle]


def node_us(proto: onnx.ModelProto) -> dict[str, float]:
    """Microseconds of each layer with a weight: whole blocks of channels."""
    dims = {t.name: list(t.dims) for t in proto.graph.initializer}
    weighted = [n for n in proto.graph.node if n.op_type in {"Conv", "Gemm"}]
    return {n.name: 2.0 + 0.5 * prod(-(-d // BLOCK) for d in dims[n.input[1]][:2]) for n in weighted}


def true_ratio(proto: onnx.ModelProto, reference: onnx.ModelProto) -> float:
    """What a version takes, relative to the uncut model, when nothing disturbs the device."""
    return sum(node_us(proto).values()) / sum(node_us(reference).values())


class SimulatedDevice:
    """Runs jobs on its own clock.

    `speed`: seconds that a simulated microsecond takes. `overhead_s`: what copying takes.
    `per_node`: whether it shows times of nodes. `others`: processors, of two, that other processes keep busy.
    """

    name = "local"
    oldest = False

    def __init__(
        self,
        slowness: Slowness = quiet,
        *,
        speed: float = 1e-6,
        overhead_s: float = 0.0,
        per_node: bool = True,
        others: float | None = None,
    ) -> None:
        self.now = 0.0
        self.jobs: list[Job] = []
        self._slowness = slowness
        self._speed = speed
        self._overhead_s = overhead_s
        self._per_node = per_node
        self._others = others
        self._rng = np.random.default_rng(0)
        self._files: dict[str, Path] = {}

    def clock(self, monkeypatch: pytest.MonkeyPatch) -> SimulatedDevice:
        """Have builds and validations tell the time by this device."""
        for module in (building, validating):
            monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: self.now))
        return self

    def describe(self) -> Environment:
        return agent.environment()

    def push(self, files: Sequence[Path]) -> None:
        self._files |= {file.name: file for file in files}
        self.now += self._overhead_s

    def run(self, manifest: str, results: str) -> Iterator[AgentRecord]:
        plan = msgspec.json.decode(self._files[manifest].read_bytes(), type=Manifest)
        for number, job in enumerate(plan.jobs):
            yield from self._measured(number, job, plan)
        yield End("done")

    def _measured(self, number: int, job: Job, plan: Manifest) -> Iterator[MeasuredModel]:
        self.jobs.append(job)
        numbers = [*job.models, *([] if job.reference is None else [job.reference])]
        protos = {m: onnx.load(self._files[plan.models[str(m)].file]) for m in numbers}
        round_s = sum(sum(node_us(p).values()) for p in protos.values()) * self._speed * (job.sessions + job.profiled)
        assert job.seconds is not None
        rounds = int(np.clip(job.seconds / max(round_s, 1e-9), LEAST_ROUNDS, job.rounds[1] or 1000))
        seconds = rounds * round_s
        times = {m: self._sessions(p, job.sessions * (1 + job.anchors * (m == REFERENCE))) for m, p in protos.items()}
        self.now += seconds
        shared = {"reference_ms": times[REFERENCE], "reference_median_ms": times[REFERENCE]} if job.reference else {}
        slow = self._slowness(self.now, self._rng)
        uncut_us = slow * sum(node_us(protos[REFERENCE]).values()) if job.reference else 0.0
        for model in job.models:
            kernels = self._kernels(protos[model], slow) if job.profiled and self._per_node else {}
            yield MeasuredModel(
                number, model, rounds, seconds / len(job.models), times[model], times[model], **shared, **kernels,
                reference_us=uncut_us, interval=0.01, others=self._others, cores=2,
            )  # fmt: skip

    def _sessions(self, proto: onnx.ModelProto, count: int) -> list[float]:
        ms = sum(node_us(proto).values()) * self._speed * 1e3
        return [ms * self._slowness(self.now, self._rng) for _ in range(count)]

    def _kernels(self, proto: onnx.ModelProto, slow: float) -> dict[str, object]:
        packed = base64.b64encode(zlib.compress(proto.SerializeToString())).decode()
        return {"optimised": packed, "us": {name: us * slow for name, us in node_us(proto).items()}}

    def pull(self, name: str) -> bytes:
        return self._files[name].read_bytes()

    def remove(self, names: Sequence[str]) -> None:
        for name in names:
            self._files.pop(name, None)

    def close(self) -> None:
        return None
