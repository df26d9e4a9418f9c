"""`adb://SERIAL`: an Android device, reached through adb; the system's own, or that of the `adb` extra."""

from __future__ import annotations

import importlib.util
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.profilers.devices.shell import Shell

URL = re.compile(r"adb://(?P<serial>[\w.][\w.:-]*)?")
# Where every Android lets the shell's user write and execute.
FOLDER = "/data/local/tmp/netadapt-onnx"


class AdbShell(Shell):
    """An Android device's shell; `adb://` alone is the only device.

    Raises NetadaptError for no such URL, or without adb.
    """

    FINAL = re.compile(
        r"device unauthorized.*|device '[^']*' not found|no devices/emulators found|more than one device.*"
        r"|cannot connect to daemon.*"
    )

    def __init__(self, url: str, token: str) -> None:
        match = URL.fullmatch(url)
        if match is None:
            raise NetadaptError(f"device '{url}' is not adb://SERIAL", hint="`adb devices` lists them", code="usage")
        super().__init__(url, f"{FOLDER}/{token}")
        self._adb = [adb_program(), *(["-s", match["serial"]] if match["serial"] else [])]

    def argv(self, command: str) -> list[str]:
        """The program's arguments: one word, which the device's shell reads; nothing is read from this machine."""
        return [*self._adb, "shell", "-n", "-T", command]

    def push_argv(self, files: Sequence[Path]) -> list[str]:
        """The arguments of `adb push`."""
        return [*self._adb, "push", *map(str, files), f"{self.folder}/"]

    def pull_argv(self, name: str, target: Path) -> list[str]:
        """The arguments of `adb pull`."""
        return [*self._adb, "pull", f"{self.folder}/{name}", str(target)]

    def broken(self, code: int, error: str) -> bool:
        """Adb passes the device's exit codes on; its own failures begin with its name, or with 'error:'."""
        pattern = r"^(error|adb)(\.exe)?: .*(device|closed|protocol fault|connect|emulators|transport|EOF|read|offline)"
        return bool(code and re.search(pattern, error, re.M | re.I)) and "No such file" not in error


def adb_program() -> str:
    """Find adb: the system's, or that which the package adbutils brings. Raises NetadaptError without either."""
    path = shutil.which("adb")
    if path is not None:
        return path
    if importlib.util.find_spec("adbutils") is None:
        raise NetadaptError(
            "adb is not installed here", hint="install it, or pip install 'netadapt-onnx[adb]'", code="missing-program"
        )
    import adbutils

    return str(adbutils.adb_path())
