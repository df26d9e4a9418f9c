"""How this machine trains a network fastest: its settings, chosen by timing a few training steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx
import torch

from netadapt_onnx.common.progress import stage
from netadapt_onnx.data.dataset import Dataset, Split
from netadapt_onnx.training.distillation import Teacher
from netadapt_onnx.training.memory import fitting_batch_size, halve_batch, in_whole_batches
from netadapt_onnx.training.ops.registry import registered_outside
from netadapt_onnx.training.placement import gpu_dtypes
from netadapt_onnx.training.replicas import one_thread, pieces_of, tensors
from netadapt_onnx.training.settings import Settings, choose
from netadapt_onnx.training.trainable import TrainableNetwork, trainable_network
from netadapt_onnx.training.trial_process import TrialNetwork
from netadapt_onnx.training.trials import Trials

# Steps are timed on at most so many samples.
TIMED_SAMPLES = 128


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
    rows = np.random.default_rng(seed).permutation(len(split))[: min(batch_size, TIMED_SAMPLES)]
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
        return choose(trials.prepare, len(rows), gpu_dtypes=gpus, log=log)
