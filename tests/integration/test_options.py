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

import netadapt_onnx
from models import plain
from netadapt_onnx import cli
from netadapt_onnx.api import adapt as adapt_module
from netadapt_onnx.api import keywords
from netadapt_onnx.common.budget import budget_texts
from netadapt_onnx.common.options import declared_options, different_options
from netadapt_onnx.common.resources import SEARCHED
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.search.options import AdaptOptions
from netadapt_onnx.search.recorded_options import recorded_in_one_spelling
from netadapt_onnx.search.target_devices import device_texts

REPOSITORY = Path(__file__).resolve().parents[2]
KEYWORDS: dict[str, tuple[type, tuple[str, ...]]] = runpy.run_path(str(REPOSITORY / "docs" / "keywords.py"))["KEYWORDS"]
ADAPT = declared_options(AdaptOptions)
# By the functions' keywords: the command that takes the same options.
COMMANDS = {name: name.removesuffix("Keywords").lower() for name in KEYWORDS} | {
    "BundleKeywords": "profile bundle",
    "MeasureLatencyKeywords": "time",
}
DATA = {"data", "task", "resize", "crop", "mean", "std"}
# What commands declare by themselves: outputs, ways of the command line, and choices that become one object.
OWN = {"out", "output", "table", "dry_run", "config", "json", "verbose", "quiet", "debug", "plot", "form", "overwrite"}
OWN |= {"attention", "resize_io", "resource", "more", "show_all"}


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
    "draws": ("3", 3),
    "final_effort": ("0.5", 0.5),
    "start_share": ("0.5", 0.5),
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
    "live": ("", True),
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


# The spellings of options whose texts, lists and mappings may mean the same; those in one row do.
SPELLINGS: list[tuple[str, tuple[Any, ...]]] = [
    ("budget", ("macs=50%", ["macs=0.5x"], ("macs = 0.50x",), {"macs": "0.5x"})),
    ("step", (2, "2", ("2",), [2], ["4", "2"])),
    ("step", (8, "8", ("8",), [8])),
    ("step", ("auto", ("auto",), ["auto"])),
    ("step", ("Conv=4", ["Conv=4"], ("Conv=4", 8), ["Conv = 4", "8"])),
    ("step", (("Conv=4", "Gemm=64", "2"), ["2", "Gemm=64", "Conv=4"])),
    ("freeze", ("conv1", ["conv1"], ("conv1", "conv1"))),
    ("freeze", (("conv1", "fc*"), ["fc*", "conv1"])),
    ("floor", ("conv1=4", ["conv1=4"], {"conv1": 4}, {"conv1": "4"}, ("conv1=4.0",))),
    ("floor", (("conv1=4", "fc=50%"), {"conv1": 4, "fc": "0.5x"})),
    ("init_reduction", (2_000_000, "2M", "2000000", 2e6, "2000k")),
    ("init_reduction", ("0.05x", "5%", "0.050x")),
    ("ep_options", ({"a": "1", "b": "2"}, {"b": 2, "a": 1})),
    ("ep_library", ("lib.so", Path("lib.so"))),
    ("shapes", ({"image": (1, 3, 8, 8), "mask": (1, 8)}, {"mask": [1, 8], "image": [1, 3, 8, 8]})),
    ("device", ("ssh://pi", ("ssh://pi",), ["ssh://pi"], {"": "ssh://pi"})),
    ("device", (("pi=ssh://pi", "here=local"), {"pi": "ssh://pi", "here": "local"})),
]
SPELLINGS += [
    (name, (value, text, np.float64(value)) if isinstance(value, float) else (value, text, np.int64(value)))
    for name, (text, value) in OTHER.items()
    if isinstance(value, int | float) and not isinstance(value, bool)
]
SPELLINGS += [("decay", (1, 1.0, "1")), ("final_epochs", (3, "3", 3.0))]
COMPARED = [name for name, one in ADAPT.items() if one.option.changes_result and not one.option.may_differ_on_resume]


def options_with(name: str, value: Any) -> AdaptOptions:
    budget = budget_texts(value, SEARCHED) if name == "budget" else ("macs=0.5x",)
    return AdaptOptions(**{"budget": budget, name: value, **COMPANIONS.get(name, {})})


def test_every_compared_option_with_several_spellings_has_a_case() -> None:
    """The others are words with declared choices, flags, names and functions of the caller's."""
    one_way = {name for name in COMPARED if ADAPT[name].option.choices or "bool" in ADAPT[name].type}
    assert {name for name, _ in SPELLINGS} >= set(COMPARED) - one_way - {"criterion", "ep", "evaluate"}


@pytest.mark.parametrize(("name", "values"), SPELLINGS)
def test_spellings_that_mean_the_same_are_the_same_run(name: str, values: tuple[Any, ...]) -> None:
    options = [options_with(name, value) for value in values]
    identities = [json.dumps(one.identity()) for one in options]
    assert len(set(identities)) == 1, set(identities)
    if name != "device":  # a Python object may stand for one
        assert all(getattr(one, name) == getattr(options[0], name) for one in options)
        assert all(type(getattr(one, name)) is type(getattr(options[0], name)) for one in options)
    assert len({one.command(Path("model.onnx"), None) for one in options}) == 1


@pytest.mark.parametrize(("name", "values"), [case for case in SPELLINGS if case[0] in COMPARED])
def test_a_run_that_recorded_another_spelling_goes_on(name: str, values: tuple[Any, ...]) -> None:
    """Versions before recorded what the user had written, mappings as pairs where they are given as such."""
    options = options_with(name, values[0])
    mine = json.loads(json.dumps(options.identity()))
    for value in values:
        is_pairs = name in ("shapes", "ep_options")
        spelled = [[key, one] for key, one in value.items()] if is_pairs else value
        if name == "device":
            spelled = device_texts(value)
        theirs = {
            **mine,
            name: json.loads(json.dumps(spelled, default=lambda one: getattr(one, "item", one.__str__)())),
        }
        assert different_options(recorded_in_one_spelling(theirs), mine) == [], value


def test_other_values_stay_other_runs() -> None:
    for name, (_, value) in OTHER.items():
        if name not in COMPARED:
            continue
        theirs = json.loads(json.dumps(options_with(name, value).identity()))
        mine = AdaptOptions(budget=("macs=0.5x",), **COMPANIONS.get(name, {})).identity()
        assert name in different_options(recorded_in_one_spelling(theirs), json.loads(json.dumps(mine)))


@pytest.mark.parametrize(
    "recorded", [{"step": {"x": 1}}, {"floor": 3, "shapes": [1]}, {"budget": None, "init_reduction": []}]
)
def test_a_record_that_makes_no_sense_is_another_run(recorded: dict[str, Any]) -> None:
    mine = json.loads(json.dumps(AdaptOptions(budget=("macs=0.5x",)).identity()))
    assert set(recorded) <= set(different_options(recorded_in_one_spelling({**mine, **recorded}), mine))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("shapes", {"image": "1x3x8x8"}),
        ("shapes", {"image": 3}),
        ("shapes", ["image=1x3x8x8"]),
        ("ep_options", ["device=0"]),
        ("step", 2.0),
        ("step", {"x": 1}),
    ],
)
def test_a_value_of_another_kind_is_refused_in_words(name: str, value: Any) -> None:
    with pytest.raises(NetadaptError, match=name) as refused:
        AdaptOptions(budget=("macs=0.5x",), **{name: value})
    assert refused.value.hint


@pytest.mark.parametrize("name", ["threads", "short_term_lr", "finalists", "max_iterations"])
def test_a_text_that_is_no_number_is_refused(name: str) -> None:
    with pytest.raises(NetadaptError, match=f"{ADAPT[name].flag} soon: not a number"):
        AdaptOptions(budget=("macs=0.5x",), **{name: "soon"})


def test_a_run_of_the_command_line_goes_on_in_python(task: Path) -> None:
    words = ["adapt", "model.onnx", "--data", "data.npz", "--budget", "macs=0.5x", "-o", "run", "--criterion", "l2"]
    words += ["--final-epochs", "0", "--portfolio", "off", "--keep-blocks", "--step", "2", "--floor", "conv1=4", "-q"]
    words += ["--start", "original"]
    assert cli.run([*words, "--max-iterations", "1"]) in (0, 1)
    options: dict[str, Any] = {"criterion": "l2", "final_epochs": 0, "portfolio": "off", "keep_blocks": True}
    options |= {"start": "original"}
    arguments = ("model.onnx", "data.npz", {"macs": "50%"}, "run")
    result = netadapt_onnx.adapt(*arguments, **options, step=2, floor={"conv1": 4}, resume=True)
    assert result.met and result.iterations > 1
    with pytest.raises(NetadaptError, match="step is 2 there, 4 here"):
        netadapt_onnx.adapt(*arguments, **options, step=4, floor={"conv1": 4}, resume=True)


def test_a_run_of_an_earlier_version_goes_on(task: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its identity is in another spelling, and stays as it was recorded: the journal's first line hangs on it."""
    words = ["adapt", "model.onnx", "--data", "data.npz", "--budget", "macs=0.8x", "-o", "run", "--criterion", "l2"]
    words += ["--final-epochs", "0", "--portfolio", "off", "--keep-blocks", "--step", "2", "--freeze", "conv1", "-q"]
    identity = AdaptOptions.identity
    with monkeypatch.context() as earlier:
        earlier.setattr(AdaptOptions, "identity", lambda self: {**identity(self), "step": ["2"], "ep_options": []})
        assert cli.run([*words, "--max-iterations", "1"]) in (0, 1)
    assert cli.run([*words, "--resume"]) == 0
    assert json.loads((task / "run" / "run.json").read_text())["identity"]["step"] == ["2"]


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
