"""Escapes names.

They come from models, and models from strangers: no name may end a line, start a command or format a page.
"""

from __future__ import annotations

import re

from netadapt_onnx.common.escape import escape

_LONGEST = 200


def printable(text: object, longest: int = _LONGEST) -> str:
    """Escape text to one line, cut where it is too long."""
    clean = escape(text)
    return clean if len(clean) <= longest else clean[: longest - 1] + "…"


def code(text: object) -> str:
    """Format a Markdown code span in a table's cell, in which nothing is a link, a mention, an image or HTML."""
    inside = printable(text).replace("`", "'").replace("|", "¦")  # neither can be escaped in every dialect
    return f"`{inside}`" if inside.strip() else "` `"


def prose(text: object) -> str:
    """Escape Markdown text in a table's cell or a list: whatever would format, link or mention."""
    escaped = re.sub(r"[\\`*_{}\[\]<>()#!|&~]|:(?! )", lambda match: f"&#{ord(match[0])};", printable(text, 1000))
    return escaped.replace("@", "@&#8203;")
