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
from functools import partial
from math import prod
from pathlib import Path
from typing import Any, Protocol

from netadapt_onnx.errors import NetadaptError

# Counters tick every millisecond or so, sensors are slower: shorter loops would measure the ticks.
LEAST_S = 1.0
# How often power is sampled that has no counter of its own.
SAMPLING_S = 0.02
# No machine that runs one model draws more: a counter that says so jumped.
MOST_W = 1e5
Clock = Callable[[], float]


class Meter(Protocol):
    """A counter of energy."""

    name: str

    @contextmanager
    def counting(self) -> Iterator[Callable[[], float]]:
        """Give a function, within the context, that returns the joules since its beginning."""


class Rapl:
    """Intel's and AMD's counters per processor package (Linux powercap)."""

    name = "RAPL"

    def __init__(self, zones: list[Path]) -> None:
        self._zones = zones

    @contextmanager
    def counting(self) -> Iterator[Callable[[], float]]:
        """Count by the counters, which wrap around after some minutes: read more often than that."""
        last = [_number(zone / "energy_uj") for zone in self._zones]
        ranges = [_number(zone / "max_energy_range_uj") for zone in self._zones]
        total = [0.0]

        def joules() -> float:
            for i, zone in enumerate(self._zones):
                now = _number(zone / "energy_uj")
                total[0] += (now - last[i] if now >= last[i] else now + ranges[i] - last[i]) / 1e6
                last[i] = now
            return total[0]

        yield joules


class Power:
    """A sensor of power, sampled in a thread and summed to energy by the trapezoid rule."""

    def __init__(self, name: str, watts: Callable[[], float], clock: Clock = time.perf_counter) -> None:
        self.name = name
        self._watts = watts
        self._clock = clock

    @contextmanager
    def counting(self) -> Iterator[Callable[[], float]]:
        """Sample the power every 20 ms, and whenever the energy is asked for."""
        lock = threading.Lock()
        state = [self._clock(), self._watts(), 0.0]

        def joules() -> float:
            with lock:
                now, watts = self._clock(), self._watts()
                state[2] += (now - state[0]) * (watts + state[1]) / 2
                state[0], state[1] = now, watts
                return state[2]

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
        raise NetadaptError(
            f"energy is unmeasurable: {file} may not be read",
            hint="run as root, or `chmod a+r` it",
            code="unmeasurable",
        )
    raise NetadaptError(
        "energy is unmeasurable: neither RAPL counters nor power sensors here",
        hint="an external meter fits in with --resource-command",
        code="unmeasurable",
    )


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
        raise NetadaptError(f"energy is unmeasurable: {meter.name} stood still for a loop", code="unmeasurable")
    if not joules_used < MOST_W * lasted_s:
        raise NetadaptError(
            f"energy is unmeasurable: {meter.name} counted {joules_used:.3g} J in {lasted_s:.3g} s",
            hint="no machine draws that much",
            code="unmeasurable",
        )
    return 1000 * joules_used / runs


def _sensors(root: Path) -> list[Callable[[], float]]:
    """The sensors of a board's supply, in watts; of Jetsons those of the whole board.

    They are hwmon's power in uW, or its volts (mV) times amperes (mA). Rails below the board's input (`VDD_IN`,
    `POM_5V_IN`) are parts of it, so they are left out where it has a sensor.
    """
    rails: dict[str, Callable[[], float]] = {}
    for hwmon in sorted(root.glob("sys/class/hwmon/hwmon*")):
        if not _text(hwmon / "name").startswith(("ina", "power")):
            continue
        powers = sorted(hwmon.glob("power*_input"))
        for file in powers:
            rails[_label(hwmon, file, file)] = partial(_product, [file], 1e6)
        for current in [] if powers else sorted(hwmon.glob("curr*_input")):
            volts = hwmon / current.name.replace("curr", "in")
            if volts.exists():
                rails[_label(hwmon, volts, current)] = partial(_product, [current, volts], 1e6)
    inputs = [watts for label, watts in rails.items() if label.upper().endswith("_IN")]
    return inputs[:1] or list(rails.values())


def _label(hwmon: Path, file: Path, otherwise: Path) -> str:
    return _text(hwmon / file.name.replace("_input", "_label")) or f"{hwmon.name}/{otherwise.name}"


def _product(files: list[Path], divisor: float) -> float:
    return prod(map(_number, files)) / divisor


def _nvml() -> Meter:
    if importlib.util.find_spec("pynvml") is None:
        raise NetadaptError(
            "energy is unmeasurable: the package 'nvidia-ml-py' is missing",
            hint="pip install nvidia-ml-py",
            code="unmeasurable",
        )
    import pynvml

    try:
        pynvml.nvmlInit()
        gpu: Any = pynvml.nvmlDeviceGetHandleByIndex(0)
        pynvml.nvmlDeviceGetPowerUsage(gpu)
    except pynvml.NVMLError as error:
        raise NetadaptError(f"energy is unmeasurable: NVML says {error}", code="unmeasurable") from error
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
        raise NetadaptError(f"energy is unmeasurable: {file} cannot be read", code="unmeasurable") from error
    if not math.isfinite(number):
        raise NetadaptError(f"energy is unmeasurable: {file} says {number}", code="unmeasurable")
    return number


def _text(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""
