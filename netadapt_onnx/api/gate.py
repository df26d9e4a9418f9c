"""Judges model files against limits: what `gate` does."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from netadapt_onnx.api.options import GateOptions
from netadapt_onnx.common import config as configuration
from netadapt_onnx.common.files import refuse_existing
from netadapt_onnx.common.missing_files import nearest_path
from netadapt_onnx.common.options import File, from_keywords
from netadapt_onnx.common.progress import reporter
from netadapt_onnx.data.source import source_of
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.gating import baseline as baselines
from netadapt_onnx.gating.examine import Examination, examine
from netadapt_onnx.gating.limits import parse_limits
from netadapt_onnx.gating.result import Gate, ModelResult, Problem
from netadapt_onnx.gating.sandbox import Sandbox
from netadapt_onnx.gating.settings import Rule, Settings, expand, override, read_rules, relative, target_device

if TYPE_CHECKING:
    from netadapt_onnx.api.keywords import GateKeywords


def gate(models: File | Sequence[File] = (), **options: Unpack[GateKeywords]) -> Gate:
    """Judge models (paths, folders or patterns; without any, those of the configuration) against limits.

    A folder stands for the models in it. Limits are mappings such as `{"size": "4 MB"}` or lists of `"size=4 MB"`; they
    and every other argument replace what the configuration says. What one model's reading, timing or evaluation may
    take is `timeout_s` and `memory_bytes`.
    Raises NetadaptError for wrong arguments and configurations; a model that cannot be checked is in the result.

    >>> verdict = gate("model.onnx", max={"macs": "40k"})
    >>> verdict.ok, verdict.models[0].checks[0].message
    (True, 'macs 32.4 k, the limit is 40 k')
    """
    settings = from_keywords(GateOptions, options)
    started = time.monotonic()
    progress = settings.progress or reporter()
    limits = parse_limits({"max": settings.max, "max-increase": settings.max_increase, "min": settings.min})
    changes = _changes(settings)
    file = configuration.find(Path.cwd()) if settings.config is None else Path(settings.config)
    folder = Path.cwd() if file is None else file.resolve().parent
    default = folder / baselines.DEFAULT
    baseline = str(default) if default.exists() else None
    rules = read_rules(file, baseline)
    if settings.device is not None:
        changes["device"] = target_device(settings.device, file)
    patterns = [os.fspath(models)] if isinstance(models, str | os.PathLike) else [os.fspath(m) for m in models]
    rules = tuple(override(rule, limits, changes) for rule in rules)
    fallback = override(Rule((), (), Settings(baseline=baseline)), limits, changes)
    targets, missing = _targets(patterns, rules, fallback, settings.update_baseline)
    record = _record_file(targets, default) if settings.update_baseline else None
    with Sandbox(settings.timeout_s, settings.memory_bytes) as sandbox, tempfile.TemporaryDirectory() as scratch:
        examinations = []
        for number, (path, model_rules) in enumerate(targets.items()):
            progress(number, len(targets), f"checking: {path.name}")
            examinations.append(examine(path, model_rules, sandbox, Path(scratch), recording=record is not None))
    results = sorted([*missing, *(one.result for one in examinations)], key=lambda result: -result.excess)
    result = Gate(tuple(results), time.monotonic() - started)
    if record is None or result.error is not None:
        return result
    _write_record(record, examinations)
    return Gate(result.models, result.seconds, record)


def _changes(options: GateOptions) -> dict[str, object]:
    """The settings that arguments give."""
    changes = {
        "data": None if options.data is None else source_of(options.data),
        "baseline": None if options.baseline is None else os.fspath(options.baseline),
        "allow_new": options.allow_new or None,
        "shapes": {name: tuple(shape) for name, shape in options.shapes.items()} or None,
        **{name: getattr(options, name) for name in ("split", "ep", "threads", "batch_size")},
    }
    return {name: value for name, value in changes.items() if value is not None}


def _targets(
    patterns: Sequence[str],
    rules: Sequence[Rule],
    fallback: Rule,
    update_baseline: bool,
) -> tuple[dict[Path, tuple[Rule, ...]], list[ModelResult]]:
    """The rules of each file (`fallback` where the configuration has none), and the patterns that match none."""
    files = {pattern: expand(pattern) for pattern in (*patterns, *(one for rule in rules for one in rule.patterns))}
    limited = patterns or [pattern for rule in rules for pattern in rule.patterns]
    missing = [_missing(pattern) for pattern in limited if not files[pattern]]
    named_files = {file.absolute(): file for pattern in patterns for file in files[pattern]}
    targets: dict[Path, tuple[Rule, ...]] = {}
    for rule in rules:
        for file in (file for pattern in rule.patterns for file in files[pattern]):
            path = named_files.get(file.absolute()) if patterns else relative(file)
            if path is not None and rule not in targets.get(path, ()):
                targets[path] = (*targets.get(path, ()), rule)
    for path in named_files.values():
        targets.setdefault(path, (fallback,))
    if not targets and not missing:
        raise NetadaptError(
            "there is nothing to check: no model is named, and no configuration limits any",
            hint="name models and limits, e.g. gate model.onnx --max size=4MB, or write netadapt.toml",
            code="usage",
        )
    for path, model_rules in targets.items():
        if not update_baseline and not any(rule.limits for rule in model_rules):
            raise NetadaptError(
                f"there is no limit for {path}: nothing would be checked",
                hint="give one, e.g. --max size=4MB, or write netadapt.toml",
                code="usage",
            )
    return targets, missing


def _missing(pattern: str) -> ModelResult:
    path = relative(Path(pattern))
    if path.is_dir():
        problem = Problem("missing-file", f"no model (*.onnx) lies in the folder {path}", "name models that exist")
    else:
        hint = nearest_path(path, "name models that exist")
        problem = Problem("missing-file", f"no file matches {path}", hint)
    return ModelResult(path, None, (), error=problem)


def _record_file(targets: Mapping[Path, Sequence[Rule]], default: Path) -> Path:
    """The baseline file to write. Raises NetadaptError for one that is no file of ours."""
    named = {rule.settings.baseline for rules in targets.values() for rule in rules if rule.settings.baseline}
    if len(named) > 1:
        raise NetadaptError(f"there are several baselines: {', '.join(sorted(named))}", hint="give --baseline FILE")
    name = next(iter(named), str(default))
    if not baselines.is_record(name):
        raise NetadaptError(
            f"--update-baseline writes a JSON file, and the baseline is {name}", hint="give --baseline FILE.json"
        )
    file = Path(name)
    refuse_existing(file, overwrite=True)
    if file.exists():
        baselines.read(file)
    return file


def _write_record(file: Path, examinations: Sequence[Examination]) -> None:
    """Replace the checked models' entries; those whose files are gone go, all others stay."""
    recorded = baselines.read(file) if file.exists() else {}
    kept = {key: model for key, model in recorded.items() if (file.absolute().parent / key).exists()}
    for examination in examinations:
        key = baselines.key(examination.result.path, file)
        kept[key] = examination.baseline_model(recorded.get(key))
    baselines.write(file, kept)
