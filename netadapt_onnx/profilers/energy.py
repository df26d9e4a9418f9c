"""Energy of one run, in mJ, where a device can measure it: RAPL counters, power sensors of boards, NVIDIA's GPUs.

It is what a device draws while a model runs over and over, its idle share included: what a battery pays.
"""

from __future__ import annotations

import importlib.util
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

from netadapt_onnx.errors import NetadaptError

# Counters tick every millisecond or so, sensors are slower: shorter loops would measure the ticks.
LEAST_S = 1.0
# How often power is sampled that has no counter of its own.
SAMPLING_S = 0.02
# No machine that runs one model draws more: a counter that says so jumped.
MOST_W = 1e5
Clock = Callable[[], float]


@dataclass(frozen=True)
class Rapl:
    """Intel's and AMD's counters per processor package (Linux powercap)."""

    zones: list[Path]
    name: str = "RAPL"

    @contextmanager
    def counting(self) -> Iterator[Callable[[], float]]:
        """Give a function that returns the joules since the beginning of the context.

        Its counters wrap around after some minutes: read more often than that.
        """
        last = {zone: _number(zone / "energy_uj") for zone in self.zones}
        ranges = {zone: _number(zone / "max_energy_range_uj") for zone in self.zones}
        total = 0.0

        def joules() -> float:
            nonlocal total
            for zone, before in last.items():
                last[zone] = now = _number(zone / "energy_uj")
                total += (now - before if now >= before else now + ranges[zone] - before) / 1e6
            return total

        yield joules


@dataclass(frozen=True)
class Power:
    """A sensor of power, sampled in a thread and summed to energy by the trapezoid rule."""

    name: str
    watts: Callable[[], float]
    clock: Clock = time.perf_counter

    @contextmanager
    def counting(self) -> Iterator[Callable[[], float]]:
        """Give a function that returns the joules since the beginning of the context.

        The power is sampled every 20 ms, and whenever the energy is asked for.
        """
        lock = threading.Lock()
        last, last_w, total = self.clock(), self.watts(), 0.0

        def joules() -> float:
            nonlocal last, last_w, total
            with lock:
                now, watts = self.clock(), self.watts()
                total += (now - last) * (watts + last_w) / 2
                last, last_w = now, watts
                return total

        over = threading.Event()

        def sample() -> None:
            while not over.wait(SAMPLING_S):
                joules()

        thread = threading.Thread(target=sample, daemon=True)
        thread.start()
        try:
            yield joules
        finally:
            over.set()
            thread.join()


# A counter of energy.
Meter = Rapl | Power


def meter(ep: str = "cpu", root: Path = Path("/")) -> Meter:
    """Find what measures energy on this machine; for a GPU's provider the GPU's own.

    Args:
        ep: the short name of the execution provider.
        root: the root of the file system.

    Raises:
        NetadaptError: with the code `unmeasurable`: there is no meter, or it may not be read.
    """
    if ep in ("cuda", "tensorrt"):
        return _nvml()
    zones = [z for z in sorted(root.glob("sys/class/powercap/intel-rapl:*")) if z.name.count(":") == 1]
    unreadable = [zone for zone in zones if not _readable(zone / "energy_uj")]
    if zones and not unreadable:
        return Rapl(zones)
    sensors = _sensors(root)
    if sensors:
        return Power("hwmon", lambda: sum(sensor() for sensor in sensors))
    if unreadable:
        file = unreadable[0] / "energy_uj"
        raise _unmeasurable(f"{file} may not be read", "run as root, or `chmod a+r` it")
    hint = "an external meter fits in with --resource-command"
    raise _unmeasurable("neither RAPL counters nor power sensors here", hint)


def energy_mj(
    call: Callable[[], object], meter: Meter, seconds: float = LEAST_S, clock: Clock = time.perf_counter
) -> float:
    """Measure the millijoules of one call, over a loop of at least a second.

    Raises NetadaptError (code `unmeasurable`) if the meter did not move, or jumped.
    """
    call()
    with meter.counting() as joules:
        started, before, runs = clock(), joules(), 0
        while clock() - started < max(LEAST_S, seconds):
            call()
            runs += 1
        joules_used = joules() - before
        lasted_s = clock() - started
    if not joules_used > 0:
        raise _unmeasurable(f"{meter.name} stood still for a loop")
    if not joules_used < MOST_W * lasted_s:
        counted = f"{meter.name} counted {joules_used:.3g} J in {lasted_s:.3g} s"
        raise _unmeasurable(counted, "no machine draws that much")
    return 1000 * joules_used / runs


def _unmeasurable(why: str, hint: str = "") -> NetadaptError:
    return NetadaptError(f"energy is unmeasurable: {why}", hint=hint, code="unmeasurable")


def _sensors(root: Path) -> list[Callable[[], float]]:
    """The sensors of a board's supply, in watts; of Jetsons those of the whole board.

    They are hwmon's power in uW, or its volts (mV) times amperes (mA). Rails below the board's input (`VDD_IN`,
    `POM_5V_IN`) are parts of it, so they are left out where it has a sensor.
    """
    rails: dict[str, Callable[[], float]] = {}
    for hwmon in sorted(root.glob("sys/class/hwmon/hwmon*")):
        if not _text(hwmon / "name").startswith(("ina", "power")):
            continue
        powers: list[tuple[Path, ...]] = [(file,) for file in sorted(hwmon.glob("power*_input"))]
        currents = ((file, hwmon / file.name.replace("curr", "in")) for file in sorted(hwmon.glob("curr*_input")))
        for files in powers or [(amperes, volts) for amperes, volts in currents if volts.exists()]:
            label = _text(hwmon / files[-1].name.replace("_input", "_label"))
            rails[label or f"{hwmon.name}/{files[0].name}"] = partial(_watts, *files)
    inputs = [watts for label, watts in rails.items() if label.upper().endswith("_IN")]
    return inputs[:1] or list(rails.values())


def _watts(*files: Path) -> float:
    return prod(map(_number, files)) / 1e6


def _nvml() -> Meter:
    if importlib.util.find_spec("pynvml") is None:
        raise _unmeasurable("the package 'nvidia-ml-py' is missing", "pip install nvidia-ml-py")
    import pynvml

    try:
        pynvml.nvmlInit()
        gpu: Any = pynvml.nvmlDeviceGetHandleByIndex(0)
        pynvml.nvmlDeviceGetPowerUsage(gpu)
    except pynvml.NVMLError as error:
        raise _unmeasurable(f"NVML says {error}") from error
    return Power("NVML", lambda: float(pynvml.nvmlDeviceGetPowerUsage(gpu)) / 1000)


def _readable(file: Path) -> bool:
    try:
        _number(file)
    except NetadaptError:
        return False
    return True


def _number(file: Path) -> float:
    try:
        number = float(file.read_text())
    except (OSError, ValueError) as error:
        raise _unmeasurable(f"{file} cannot be read") from error
    if not math.isfinite(number):
        raise _unmeasurable(f"{file} says {number}")
    return number


def _text(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""
