"""Where rules are found: by domain and operator name."""

from __future__ import annotations

from collections.abc import Callable

from netadapt_onnx.surgery.labels import Labels
from netadapt_onnx.surgery.node import Node

Rule = Callable[[Node, Labels], None]

RULES: dict[tuple[str, str], Rule] = {}


def rule(*ops: str, domain: str = "") -> Callable[[Rule], Rule]:
    """Register a function as the rule of one or more operators."""

    def register(function: Rule) -> Rule:
        for op in ops:
            if (domain, op) in RULES:
                raise ValueError(f"two rules for {domain}::{op}")
            RULES[domain, op] = function
        return function

    return register
