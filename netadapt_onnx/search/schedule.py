"""How far each iteration goes: NetAdapt's step targets (Yang et al., ECCV 2018, section 3)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from netadapt_onnx.common.amounts import EXAMPLES, parse_amount
from netadapt_onnx.errors import NetadaptError


@dataclass(frozen=True)
class Schedule:
    """Iteration i (from 1) lowers a resource by `ratio * decay**(i - 1)` times its initial (or current) amount."""

    ratio: float
    decay: float
    of: Literal["initial", "current"] = "initial"

    def reduction(self, iteration: int, initial: float, current: float) -> float:
        """The amount iteration `iteration` is to save, in the resource's unit."""
        return self.ratio * self.decay ** (iteration - 1) * (initial if self.of == "initial" else current)

    def target(self, iteration: int, initial: float, current: float, limit: float) -> float:
        """What the resource may be after `iteration`; never below `limit`, the budget."""
        return max(current - self.reduction(iteration, initial, current), limit)

    def reach(self, initial: float, iterations: int) -> float:
        """The resource after `iterations` exact steps."""
        if self.of == "initial":
            return initial - sum(self.reduction(i, initial, initial) for i in range(1, iterations + 1))
        return initial * math.prod(1 - self.ratio * self.decay ** (i - 1) for i in range(1, iterations + 1))

    def reaching(self, initial: float, limit: float, iterations: int) -> Schedule:
        """This schedule, its decay raised just so far that exact steps reach `limit` in `iterations`; at most to 1."""
        if self.reach(initial, iterations) <= limit or self.decay >= 1:
            return self
        low, high = self.decay, 1.0
        if replace(self, decay=high).reach(initial, iterations) <= limit:
            for _ in range(60):
                middle = (low + high) / 2
                low, high = (
                    (low, middle) if replace(self, decay=middle).reach(initial, iterations) <= limit else (middle, high)
                )
        return replace(self, decay=high)


def parse_reduction(kind: str, amount: str | float) -> tuple[float, bool]:
    """An `--init-reduction` of a resource in its base unit or, True beside it, as a share. Raises NetadaptError."""
    parsed = parse_amount(kind, str(amount))
    if parsed is None or parsed[0] <= 0 or (parsed[1] and parsed[0] > 1):
        hint = f"e.g. {EXAMPLES.get(kind, '1000')} or 0.05x"
        raise NetadaptError(f"--init-reduction {amount} is not an amount of {kind}", hint=hint, code="usage")
    return parsed


def reduction_in_one_spelling(kind: str, amount: str | float) -> str:
    """An `--init-reduction` as a text: a share, or a number of the resource's base unit. Raises NetadaptError."""
    value, is_share = parse_reduction(kind, amount)
    return f"{value:.15g}{'x' if is_share else ''}"
