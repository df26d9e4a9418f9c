"""A device without Python: onnxruntime's own `onnxruntime_perf_test`, built for it, does the timing.

Every run of it is a fresh session. Sessions of a job's models take turns, as the agent's rounds do, but whole sessions
at a time: on a device that does nothing else that is good enough.
"""

from __future__ import annotations

import json
import re
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx

from netadapt_onnx.common.files import digest
from netadapt_onnx.common.missing_files import missing_file
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.weightless import without_weights
from netadapt_onnx.profilers.agent import low_mean, processor, profile_record
from netadapt_onnx.profilers.checked_values import check_environment
from netadapt_onnx.profilers.devices.shell import STALLED_S, Shell, last_line
from netadapt_onnx.profilers.devices.shell_device import ShellDevice
from netadapt_onnx.profilers.providers import PROVIDERS
from netadapt_onnx.profilers.records import AgentRecord, End, Environment, FailedModel, Job, Manifest, MeasuredModel

BINARY, TIMES, PROFILE, OPTIMISED = "perf_test", "times.csv", "profile", "optimised.onnx"
# Runs in one session: enough for its fastest tenth. It says nothing meanwhile; ssh and adb notice a dead connection.
RUNS = 50
# No run of a model takes an hour.
MOST_S = 3600.0
PROBES = {
    "cpuinfo": "cat /proc/cpuinfo",
    "arch": "uname -m",
    "kernel": "uname -r",
    "os": "uname -s",
    "board": "getprop ro.product.model",
    "governor": "cat /sys/devices/system/cpu/cpu0/cpufreq/scaling_governor",
}


class PerfTestDevice(ShellDevice):
    """A device behind a shell, with a native binary that the user supplies."""

    def __init__(
        self, shell: Shell, binary: Path, *, keep: bool = False, log: Callable[[str], None] | None = None
    ) -> None:
        if not binary.is_file():
            raise missing_file(binary, flag="--perf-test")
        super().__init__(shell, keep=keep, log=log)
        self._binary = binary
        self._manifests: dict[str, Manifest] = {}

    def _describe(self) -> Environment:
        """What can be seen from outside; the binary's hash stands for its onnxruntime."""
        answers = {key: self._shell.call(f"{probe} 2>/dev/null").stdout.strip() for key, probe in PROBES.items()}
        environment = {
            **processor(answers["cpuinfo"], answers["board"], answers["arch"]),
            "os": "Android" if answers["board"] else answers["os"],
            "arch": answers["arch"],
            "kernel": answers["kernel"],
            "onnxruntime": f"perf_test {digest(self._binary)[:12]}",
            "providers": [provider.name for provider in PROVIDERS.values()],
            "governor": answers["governor"] or None,
        }
        try:
            return check_environment(environment)
        except ValueError as error:
            raise NetadaptError(f"{self.name}: {error}", code="results") from error

    def push(self, files: Sequence[Path]) -> None:
        """Copy the binary, then all new files but inputs, which the binary makes itself."""
        if BINARY not in self._pushed:
            self._retry(self._push_binary)
        manifests = [file for file in files if file.suffix == ".json"]
        self._manifests |= {file.name: msgspec.json.decode(file.read_bytes(), type=Manifest) for file in manifests}
        self._retry(lambda: self._push_new(file for file in files if file.suffix not in (".json", ".npz")))

    def _push_binary(self) -> None:
        self._make_folder()
        with tempfile.TemporaryDirectory(prefix="netadapt-") as folder:  # no name of the user's reaches a device
            self._push_new([Path(shutil.copy(self._binary, Path(folder) / BINARY))])
        self._shell.call(f"chmod 755 {self._shell.folder}/{BINARY}")

    def run(self, manifest: str, results: str) -> Iterator[AgentRecord]:
        """Do job after job; what a lost connection interrupts begins again with its session."""
        plan = self._manifests[manifest]
        for number, job in enumerate(plan.jobs):
            yield from self._measure(number, job, plan)
        yield End("done")

    def _measure(self, number: int, job: Job, plan: Manifest) -> Iterator[AgentRecord]:
        """Measure the models of a job; yields a record each."""
        started = time.monotonic()
        numbers = [*job.models, *([] if job.reference is None else [job.reference])]
        files = {model: plan.models[str(model)].file for model in numbers}
        times, failures = self._time_sessions(files, job.sessions, plan.execution)
        if job.reference in failures:
            failures = dict.fromkeys(job.models, f"the uncut model: {failures[job.reference]}")
        profiles = {}
        if job.profiled:
            profiles = {m: self._profile(file, plan.execution) for m, file in files.items() if m not in failures}
        seconds = (time.monotonic() - started) / len(job.models)
        for model in job.models:
            if model in failures:
                yield FailedModel(number, model, failures[model])
                continue
            fields: dict[str, Any] = {"record": "measured", "job": number, "model": model, "rounds": RUNS}
            fields |= {"seconds": seconds, **_session_ms(times[model])}
            if job.reference is not None:
                fields |= _session_ms(times[job.reference], "reference_")
                if profiles:
                    fields["reference_us"] = round(sum(profiles[job.reference]["us"].values()), 3)
            try:
                record = msgspec.convert(fields | profiles.get(model, {}), MeasuredModel)
            except msgspec.ValidationError as error:
                raise NetadaptError(f"{self.name}: the times of model {model}: {error}", code="results") from error
            yield record

    def _time_sessions(
        self, files: Mapping[int, str], sessions: int, execution: dict[str, Any]
    ) -> tuple[dict[int, list[np.ndarray]], dict[int, str]]:
        """Milliseconds of the runs in each session, by model, with sessions in turn; and why models failed."""
        times: dict[int, list[np.ndarray]] = {model: [] for model in files}
        failures: dict[int, str] = {}
        for _ in range(sessions):
            for model, file in files.items():
                if model in failures:
                    continue
                try:
                    times[model].append(self._session(file, execution))
                except ChildProcessError as error:
                    failures[model] = str(error)
        return times, failures

    def _session(self, model: str, execution: dict[str, Any]) -> np.ndarray:
        """Milliseconds of each run in one fresh session. Raises ChildProcessError if the binary fails."""
        self._perf_test(model, execution, f"rm -f {TIMES}", "")
        return parse_times(self.pull(TIMES).decode(errors="replace"))

    def _profile(self, model: str, execution: dict[str, Any]) -> dict[str, Any]:
        clean = f"rm -f {PROFILE}* {OPTIMISED} {TIMES}"
        self._perf_test(model, execution, clean, f"-p {PROFILE} -u {OPTIMISED}")
        self._retry(lambda: self._shell.call(f"cd {self._shell.folder} && mv {PROFILE}_*.json {PROFILE}.json"))
        profile, optimised = self.pull(f"{PROFILE}.json"), self.pull(OPTIMISED)
        try:
            graph = without_weights(onnx.ModelProto.FromString(optimised))
            return profile_record(json.loads(profile), graph.SerializeToString())
        except Exception as error:  # what is no profile fails anywhere in it, and protobuf's error is private
            raise NetadaptError(
                f"{self.name}: what onnxruntime_perf_test wrote of model {model} is no profile: {error}",
                hint="build it from onnxruntime's own sources",
                code="results",
            ) from error

    def _perf_test(self, model: str, execution: dict[str, Any], before: str, options: str) -> None:
        # -m times -r N: so many runs; -x, -y: threads within and between nodes; -D: no spinning; -I: inputs of its own.
        how = f"-e {execution['ep']} -m times -r {RUNS} -x {int(execution['threads'])} -y 1 -D -I {options}"
        command = f"cd {self._shell.folder} && {before} && LD_LIBRARY_PATH=. ./{BINARY} {how} {model} {TIMES}"
        done = self._retry(lambda: self._shell.call(command, seconds=STALLED_S))
        if done.returncode:
            raise ChildProcessError(f"onnxruntime_perf_test: {last_line(done.stderr) or last_line(done.stdout)}")


def parse_times(text: str) -> np.ndarray:
    """Parse what `onnxruntime_perf_test` writes, `model,seconds,memory,cpu,run` a line: (runs,) milliseconds.

    Raises ChildProcessError if there is no such line, or one with a time that cannot be.
    """
    rows = [line.split(",") for line in text.splitlines() if line.count(",") >= 4]
    words = [row[-4].strip() for row in rows]
    seconds = [
        float(word) for word in words if re.fullmatch(r"-?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?|-?nan|-?inf", word, re.I)
    ]
    if not seconds:
        raise ChildProcessError("onnxruntime_perf_test wrote no times")
    wrong = next((time_s for time_s in seconds if not 0 < time_s < MOST_S), None)
    if wrong is not None:
        raise ChildProcessError(f"onnxruntime_perf_test wrote a time of {wrong:g} s")
    return 1000 * np.array(seconds)


def _session_ms(times: Sequence[np.ndarray], prefix: str = "") -> dict[str, list[float]]:
    """The times of a record: of each session the mean of its fastest runs, and its median."""
    return {
        f"{prefix}ms": [round(float(low_mean(session)), 6) for session in times],
        f"{prefix}median_ms": [round(statistics.median(session.tolist()), 6) for session in times],
    }
