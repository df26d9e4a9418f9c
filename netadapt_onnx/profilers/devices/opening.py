"""Opens a device by its name: `local`, `ssh://[user@]host[:port]` or `adb://SERIAL`."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from netadapt_onnx.common.progress import stage
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.profilers.device import Device
from netadapt_onnx.profilers.devices.adb import AdbShell
from netadapt_onnx.profilers.devices.local import LocalDevice
from netadapt_onnx.profilers.devices.perf_test import PerfTestDevice
from netadapt_onnx.profilers.devices.remote import RemoteDevice
from netadapt_onnx.profilers.devices.shell import Shell
from netadapt_onnx.profilers.devices.ssh import SshShell

LOCAL = "local"
# A device that is only measured by hand: it cannot be opened.
BUNDLE = "bundle"


@contextmanager
def open_device(
    device: str | Device = LOCAL,
    *,
    purpose: str | os.PathLike[str] = "",
    python: str = "python3",
    keep: bool = False,
    perf_test: Path | None = None,
    log: Callable[[str], None] | None = None,
) -> Iterator[Device]:
    """Open a device by its name and leave it as it was before; a caller's own device is used as it is.

    Args:
        device: its name, or the device itself.
        purpose: the path that the measurements are for. The folder on the device follows from it, so that after a kill
            the same command continues and removes what it left there.
        python: the interpreter on the device.
        keep: whether the files stay there.
        perf_test: an `onnxruntime_perf_test` built for a device without Python.
        log: called when the connection is interrupted.

    Raises:
        NetadaptError: no device has this name.
    """
    if not isinstance(device, str):
        yield device
        return
    origin = f"{platform.node()}:{Path(purpose).absolute()}".encode(errors="surrogateescape")
    token = hashlib.sha256(origin).hexdigest()[:16]
    opened: Device = LocalDevice() if device == LOCAL else _reach(device, token, python, keep, perf_test, log)
    with closing(opened):
        yield opened


@stage("reaching the device")
def _reach(
    name: str, token: str, python: str, keep: bool, perf_test: Path | None, log: Callable[[str], None] | None
) -> Device:
    if name.startswith("ssh://"):
        shell: Shell = SshShell(name, token)
    elif name.startswith("adb://"):
        shell = AdbShell(name, token)
    else:
        raise NetadaptError(f"no device '{name}'", hint="local, ssh://[user@]host[:port] or adb://SERIAL", code="usage")
    if perf_test is not None:
        return PerfTestDevice(shell, perf_test, keep=keep, log=log)
    return RemoteDevice(shell, python=python, keep=keep, log=log)
