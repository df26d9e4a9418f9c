"""A device without Python: onnxruntime's own `onnxruntime_perf_test`, built for it, does the timing.

Every run of it is a fresh session. Sessions of a job's models take turns, as the agent's rounds do, but whole sessions
at a time: on a device that does nothing else that is good enough.
"""

from __future__ import annotations

import hashlib
import json
import re
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.profilers.agent import low_mean, processor, profile_record
from netadapt_onnx.profilers.devices.shell import LostError, Shell, last_line
from netadapt_onnx.profilers.measuring import Answer, End, Environment, Failed, Job, Manifest, Measured
from netadapt_onnx.profilers.providers import PROVIDERS

BINARY, TIMES, PROFILE, OPTIMISED = "perf_test", "times.csv", "profile", "optimised.onnx"
# Runs in one session: enough for its fastest tenth, and never longer than this.
RUNS, LONGEST_S = 50, 600.0
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

    def __init__(self, shell: Shell, binary: Path, *, keep: bool = False) -> None:
        if not binary.is_file():
            raise NetadaptError(f"--perf-test {binary}: no such file", code="missing-file")
        self.name = shell.name
        self._shell = shell
        self._binary = binary
        self._keep = keep
        self._there: set[str] = set()
        self._manifests: dict[str, Manifest] = {}
        self._environment: Environment | None = None

    def describe(self) -> Environment:
        """What can be seen from outside; which onnxruntime it is, the binary's hash says."""
        if self._environment is None:
            said = {key: self._call(f"{probe} 2>/dev/null").stdout.strip() for key, probe in PROBES.items()}
            digest = hashlib.sha256(self._binary.read_bytes()).hexdigest()[:12]
            self._environment = {
                **processor(said["cpuinfo"], said["board"], said["arch"]),
                "os": "Android" if said["board"] else said["os"],
                "arch": said["arch"],
                "kernel": said["kernel"],
                "onnxruntime": f"perf_test {digest}",
                "providers": [provider.name for provider in PROVIDERS.values()],
                "governor": said["governor"] or None,
            }
        return self._environment

    def push(self, files: Sequence[Path]) -> None:
        """The binary, then whatever is new; inputs are made by the binary."""
        if BINARY not in self._there:
            self._call(f"mkdir -p {self._shell.folder}")
            self._insist(lambda: self._shell.push([self._binary]))
            name = re.sub(r"[^\w.-]", "?", self._binary.name)  # a pattern of the shell, where it is no plain name
            self._call(f"cd {self._shell.folder} && mv {name} {BINARY}; chmod 755 {BINARY}")
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
            yield Measured(
                number, model, RUNS, seconds, _low(times[model]), _medians(times[model]), **reference, **kernels
            )

    def _session(self, model: str, execution: dict[str, Any]) -> np.ndarray:
        """Milliseconds of each run in one fresh session. Raises ChildProcessError if the binary fails."""
        self._perf_test(model, execution, f"rm -f {TIMES}", "")
        return parse_times(self.pull(TIMES).decode(errors="replace"))

    def _profile(self, model: str, execution: dict[str, Any]) -> dict[str, Any]:
        clean = f"rm -f {PROFILE}* {OPTIMISED} {TIMES}"
        self._perf_test(model, execution, clean, f"-p {PROFILE} -u {OPTIMISED}")
        self._call(f"cd {self._shell.folder} && mv {PROFILE}_*.json {PROFILE}.json")
        return profile_record(json.loads(self.pull(f"{PROFILE}.json")), self.pull(OPTIMISED))

    def _perf_test(self, model: str, execution: dict[str, Any], before: str, options: str) -> None:
        # -m times -r N: so many runs; -x, -y: threads within and between nodes; -D: no spinning; -I: inputs of its own.
        how = f"-e {execution['ep']} -m times -r {RUNS} -x {int(execution['threads'])} -y 1 -D -I {options}"
        command = f"cd {self._shell.folder} && {before} && LD_LIBRARY_PATH=. ./{BINARY} {how} {model} {TIMES}"
        done = self._call(command, seconds=LONGEST_S)
        if done.returncode:
            raise ChildProcessError(f"onnxruntime_perf_test: {last_line(done.stderr) or last_line(done.stdout)}")

    def _call(self, command: str, *, seconds: float = 60.0) -> Any:
        return self._insist(lambda: self._shell.call(command, seconds=seconds))

    def _insist(self, act: Any, tries: int = 5) -> Any:
        """What `act` returns, also if the connection is lost a few times."""
        for pause in (1, 2, 4, 8, 16)[: tries - 1]:
            try:
                return act()
            except LostError:
                time.sleep(pause)
        try:
            return act()
        except LostError as error:
            raise NetadaptError(
                f"{self.name} was lost: {error}", hint="run the same command again", code="device-lost"
            ) from error

    def pull(self, name: str) -> bytes:
        """By the shell."""
        found: bytes = self._insist(lambda: self._shell.pull(name))
        return found

    def remove(self, names: Sequence[str]) -> None:
        """By the shell; left there with `keep`."""
        self._there -= set(names)
        if not self._keep:
            self._call("rm -f " + " ".join(f"{self._shell.folder}/{name}" for name in names))

    def close(self) -> None:
        """Remove the folder."""
        if not self._keep and self._there:
            self._call(f"rm -rf {self._shell.folder}")


def parse_times(text: str) -> np.ndarray:
    """Milliseconds of each run from what `onnxruntime_perf_test` writes: `model,seconds,memory,cpu,run` a line.

    Raises ChildProcessError if there is no such line.
    """
    rows = [line.split(",") for line in text.splitlines() if line.count(",") >= 4]
    found = [float(row[-4]) * 1000 for row in rows if re.fullmatch(r"[0-9.]+(e[+-]?\d+)?", row[-4].strip())]
    if not found:
        raise ChildProcessError("onnxruntime_perf_test wrote no times")
    return np.array(found)


def _low(times: Sequence[np.ndarray]) -> list[float]:
    return [round(float(low_mean(session)), 6) for session in times]


def _medians(times: Sequence[np.ndarray]) -> list[float]:
    return [round(statistics.median(session.tolist()), 6) for session in times]
