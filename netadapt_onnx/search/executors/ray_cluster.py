"""Jobs as Ray tasks: on a cluster of machines, or on a Ray instance of our own on this one.

All that a job needs travels through Ray's object store, and what it makes comes back the same way: machines share no
files. They do need this package, in the same version.
"""

from __future__ import annotations

import os
import pickle
import re
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any

from netadapt_onnx._version import __version__
from netadapt_onnx.common.child_process import ONE_THREAD, packed
from netadapt_onnx.errors import NetadaptError, one_line
from netadapt_onnx.search.executors.dispatch import Dispatcher
from netadapt_onnx.search.executors.local import GPU_VARIABLE
from netadapt_onnx.search.executors.protocol import (
    Failed,
    Finished,
    Outcome,
    Request,
    Shared,
    Work,
    WorkerInfo,
    perform,
)

KNOCK_S = 10.0
# What a Ray worker process keeps of the values that jobs share.
_KEPT: dict[str, Any] = {}


def _task(version: str, message: bytes, references: dict[str, Any]) -> Iterator[bytes]:
    """One job on whichever machine: that it began, then its outcome.

    `references` to what the values are packed into are opened where they are new.
    """
    import ray

    if version != __version__:
        yield b"began"
        yield packed(Failed(f"a node has netadapt-onnx {__version__}, not {version}", "install the same on all nodes"))
        return
    try:
        work, request = pickle.loads(message)
        for key, reference in references.items():
            if key not in _KEPT:
                _KEPT[key] = pickle.loads(ray.get(reference))
    except Exception as error:  # a module that only the driver has, say
        yield b"began"
        yield packed(Failed(f"a node cannot read its job: {one_line(error)}", repr(error)))
        return
    for key in _KEPT.keys() - references.keys():
        del _KEPT[key]
    yield b"began"
    yield packed(perform(work, WorkerInfo(threads=1), [_KEPT[key] for key in references], request))


def _knock(address: str) -> None:
    """Raise OSError if nobody listens at HOST:PORT; Ray itself would try for ten minutes."""
    found = re.fullmatch(r"(?:ray://)?\[?([\w.:-]+?)\]?:([0-9]{1,5})", address)
    if found is not None:
        socket.create_connection((found[1], int(found[2])), KNOCK_S).close()


class _Claim:
    """A slot: one core of the cluster (and one GPU, if jobs take one), wherever Ray finds it."""

    def __init__(self, remote: Any, references: dict[str, Any]) -> None:
        self._remote = remote
        self._references = references
        self._answers: Any = None

    def do(self, work: Work, shared: Sequence[Shared], request: Request, began: Callable[[], None]) -> Outcome:
        import ray

        wanted = {one.key: self._references[one.key] for one in shared}
        self._answers = self._remote.remote(__version__, packed((work, request)), wanted)
        try:
            ray.get(next(self._answers))
            began()
            answer: Outcome = pickle.loads(ray.get(next(self._answers)))
        except ray.exceptions.RayError as error:
            # A node that went, or a worker that died: Ray cannot always tell which, so each is tried again.
            return Failed(f"its worker died: {one_line(error)}", f"{type(error).__name__}: {error}\n", machine=True)
        return answer

    def abandon(self) -> None:
        import ray

        if self._answers is not None and ray.is_initialized():
            ray.cancel(self._answers, force=True)


class RayTasks:
    """`address`: a cluster's; None starts Ray on this machine, with `cores` workers, or one for each of `gpus`.

    With any `gpus` each job claims one; which, a cluster says itself.
    """

    apart = True

    def __init__(self, address: str | None, cores: int, timeout_s: float, gpus: Sequence[str] = ()) -> None:
        self._address = address
        self._cores = cores
        self._gpus = tuple(gpus)
        self.gpus = bool(gpus)
        self._references: dict[str, Any] = {}
        self._remote: Any = None
        self._ours = False
        self._dispatcher = Dispatcher(lambda _: _Claim(self._remote, self._references), timeout_s)

    def run(
        self,
        work: Work,
        shared: Sequence[Shared],
        requests: Sequence[Request],
        finished: Finished,
        *,
        threaded: bool = False,
    ) -> list[Outcome]:
        """See `Executor`. Tasks have one thread each, whatever the work would like."""
        import ray

        if self._remote is None:
            self._connect()
        kept = {one.key: self._references.get(one.key) or ray.put(one.packed) for one in shared}
        self._references.clear()
        self._references |= kept
        return self._dispatcher.run(work, shared, requests, finished, places=self._places())

    def _places(self) -> int:
        """Jobs that the cluster can run at the same time, as it is now."""
        import ray

        there = ray.cluster_resources()
        return max(1, int(min(there.get("CPU", 1), there.get("GPU", 1) if self._gpus else float("inf"))))

    def _connect(self) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        # What Ray 2.60 announces as a coming default; without it the variable is emptied for jobs that claim no GPU.
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        import ray

        if not ray.is_initialized():
            variables = dict(ONE_THREAD)
            if self._address is None:  # our own modules are found there as they are here
                variables["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
            options = {"log_to_driver": False, "runtime_env": {"env_vars": variables}, "logging_level": "error"}
            try:
                if self._address is None:
                    if self._gpus:
                        os.environ[GPU_VARIABLE] = ",".join(self._gpus)
                    ray.init(
                        "local",
                        num_cpus=len(self._gpus) or self._cores,
                        num_gpus=len(self._gpus),
                        include_dashboard=False,
                        **options,
                    )
                else:
                    _knock(self._address)
                    ray.init(self._address, **options)
            except (OSError, ValueError, RuntimeError) as error:
                raise NetadaptError(
                    f"--executor ray:{self._address or ''}: {one_line(error)}",
                    hint="start a cluster with `ray start --head`, or leave the address out",
                    code="unreachable",
                ) from error
            self._ours = True
        if self._gpus and not ray.cluster_resources().get("GPU"):
            self.__exit__(None, None, None)
            raise NetadaptError("--gpus: the Ray cluster has no GPU", hint="leave --gpus out", code="usage")
        # max_retries: our own loop tries again, alike for every executor.
        decorated = ray.remote(num_cpus=1, num_gpus=1 if self._gpus else 0, max_retries=0)
        self._remote = decorated(_task)

    def __enter__(self) -> RayTasks:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._dispatcher.close()
        self._references.clear()
        self._remote = None
        if self._ours:
            import ray

            ray.shutdown()
            self._ours = False
