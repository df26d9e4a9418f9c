"""`netadapt-onnx time`: how fast models run, alone and beside each other."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from netadapt_onnx.api.options import MeasureLatencyOptions
from netadapt_onnx.commands._declared import declared, keywords_of
from netadapt_onnx.commands._options import common, seconds, seen_as
from netadapt_onnx.commands._result import CommandResult
from netadapt_onnx.common import render
from netadapt_onnx.errors import NetadaptError

if TYPE_CHECKING:
    from netadapt_onnx.api.measure_latency import Latencies, ModelLatency


@click.command("time")
@click.argument("models", type=click.Path(path_type=Path), nargs=-1, required=True, metavar="MODEL...")
@declared(MeasureLatencyOptions, {"time_cap_s": {"type": click.STRING, "default": "20s", "callback": seconds}})
@common
def command(models: tuple[Path, ...], **options: Any) -> CommandResult:
    """Show how long a run of each MODEL takes, on random inputs; each further one is compared with the first.

    The exit code is 2 where times vary too much to tell which of two models is faster.

    \b
    Examples:  netadapt-onnx time model.onnx
               netadapt-onnx time model.onnx smaller.onnx --threads 4
               netadapt-onnx time model.onnx smaller.onnx --device ssh://pi@raspberrypi
    """
    with render.progress_bar("timing") as log:
        from netadapt_onnx.api.measure_latency import measure_latency

        result = measure_latency(models, log=log, **keywords_of(options))
    undecided = [str(model.path) for model in result.models if model.undecided]
    error = None
    if undecided:
        error = NetadaptError(
            f"whether {' and '.join(undecided)} is faster or slower than {models[0]} cannot be told: times vary",
            hint="repeat it when nothing else runs, or raise --max-time",
            code="could-not-judge",
        )
    seen = seen_as(options["shapes"], options["batch_size"])
    return CommandResult(result, lambda shown: _text(shown, seen), ok=error is None, error=error)


def _text(result: Latencies, seen: list[str]) -> str:
    compared = any(model.ratio is not None for model in result.models)
    headers = ["model", "latency", "95% interval", *["ratio", "95% interval"] * compared]
    rows = [[model.path, _ms(model), _interval(model), *_ratio(model) * compared] for model in result.models]
    device = result.device
    where = f"on {device['cpu']}, provider {device['ep']}, threads: {device['threads']}"
    sentences = [_sentence(model, result.models[0]) for model in result.models[1:] if model.ratio is not None]
    parts = [
        *(["\n".join(sentences)] if sentences else []),
        f"{render.table(rows, headers)}\n{where}, median over {result.models[0].sessions} fresh sessions",
        *result.notes,
    ]
    paths = [model.path for model in result.models]
    words = ["diff", paths[0], paths[-1]] if paths[1:] else ["inspect", paths[0]]
    return "\n\n".join([*parts, render.next_command(*words, *seen)])


def _sentence(model: ModelLatency, first: ModelLatency) -> str:
    """Which of two models is faster, and by how much, if the measurement shows it."""
    assert model.ratio is not None
    ratio, times = model.ratio.median, f"({_ms(model)}, {_ms(first)})"
    if not model.differs:
        return f"{model.path} shows no difference from {first.path} {times}"
    if ratio < 1:
        return f"{model.path} is {1 / ratio:.2f}x faster than {first.path} {times}"
    return f"{model.path} is {ratio:.2f}x slower than {first.path} {times}"


def _ms(model: ModelLatency) -> str:
    return render.milliseconds(model.latency_ms.median)


def _interval(model: ModelLatency) -> str:
    low, high = model.latency_ms.ci95
    return f"{low:.3g} to {high:.3g} ms"


def _ratio(model: ModelLatency) -> list[str]:
    if model.ratio is None:
        return ["", ""]
    low, high = model.ratio.ci95
    return [f"{model.ratio.median:.3f}x", f"{low:.3f}x to {high:.3f}x"]
