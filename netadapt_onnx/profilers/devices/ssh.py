"""`ssh://[user@]host[:port]`: through the system's ssh and scp, with the user's config, keys, agents and jump hosts."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.profilers.devices.shell import Shell, program

URL = re.compile(r"ssh://(?:(?P<user>[\w.][\w.-]*)@)?(?P<host>[\w.][\w.-]*|\[[0-9a-fA-F:.%]+\])(?::(?P<port>\d+))?/?")
# No prompts, and a connection that is dead is noticed.
OPTIONS = ("BatchMode=yes", "ConnectTimeout=20", "ServerAliveInterval=10", "ServerAliveCountMax=3")
# More options for ssh and scp, as in "-F config -i key"; for whom ~/.ssh/config does not do.
VARIABLE = "NETADAPT_SSH_OPTIONS"


class SshShell(Shell):
    """A host's shell by ssh; the folder lies in the user's home there. Raises NetadaptError for what is no such URL."""

    FINAL = re.compile(
        r"Host key verification failed|Permission denied \([^)]*\)|Could not resolve hostname.*|Bad configuration.*"
    )

    def __init__(self, url: str, token: str) -> None:
        match = URL.fullmatch(url)
        if match is None:
            raise NetadaptError(f"device '{url}' is not ssh://[user@]host[:port]", code="usage")
        super().__init__(url, f".cache/netadapt-onnx/{token}")
        user, host, self._port = match["user"], match["host"], match["port"]
        self._login = f"{user}@{host.strip('[]')}" if user else host.strip("[]")
        self._target = f"{user}@{host}" if user else host
        self._options = [word for option in OPTIONS for word in ("-o", option)]
        self._options += shlex.split(os.environ.get(VARIABLE, ""))

    def argv(self, command: str) -> list[str]:
        """The arguments of ssh, without a terminal: what the command writes comes as it is."""
        port = ["-p", self._port] if self._port else []
        return [program("ssh"), "-T", *self._options, *port, "--", self._login, command]

    def push_argv(self, files: Sequence[Path]) -> list[str]:
        """The arguments of scp, in batch mode."""
        return [*self._scp(), *map(str, files), f"{self._target}:{self.folder}/"]

    def pull_argv(self, name: str, target: Path) -> list[str]:
        """The arguments of scp, in batch mode."""
        return [*self._scp(), f"{self._target}:{self.folder}/{name}", str(target)]

    def _scp(self) -> list[str]:
        port = ["-P", self._port] if self._port else []
        return [program("scp"), "-q", "-B", *self._options, *port, "--"]

    def broken(self, code: int, error: str) -> bool:
        """255 is ssh's own code; scp passes it on, or exits with 1 and writes that it lost the connection."""
        return code == 255 or bool(code and re.search(r"[Cc]onnection (closed|reset|lost)|lost connection", error))
