"""`--executor local[:N]|ray[:ADDRESS]` and `--gpus 0,2` as an executor."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.util import find_spec

from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.search.executors.in_process import InProcess
from netadapt_onnx.search.executors.local import LocalWorkers
from netadapt_onnx.search.executors.protocol import Executor
from netadapt_onnx.search.executors.ray_cluster import RayTasks

# Long enough for any proposal anybody waits for; short enough that a hung one is found before the next day.
JOB_TIMEOUT_S = 6 * 3600.0
_PACKAGES = {"local": ("loky", "adapt"), "ray": ("ray", "ray")}

Gpus = str | Sequence[int | str] | None


def opened_executor(
    executor: str | Executor, cores: int, gpus: Gpus = None, timeout_s: float = JOB_TIMEOUT_S
) -> Executor:
    """The executor of `--executor`, or the caller's own. Workers and clusters start with the first job.

    Args:
        executor: `local`, `local:N`, `ray`, `ray:ADDRESS`, or an executor.
        cores: The number of jobs at a time where nothing else limits it.
        gpus: The GPUs of `--gpus`, which workers get one each of.
        timeout_s: The seconds after which a job is abandoned.

    Raises:
        NetadaptError: There is no such executor, a package is missing, or there are not enough GPUs.
    """
    numbers = _gpus(gpus)
    if not isinstance(executor, str):
        if numbers:
            raise NetadaptError("--gpus is for the executors local and ray", code="usage")
        return executor
    if not timeout_s > 0:
        raise NetadaptError(f"--job-timeout {timeout_s:g}: above 0 seconds", code="usage")
    kind, _, rest = executor.partition(":")
    if kind not in _PACKAGES or (executor.endswith(":")):
        raise NetadaptError(
            f"--executor {executor}: not known", hint="local, local:N, ray or ray:ADDRESS", code="usage"
        )
    if kind == "ray":
        _require(kind)
        return RayTasks(rest or None, cores, timeout_s, numbers)
    if not rest and not numbers:
        return InProcess(cores, timeout_s)
    if rest and not re.fullmatch(r"[1-9][0-9]{0,3}", rest):
        raise NetadaptError(f"--executor {executor}: N is a number of worker processes", hint="local:2", code="usage")
    workers = int(rest) if rest else len(numbers)
    if numbers and workers > len(numbers):
        raise NetadaptError(
            f"--executor {executor}: {workers} workers cannot have a GPU each of --gpus {','.join(numbers)}",
            hint=f"local:{len(numbers)}, or just local",
            code="usage",
        )
    _require(kind)
    return LocalWorkers(workers, timeout_s, numbers)


def _gpus(gpus: Gpus) -> tuple[str, ...]:
    """GPUs by number, or by the identifier that the driver knows them by."""
    if gpus is None:
        return ()
    names = [part.strip() for part in gpus.split(",")] if isinstance(gpus, str) else [str(one) for one in gpus]
    if not names or not all(re.fullmatch(r"[0-9]+|(GPU|MIG)-[\w/-]+", name) for name in names):
        raise NetadaptError(f"--gpus {','.join(names)}: not numbers of GPUs", hint="write 0,2", code="usage")
    if len(set(names)) < len(names):
        raise NetadaptError(f"--gpus {','.join(names)}: each GPU once", code="usage")
    return tuple(names)


def _require(kind: str) -> None:
    package, extra = _PACKAGES[kind]
    if find_spec(package) is None:
        raise NetadaptError(
            f"--executor {kind} needs {package}",
            hint=f"pip install 'netadapt-onnx[{extra}]'",
            code="missing-package",
        )
