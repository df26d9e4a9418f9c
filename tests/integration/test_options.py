"""The options of each command are declared once: every other place that has them agrees, field by field."""

from __future__ import annotations

import json
import runpy
import shlex
import tomllib
import typing
from dataclasses import fields
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest

from models import plain
from netadapt_onnx import cli
from netadapt_onnx.api import adapt as adapt_module
from netadapt_onnx.api import keywords
from netadapt_onnx.common.options import declared_options
from netadapt_onnx.search.options import AdaptOptions

REPOSITORY = Path(__file__).resolve().parents[2]
KEYWORDS: dict[str, tuple[type, tuple[str, ...]]] = runpy.run_path(str(REPOSITORY / "docs" / "keywords.py"))["KEYWORDS"]
ADAPT = declared_options(AdaptOptions)
# By the functions' keywords: the command that takes the same options.
COMMANDS = {name: name.removesuffix("Keywords").lower() for name in KEYWORDS} | {"BundleKeywords": "profile bundle"}
DATA = {"data", "task", "resize", "crop", "mean", "std"}
# What commands declare by themselves: outputs, ways of the command line, and choices that become one object.
OWN = {"out", "output", "table", "dry_run", "config", "json", "verbose", "quiet", "debug", "plot", "form", "overwrite"}
OWN |= {"attention", "resize_io", "resource", "more"}


def command(name: str) -> click.Command:
    with cli.group.make_context(cli.PROGRAM, ["env"]) as context:
        first, *rest = name.split()
        command_group = cli.group.get_command(context, first)
        assert command_group is not None
        return cli.below(command_group, "", rest)[0]


@pytest.fixture
def task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.onnx").write_bytes(plain((8, 16), size=8, classes=3).SerializeToString())
    x = np.random.default_rng(0).standard_normal((32, 3, 8, 8)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x_train=x, x_val=x)
    return tmp_path


def test_every_field_declares_its_option() -> None:
    assert list(ADAPT) == [field.name for field in fields(AdaptOptions)]
    for name, declared in ADAPT.items():
        assert declared.option.help.endswith("."), name
        assert declared.type == "bool" or declared.default is not True, name


@pytest.mark.parametrize("name", KEYWORDS)
def test_keywords_have_the_types_of_the_declared_options(name: str) -> None:
    kind, without = KEYWORDS[name]
    declared = declared_options(kind)
    types = typing.get_type_hints(getattr(keywords, name))
    assert list(types) == [option for option in declared if option not in without]
    for option, annotation in types.items():
        default = declared[option].default
        plain_types = typing.get_args(annotation) or (annotation,)
        if isinstance(default, bool | int | float) and annotation in (bool, int, float):
            assert type(default) is annotation or annotation is float, option
        elif default is None:
            assert type(None) in plain_types or declared[option].option.default_text or not declared[option].is_required


@pytest.mark.parametrize("name", KEYWORDS)
def test_the_command_line_has_every_option_with_its_default_and_help(name: str) -> None:
    options = {str(p.name): p for p in command(COMMANDS[name]).params if isinstance(p, click.Option)}
    for field, declared in declared_options(KEYWORDS[name][0]).items():
        if not declared.option.on_command_line:
            continue
        option = options.pop(field)
        assert {*declared.flag.split("/")} == {*option.opts, *option.secondary_opts}
        assert (option.help or "").startswith(declared.option.help)
        assert option.multiple == declared.option.is_repeated
        assert option.required == declared.is_required
        is_read = option.type is click.STRING and not declared.type.startswith("str")  # "60s"
        shows_default = not (option.multiple or option.is_flag or declared.option.default_text or is_read)
        if shows_default and isinstance(declared.default, str | int | float):
            assert option.default == declared.default
        if declared.option.choices:
            assert isinstance(option.type, click.Choice) and tuple(option.type.choices) == declared.option.choices
    expected = {*DATA, *OWN, *(field for field, one in ADAPT.items() if not one.option.on_command_line)}
    assert options.keys() <= expected


# A value of each option that is not its default: as the command line has it, and as Python does.
OTHER: dict[str, tuple[str, Any]] = {
    "criterion": ("l1", "l1"),
    "strategy": ("knapsack", "knapsack"),
    "rank": ("finetune", "finetune"),
    "preset": ("fast", "fast"),
    "select": ("accuracy", "accuracy"),
    "init_reduction_ratio": ("0.1", 0.1),
    "start": ("original", "original"),
    "proposals": ("all", "all"),
    "portfolio": ("off", "off"),
    "final_effort": ("0.5", 0.5),
    "decay": ("0.5", 0.5),
    "init_reduction": ("0.05x", "0.05x"),
    "reduction_of": ("current", "current"),
    "step": ("4", ("4",)),
    "min_channels": ("2", 2),
    "freeze": ("conv1", ("conv1",)),
    "floor": ("conv1=4", ("conv1=4",)),
    "finalists": ("2", 2),
    "prune_small": ("", True),
    "keep_blocks": ("", True),
    "allow_block_removal": ("", True),
    "short_term": ("7", 7),
    "short_term_lr": ("0.01", 0.01),
    "final_epochs": ("1", 1),
    "augment": ("", True),
    "max_iterations": ("3", 3),
    "max_time": ("30m", "30m"),
    "min_accuracy": ("0.5", 0.5),
    "save_interval": ("2", 2),
    "seed": ("1", 1),
    "executor": ("local:2", "local:2"),
    "gpus": ("0", "0"),
    "job_timeout": ("1h", "1h"),
    "resume": ("", True),
    "table": ("t.jsonl", ("t.jsonl",)),
    "table_models": ("24", 24),
    "force": ("", True),
    "device": ("ssh://pi", ("ssh://pi",)),
    "resource_command": ("wc", "wc"),
    "ep": ("openvino", "openvino"),
    "ep_options": ("a=b", {"a": "b"}),
    "ep_library": ("lib.so", "lib.so"),
    "threads": ("2", 2),
    "deploy": ("int8", "int8"),
    "python": ("python3.11", "python3.11"),
    "perf_test": ("perf", "perf"),
    "keep": ("", True),
    "shapes": ("image=1x3x8x8", {"image": (1, 3, 8, 8)}),
    "batch_size": ("2", 2),
}
# What some of them go together with.
COMPANIONS = {"finalists": {"short_term": 7}, "strategy": {"criterion": "taylor"}}


def parsed_keywords(monkeypatch: pytest.MonkeyPatch, *words: str) -> dict[str, Any]:
    """The keywords that `adapt` gets from a command line."""
    passed: dict[str, Any] = {}

    def adapt(model: object, data: object, **options: Any) -> None:
        passed.update(options)
        raise KeyboardInterrupt

    monkeypatch.setattr(adapt_module, "adapt", adapt)
    code = cli.run(["adapt", "model.onnx", "--data", "data.npz", "-o", "run", *words])
    assert code == 130
    return passed


def without_folders(value: Any) -> Any:
    """A file of a configuration lies beside it, wherever that is."""
    if isinstance(value, tuple):
        return tuple(map(without_folders, value))
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value


def test_every_option_has_a_case() -> None:
    assert {*OTHER, "budget"} == {name for name, declared in ADAPT.items() if declared.option.on_command_line}


@pytest.mark.parametrize("name", OTHER)
def test_command_line_configuration_python_and_records_mean_the_same(
    name: str, task: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, value = OTHER[name]
    declared = ADAPT[name]
    flag = declared.flag.split("/")[0]
    words = [flag, *([text] if text else [])]
    by_flag = parsed_keywords(monkeypatch, "--budget", "macs=0.5x", *words)
    assert by_flag[name] == value
    (task / "netadapt.toml").write_text(f"[adapt]\n{flag.removeprefix('--')} = {json.dumps(text or True)}\n")
    if name == "resume":  # a file cannot hold it
        assert cli.run(["adapt", "model.onnx", "--data", "data.npz", "-o", "run", "--budget", "macs=0.5x"]) == 2
    else:
        assert without_folders(parsed_keywords(monkeypatch, "--budget", "macs=0.5x")[name]) == value
    (task / "netadapt.toml").unlink()
    options = AdaptOptions(budget=("macs=0.5x",), **{name: value, **COMPANIONS.get(name, {})})
    default = AdaptOptions(budget=("macs=0.5x",), **COMPANIONS.get(name, {}))
    command = options.command(Path("model.onnx"), None)
    is_compared = declared.option.changes_result and not declared.option.may_differ_on_resume
    assert (name in options.identity()) == is_compared
    assert (options.identity() != default.identity()) == is_compared
    assert (f" {flag}" in command) == (declared.option.changes_result and name != "device")
    if name not in ("max_time", "device") and declared.option.changes_result:
        assert all(word in command for word in words)


def test_a_recorded_command_repeats_the_run(task: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changed = {
        name: value
        for name, (_, value) in OTHER.items()
        if ADAPT[name].option.changes_result and name not in ("device", "init_reduction", "strategy", "rank")
    }
    # Of options that contradict each other one, and the preset that the others differ from.
    changed = {name: value for name, value in changed.items() if name != "allow_block_removal"} | {"preset": "thorough"}
    options = AdaptOptions(budget=("macs=0.5x", "params=0.9x"), **changed | {"proposals": "lazy"})
    words = shlex.split(options.command(Path("model.onnx"), None))
    passed = parsed_keywords(monkeypatch, *words[3:])
    again = AdaptOptions(
        **{name: value for name, value in passed.items() if name in ADAPT and name not in ("log", "out")}
    )
    assert again.identity() == options.identity()
    assert again.max_time_s == options.max_time_s


def test_the_example_of_a_configuration_is_one() -> None:
    page = (REPOSITORY / "docs" / "search.md").read_text()
    block = page.partition("```toml\n")[2].partition("```")[0]
    names = tomllib.loads(block)["adapt"]
    assert names.keys() <= {declared.flag.split("/")[0].removeprefix("--") for declared in ADAPT.values()}


def test_a_number_of_a_configuration_out_of_its_bounds_is_refused_with_its_file_and_key(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "netadapt.toml"
    file.write_text("[adapt]\nthreads = 0\n")
    assert cli.run(["adapt", "model.onnx", "--data", "x", "--budget", "macs=0.5x", "--config", str(file)]) == 2
    assert capsys.readouterr().err == f"error: {file}: adapt.threads: 0: at least 1\n"
