"""Jobs as Ray tasks: on a cluster of machines, or on a Ray instance of our own on this one.

All that a job needs travels through Ray's object store, and its files come back the same way: machines share no files.
They do need this package, in the same version.
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
    JobFailure,
    OnOutcome,
    Outcome,
    Request,
    Shared,
    Work,
    WorkerInfo,
    perform,
)

CONNECT_S = 10.0
# The shared values that a Ray worker process has, by key.
_VALUES: dict[str, Any] = {}


def _task(version: str, message: bytes, references: dict[str, Any]) -> Iterator[bytes]:
    """Do one job on any machine: it yields first that it has started, then the job's outcome.

    `references` are to the packed values; those that this process does not have yet are opened.
    """
    import ray

    if version != __version__:
        yield b"started"
        reason = f"a node has netadapt-onnx {__version__}, not {version}"
        yield packed(JobFailure(reason, "install the same on all nodes"))
        return
    try:
        work, request = pickle.loads(message)
        for key, reference in references.items():
            if key not in _VALUES:
                _VALUES[key] = pickle.loads(ray.get(reference))
    except Exception as error:  # a module, for instance, that only the driver has
        yield b"started"
        yield packed(JobFailure(f"a node cannot read its job: {one_line(error)}", repr(error)))
        return
    for key in _VALUES.keys() - references.keys():
        del _VALUES[key]
    yield b"started"
    yield packed(perform(work, WorkerInfo(threads=1), [_VALUES[key] for key in references], request))


def _check_reachable(address: str) -> None:
    """Raise OSError if nobody listens at HOST:PORT; Ray itself would try for ten minutes."""
    match = re.fullmatch(r"(?:ray://)?\[?([\w.:-]+?)\]?:([0-9]{1,5})", address)
    if match is not None:
        socket.create_connection((match[1], int(match[2])), CONNECT_S).close()


class _Claim:
    """A slot: one core of the cluster (and one GPU, if jobs take one), wherever Ray finds it."""

    def __init__(self, remote: Any, references: dict[str, Any]) -> None:
        self._remote = remote
        self._references = references
        self._answers: Any = None

    def do(self, work: Work, shared: Sequence[Shared], request: Request, on_start: Callable[[], None]) -> Outcome:
        import ray

        references = {one.key: self._references[one.key] for one in shared}
        self._answers = self._remote.remote(__version__, packed((work, request)), references)
        try:
            ray.get(next(self._answers))
            on_start()
            answer: Outcome = pickle.loads(ray.get(next(self._answers)))
        except ray.exceptions.RayError as error:
            # A node that left, or a worker that died: Ray cannot always tell which, so each is tried again.
            return JobFailure(f"its worker died: {one_line(error)}", f"{type(error).__name__}: {error}\n", machine=True)
        return answer

    def abandon(self) -> None:
        import ray

        if self._answers is not None and ray.is_initialized():
            ray.cancel(self._answers, force=True)


class RayTasks:
    """Jobs as tasks of a Ray cluster, or of a Ray instance on this machine.

    Where there are GPUs each job claims one; which one, a cluster decides itself.
    """

    apart = True

    def __init__(self, address: str | None, cores: int, timeout_s: float, gpus: Sequence[str] = ()) -> None:
        """Connect with the first job.

        Args:
            address: The cluster's address; None starts Ray on this machine.
            cores: The number of workers on this machine, unless there are GPUs.
            timeout_s: The seconds after which a job is abandoned.
            gpus: The GPUs of this machine, with a worker for each.
        """
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
        on_outcome: OnOutcome,
        *,
        threaded: bool = False,
    ) -> list[Outcome]:
        """See `Executor`. Tasks have one thread each, whatever the work would like."""
        import ray

        if self._remote is None:
            self._connect()
        references = {one.key: self._references.get(one.key) or ray.put(one.packed) for one in shared}
        self._references.clear()
        self._references |= references
        return self._dispatcher.run(work, shared, requests, on_outcome, slots=self._slots())

    def _slots(self) -> int:
        """Jobs that the cluster can run at the same time, as it is now."""
        import ray

        resources = ray.cluster_resources()
        return max(1, int(min(resources.get("CPU", 1), resources.get("GPU", 1) if self._gpus else float("inf"))))

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
                    _check_reachable(self._address)
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
