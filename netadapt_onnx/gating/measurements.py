"""Measurements of one model under one set of settings: each is made once, when a limit first needs it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar, cast

from netadapt_onnx.common.progress import stage
from netadapt_onnx.errors import NetadaptError, invalid_data
from netadapt_onnx.gating.baseline import Reference, identity, is_record, reference
from netadapt_onnx.gating.check_limits import relative_increase
from netadapt_onnx.gating.jobs import CountJob, DeviceJob, PredictJob, ScoreJob, TimeJob
from netadapt_onnx.gating.records import Facts, Interval, Score, TablePrediction, TimingResult
from netadapt_onnx.gating.revision import unusable
from netadapt_onnx.gating.sandbox import Sandbox
from netadapt_onnx.gating.settings import Settings

T = TypeVar("T")

# Seconds of running; sessions have to be opened besides.
TIME_CAP_S = 30.0


@dataclass(frozen=True, eq=False)
class Measurements:
    """The measurements of one model under one set of settings.

    Every property raises NetadaptError where its number cannot be had. `scratch` is a folder for files of revisions;
    `naming`: a baseline is recorded, so that the device is getting its name.
    """

    path: Path
    settings: Settings
    sandbox: Sandbox
    scratch: Path
    naming: bool
    _results: dict[str, object] = field(init=False, default_factory=dict)

    def _once(self, name: str, measure: Callable[[], T]) -> T:
        if name not in self._results:
            try:
                self._results[name] = measure()
            except NetadaptError as error:
                self._results[name] = error
        result = self._results[name]
        if isinstance(result, NetadaptError):
            raise result
        return cast(T, result)

    def _cached(self, name: str, kind: type[T]) -> T | None:
        result = self._results.get(name)
        return result if isinstance(result, kind) else None

    @property
    def table(self) -> Path | None:
        """The latency table of the device, if it has one."""
        return None if self.settings.device is None else self.settings.device.table

    @property
    def facts(self) -> Facts:
        """The numbers that are counted."""
        job = CountJob(str(self.path), dict(self.settings.shapes), self.settings.batch_size)
        return self._once("facts", lambda: self.sandbox.ask(job, Facts))

    @property
    def reference(self) -> Reference | None:
        """The numbers that the model is compared with; None if the baseline does not have the model."""
        return self._once("reference", lambda: reference(self.path, self.settings, self.sandbox, self.scratch))

    @property
    def cached_reference(self) -> Reference | None:
        """The reference, if a limit needed it and there is one."""
        return self._cached("reference", Reference)

    @property
    def score(self) -> Score:
        """The accuracy on the data."""
        return self._once("score", self._measure_score)

    @property
    def cached_score(self) -> Score | None:
        """The accuracy, if a limit needed it."""
        return self._cached("score", Score)

    @stage("evaluating the model")
    def _measure_score(self) -> Score:
        settings = self.settings
        if settings.data is None:
            raise invalid_data("an accuracy needs data", "give --data eval.npz")
        other = None
        if settings.baseline is not None and not is_record(settings.baseline) and self.reference is not None:
            other = str(self.reference.path)
        job = ScoreJob(
            str(self.path), settings.data, settings.split, other, dict(settings.shapes), settings.batch_size,
            settings.threads,
        )  # fmt: skip
        return self.sandbox.ask(job, Score)

    def latency_ms(self) -> tuple[float, str]:
        """The model's latency, predicted by its device's table or measured, and a note."""
        if self.table is not None:
            prediction = self._predict(self.path, "predicted")
            return prediction.ms, prediction.note
        timing = self.cached_timing or self.time_model(None)
        return timing.latency_ms.median, timing.note

    @property
    def cached_prediction(self) -> float | None:
        """The latency in ms that the table predicts, if a limit needed it."""
        prediction = self._cached("predicted", TablePrediction)
        return None if prediction is None else prediction.ms

    @property
    def cached_timing(self) -> TimingResult | None:
        """The last timing, if a limit needed one."""
        return self._cached("timed", TimingResult)

    def time_model(self, against: Path | None, *, again: bool = False) -> TimingResult:
        """Time the model, in turn with another if there is one.

        `again`: even if it was timed before.
        """
        if again:
            del self._results["timed"]
        return self._once("timed", lambda: self._measure_time(against))

    def slowdown(self, *, again: bool = False) -> tuple[Interval, float, str]:
        """Measure how much longer the model takes than its reference.

        Returns:
            The increase as a fraction, the reference's ms, and how it was measured.
        """
        other = self.reference
        assert other is not None
        if self.settings.device is not None and self.table is not None:
            name = self.settings.device.name
            if other.path is None:
                raise unusable(
                    f"the table of '{name}' needs the baseline's model", "give --baseline git:REV or FILE.onnx"
                )
            before, now = self._predict(other.path, "predicted before"), self._predict(self.path, "predicted")
            change = now.ms / before.ms - 1
            notes = dict.fromkeys(f"; {prediction.note}" for prediction in (before, now) if prediction.note)
            return Interval(change, change, change), before.ms, f"by the table of {name}{''.join(notes)}"
        timing = self.time_model(other.path, again=again)
        if timing.increase is not None and timing.reference_ms is not None:
            how = "; ".join(filter(None, [f"{timing.sessions} fresh sessions of each, in turn", timing.note]))
            return timing.increase, timing.reference_ms.median, how
        recorded = other.latency.get(identity(timing.device))
        if recorded is None:
            machines = ", ".join(
                sorted(f"{e.name or 'a machine'} ({e.device.get('cpu')})" for e in other.latency.values())
            )
            raise NetadaptError(
                f"the baseline has no latency of this machine ({timing.device.get('cpu')}), "
                f"only of {machines or 'none'}",
                hint="run --update-baseline here, or compare with git:REV",
                code="device",
            )
        then = Interval(recorded.median_ms, *recorded.ci95)
        return relative_increase(timing.latency_ms, then), then.median, "against the recorded interval"

    def _measure_time(self, against: Path | None) -> TimingResult:
        self._check_device()
        settings = self.settings
        job = TimeJob(
            str(self.path),
            None if against is None else str(against),
            dict(settings.shapes),
            settings.batch_size,
            settings.ep,
            settings.threads,
            None if settings.device is None else settings.device.address,
            min(TIME_CAP_S, self.sandbox.timeout_s / 2),
        )
        with stage("timing the model", bound_s=job.time_cap_s):
            return self.sandbox.ask(job, TimingResult)

    def _check_device(self) -> None:
        """Require that a device without an address is this machine: a baseline was recorded here under its name."""
        target = self.settings.device
        if target is None or target.address is not None or self.naming:
            return
        name = target.name
        device = self.sandbox.ask(DeviceJob(self.settings.ep, self.settings.threads), dict[str, object])
        reference = self.reference if self.settings.baseline is not None else None
        recorded = {entry.name: entry.device for entry in reference.latency.values()} if reference is not None else {}
        if name not in recorded:
            raise NetadaptError(
                f"no device '{name}': the configuration does not name it and the baseline has no latency of it",
                hint="name it in [tool.netadapt-onnx.devices], or run --update-baseline --device there",
                code="device",
            )
        other, keys = recorded[name], dict.fromkeys([*recorded[name], *device])
        differing = [key for key in keys if other.get(key) != device.get(key)]
        if differing:
            key = differing[0]
            raise NetadaptError(
                f"this machine is not '{name}': {key} is {device.get(key)} here and {other.get(key)} there",
                hint="run this gate there",
                code="device",
            )

    def _predict(self, model: Path, name: str) -> TablePrediction:
        settings = self.settings
        job = PredictJob(str(model), str(self.table), dict(settings.shapes), settings.batch_size)
        return self._once(name, lambda: self.sandbox.ask(job, TablePrediction))
