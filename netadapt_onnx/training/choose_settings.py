"""How this machine trains a network fastest: its settings, chosen by timing a few training steps."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import get_args

import numpy as np
import onnx
import torch

from netadapt_onnx.common.progress import stage
from netadapt_onnx.data.dataset import Dataset, Split
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.training.distillation import Teacher
from netadapt_onnx.training.memory import Footprint, fitting_batch_size, halve_batch, in_whole_batches
from netadapt_onnx.training.ops.registry import registered_outside
from netadapt_onnx.training.placement import gpu_dtypes
from netadapt_onnx.training.replicas import one_thread, pieces_of, tensors
from netadapt_onnx.training.settings import Dtype, Settings, TrialError, cores, describe
from netadapt_onnx.training.trainable import TrainableNetwork, trainable_network
from netadapt_onnx.training.trial_process import TrialNetwork
from netadapt_onnx.training.trials import Trials

# Steps are timed on at most so many samples, and on fewer whose activations take more than this, but on so many: of
# EfficientNet-Lite0 a step on 8 pictures ranks settings as one on 29 does, in a quarter of the time.
TIMED_SAMPLES, TIMED_BYTES, FEWEST_TIMED = 128, 2**28, 8
# Below this many samples per replica, of networks whose activations take less, the fixed cost of a step outweighs the
# second core; below the last number no network gains.
LEAST_SHARD, LEAST_SHARD_BYTES, SMALLEST_SHARD = 32, 2**27, 4
MOST_REPLICAS = 8
# What is usually fastest (channels last, a replica per core, float32) stays unless something else wins by this much:
# where it matters the lead is larger (bfloat16: 1.8x), and two runs on one machine should choose, and train, alike.
CLEAR_WIN = 0.8
# What took so many times as long as the fastest is not timed again.
HOPELESS = 1.5
# No further round of timing begins after so many seconds.
MOST_TIMING_S = 20

Failures = dict[Settings, TrialError]
Prepare = Callable[[Settings], Callable[[], float]]


def choose_settings(
    proto: onnx.ModelProto,
    dataset: Dataset,
    *,
    batch_size: int | None = None,
    seed: int = 0,
    gpu: bool = True,
    log: Callable[[str], None] | None = None,
) -> Settings:
    """Time a few training steps per setting, in a process of their own; what `train` does without settings.

    The teacher is left out: its outputs are remembered, so after one epoch it costs next to nothing.

    Args:
        proto: The model.
        dataset: Its training split is trained on.
        batch_size: Samples a step; None: as `train` chooses.
        seed: Draws the samples.
        gpu: Whether a GPU may be chosen, where there is one.
        log: Called with a line about settings that do not work on this machine.

    Raises:
        NetadaptError: The model cannot be trained on this machine.
    """
    with one_thread():
        network = trainable_network(proto, dataset, seed=seed)
        needs = network.needs
        size = batch_size if batch_size is not None else fitting_batch_size(needs, dataset.train)
        size = in_whole_batches(size, needs.only_batch)
        while True:
            try:
                return settings_for(network, dataset.train, size, seed, gpu=gpu, log=log)
            except MemoryError:
                size = halve_batch(
                    min(size, TIMED_SAMPLES), has_batchnorm=True, log=None, multiple=needs.only_batch or 1
                )


@stage("choosing how to train")
def settings_for(
    network: TrainableNetwork,
    split: Split,
    batch_size: int,
    seed: int,
    *,
    teacher: onnx.ModelProto | None = None,
    gpu: bool = True,
    log: Callable[[str], None] | None = None,
) -> Settings:
    """The fastest settings for batches of one size.

    Args:
        network: The network that is trained.
        split: Samples, some of which are drawn.
        batch_size: Samples a step.
        seed: Draws the samples.
        teacher: A model that must run in the settings too.
        gpu: Whether a GPU may be chosen, where there is one.
        log: Called with a line about settings that do not work on this machine.

    Raises:
        MemoryError: There was too little memory for any settings.
        NetadaptError: No settings work for another reason.
    """
    timed = int(np.clip(TIMED_BYTES // max(1, network.needs.activation_bytes), FEWEST_TIMED, TIMED_SAMPLES))
    rows = np.random.default_rng(seed).permutation(len(split))[: min(batch_size, timed)]
    rows = np.concatenate(pieces_of(rows, network.needs.only_batch))
    inputs, labels = split.batch(rows), split.targets(rows)
    teacher_outputs = None
    if labels is None:
        itself = Teacher(network.proto, split=split)
        outputs = itself(tensors(inputs, Settings()), np.arange(len(rows)), Settings())
        teacher_outputs = {name: value.numpy() for name, value in outputs.items()}
    network_to_try = TrialNetwork(
        network.proto.SerializeToString(),
        inputs,
        labels,
        replace(network.loss, user=replace(network.loss.user, training=None)),
        teacher_outputs,
        None if teacher is None else teacher.SerializeToString(),
        registered_outside(),
        network.needs.only_batch,
    )
    gpus = gpu_dtypes() if gpu else ()
    if gpus:
        torch.cuda.empty_cache()  # what this process keeps for later is what the trials lack
    with Trials(network_to_try) as trials:
        return choose(trials.prepare, most_replicas(network.needs, batch_size), gpu_dtypes=gpus, log=log)


def most_replicas(needs: Footprint, batch_size: int) -> int:
    """How many replicas a batch may be shared out among: one per core, as long as each has enough to do."""
    enough = -(-LEAST_SHARD_BYTES // max(1, needs.activation_bytes))
    shard = max(SMALLEST_SHARD, min(LEAST_SHARD, enough), needs.only_batch or 1)
    return min(cores(), MOST_REPLICAS, max(1, batch_size // shard))


def choose(
    prepare: Prepare,
    replicas: int,
    rounds: int = 3,
    gpu_dtypes: Sequence[Dtype] = (),
    log: Callable[[str], None] | None = None,
) -> Settings:
    """The fastest settings, by interleaved timing; near-ties go to float32, channels last and most replicas.

    A GPU is taken without comparing it with the processor, and shares no batch out.

    Args:
        prepare: Returns a function that runs a training step once and returns its seconds; settings for which either
            raises TrialError are left out.
        replicas: How many of them may be tried.
        rounds: How often each step is timed at most.
        gpu_dtypes: Number types that a GPU computes in; empty without a GPU.
        log: Called with the reason why settings are left out.

    Raises:
        MemoryError: No settings work, for want of memory.
        NetadaptError: No settings work for another reason.
    """
    failures: Failures = {}
    gpu: list[tuple[str, Sequence[Dtype]]] = [("cuda", gpu_dtypes)] if gpu_dtypes else []
    best = None
    for device, dtypes in [*gpu, ("cpu", get_args(Dtype))]:
        layouts = [
            Settings(dtype=dtype, channels_last=last, device=device) for dtype in dtypes for last in (True, False)
        ]  # fmt: skip
        best = _fastest(layouts, prepare, rounds, failures)
        if best is not None or all(failures[one].memory for one in layouts):
            break
    if best is not None and best.device == "cpu" and replicas > 1:
        best = _fastest([replace(best, replicas=replicas), best], prepare, rounds, failures)
    if log is not None:
        for line in _failure_lines(failures):
            log(line)
    if best is None:
        raise _nothing_works(failures)
    return best


def _fastest(candidates: Sequence[Settings], prepare: Prepare, rounds: int, failures: Failures) -> Settings | None:
    """The first of the candidates that none beats clearly; None if none works. Errors are put among the `failures`."""
    timer = _StepTimer(prepare, failures)
    # The first step of each allocates memory and picks kernels: it is not timed.
    best_s = {candidate: math.inf for candidate in candidates if timer.seconds(candidate) is not None}
    deadline = time.monotonic() + MOST_TIMING_S
    for _ in range(rounds):
        for candidate in list(best_s):
            if _is_hopeless(candidate, best_s):
                continue
            seconds = timer.seconds(candidate)
            if seconds is None:
                del best_s[candidate]
            else:
                best_s[candidate] = min(best_s[candidate], seconds)
        if time.monotonic() > deadline:
            break
    return _clear_winner(best_s)


class _StepTimer:
    """Times steps, which are prepared once; what raises TrialError is put among the `failures`."""

    def __init__(self, prepare: Prepare, failures: Failures) -> None:
        self._prepare = prepare
        self._failures = failures
        self._steps: dict[Settings, Callable[[], float]] = {}

    def seconds(self, candidate: Settings) -> float | None:
        """What one step takes; None if it fails."""
        try:
            if candidate not in self._steps:
                self._steps[candidate] = self._prepare(candidate)
            return self._steps[candidate]()
        except TrialError as error:
            self._failures[candidate] = error
            return None


def _is_hopeless(candidate: Settings, best_s: Mapping[Settings, float]) -> bool:
    """Whether a step that was timed is so slow that timing it again is a waste."""
    return math.inf > best_s[candidate] >= HOPELESS * min(best_s.values())


def _clear_winner(best_s: Mapping[Settings, float]) -> Settings | None:
    """The first candidate, unless a later one is clearly faster."""
    chosen = next(iter(best_s), None)
    for candidate, seconds in best_s.items():
        if seconds < CLEAR_WIN * best_s[chosen or candidate]:
            chosen = candidate
    return chosen


def _failure_lines(failures: Failures) -> list[str]:
    """A line for each reason."""
    reasons: dict[str, list[str]] = {}
    for settings, error in failures.items():
        reasons.setdefault(str(error), []).append(describe(settings))
    return [f"left out of training: {', '.join(names)}: {reason}" for reason, names in reasons.items()]


def _nothing_works(failures: Failures) -> Exception:
    """The error of the plainest settings, which are the last to fail."""
    plain = failures.get(Settings(channels_last=False)) or list(failures.values())[-1]
    if plain.memory:
        return MemoryError(str(plain))
    return plain.error or NetadaptError(
        f"this model cannot be trained on this machine: {plain}",
        hint="no number type or memory layout works; another version of PyTorch may",
        code="training",
    )
