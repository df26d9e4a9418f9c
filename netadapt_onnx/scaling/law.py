"""How the widths of a network follow its size: a power law per group (NeuralScale; Lee & Lee, CVPR 2020, section 3)."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from netadapt_onnx.common.escape import toml_string
from netadapt_onnx.common.json_output import UNREADABLE
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.scaling.record import Record

# With fewer rows a fit says little: the group, or with too few records the whole network, is scaled uniformly.
LEAST_ROWS = 6


class GroupLaw(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """width = alpha * tau^beta, fitted to `rows` records with coefficient of determination `r2`."""

    name: str
    alpha: float
    beta: float
    rows: int
    r2: float | None


@dataclass(frozen=True)
class Law:
    """One law per group, in the model's order. `family` identifies the graph without its widths ('' where unknown)."""

    groups: tuple[GroupLaw, ...]
    family: str = ""

    @property
    def fitted(self) -> bool:
        """Whether there were records enough to fit anything; if not, scaling is uniform."""
        return any(group.rows >= LEAST_ROWS for group in self.groups)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know about groups that follow no law."""
        if not self.fitted:
            return (f"fewer than {LEAST_ROWS} records: widths are scaled uniformly",)
        told = []
        for group in self.groups:
            if group.rows < LEAST_ROWS:
                told.append(f"{group.name} was at its floor in all but {group.rows} records: it keeps its width")
            elif group.beta <= 0:
                told.append(f"{group.name} does not grow with the network (beta {group.beta:.3f}): it keeps its width")
        return tuple(told)

    def widths(self, tau: float) -> dict[str, float]:
        """Width of each group at `tau` parameters, unrounded; groups without a law of their own are left out."""
        return {g.name: g.alpha * tau**g.beta for g in self.groups if g.rows >= LEAST_ROWS and g.beta > 0}


def fit(record: Record, floors: Mapping[str, int] | None = None) -> tuple[GroupLaw, ...]:
    """Least squares of ln(width) on ln(tau) for each group.

    Rows in which a group is at its floor say nothing of how it would go on and leave its fit.
    """
    found = []
    for index, name in enumerate(record.names):
        widths = record.widths[:, index]
        free = widths > (floors or {}).get(name, 0)
        x, y = np.log(record.tau[free]), np.log(widths[free])
        rows = int(free.sum())
        if rows < 2 or np.ptp(x) == 0:
            found.append(GroupLaw(name, float(np.exp(y.mean())) if rows else 1.0, 0.0, rows, None))
            continue
        columns = np.stack([np.ones_like(x), x], axis=1)
        (intercept, slope), *_ = np.linalg.lstsq(columns, y, rcond=None)
        spread = float(((y - y.mean()) ** 2).sum())
        missed = float(((y - columns @ [intercept, slope]) ** 2).sum())
        r2 = 1 - missed / spread if spread > 0 else None
        found.append(GroupLaw(name, float(np.exp(intercept)), float(slope), rows, r2))
    return tuple(found)


def written(law: Law) -> str:
    """A law as a TOML file."""
    lines = ["# width = alpha * params^beta, by `netadapt-onnx scale`", f"family = {toml_string(law.family)}"]
    for group in law.groups:
        lines += ["", "[[groups]]", f"name = {toml_string(group.name)}"]
        lines += [f"{key} = {getattr(group, key)!r}" for key in ("alpha", "beta", "rows")]
        lines += [f"r2 = {group.r2!r}"] if group.r2 is not None else []
    return "\n".join(lines) + "\n"


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    family: str
    groups: tuple[_Entry, ...]


class _Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    alpha: float
    beta: float
    rows: int
    r2: float | None = None


def read_law(file: Path, family: str, groups: Sequence[str]) -> Law:
    """Read a law for the model of this family with these groups. Raises NetadaptError if it is another model's."""
    try:
        parsed = msgspec.convert(tomllib.loads(file.read_text()), _File)
    except (OSError, *UNREADABLE) as error:
        raise NetadaptError(f"{file} is no law of widths: {error}", hint="`scale` writes one", code="law") from error
    names = [group.name for group in parsed.groups]
    if parsed.family != family or names != list(groups):
        differs = next((a for a, b in zip(names, groups, strict=False) if a != b), "the graph")
        raise NetadaptError(
            f"{file} is the law of another model ({differs} differs)", hint="fit this model's own", code="other-model"
        )
    return Law(tuple(GroupLaw(g.name, g.alpha, g.beta, g.rows, g.r2) for g in parsed.groups), family)
