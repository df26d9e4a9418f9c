"""Measures models where they will run. One file: copy it to a device and let the device's own Python run it.

    python3 agent.py manifest.json results.jsonl

Needs Python 3.8, numpy and onnxruntime 1.16, nothing else. It appends a line per measured model; killed, it goes on
with the next. On this machine the package calls its functions, so that every device is measured by the same code.
"""

from __future__ import annotations

import argparse
import base64
import gc
import hashlib
import json
import os
import platform
import re
import sys
import tempfile
import threading
import time
import zlib
from collections import Counter
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple

# onnxruntime's Linux wheels from 1.29 on send telemetry; this must be set before its first import.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import numpy as np

Record = Dict[str, Any]
Call = Callable[[], object]
Models = Sequence[Tuple[int, Path]]
Begin = Callable[[Path], Call]
Times = Tuple[List[List[float]], List[List[float]], List[float], int]
Opened = Tuple[List[Tuple[int, Path]], List["Profiled"], List[Dict[str, int]], List[Record]]

# Sessions that live at the same time may hold this much in weights.
SESSION_BYTES = 1 << 30
# The share of runs that is taken for undisturbed, on a machine with three busy processes a core.
UNDISTURBED = 0.1
# Nearly where processors slow down; a device that is hotter gets this long to cool.
HOT_C, COOLING_S = 78.0, 60.0
HEARTBEAT_S = 5.0
# Session options: fail rather than leave a node to the CPU; remember which provider got which node.
NO_FALLBACK, RECORDED = "session.disable_cpu_ep_fallback", "session.record_ep_graph_assignment_info"
_registered: set[str] = set()
_speaking = threading.Lock()  # a sign of life may not stand within a record
SCHEMA = 1  # of manifests and results
# What of an environment makes times comparable: only where all of it is equal are they of one device.
COMPARED = ("cpu", "flags", "os", "arch", "onnxruntime", "governor")
# What a line of results has by its kind, and what a manifest has.
FIELDS = {"measured": "job model seconds", "failed": "job model", "environment": "environment", "end": ""}
PARTS = "schema execution inputs models jobs seconds"


class Rounds:
    """Sessions that run in turn: each round runs every one of them once, in a random order.

    Machines change speed within tenths of a second (a neighbour on the sibling thread: 0.55 or 0.65 ms for the same
    model). Models timed one after the other then differ by where the noise fell; models timed in turn share it.
    Short runs are preceded by one that is not timed: the others have pushed the model out of the cache.
    """

    def __init__(self, calls: Sequence[Call], seed: int = 0) -> None:
        self._calls = list(calls)
        self._rng = np.random.default_rng(seed)
        self._times: list[np.ndarray] = []
        with undisturbed():
            for _ in range(2):  # the second is what a round takes
                started = time.perf_counter()
                for call in self._calls:
                    call()
            self.round_s = time.perf_counter() - started
        self._warm = self.round_s / max(1, len(self._calls)) < 0.02
        self.round_s *= 2 if self._warm else 1

    def go(self, rounds: int) -> None:
        """Run this many more rounds."""
        with undisturbed():
            for _ in range(rounds):
                row = np.empty(len(self._calls))
                for i in self._rng.permutation(len(self._calls)):
                    call = self._calls[i]
                    if self._warm:
                        call()
                    started = time.perf_counter_ns()
                    call()
                    row[i] = (time.perf_counter_ns() - started) / 1e6
                self._times.append(row)

    def settle(self, seconds: float, enough: Callable[[np.ndarray], bool], least: int, most: int | None) -> None:
        """Run until `enough` says so of the times (from `least` rounds on), or time or `most` rounds are up."""
        deadline = time.perf_counter() + seconds
        while most is None or len(self._times) < most:
            done = len(self._times)
            chunk = min(5 if done else 3, 5 if most is None else most - done)
            late = done and time.perf_counter() + chunk * self.round_s > deadline
            if late or (done >= least and enough(self.times_ms)):
                break
            self.go(chunk)

    @property
    def times_ms(self) -> np.ndarray:
        """(sessions, rounds)."""
        return np.stack(self._times, 1)


@contextmanager
def undisturbed() -> Iterator[None]:
    """No garbage collection while a clock runs."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        (gc.enable if was else gc.disable)()


def low_mean(times: np.ndarray, share: float = UNDISTURBED) -> np.ndarray:
    """Mean of the fastest `share` along the last axis: what the model takes when nothing disturbs it.

    Fresh sessions of one model agree in it to 0.3-0.6% on a machine where their medians differ by 1.2-1.7%.
    """
    count = max(1, round(times.shape[-1] * share))
    return np.asarray(np.sort(times, -1)[..., :count].mean(-1))


def median_interval(samples: np.ndarray) -> tuple[float, float]:
    """95% interval of the median from order statistics; with fewer than six samples, their range.

    Sign test: outside the k+1-th smallest and largest of n lies the median with P = 2 * sum(C(n, i), i <= k) / 2^n.
    """
    ordered = np.sort(np.asarray(samples, np.float64))
    n = len(ordered)
    ways, tail, within = 1, 1, 0  # in whole numbers: thousands of samples are beyond any float
    while within < n // 2 and 40 * tail <= 2**n:
        ways = ways * (n - within) // (within + 1)
        tail += ways
        within += 1
    return float(ordered[max(0, within - 1)]), float(ordered[min(n - 1, n - within)])


def interval_width(samples: np.ndarray) -> float:
    """Width of the median's 95% interval relative to the median."""
    low, high = median_interval(samples)
    return (high - low) / float(np.median(samples))


def _settled(until: str, precision: float, models: int) -> Callable[[np.ndarray], bool]:
    """When times (sessions, by turn of models; rounds) are precise enough.

    interval: the median of most sessions is known to +-precision; each: likewise every model's, over its sessions;
    ratio: likewise that of the first model relative to the second; undisturbed: likewise, but of the means of the
    fastest runs.
    """

    def enough(times: np.ndarray) -> bool:
        if until == "interval":
            return bool(np.quantile(list(map(interval_width, times)), 0.8) <= 2 * precision)
        single = (low_mean(times) if until == "undisturbed" else np.median(times, 1)).reshape(-1, models).T
        samples = single if until == "each" else [single[0] / single[1]]
        return max(map(interval_width, samples)) <= 2 * precision

    return enough


def open_session(path: Path, execution: Record, profile_folder: Optional[Path] = None) -> Any:
    """A session for timing: the given threads, no spinning, fully optimised on this device, all on the one provider.

    Raises RuntimeError, naming nodes, where the provider would leave some to the CPU. With `profile_folder`
    onnxruntime's profiler is on and leaves the graph that really runs there, weights apart.
    """
    options = _options(execution)
    options.intra_op_num_threads = execution["threads"]
    options.inter_op_num_threads = 1
    config = dict(execution["config"])
    if profile_folder:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile_folder / "profile")
        options.optimized_model_filepath = str(profile_folder / "optimised.onnx")
        config["session.optimized_model_external_initializers_file_name"] = "weights"
        config["session.optimized_model_external_initializers_min_size_in_bytes"] = "128"
    for key, value in config.items():
        options.add_session_config_entry(key, value)
    try:
        session = _started(path, options, execution)
    except Exception as error:
        names_on_cpu = nodes_on_cpu(path, execution) if NO_FALLBACK in config else []
        if not names_on_cpu:
            raise
        names = ", ".join(names_on_cpu[:5] + ["..."] * (len(names_on_cpu) > 5))
        raise RuntimeError("%s leaves %d nodes to the CPU: %s" % (execution["ep"], len(names_on_cpu), names)) from error
    if execution["provider"] not in session.get_providers():
        raise RuntimeError("onnxruntime could not start %s" % execution["provider"])
    return session


def _options(execution: Record) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.enable_mem_pattern = execution.get("memory_pattern", True)
    return options


def _started(path: Path, options: Any, execution: Record) -> Any:
    """A session of the one provider; onnxruntime's own way of going on with the CPU alone is switched off."""
    import onnxruntime as ort

    if not execution.get("library"):
        providers = [(execution["provider"], execution["options"])]
        return ort.InferenceSession(str(path), options, providers=providers, enable_fallback=0)
    options.add_provider_for_devices(plugin_devices(execution["provider"], execution["library"]), execution["options"])
    return ort.InferenceSession(str(path), options, enable_fallback=0)


def plugin_devices(provider: str, library: str) -> list[Any]:
    """Where a provider from a library runs: on the first device that it offers. Raises RuntimeError if on none."""
    import onnxruntime as ort

    if not hasattr(ort, "register_execution_provider_library"):
        raise RuntimeError("onnxruntime %s loads no libraries of providers: 1.22 is the first" % ort.__version__)
    # Once a process: onnxruntime refuses the same name again, and cannot let go while a session lives.
    name = hashlib.sha256(library.encode()).hexdigest()
    if name not in _registered:
        ort.register_execution_provider_library(name, library)
        _registered.add(name)
    devices = [device for device in ort.get_ep_devices() if device.ep_name == provider]
    if not devices:
        others = ", ".join(sorted({device.ep_name for device in ort.get_ep_devices()} - {"CPUExecutionProvider"}))
        message = "%s offers no device for %s here (it has: %s)"
        raise RuntimeError(message % (Path(library).name, provider, others or "none at all"))
    return devices[:1]


def placement(session: Any) -> Dict[str, int]:
    """How many nodes each provider has, as the session recorded it; empty where onnxruntime is too old to say."""
    try:
        parts = session.get_provider_graph_assignment_info()
    except Exception:  # not recorded, or nothing that this onnxruntime has
        return {}
    counts: Counter[str] = Counter()
    for part in parts:
        counts[part.ep_name] += len(part.get_nodes())
    return dict(counts)


def nodes_on_cpu(path: Path, execution: Record) -> list[str]:
    """Nodes, with their operators, that the provider leaves to the CPU; none where onnxruntime is too old to say."""
    options = _options(execution)
    options.add_session_config_entry(RECORDED, "1")
    try:
        session = _started(path, options, execution)
        parts = session.get_provider_graph_assignment_info()
    except Exception:  # it fails for another reason, which the caller knows; or this onnxruntime cannot say
        return []
    others = [node for part in parts if part.ep_name != execution["provider"] for node in part.get_nodes()]
    return ["%s (%s)" % (node.name or "a node", node.op_type) for node in others]


def caller(path: Path, execution: Record, inputs: Record) -> Call:
    """A fresh session as a function that runs it once."""
    session = open_session(path, execution)
    session.run(None, inputs)
    return lambda: session.run(None, inputs)


class Profiled:
    """A session with onnxruntime's profiler on, which writes to `folder`; calling it runs it once."""

    def __init__(self, path: Path, execution: Record, inputs: Record, folder: Path) -> None:
        self._folder = Path(tempfile.mkdtemp(dir=str(folder)))
        self._inputs = inputs
        self._session = open_session(path, execution, self._folder)
        self()

    def __call__(self) -> object:
        """Run once."""
        return self._session.run(None, self._inputs)

    def finish(self) -> Record:
        """The optimised graph, the microseconds of each of its nodes, and who ran how many of them."""
        events = json.loads(Path(self._session.end_profiling()).read_bytes())
        return profile_record(events, (self._folder / "optimised.onnx").read_bytes())


def profile_record(events: Sequence[Record], optimised: bytes) -> Record:
    """What a measured model's record holds of an onnxruntime profile and the optimised model."""
    suffix = "_kernel_time"
    us: dict[str, list[float]] = {}
    placed: dict[str, str] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith(suffix):
            name = event["name"][: -len(suffix)]
            us.setdefault(name, []).append(event["dur"])
            placed[name] = event.get("args", {}).get("provider", "")
    return {
        "optimised": base64.b64encode(zlib.compress(optimised)).decode(),
        "us": {name: round(_undisturbed_us(np.array(times)), 4) for name, times in us.items()},
        "placement": dict(Counter(placed.values())),
    }


def _undisturbed_us(us: np.ndarray) -> float:
    """Mean of a kernel's times near its fastest tenth.

    Node by node: where six processes share two cores hardly a whole run is undisturbed. The profiler counts whole
    microseconds, which only a mean over all of them undoes: hence the margin.
    """
    fast = float(np.quantile(us, UNDISTURBED))
    return float(us[us <= fast + max(1.5, 0.05 * fast)].mean())


def measure(job: Record, models: Models, execution: Record, inputs: Record, seconds: float) -> list[Record]:
    """Measure models (number, path) in turn, with the job's reference, if it has one, as the last; a record each.

    A model that cannot run gets a record that says why, and the others are measured without it.
    """
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="netadapt-") as folder:
        able, profiled, placed, records = _opened(job, models, execution, inputs, Path(folder))
        compared = job["reference"] is not None
        if not able or (compared and able[-1] != models[-1]):
            return records
        used_s = time.perf_counter() - started
        paths = [path for _, path in able]
        # The reference's noise is in every ratio: it gets more sessions.
        paths += paths[-1:] * (job.get("anchors", 0) if compared else 0)
        begin = partial(caller, execution=execution, inputs=inputs)
        low, medians, widths, rounds = _times(job, paths, profiled, begin, seconds, used_s)
        kernels = [p.finish() for p in profiled]
    shared: Record = {"record": "measured", "rounds": rounds}
    if compared:
        last = len(able) - 1
        for field, rows in (("reference_ms", low), ("reference_median_ms", medians)):
            shared[field] = [x for row in rows[last:] for x in row]
        low = low[:last]
        if kernels:
            shared["reference_us"] = round(sum(kernels.pop()["us"].values()), 3)
    shared["seconds"] = round((time.perf_counter() - started) / max(1, len(low)), 4)
    for i, ms in enumerate(low):
        seen = kernels[i] if kernels else {"placement": placed[i]}
        times = {"ms": ms, "median_ms": medians[i], "interval": widths[i]}
        records.append({**shared, "model": able[i][0], **times, **seen})
    return records


def _opened(job: Record, models: Models, execution: Record, inputs: Record, folder: Path) -> Opened:
    """The models that run, their profiling sessions if the job wants any, else placements; and why others do not."""
    opened: Opened = ([], [], [], [])
    able, profiled, placed, failed = opened
    for number, path in models:
        try:
            if job["profiled"]:
                profiled.append(Profiled(path, execution, inputs, folder))
            else:
                session = open_session(path, execution)
                session.run(None, inputs)
                placed.append(placement(session))
            able.append((number, path))
        except Exception as error:  # onnxruntime raises a dozen unrelated types, some of them plain RuntimeError
            text = " ".join(str(error).split())[:300] or repr(error)
            failed.append({"record": "failed", "model": number, "error": text})
    return opened


def _times(job: Record, paths: List[Path], profiled: List[Profiled], begin: Begin, cap: float, used_s: float) -> Times:
    """Undisturbed and median times in ms, each (models, sessions), medians' interval by model, and rounds.

    Sessions open as memory allows.
    """
    sessions, count, (least, most) = job["sessions"], len(paths), job["rounds"]
    waves, together = 1, max(1, min(sessions, SESSION_BYTES // max(1, sum(path.stat().st_size for path in paths))))
    if job["until"] != "interval":  # then every session counts, and slow models get fewer
        first = Rounds([begin(path) for path in paths])
        sessions = min(sessions, max(3, int(cap / (6 * first.round_s))))
        waves, used_s = -(-sessions // together), 0.0
    low, medians, widths, rounds = [], [], np.zeros(count), 0
    enough = _settled(job["until"], job["precision"], count)
    for wave in range(waves):
        opened = time.perf_counter()
        number = min(together, sessions - wave * together)
        fresh = [begin(path) for _ in range(number) for path in paths]
        turns = Rounds([*profiled, *fresh], job["seed"] + wave)
        opening = time.perf_counter() - opened if job["until"] == "interval" else 0.0
        turns.settle((cap - used_s - opening) / waves, enough, least, most)
        times = turns.times_ms[len(profiled) :]
        low.append(low_mean(times).reshape(number, count).T)
        medians.append(np.median(times, 1).reshape(number, count).T)
        each = np.array([interval_width(session) for session in times]).reshape(number, count)
        widths = np.maximum(widths, each.max(0))
        rounds += times.shape[1]
    results = [np.round(np.concatenate(parts, 1), 6).tolist() for parts in (low, medians)]
    return results[0], results[1], np.round(widths, 4).tolist(), rounds


CPUFREQ = "sys/devices/system/cpu/cpu0/cpufreq/"
THROTTLE = "sys/devices/system/cpu/cpu0/thermal_throttle/"
# Instruction sets that change which kernels run; the hundred other flags come and go with kernel versions.
INSTRUCTION_SETS = re.compile(r"(sse4|avx|amx|fma$|f16c|asimd|sve|sme(?!p)|neon|fphp|i8mm|bf16|dotprod|rvv)")


def environment(root: Path = Path("/")) -> Record:
    """What a latency depends on besides the model, and what else describes the device."""
    import onnxruntime as ort

    memory = re.search(r"MemTotal:\s*(\d+)", _read(root, "proc/meminfo"))
    return {
        **processor(_read(root, "proc/cpuinfo"), _read(root, "proc/device-tree/model"), platform.processor()),
        "os": platform.system(),
        "arch": platform.machine(),
        "kernel": platform.release(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "memory_bytes": 1024 * int(memory.group(1)) if memory else None,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "onnxruntime": ort.__version__,
        "build": getattr(ort, "get_build_info", str)(),
        "providers": ort.get_available_providers(),
        "governor": _read(root, CPUFREQ + "scaling_governor") or None,
        "frequency_khz": int(_read(root, CPUFREQ + "cpuinfo_max_freq") or 0) or None,
    }


def processor(cpuinfo: str, board: str = "", otherwise: str = "") -> Record:
    """The processor's name and instruction sets from the text of /proc/cpuinfo; `otherwise` where there is none."""
    fields: dict[str, str] = {}
    for line in cpuinfo.splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip().lower(), value.strip())
    part = " ".join(fields[k] for k in ("cpu implementer", "cpu part") if k in fields)
    flags = (fields.get("flags") or fields.get("features") or "").split()
    name = " ".join(filter(None, [fields.get("model name") or board, part]))
    return {"cpu": name or otherwise or platform.machine(), "flags": sorted(filter(INSTRUCTION_SETS.match, flags))}


def _read(root: Path, path: str) -> str:
    try:
        return (root / path).read_text(errors="replace").strip("\0\n ")
    except OSError:
        return ""


def temperature_c(root: Path = Path("/")) -> float | None:
    """The hottest of the processor's sensors; None where there is none to read."""
    readings = []
    for zone in root.glob("sys/class/thermal/thermal_zone*"):
        if re.search("cpu|soc|pkg|core|big|thermal", _read(zone, "type").lower()):
            readings += [int(t) / 1000 for t in re.findall(r"^\d+$", _read(zone, "temp"))]
    return max((t for t in readings if 0 < t < 150), default=None)


def throttling(root: Path = Path("/")) -> str:
    """What the system says of slowed processors, to be compared: Linux's counters, the Raspberry Pi's flags."""
    flags = re.match("[0-9a-fA-F]+$", _read(root, "sys/devices/platform/soc/soc:firmware/get_throttled"))
    now = bool(flags and int(flags.group(), 16) & 15)  # the higher bits tell of the past
    return " ".join([_read(root, THROTTLE + n + "_throttle_count") for n in ("core", "package")] + ["now"] * now)


def wait_until_cool(root: Path = Path("/"), sleep: Callable[[float], None] = time.sleep) -> float | None:
    """Wait while the device is hot, but not for ever; returns its temperature then."""
    waited = 0.0
    while (temperature_c(root) or 0.0) > HOT_C and waited < COOLING_S:
        sleep(2.0)
        waited += 2.0
    return temperature_c(root)


def ticks(root: Path = Path("/")) -> Tuple[float, int, int, int]:
    """Ticks of this process, busy (or stolen) ones and all of its processors, without guests'; how many those are."""
    usable = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    rows = re.findall(r"^cpu(\d+) ([\d ]+)$", _read(root, "proc/stat"), re.M)
    each = [[int(tick) for tick in row.split()[:8]] for name, row in rows if int(name) in usable]
    own = sum(os.times()[:2]) * os.sysconf("SC_CLK_TCK") if each else 0.0
    return own, sum(sum(row) - sum(row[3:5]) for row in each), sum(map(sum, each)), len(each)


def crowd(before: Tuple[float, int, int, int], now: Tuple[float, int, int, int]) -> Record:
    """How many processors others kept busy between two `ticks`, of how many; empty where the system does not tell."""
    own, busy, total = (now[i] - before[i] for i in range(3))
    return {"others": round(max(0.0, busy - own) / total * now[3], 3), "cores": now[3]} if total > 0 else {}


def work(
    folder: Path, manifest: Record, results: Path, shard: int | None = None, sleep: Callable[[float], None] = time.sleep
) -> Iterator[list[Record]]:
    """Do the jobs of a manifest (or of one shard), appending to `results`; yields what is there already, then the new.

    Raises ValueError for a file that is damaged, of something else or of another device.
    """
    earlier = _resume(results, manifest)
    now = environment()
    device = {"record": "environment", "environment": now}
    for begun in (r["environment"] for r in earlier if r["record"] == "environment"):
        unlike = ["%s: %s there, %s here" % (k, begun.get(k), now[k]) for k in COMPARED if begun.get(k) != now[k]]
        if unlike:  # times would not compare
            message = "%s was begun on another device or onnxruntime (%s): go on there, or move the file away"
            raise ValueError(message % (results.name, "; ".join(unlike)))
    yield earlier
    if device not in earlier:
        yield _append(results, [device])
    finished = {(r["job"], r["model"]) for r in earlier if r["record"] in ("measured", "failed")}
    jobs = [(n, job) for n, job in enumerate(manifest["jobs"]) if shard is None or job["shard"] in (None, shard)]
    capped = [n for n, job in jobs if job["seconds"] is None]
    # A run that ended because its time was up is gone on with by another, which has as much time.
    since = 1 + max([i for i, r in enumerate(earlier) if r["record"] == "end"], default=-1)
    used_s = sum(r["seconds"] for r in earlier[since:] if r["record"] == "measured" and r["job"] in capped)
    stopped = "done"
    with np.load(str(folder / manifest["inputs"])) as arrays:
        inputs = {k: arrays[k].astype(object) if arrays[k].dtype.kind == "U" else arrays[k] for k in arrays}
    for number, job in jobs:
        missing = [m for m in job["models"] if (number, m) not in finished]
        share = (manifest["seconds"] - used_s) / max(1, sum(n >= number for n in capped))
        seconds = share if job["seconds"] is None else job["seconds"]
        # A job that was asked for has its least rounds, whatever is left; one that shares the time may fall away.
        if missing and seconds <= 0 and number in capped and not job.get("needed"):
            stopped = f"time cap of {manifest['seconds']:g} s"
        elif missing:
            numbers = missing if job["reference"] is None else [*missing, job["reference"]]
            models = [(m, _checked(folder, manifest["models"][str(m)])) for m in numbers]
            before, slowed, load = wait_until_cool(sleep=sleep), throttling(), ticks()
            records = measure(job, models, manifest["execution"], inputs, seconds)
            heat = {"temperature_c": [before, temperature_c()], "throttled": throttling() != slowed}
            yield _append(results, [dict(record, job=number, **heat, **crowd(load, ticks())) for record in records])
            used_s += sum(r.get("seconds", 0) for r in records) if number in capped else 0
    for number in manifest.get("answers", []):
        yield _append(results, [answer(folder, manifest, number, inputs, Path(f"{results.stem}-{number}.npz"))])
    yield _append(results, [{"record": "end", "stopped": stopped}])


def answer(folder: Path, manifest: Record, number: int, inputs: Record, outputs: Path) -> Record:
    """Run a model on every batch of `inputs`, (batches, *shape) each, and write what it computes here to `outputs`."""
    try:
        session = open_session(_checked(folder, manifest["models"][str(number)]), manifest["execution"])
        count = min(len(batches) for batches in inputs.values())
        results = [session.run(None, {name: inputs[name][i] for name in inputs}) for i in range(count)]
        np.savez(str(folder / outputs), *[np.stack([batch[k] for batch in results]) for k in range(len(results[0]))])
    except Exception as error:  # as in `_opened`
        return {"record": "failed", "job": 0, "model": number, "error": " ".join(str(error).split())[:300]}
    names = [output.name for output in session.get_outputs()]
    return {"record": "answered", "model": number, "file": outputs.name, "names": names}


def _resume(results: Path, manifest: Record) -> list[Record]:
    """Records of an earlier run; a torn last line is cut off. A new file begins with the manifest."""
    data = results.read_bytes() if results.exists() else b""
    complete = data.rfind(b"\n") + 1
    wrong = f"{results.name}, line %d, is damaged: move the file away"
    records = [_object(line, None, wrong % n) for n, line in enumerate(data[:complete].splitlines(), 1)]
    if records and records[0] != {"record": "manifest", "manifest": manifest}:
        raise ValueError(f"{results} holds results of something else")
    if data:
        os.truncate(str(results), complete)
    return records or _append(results, [{"record": "manifest", "manifest": manifest}])


def _object(text: bytes, fields: Optional[str], otherwise: str) -> Record:
    """A JSON object with these fields, or those of its kind of record. Raises ValueError(otherwise)."""
    try:
        read: Record = json.loads(text)
        for field in (FIELDS.get(read["record"], "manifest") if fields is None else fields).split():
            read[field]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ValueError(otherwise) from None
    return read


def _append(results: Path, records: list[Record]) -> list[Record]:
    """Add lines in one write; when this returns they are on the disk."""
    with results.open("ab") as file:
        file.write(b"".join(json.dumps(r, separators=(",", ":")).encode() + b"\n" for r in records))
        file.flush()
        os.fsync(file.fileno())
    return records


def _checked(folder: Path, model: Record) -> Path:
    """The path of a model's file, once its content is what the manifest says."""
    path: Path = folder / model["file"]
    if hashlib.sha256(path.read_bytes()).hexdigest() != model["sha256"]:
        raise ValueError(f"{path.name} is damaged: copy it again")
    return path


@contextmanager
def alone(results: Path, gone: threading.Event) -> Iterator[None]:
    """Wait until no other agent works on the same results: one whose connection was cut finishes its job first."""
    with Path(f"{results}.lock").open("ab") as lock:
        while os.name != "nt":
            import fcntl

            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if gone.wait(0.2):
                    raise OSError("nobody listens any more") from None
        yield


def _beat(over: threading.Event) -> None:
    """A sign of life in an empty line now and then, so that whoever listens can tell work from a dead connection."""
    while not over.wait(HEARTBEAT_S):
        try:
            with _speaking:
                os.write(1, b"\n")
        except OSError:
            over.set()


def main() -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(description="Measures ONNX models on this device; killed, it goes on next time.")
    parser.add_argument("manifest", type=Path, nargs="?", help="what to measure")
    parser.add_argument("results", type=Path, nargs="?", help="JSON lines are appended to it")
    parser.add_argument("--shard", type=int, help="measure this share only, counted from 1")
    parser.add_argument("--stream", action="store_true", help="write the records to stdout too; stop when nobody reads")
    parser.add_argument("--describe", action="store_true", help="only tell what device this is")
    options = parser.parse_args()
    gone = threading.Event()
    if options.stream or options.describe:
        threading.Thread(target=_beat, args=(gone,), daemon=True).start()
    if options.describe:
        sys.stdout.write(json.dumps(environment()) + "\n")
        return 0
    if not options.manifest or not options.results:
        parser.error("name a manifest and a file for the results")
    try:
        with alone(options.results, gone):
            listen(options.manifest, options.results, options.shard, options.stream, gone)
    except (OSError, ValueError) as error:
        # Names in a manifest or in what a library raises neither steer a terminal nor command a CI system.
        line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(error)).replace("##", "#\\x23")
        sys.stderr.write(f"error: {line}\n")
        return 2
    return 0


def listen(path: Path, results: Path, shard: Optional[int], stream: bool, gone: threading.Event) -> None:
    """Work, and tell whoever listens; stop when those who should listen are gone."""
    manifest = _object(path.read_bytes(), PARTS, f"{path.name} is no manifest, or damaged: copy it again")
    if manifest["schema"] != SCHEMA:
        raise ValueError(f"{path.name} has format {manifest['schema']}, and this agent.py reads {SCHEMA}: copy both")
    for name in [manifest["inputs"], *(model["file"] for model in manifest["models"].values())]:
        if name == ".." or Path(name).name != name:
            raise ValueError(f"the manifest names '{name}', which is no file beside it")
    done, total = 0, sum(len(j["models"]) for j in manifest["jobs"] if shard is None or j["shard"] in (None, shard))
    for records in work(path.resolve().parent, manifest, results, shard):
        new = sum(record["record"] in ("measured", "failed") for record in records)
        done += new
        if stream:
            with _speaking:
                sys.stdout.write("".join(json.dumps(record) + "\n" for record in records))
                sys.stdout.flush()
        elif new:
            sys.stderr.write(f"{done} of {total} measured\n")
        if gone.is_set():
            return


if __name__ == "__main__":
    sys.exit(main())
