"""Charts as Vega-Lite specifications, and as SVG and PNG files where vl-convert is installed (extra `report`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.files import aside

Row = Mapping[str, object]
Spec = dict[str, Any]

SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"
WIDTH, HEIGHT = 520, 320
PNG_SCALE = 2.0
TICKS = 6
GREY = "#808488"
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
    return layered(
        rows, title, [{"mark": {"type": "line", "point": points}, "encoding": axes(x, y, series, logarithmic)}]
    )


def points_and_lines(
    points: Sequence[Row], curves: Sequence[Row], x: str, y: str, *, series: str, title: str, logarithmic: Sequence[str]
) -> Spec:
    """Measured points with fitted curves over them, in the same axes."""
    encoding = axes(x, y, series, logarithmic)
    made = layered([], title, [])
    made["layer"] = [
        {"data": {"values": list(points)}, "mark": {"type": "point", "opacity": 0.5}, "encoding": encoding},
        {"data": {"values": list(curves)}, "mark": "line", "encoding": encoding},
    ]
    return made


def means(rows: Sequence[Row], x: str, y: str, spread: str, *, series: str, title: str) -> Spec:
    """Points with bars of one `spread` up and down, joined by lines per `series`."""
    encoding = axes(x, y, series, ())
    low, high = f"datum['{y}'] - datum['{spread}']", f"datum['{y}'] + datum['{spread}']"
    bars = {
        "transform": [{"calculate": low, "as": "low"}, {"calculate": high, "as": "high"}],
        "mark": {"type": "rule"},
        "encoding": {
            **encoding,
            "y": {"field": "low", "type": "quantitative", "title": y, "scale": {"zero": False}},
            "y2": {"field": "high"},
        },
    }
    return layered(rows, title, [{"mark": {"type": "line", "point": True}, "encoding": encoding}, bars])


def styled(spec: Spec) -> Spec:
    """For a page of any colour: no background, grey axes and text."""
    config = {
        "axis": {"labelColor": GREY, "titleColor": GREY, "gridColor": GREY, "gridOpacity": 0.2, "tickColor": GREY},
        "legend": {"labelColor": GREY, "titleColor": GREY},
        "title": {"color": GREY, "fontWeight": "normal"},
        "view": {"stroke": None},
    }
    return {**spec, "background": None, "config": config}


def svg(spec: Spec) -> str:
    """Render for a page of any colour."""
    import vl_convert

    text: str = vl_convert.vegalite_to_svg(styled(spec))
    return text


def write(spec: Spec, stem: Path) -> list[Path]:
    """Render to `stem`.svg and `stem`.png; returns what was written."""
    import vl_convert

    text = vl_convert.vegalite_to_svg(spec)
    image = vl_convert.vegalite_to_png(spec, scale=PNG_SCALE)
    files = [stem.with_name(f"{stem.name}.{kind}") for kind in ("svg", "png")]
    files[0].write_text(text, encoding="utf-8")
    files[1].write_bytes(image)
    return files


def require_kind(path: Path) -> None:
    """Raise NetadaptError unless a chart can be written to a path of this name here."""
    if path.suffix not in (".svg", ".png"):
        raise NetadaptError(f"{path}: a chart is written as .svg or .png", code="usage")
    if not available():
        raise NetadaptError(MISSING.partition(":")[0], hint=MISSING.partition(": ")[2], code="missing-package")


def write_one(spec: Spec, path: Path) -> None:
    """Render to a path that ends in .svg or .png; whole or not at all."""
    import vl_convert

    if path.suffix == ".svg":
        data = vl_convert.vegalite_to_svg(spec).encode()
    else:
        data = vl_convert.vegalite_to_png(spec, scale=PNG_SCALE)
    with aside(path) as temporary:
        temporary.write_bytes(data)


def against(points: Sequence[Row], x: str, y: str, ends: Sequence[float], *, title: str) -> Spec:
    """Points in two axes of one unit, and the line between `ends` on which both agree."""
    made = layered([], title, [])
    made["layer"] = [
        {"data": {"values": [{x: end, y: end} for end in ends]}, "mark": {"type": "line", "strokeDash": [4, 4]}},
        {"data": {"values": list(points)}, "mark": {"type": "point"}},
    ]
    for layer in made["layer"]:
        layer["encoding"] = axes(x, y, "", ())
    return made


def axes(x: str, y: str, series: str, logarithmic: Sequence[str]) -> Spec:
    """Quantitative axes, logarithmic ones by name, and a colour per value of `series`."""

    def axis(name: str) -> Spec:
        scale = {"type": "log", "nice": False} if name in logarithmic else {"zero": False}
        ticks = {"labelOverlap": True, "tickCount": TICKS}
        return {"field": name, "type": "quantitative", "scale": scale, "axis": ticks}

    made = {"x": axis(x), "y": axis(y)}
    return {**made, "color": {"field": series, "type": "nominal", "sort": None}} if series else made


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
