"""Charts as Vega-Lite specifications, and as SVG and PNG files where vl-convert is installed (extra `report`)."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from netadapt_onnx.common.escape import escape, escape_joined
from netadapt_onnx.common.files import write_atomically
from netadapt_onnx.errors import NetadaptError, is_interruption

Row = Mapping[str, object]
Spec = dict[str, Any]

SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"
WIDTH, HEIGHT = 520, 320
PNG_SCALE = 2.0
TICKS = 6
GREY = "#808488"
# Names longer than this would leave no room for the chart.
LONGEST_LABEL, LONGEST_TITLE = 80, 200
MISSING = "charts need the package vl-convert-python: pip install 'netadapt-onnx[report]'"


def available() -> bool:
    """Whether charts can be rendered here."""
    return find_spec("vl_convert") is not None


def lines(
    rows: Sequence[Row],
    x: str,
    y: str,
    *,
    series: str = "",
    title: str = "",
    logarithmic: Sequence[str] = (),
    points: bool = True,
) -> Spec:
    """Lines, through points that are marked unless not `points`, one per value of `series`."""
    line = {"mark": {"type": "line", "point": points}, "encoding": axes(x, y, series, logarithmic)}
    return layered(rows, title, [line])


def points_and_lines(
    points: Sequence[Row], curves: Sequence[Row], x: str, y: str, *, series: str, title: str, logarithmic: Sequence[str]
) -> Spec:
    """Measured points with fitted curves over them, in the same axes."""
    encoding = axes(x, y, series, logarithmic)
    layers: list[Spec] = [
        {"data": {"values": list(points)}, "mark": {"type": "point", "opacity": 0.5}, "encoding": encoding},
        {"data": {"values": list(curves)}, "mark": "line", "encoding": encoding},
    ]
    return layered([], title, layers)


def means(rows: Sequence[Mapping[str, Any]], x: str, y: str, spread: str, *, series: str, title: str) -> Spec:
    """Points with bars of one `spread` up and down, joined by lines per `series`."""
    encoding = axes(x, y, series, ())
    low, high = f"{y} - {spread}", f"{y} + {spread}"
    ends = [{**row, low: row[y] - row[spread], high: row[y] + row[spread]} for row in rows]
    bar_y = {**field(low), "type": "quantitative", "title": printable(y), "scale": {"zero": False}}
    bars = {"mark": {"type": "rule"}, "encoding": {**encoding, "y": bar_y, "y2": {"field": field(high)["field"]}}}
    return layered(ends, title, [{"mark": {"type": "line", "point": True}, "encoding": encoding}, bars])


def styled(spec: Spec) -> Spec:
    """For a page of any colour: no background, grey axes and text."""
    config = {
        "axis": {"labelColor": GREY, "titleColor": GREY, "gridColor": GREY, "gridOpacity": 0.2, "tickColor": GREY},
        "legend": {"labelColor": GREY, "titleColor": GREY},
        "title": {"color": GREY, "fontWeight": "normal"},
        "view": {"stroke": None},
    }
    return {**spec, "background": None, "config": config}


def printable(text: str) -> str:
    """Text that every font and renderer takes: what cannot be printed, or lies beyond 16 bits, is escaped by `%`.

    vl-convert measures text as an SVG and ends the process at characters that XML does not allow; its fonts have few of
    those beyond 16 bits. Vega-Lite writes titles into expressions, where a backslash would be an escape of theirs.
    """
    text = "".join(f"\\U{ord(c):08x}" if ord(c) > 0xFFFF else c for c in escape(text))
    return text.replace("\\", "%")


def field(name: str) -> dict[str, str]:
    """A column of the rows in an encoding, whatever it is called."""
    return {"field": _column(name), "title": _cut(printable(name), LONGEST_LABEL)}


def _column(name: str) -> str:
    """What Vega calls a column: it takes dots and brackets for a path, and has uses for quotes and backslashes."""
    return re.sub(r"[^A-Za-z0-9 ()]", lambda match: f"_{ord(match[0]):x}", name)


def drawable(spec: Spec) -> Spec:
    """The specification as it may be rendered: see `printable`; long names in its rows are cut, and stay apart.

    No failure of the renderer can be relied on to be one that Python can catch.
    """
    return dict(_drawable(spec, _Labels()))


class _Labels:
    """The names in a chart's rows, of at most `LONGEST_LABEL` characters; those cut to the same are numbered."""

    def __init__(self) -> None:
        self._labels: dict[str, str] = {}
        self._alike: Counter[str] = Counter()

    def label(self, name: str) -> str:
        name = printable(name)
        if len(name) <= LONGEST_LABEL:
            return name
        if name not in self._labels:
            short = _cut(name, LONGEST_LABEL - len(" (99999)"))
            self._alike[short] += 1
            self._labels[name] = f"{short} ({self._alike[short]})" if self._alike[short] > 1 else short
        return self._labels[name]


def _drawable(value: Any, labels: _Labels, *, is_row: bool = False) -> Any:
    if isinstance(value, str):
        return labels.label(value) if is_row else printable(value)
    if isinstance(value, Mapping):
        return {
            _column(str(key)) if is_row else printable(str(key)): _drawable(
                _cut(printable(content), LONGEST_TITLE) if key == "title" and isinstance(content, str) else content,
                labels,
                is_row=is_row or key == "values",
            )
            for key, content in value.items()
        }
    if isinstance(value, list | tuple):
        return [_drawable(member, labels, is_row=is_row) for member in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _cut(text: str, longest: int) -> str:
    """The beginning and the end of a text, which tell layers apart."""
    half = (longest - 1) // 2
    return text if len(text) <= longest else f"{text[:half]}…{text[-half:]}"


def _svg(spec: Spec) -> bytes:
    import vl_convert

    return str(vl_convert.vegalite_to_svg(spec, allowed_base_urls=[])).encode()


def _png(spec: Spec) -> bytes:
    import vl_convert

    return bytes(vl_convert.vegalite_to_png(spec, scale=PNG_SCALE, allowed_base_urls=[]))


def _rendered(render: Callable[[Spec], bytes], spec: Spec) -> bytes:
    """What the renderer makes of a chart, fetching nothing. Raises NetadaptError for all that it raises."""
    try:
        return render(drawable(spec))
    except BaseException as error:  # a panic of the renderer is no Exception
        if is_interruption(error) or isinstance(error, SystemExit):
            raise
        reason = escape_joined(str(error))[:200] or type(error).__name__
        raise NetadaptError(f"the chart '{spec.get('title', '')}' cannot be drawn: {reason}", code="chart") from error


def svg(spec: Spec) -> str:
    """Render for a page of any colour. Raises NetadaptError (code `chart`) if it cannot be drawn."""
    return _rendered(_svg, styled(spec)).decode()


def write(spec: Spec, stem: Path) -> list[Path]:
    """Render to `stem`.svg and `stem`.png; returns what was written. Raises NetadaptError (code `chart`)."""
    contents = {f"{stem.name}.svg": _rendered(_svg, spec), f"{stem.name}.png": _rendered(_png, spec)}
    for name, data in contents.items():
        stem.with_name(name).write_bytes(data)
    return [stem.with_name(name) for name in contents]


def require_kind(path: Path) -> None:
    """Raise NetadaptError unless a chart can be written to a path of this name here."""
    if path.suffix not in (".svg", ".png"):
        raise NetadaptError(f"{path}: a chart is written as .svg or .png", code="usage")
    if not available():
        raise NetadaptError(MISSING.partition(":")[0], hint=MISSING.partition(": ")[2], code="missing-package")


def write_one(spec: Spec, path: Path) -> None:
    """Render to a path that ends in .svg or .png; completely or not at all. Raises NetadaptError (code `chart`)."""
    write_atomically(path, _rendered(_svg if path.suffix == ".svg" else _png, spec))


def against(points: Sequence[Row], x: str, y: str, ends: Sequence[float], *, title: str) -> Spec:
    """Points in two axes of one unit, and the line between `ends` on which both agree."""
    line = {"data": {"values": [{x: end, y: end} for end in ends]}, "mark": {"type": "line", "strokeDash": [4, 4]}}
    drawn = {"data": {"values": list(points)}, "mark": {"type": "point"}}
    return layered([], title, [{**layer, "encoding": axes(x, y, "", ())} for layer in (line, drawn)])


def axes(x: str, y: str, series: str, logarithmic: Sequence[str]) -> Spec:
    """Quantitative axes, logarithmic ones by name, and a colour per value of `series`."""

    def axis(name: str) -> Spec:
        scale = {"type": "log", "nice": False} if name in logarithmic else {"zero": False}
        ticks = {"labelOverlap": True, "tickCount": TICKS}
        return {**field(name), "type": "quantitative", "scale": scale, "axis": ticks}

    encoding = {"x": axis(x), "y": axis(y)}
    return {**encoding, "color": {**field(series), "type": "nominal", "sort": None}} if series else encoding


def layered(rows: Sequence[Row], title: str, layers: Sequence[Spec]) -> Spec:
    """A chart of several layers over the same rows."""
    return {
        "$schema": SCHEMA,
        "title": title,
        "width": WIDTH,
        "height": HEIGHT,
        "background": "white",
        "data": {"values": list(rows)},
        "layer": list(layers),
    }
