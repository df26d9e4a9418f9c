"""How the widths of a network follow its size: a power law per group (NeuralScale; Lee & Lee, CVPR 2020, section 3)."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np

from netadapt_onnx.common.escape import toml_string
from netadapt_onnx.common.json_output import UNREADABLE
from netadapt_onnx.common.missing_files import missing_file
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.scaling.width_record import WidthRecord

# With fewer rows a fit says little: the group, or with too few records the whole network, is scaled uniformly.
LEAST_ROWS = 6


class GroupLaw(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """width = alpha * tau^beta, fitted to `rows` records with coefficient of determination `r2`."""

    name: str
    alpha: float
    beta: float
    rows: int
    r2: float | None = None


class Law(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One law per group, in the model's order. `family` identifies the graph without its widths ('' where unknown)."""

    groups: tuple[GroupLaw, ...]
    family: str = ""

    @property
    def fitted(self) -> bool:
        """Whether there were enough records to fit anything; if not, scaling is uniform."""
        return any(group.rows >= LEAST_ROWS for group in self.groups)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know about groups that follow no law."""
        if not self.fitted:
            return (f"fewer than {LEAST_ROWS} records: widths are scaled uniformly",)
        notes = []
        for group in self.groups:
            if group.rows < LEAST_ROWS:
                notes.append(f"{group.name} was at its floor in all but {group.rows} records: it keeps its width")
            elif group.beta <= 0:
                notes.append(f"{group.name} does not grow with the network (beta {group.beta:.3f}): it keeps its width")
        return tuple(notes)

    def widths(self, tau: float) -> dict[str, float]:
        """The width of each group at `tau` parameters, unrounded, without groups that have no law of their own."""
        return {g.name: g.alpha * tau**g.beta for g in self.groups if g.rows >= LEAST_ROWS and g.beta > 0}


def fit_laws(record: WidthRecord, floors: Mapping[str, int] | None = None) -> tuple[GroupLaw, ...]:
    """Fit ln(width) = ln(alpha) + beta * ln(tau) to the records of each group by least squares.

    Args:
        record: The widths recorded while a network was pruned.
        floors: The fewest channels of each group. Rows in which a group is at its floor say nothing of how it would
            go on, and are left out of its fit.
    """
    laws = []
    for index, name in enumerate(record.names):
        widths = record.widths[:, index]
        above_floor = widths > (floors or {}).get(name, 0)
        x, y = np.log(record.tau[above_floor]), np.log(widths[above_floor])
        rows = int(above_floor.sum())
        if rows < 2 or np.ptp(x) == 0:
            laws.append(GroupLaw(name, float(np.exp(y.mean())) if rows else 1.0, 0.0, rows))
            continue
        columns = np.stack([np.ones_like(x), x], axis=1)
        (intercept, slope), *_ = np.linalg.lstsq(columns, y, rcond=None)
        total = float(((y - y.mean()) ** 2).sum())
        residual = float(((y - columns @ [intercept, slope]) ** 2).sum())
        r2 = 1 - residual / total if total > 0 else None
        laws.append(GroupLaw(name, float(np.exp(intercept)), float(slope), rows, r2))
    return tuple(laws)


def law_toml(law: Law) -> str:
    """A law as the text of a TOML file."""
    lines = ["# width = alpha * params^beta, by `netadapt-onnx scale`", f"family = {toml_string(law.family)}"]
    for group in law.groups:
        lines += ["", "[[groups]]", f"name = {toml_string(group.name)}"]
        lines += [f"{key} = {getattr(group, key)!r}" for key in ("alpha", "beta", "rows")]
        lines += [f"r2 = {group.r2!r}"] if group.r2 is not None else []
    return "\n".join(lines) + "\n"


def read_law(file: Path, family: str, groups: Sequence[str]) -> Law:
    """Read a law from a TOML file.

    Args:
        file: The file, as `law_toml` writes it.
        family: The hash of the model's graph without its widths.
        groups: The names of the model's groups, in order.

    Raises:
        NetadaptError: The file holds something else, or the law of another model.
    """
    if not file.is_file():
        raise missing_file(file, flag="--law", code="law")
    try:
        law = msgspec.convert(tomllib.loads(file.read_text()), Law)
    except (OSError, *UNREADABLE) as error:
        raise NetadaptError(f"{file} is no law of widths: {error}", hint="`scale` writes one", code="law") from error
    names = [group.name for group in law.groups]
    if law.family != family or names != list(groups):
        differs = next((a for a, b in zip(names, groups, strict=False) if a != b), "the graph")
        raise NetadaptError(
            f"{file} is the law of another model ({differs} differs)", hint="fit this model's own", code="other-model"
        )
    return law
