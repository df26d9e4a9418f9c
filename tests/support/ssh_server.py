"""A real SSH server on the loopback: commands run in a shell of this machine, files go to a folder `home`.

    python ssh_server.py FOLDER

prints its port. `FOLDER/cuts` holds how many agents' connections are still to be cut while they work; `FOLDER/commands`
gets every command. It is a process of its own, so that killing it cuts all connections without a word.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any


class SshServer:
    """The server from a test's side. It accepts one key."""

    def __init__(self, folder: Path) -> None:
        import asyncssh

        self._folder = folder
        self.home = folder / "home"
        self.home.mkdir()
        for name in ("host", "client", "other"):
            key = asyncssh.generate_private_key("ssh-ed25519")
            key.write_private_key(str(folder / name))
            key.write_public_key(str(folder / f"{name}.pub"))
            (folder / name).chmod(0o600)
        self.cut(0)
        self._process = subprocess.Popen([sys.executable, __file__, str(folder)], stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())
        self.trust("host")

    def trust(self, name: str) -> None:
        """Which key the client believes is the host's."""
        public = (self._folder / f"{name}.pub").read_text()
        (self._folder / "known_hosts").write_text(f"[127.0.0.1]:{self.port} {public}")

    @property
    def url(self) -> str:
        return f"ssh://tester@127.0.0.1:{self.port}"

    @property
    def options(self) -> str:
        """What a test's client must know; the machine's own configuration is left out."""
        known_hosts = self._folder / "known_hosts"
        return f"-F none -i {self._folder / 'client'} -o IdentitiesOnly=yes -o UserKnownHostsFile={known_hosts}"

    @property
    def commands(self) -> list[str]:
        return (self._folder / "commands").read_text().splitlines()

    def cut(self, times: int) -> None:
        """Drop the connections of the next agents, this many times, while they work."""
        (self._folder / "cuts").write_text(str(times))

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()


async def serve(folder: Path) -> None:
    import asyncssh

    connections: list[Any] = []

    class Server(asyncssh.SSHServer):
        def connection_made(self, conn: Any) -> None:
            connections.append(conn)

    class Home(asyncssh.SFTPServer):
        def exit(self) -> None:
            self.channel.exit(0)  # which its base leaves out, and scp asks for

    async def run(process: Any) -> None:
        with (folder / "commands").open("a") as file:
            file.write(process.command + "\n")
        cuts = int((folder / "cuts").read_text())
        cut = "--stream" in process.command and cuts > 0
        if cut:
            (folder / "cuts").write_text(str(cuts - 1))
        child = await asyncio.create_subprocess_shell(
            process.command,
            cwd=folder / "home",
            env={**os.environ, "HOME": str(folder / "home")},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        with suppress(OSError, asyncssh.Error):  # nobody listens any more
            if cut:
                await child.stdout.read(1)  # it has begun to answer, and has not ended: nobody waits to read on
                for connection in connections:
                    connection.abort()
            await asyncio.gather(pump(child.stdout, process.stdout), pump(child.stderr, process.stderr))
            code = await child.wait()
            process.exit(code if code >= 0 else 128 - code)

    server = await asyncssh.create_server(
        Server,
        "127.0.0.1",
        0,
        server_host_keys=[str(folder / "host")],
        authorized_client_keys=str(folder / "client.pub"),
        process_factory=run,
        sftp_factory=lambda channel: Home(channel, chroot=str(folder / "home").encode()),
        encoding=None,
    )
    sys.stdout.write(f"{server.get_port()}\n")
    sys.stdout.flush()
    await server.wait_closed()


async def pump(source: Any, target: Any) -> None:
    while data := await source.read(65536):
        target.write(data)
        await target.drain()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1])))
