"""A small server of the ADB protocol with one device, SERIAL, whose shell and files are those of this machine.

    python adb_server.py FOLDER

prints its port. /data/local/tmp of the device is `FOLDER/device`. `FOLDER/offline` holds how many of the next services
are refused. It knows what adb needs for `shell` (v2, with exit codes), `push` and `pull` (sync v1).
"""

from __future__ import annotations

import os
import socketserver
import struct
import subprocess
import sys
import threading
from pathlib import Path

SERIAL = "emulated-5"
VERSION = 41  # of the protocol between client and server, up to now
OKAY = b"OKAY"


class AdbServer:
    """The server from a test's side."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.device = folder / "device"
        self.device.mkdir()
        self.refuse(0)
        self._process = subprocess.Popen([sys.executable, __file__, str(folder)], stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())

    @property
    def commands(self) -> list[str]:
        return (self._folder / "commands").read_text().splitlines()

    def refuse(self, times: int) -> None:
        """Be offline for the next services."""
        (self._folder / "offline").write_text(str(times))

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()


def receive(file: object, size: int) -> bytes:
    data: bytes = file.read(size)  # type: ignore[attr-defined]
    if len(data) < size:
        raise EOFError
    return data


class Client(socketserver.StreamRequestHandler):
    """One connection: requests of four hexadecimal digits and so many bytes."""

    folder: Path
    lock = threading.Lock()

    def handle(self) -> None:
        try:
            while True:
                request = receive(self.rfile, int(receive(self.rfile, 4), 16)).decode()
                if not self.answer(request):
                    return
        except (EOFError, ValueError, OSError):
            return

    def answer(self, request: str) -> bool:
        """Whether another request may follow."""
        if request == "host:version":
            self.text(f"{VERSION:04x}")
        elif request.endswith("features"):
            self.text("shell_v2,cmd")
        elif request.startswith(("host:tport:", "host:transport")):
            if request.startswith("host:tport:serial:") and not request.endswith(SERIAL):
                self.fail(f"device '{request.rpartition(':')[2]}' not found")
                return False
            self.wfile.write(OKAY + (struct.pack("<Q", 1) if "tport" in request else b""))
            return True
        elif self.offline():
            self.fail("device offline")
        elif request.startswith("shell,v2"):
            self.shell(request.partition(":")[2])
        elif request == "sync:":
            self.wfile.write(OKAY)
            while self.sync():
                pass
        else:
            self.fail(f"unknown service {request}")
        return False

    def offline(self) -> bool:
        with self.lock:
            countdown = int((self.folder / "offline").read_text())
            (self.folder / "offline").write_text(str(max(0, countdown - 1)))
            return countdown > 0

    def text(self, text: str) -> None:
        self.wfile.write(OKAY + f"{len(text):04x}".encode() + text.encode())

    def fail(self, reason: str) -> None:
        self.wfile.write(b"FAIL" + f"{len(reason):04x}".encode() + reason.encode())

    def local(self, path: str) -> str:
        return path.replace("/data/local/tmp", str(self.folder / "device"))

    def shell(self, command: str) -> None:
        self.wfile.write(OKAY)
        with self.lock, (self.folder / "commands").open("a") as file:
            file.write(command + "\n")
        if command.startswith("getprop"):
            command = "echo Emulated"
        child = subprocess.Popen(
            ["sh", "-c", self.local(command)],
            cwd=self.folder / "device",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        pumps = [
            threading.Thread(target=self.pump, args=(1, child.stdout)),
            threading.Thread(target=self.pump, args=(2, child.stderr)),
        ]
        for pump in pumps:
            pump.start()
        for pump in pumps:
            pump.join()
        code = child.wait()
        self.packet(3, bytes([code if code >= 0 else 128 - code]))

    def pump(self, kind: int, stream: object) -> None:
        while data := os.read(stream.fileno(), 65536):  # type: ignore[attr-defined]
            self.packet(kind, data)

    def packet(self, kind: int, data: bytes) -> None:
        self.wfile.write(struct.pack("<BI", kind, len(data)) + data)
        self.wfile.flush()

    def sync(self) -> bool:
        """One request of the sync service; False when it is over."""
        kind, size = struct.unpack("<4sI", receive(self.rfile, 8))
        if kind == b"QUIT":
            return False
        path = self.local(receive(self.rfile, size).decode())
        if kind == b"STAT":
            status = Path(path).stat() if Path(path).exists() else None
            numbers = (status.st_mode, status.st_size, int(status.st_mtime)) if status else (0, 0, 0)
            self.wfile.write(b"STAT" + struct.pack("<III", *numbers))
        elif kind == b"SEND":
            self.write(path.rpartition(",")[0])
        elif kind == b"RECV":
            self.read(path)
        return True

    def write(self, path: str) -> None:
        with Path(path).open("wb") as file:
            while True:
                kind, size = struct.unpack("<4sI", receive(self.rfile, 8))
                if kind == b"DONE":
                    break
                file.write(receive(self.rfile, size))
        self.wfile.write(OKAY + struct.pack("<I", 0))

    def read(self, path: str) -> None:
        if not Path(path).exists():
            self.wfile.write(b"FAIL" + struct.pack("<I", 25) + b"No such file or directory")
            return
        with Path(path).open("rb") as file:
            while data := file.read(65536):
                self.wfile.write(b"DATA" + struct.pack("<I", len(data)) + data)
        self.wfile.write(b"DONE" + struct.pack("<I", 0))


class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True


if __name__ == "__main__":
    Client.folder = Path(sys.argv[1])
    for port in range(21037, 21237):  # far from 5555-5585, which every adb server takes for emulators
        try:
            server = Server(("127.0.0.1", port), Client)
            break
        except OSError:
            continue
    sys.stdout.write(f"{port}\n")
    sys.stdout.flush()
    server.serve_forever()
