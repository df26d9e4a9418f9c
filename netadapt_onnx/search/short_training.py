"""How a run trains on this machine: measured once and journalled, so that a resumed run trains the same way."""

from __future__ import annotations

import msgspec
import onnx

from netadapt_onnx.search.context import SearchContext
from netadapt_onnx.search.jobs import ShortTraining
from netadapt_onnx.training.settings import Settings


def training_settings(context: SearchContext, key: str, proto: onnx.ModelProto, *, gpu: bool = True) -> Settings:
    """The fastest way to train a model on this machine.

    Args:
        context: The search.
        key: Which training it is, for the journal.
        proto: The model.
        gpu: Whether to train on a GPU, if there is one.
    """
    from netadapt_onnx.training.choose_settings import choose_settings

    data, seed, log = context.prepared.data, context.options.seed, context.log
    assert data is not None
    chosen = context.run.once(f"training/{key}", lambda: choose_settings(proto, data, seed=seed, gpu=gpu, log=log))
    return msgspec.convert(chosen, Settings)


def short_training(context: SearchContext, *, gpu: bool) -> ShortTraining:
    """The short training of every proposal, finalist or winner."""
    settings = training_settings(context, "short-term", context.prepared.trace.folded.proto, gpu=gpu)
    return ShortTraining(context.options.short_term_steps, context.options.short_term_lr, settings)
