"""Names that a terminal, a CI system, a page or a chart would act on, and what is not to be left of them anywhere."""

from __future__ import annotations

import re
import unicodedata

import onnx

from models import plain

# What they are for: GitHub's commands, also behind white space and line ends; its older form, Azure's, TeamCity's,
# GitLab's and Travis's; terminals; what turns or hides text; Markdown, HTML, XML; shells; what fonts lack; long ones.
NAMES = (
    "::error file=x::a",
    "\n::error::b\nFORGED ok",
    "\r\n \t::set-output name=a::c\rFORGED",
    "::stop-commands::d",
    "##[error]e",
    "x##vso[task.setvariable variable=f]g",
    "##teamcity[message text='h']",
    "section_start:0:i\r\x1b[0K",
    "travis_fold:start:j\r\x1b[0K",
    "\x1b[31mk\x1b]0;title\x07\x1b[2J",
    "\x9b31ml\x85\x7f\x00\x08",
    "\u202em\u2066n\u2028o\u2029p\u200bq\ufeff\u00ad",
    "\u00a0::warning::r",
    "\ufeff::warning::s",
    "| t | u |\n|---|---|",
    "`v` **w** [x](http://evil.example) ![y](http://evil.example) @team #1",
    "</script><img src=x onerror=alert(1)>]]>&lt;",
    "$(id)`id` '; rm -rf / #",
    "$\\frac{1}{2}$ \U0001f600 \U000e0041 \ufffe",
    "z" * 3000,
)
_UNPRINTABLE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
_COMMAND = re.compile(r"##[\w.-]*\[|section_(start|end):|travis_(fold|time):", re.IGNORECASE)


def hostile_model(first: int = 8) -> onnx.ModelProto:
    """A network in which everything that has a name has a hostile one of its own; only operators keep theirs.

    `first`: the width of its first layer.
    """
    proto = plain((first, *[8] * (len(NAMES) - 2)), size=4, classes=3)
    graph = proto.graph
    convs = [node for node in graph.node if node.op_type in ("Conv", "Gemm")]
    tensors = {name: f"{NAMES[i % len(NAMES)]}-{i}" for i, name in enumerate(_tensors(graph))}
    for i, node in enumerate(graph.node):
        node.name = NAMES[convs.index(node)] if node in convs else f"{NAMES[i % len(NAMES)]}+{i}"
        node.doc_string = NAMES[i % len(NAMES)]
        node.input[:] = [tensors[name] for name in node.input]
        node.output[:] = [tensors[name] for name in node.output]
    for tensor in graph.initializer:
        tensor.name = tensors[tensor.name]
    for value in (*graph.input, *graph.output):
        value.name = tensors[value.name]
        value.type.tensor_type.shape.dim[0].dim_param = NAMES[1]
    graph.initializer.add(name=f"unused{NAMES[11]}{NAMES[1]}", data_type=onnx.TensorProto.FLOAT, float_data=[0.0])
    del graph.value_info[:]
    graph.name, graph.doc_string, proto.doc_string, proto.domain = NAMES[2], NAMES[9], NAMES[11], NAMES[4]
    proto.producer_name, proto.producer_version = NAMES[0], NAMES[9]
    for i, name in enumerate(NAMES):
        entry = proto.metadata_props.add()
        entry.key, entry.value = f"{name}{i}", name
    onnx.checker.check_model(proto)
    return proto


def _tensors(graph: onnx.GraphProto) -> list[str]:
    names = [name for node in graph.node for name in (*node.input, *node.output)]
    return list(dict.fromkeys([*names, *(tensor.name for tensor in graph.initializer)]))


def acting(text: str, *, annotations: bool = False) -> list[str]:
    """What a terminal or a CI system would act on, or what a name forged; `annotations`: but for those of `gate`."""
    acts = [f"{c!r} in {line!r}" for line in text.split("\n") for c in line if unicodedata.category(c) in _UNPRINTABLE]
    for line in text.splitlines():
        is_ours = annotations and re.fullmatch(r"::error file=[^:,]*,title=[\w %-]+::.*", line)
        if _COMMAND.search(line) or (line.lstrip().startswith("::") and not is_ours) or line.startswith("FORGED"):
            acts.append(line)
    return acts
