"""Graphs as DOT text, .svg and .html."""

from __future__ import annotations

import os
import shutil
import stat
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.reporting.graphviz import LONGEST, Drawing, require_drawable, write_drawing

EVIL = 'a"];b[label="<img src=x>\\n&lt;</script>\x1b[31m\u202e'
DRAWING = Drawing("two layers", "Colours say nothing.", [{"label": EVIL, "fillcolor": "#ff0000"}, {}], [(0, 1, {})])
posix = pytest.mark.skipif(sys.platform == "win32", reason="the stand-in for dot is a shell script")


def stand_in(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Put a program `dot` on PATH."""
    program = folder / "dot"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def test_text_stays_text() -> None:
    text = DRAWING.dot(captioned=True)
    quoted = 'label="a\\"];b[label=\\"<img src=x>\\\\n&amp;lt;</script>\\\\x1b[31m\\\\u202e"'
    assert quoted in text
    assert "\x1b" not in text and "\u202e" not in text
    assert "  0 -> 1 [];\n" in text


def test_long_text_is_cut_in_its_middle() -> None:
    text = Drawing("t", "l", [{"label": "a" * 500 + "z" * 500}], []).dot(captioned=False)
    assert f"{'a' * (LONGEST // 2)}…{'z' * (LONGEST // 2)}" in text
    assert max(map(len, text.splitlines())) < 300


def test_a_caption_has_title_and_legend() -> None:
    assert 'label="two layers\\nColours say nothing.\\n"' in DRAWING.dot(captioned=True)
    assert "Colours" not in DRAWING.dot(captioned=False)


@posix
def test_an_svg_is_what_dot_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(tmp_path, monkeypatch, '[ "$1" = -Tsvg ] && cat')
    require_drawable(tmp_path / "n.svg")
    write_drawing(tmp_path / "n.svg", DRAWING)
    assert (tmp_path / "n.svg").read_text(encoding="utf-8") == DRAWING.dot(captioned=True)


@posix
def test_what_dot_complains_of_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(tmp_path, monkeypatch, "echo out of >&2; echo memory >&2; exit 3")
    with pytest.raises(NetadaptError, match="dot ended with 3: out of memory"):
        write_drawing(tmp_path / "n.svg", DRAWING)
    assert not (tmp_path / "n.svg").exists()


@pytest.mark.skipif(shutil.which("dot") is None, reason="Graphviz is not installed")
def test_graphviz_reads_the_text(tmp_path: Path) -> None:
    write_drawing(tmp_path / "n.svg", DRAWING)
    texts = [element.text or "" for element in ET.parse(tmp_path / "n.svg").iter("{http://www.w3.org/2000/svg}text")]
    assert any("<img src=x>" in text and "&lt;" in text for text in texts)


def test_without_graphviz_an_svg_is_refused_with_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NetadaptError) as refused:
        require_drawable(tmp_path / "n.svg")
    assert refused.value.code == "missing-program"
    assert "apt install graphviz" in refused.value.hint and "n.html" in refused.value.hint
    require_drawable(tmp_path / "n.html")
    with pytest.raises(NetadaptError, match=r"no form of a drawing; one of \.svg, \.html, \.dot"):
        require_drawable(tmp_path / "n.pdf")


def test_a_page_holds_all_that_it_needs(tmp_path: Path) -> None:
    write_drawing(tmp_path / "n.html", DRAWING)
    page = (tmp_path / "n.html").read_text(encoding="utf-8")
    assert "Viz.js 3.31.0" in page and "two layers" in page
    assert "default-src 'none'" in page and "wasm-unsafe-eval" in page
    for fetch in (" src=", "<link", "@import"):
        assert fetch not in page.partition("Viz.js 3.31.0")[0].partition("</style>")[0]
    assert page.count("<script") == page.count("</script>") == 3  # the data, Viz.js and what draws them


def test_the_licences_of_what_is_shipped_are_beside_it() -> None:
    import netadapt_onnx.reporting.graphviz as module

    text = (Path(str(module.__file__)).parent / "viz_js" / "LICENSES.txt").read_text(encoding="utf-8")
    assert "Eclipse Public License - v 2.0" in text and "Expat maintainers" in text and "Michael Daines" in text
