"""A device without Python: onnxruntime's own `onnxruntime_perf_test`, built for it, does the timing.

Every run of it is a fresh session. Sessions of a job's models take turns, as the agent's rounds do, but whole sessions
at a time: on a device that does nothing else that is good enough.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np
import onnx

from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.weightless import without_weights
from netadapt_onnx.profilers.agent import low_mean, processor, profile_record
from netadapt_onnx.profilers.checked_values import checked_environment
from netadapt_onnx.profilers.device import Answer, End, Environment, Failed, Job, Manifest, Measured
from netadapt_onnx.profilers.devices.patience import PATIENCE_S, TIDYING_S, LostError, Patience
from netadapt_onnx.profilers.devices.shell import CALL_S, STALLED_S, Shell, last_line
from netadapt_onnx.profilers.providers import PROVIDERS

T = TypeVar("T")

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


class PerfTestDevice:
    """A device behind a shell, with a native binary that the user supplies."""

    oldest = True

    def __init__(
        self, shell: Shell, binary: Path, *, keep: bool = False, log: Callable[[str], None] | None = None
    ) -> None:
        if not binary.is_file():
            raise NetadaptError(f"--perf-test {binary}: no such file", code="missing-file")
        self.name = shell.name
        self._shell = shell
        self._binary = binary
        self._keep = keep
        self._log = log or (lambda _: None)
        self._there: set[str] = set()
        self._manifests: dict[str, Manifest] = {}
        self._environment: Environment | None = None
        self._touched = False

    def describe(self) -> Environment:
        """What can be seen from outside; which onnxruntime it is, the binary's hash says."""
        if self._environment is None:
            said = {key: self._call(f"{probe} 2>/dev/null").stdout.strip() for key, probe in PROBES.items()}
            digest = hashlib.sha256(self._binary.read_bytes()).hexdigest()[:12]
            environment = {
                **processor(said["cpuinfo"], said["board"], said["arch"]),
                "os": "Android" if said["board"] else said["os"],
                "arch": said["arch"],
                "kernel": said["kernel"],
                "onnxruntime": f"perf_test {digest}",
                "providers": [provider.name for provider in PROVIDERS.values()],
                "governor": said["governor"] or None,
            }
            try:
                self._environment = checked_environment(environment)
            except ValueError as error:
                raise NetadaptError(f"{self.name}: {error}", code="results") from error
        return self._environment

    def push(self, files: Sequence[Path]) -> None:
        """The binary, then whatever is new; inputs are made by the binary."""
        if BINARY not in self._there:
            self._call(f"umask 077; mkdir -p {self._shell.folder}")
            self._touched = True
            with tempfile.TemporaryDirectory(prefix="netadapt-") as folder:  # no name of the user's reaches a device
                binary = Path(shutil.copy(self._binary, Path(folder) / BINARY))
                self._insist(lambda: self._shell.push([binary]))
            self._call(f"chmod 755 {self._shell.folder}/{BINARY}")
            self._there.add(BINARY)
        for file in files:
            if file.suffix == ".json":
                self._manifests[file.name] = msgspec.json.decode(file.read_bytes(), type=Manifest)
        new = [file for file in files if file.suffix not in (".json", ".npz") and file.name not in self._there]
        if new:
            self._insist(lambda: self._shell.push(new))
            self._there |= {file.name for file in new}

    def run(self, manifest: str, results: str) -> Iterator[Answer]:
        """Job after job; what a lost connection interrupts begins again with its session."""
        plan = self._manifests[manifest]
        for number, job in enumerate(plan.jobs):
            yield from self._measure(number, job, plan)
        yield End("done")

    def _measure(self, number: int, job: Job, plan: Manifest) -> Iterator[Answer]:
        started = time.monotonic()
        files = {
            m: plan.models[str(m)].file for m in (*job.models, *([] if job.reference is None else [job.reference]))
        }
        times: dict[int, list[np.ndarray]] = {m: [] for m in files}
        failed: dict[int, str] = {}
        for _ in range(job.sessions):
            for model, file in files.items():
                if model in failed:
                    continue
                try:
                    times[model].append(self._session(file, plan.execution))
                except ChildProcessError as error:
                    failed[model] = str(error)
        if job.reference in failed:
            failed = dict.fromkeys(job.models, f"the uncut model: {failed[job.reference]}")
        profiles = {}
        if job.profiled:
            profiles = {m: self._profile(file, plan.execution) for m, file in files.items() if m not in failed}
        seconds = (time.monotonic() - started) / len(job.models)
        for model in job.models:
            if model in failed:
                yield Failed(number, model, failed[model])
                continue
            reference: dict[str, Any] = {}
            if job.reference is not None:
                reference = {
                    "reference_ms": _low(times[job.reference]),
                    "reference_median_ms": _medians(times[job.reference]),
                }
                if profiles:
                    reference["reference_us"] = round(sum(profiles[job.reference]["us"].values()), 3)
            kernels = profiles.get(model, {})
            try:
                yield msgspec.convert(
                    {
                        "record": "measured",
                        "job": number,
                        "model": model,
                        "rounds": RUNS,
                        "seconds": seconds,
                        "ms": _low(times[model]),
                        "median_ms": _medians(times[model]),
                        **reference,
                        **kernels,
                    },
                    Measured,
                )
            except msgspec.ValidationError as error:
                raise NetadaptError(f"{self.name}: the times of model {model}: {error}", code="results") from error

    def _session(self, model: str, execution: dict[str, Any]) -> np.ndarray:
        """Milliseconds of each run in one fresh session. Raises ChildProcessError if the binary fails."""
        self._perf_test(model, execution, f"rm -f {TIMES}", "")
        return parse_times(self.pull(TIMES).decode(errors="replace"))

    def _profile(self, model: str, execution: dict[str, Any]) -> dict[str, Any]:
        clean = f"rm -f {PROFILE}* {OPTIMISED} {TIMES}"
        self._perf_test(model, execution, clean, f"-p {PROFILE} -u {OPTIMISED}")
        self._call(f"cd {self._shell.folder} && mv {PROFILE}_*.json {PROFILE}.json")
        try:
            events = json.loads(self.pull(f"{PROFILE}.json"))
            graph = without_weights(onnx.ModelProto.FromString(self.pull(OPTIMISED)))
            return profile_record(events, graph.SerializeToString())
        except NetadaptError:
            raise
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
        done = self._call(command, seconds=STALLED_S)
        if done.returncode:
            raise ChildProcessError(f"onnxruntime_perf_test: {last_line(done.stderr) or last_line(done.stdout)}")

    def _call(self, command: str, *, seconds: float = CALL_S) -> subprocess.CompletedProcess[str]:
        return self._insist(lambda: self._shell.call(command, seconds=seconds))

    def _insist(self, act: Callable[[], T], seconds: float = PATIENCE_S) -> T:
        """What `act` returns, also if the connection is lost for a while."""
        patience = Patience(self.name, seconds, self._log)
        while True:
            try:
                return act()
            except LostError as error:
                patience.wait(error)

    def pull(self, name: str) -> bytes:
        """By the shell."""
        return self._insist(lambda: self._shell.pull(name))

    def remove(self, names: Sequence[str]) -> None:
        """By the shell; left there with `keep`."""
        self._there -= set(names)
        if not self._keep:
            self._call("rm -f " + " ".join(f"{self._shell.folder}/{name}" for name in names))

    def close(self) -> None:
        """Remove the folder, whatever has happened."""
        if not self._keep and self._touched:
            with suppress(NetadaptError):
                self._insist(lambda: self._shell.call(f"rm -rf {self._shell.folder}"), TIDYING_S)


def parse_times(text: str) -> np.ndarray:
    """Milliseconds of each run from what `onnxruntime_perf_test` writes: `model,seconds,memory,cpu,run` a line.

    Raises ChildProcessError if there is no such line, or one with a time that cannot be.
    """
    rows = [line.split(",") for line in text.splitlines() if line.count(",") >= 4]
    words = [row[-4].strip() for row in rows]
    found = [float(word) for word in words if re.fullmatch(r"-?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?|-?nan|-?inf", word, re.I)]
    if not found:
        raise ChildProcessError("onnxruntime_perf_test wrote no times")
    wrong = next((seconds for seconds in found if not 0 < seconds < MOST_S), None)
    if wrong is not None:
        raise ChildProcessError(f"onnxruntime_perf_test wrote a time of {wrong:g} s")
    return 1000 * np.array(found)


def _low(times: Sequence[np.ndarray]) -> list[float]:
    return [round(float(low_mean(session)), 6) for session in times]


def _medians(times: Sequence[np.ndarray]) -> list[float]:
    return [round(statistics.median(session.tolist()), 6) for session in times]
