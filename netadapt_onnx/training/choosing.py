"""Which training settings are the fastest on this machine, as trials on the network itself say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx
import torch

from netadapt_onnx.progress import stage
from netadapt_onnx.training.data import Split
from netadapt_onnx.training.ops.registry import registered_outside
from netadapt_onnx.training.placement import gpu_dtypes
from netadapt_onnx.training.replicas import tensors
from netadapt_onnx.training.settings import Settings, choose
from netadapt_onnx.training.task import Task
from netadapt_onnx.training.teacher import Teacher
from netadapt_onnx.training.trial_process import Subject
from netadapt_onnx.training.trials import Trials

# Trials train on so many samples of a batch at most.
TIMED_SAMPLES = 128


@stage("choosing how to train")
def chosen_by_trials(
    proto: onnx.ModelProto,
    split: Split,
    batch_size: int,
    seed: int,
    losses: Task,
    *,
    teacher: onnx.ModelProto | None = None,
    gpu: bool = True,
    say: Callable[[str], None] | None = None,
) -> Settings:
    """Settings for training a network in batches of `split`; `say` is told of those that do not work here."""
    drawn = np.random.default_rng(seed).permutation(len(split))[: min(batch_size, TIMED_SAMPLES)]
    inputs, labels = split.batch(drawn), split.targets(drawn)
    taught = None
    if labels is None:
        own = Teacher(proto)(tensors(inputs, Settings()), np.arange(len(drawn)), Settings())
        taught = {name: value.numpy() for name, value in own.items()}
    subject = Subject(
        proto.SerializeToString(),
        inputs,
        labels,
        replace(losses, own=losses.own and replace(losses.own, training=None)),
        taught,
        None if teacher is None else teacher.SerializeToString(),
        registered_outside(),
    )
    gpus = gpu_dtypes() if gpu else ()
    if gpus:
        torch.cuda.empty_cache()  # what is kept here for later is what trials lack
    with Trials(subject) as trials:
        return choose(trials.prepare, len(drawn), gpu_dtypes=gpus, say=say)
