"""The keywords of Python functions as typed dictionaries, derived from the declared options for `reference.py`."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Collection, Iterator
from pathlib import Path

from netadapt_onnx.api.options import (
    BundleOptions,
    EvaluateOptions,
    FinetuneOptions,
    GateOptions,
    InspectOptions,
    MeasureLatencyOptions,
    ProfileOptions,
    PruneOptions,
)
from netadapt_onnx.common.options import Declared, declared_options, snake_case
from netadapt_onnx.scaling.options import ScaleOptions
from netadapt_onnx.search.options import AdaptOptions

# From the repository's root.
FILE = "netadapt_onnx/api/keywords.py"
# By dictionary: the options, and those of them that the function takes as arguments of their own.
KEYWORDS: dict[str, tuple[type, Collection[str]]] = {
    "AdaptKeywords": (AdaptOptions, ("budget",)),
    "BundleKeywords": (BundleOptions, ()),
    "EvaluateKeywords": (EvaluateOptions, ()),
    "FinetuneKeywords": (FinetuneOptions, ()),
    "GateKeywords": (GateOptions, ()),
    "InspectKeywords": (InspectOptions, ()),
    "MeasureLatencyKeywords": (MeasureLatencyOptions, ()),
    "ProfileKeywords": (ProfileOptions, ()),
    "PruneKeywords": (PruneOptions, ()),
    "ScaleKeywords": (ScaleOptions, ()),
}
HEAD = '''"""The keywords of Python functions, with their types. Written by `docs/reference.py`: edit nothing here.

Each is an option of the command of the same name and is declared once: see `common/options.py`.
"""

from __future__ import annotations
'''


def keywords_file() -> str:
    """The file: a typed dictionary a function."""
    texts, used = [], set[tuple[str, str]]()
    for name, (kind, without) in KEYWORDS.items():
        options = [one for one in declared_options(kind).values() if one.name not in without]
        used |= {_home(word, kind) for one in options for word in _words(one.type)}
        texts.append(f"class {name}(TypedDict, total=False):\n{_lines(name, options)}")
    return "\n\n\n".join([f"{HEAD}\n{_imports(used)}", *texts]) + "\n"


def _lines(name: str, options: Collection[Declared]) -> str:
    verb = snake_case(name.removesuffix("Keywords"))
    lines = [f'    """The options of `{verb}`."""\n']
    for one in options:
        lines += [f"    {one.name}: {one.type.replace(chr(39), chr(34))}"]
    return "\n".join(lines)


def _words(annotation: str) -> Iterator[str]:
    """The names in an annotation that are to be imported, of attributes the first."""
    without_texts = re.sub(r"'[^']*'|\"[^\"]*\"", "", annotation)
    for word in re.findall(r"(?<![.\w])[A-Za-z_]\w*", without_texts):
        if word not in ("None", "str", "int", "float", "bool", "tuple", "list", "dict", "object"):
            yield word


def _home(word: str, kind: type) -> tuple[str, str]:
    """The module that a name is imported from, and the name; of a module that is imported whole, itself and ""."""
    for base in kind.__mro__:
        if base is object:
            continue
        module = sys.modules[base.__module__]
        tree = ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and any(alias.name == word for alias in node.names):
                return str(node.module), word
            if isinstance(node, ast.Import) and any(alias.name == word for alias in node.names):
                return word, ""
        if hasattr(module, word):
            return base.__module__, word
    raise LookupError(f"{kind.__name__}: nothing tells where {word} is from")


def _imports(used: set[tuple[str, str]]) -> str:
    """Import statements in ruff's order: standard library, others, ours."""
    used = {*used, ("typing", "TypedDict")}
    groups: list[list[str]] = [[], [], []]
    modules = sorted({module for module, _ in used}, key=lambda m: ((m, "") not in used, m))
    for module in modules:
        root = module.partition(".")[0]
        group = groups[0 if root in sys.stdlib_module_names else 2 if root == "netadapt_onnx" else 1]
        names = sorted(name for other, name in used if other == module and name)
        group.append(f"from {module} import {', '.join(names)}" if names else f"import {module}")
    return "\n\n".join("\n".join(group) for group in groups if group)
