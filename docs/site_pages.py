"""What mkdocs does not do by itself: pages of the repository beyond docs/ are pages of the site, under the same links.

mkdocs.yml names this file as a hook. README.md is the home. What a page links to outside docs/ is taken into the site:
a Markdown file as a page, any other file as it is. So links work alike on GitHub, in a checkout and on the site.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote

ROOT = Path(__file__).resolve().parent.parent
HOME = "README.md"
# The navigation replaces this page, which is for readers on GitHub.
CONTENTS = "docs/README.md"
_LINK = re.compile(r"(\]\()([^)\s]+)(\))")
_CODE = re.compile(r"(^\s*(`{3,})\w*\n.*?^\s*\2\s*$|`[^`\n]*`)", re.DOTALL | re.MULTILINE)


def site_path(path: str) -> str:
    """Where a file of the repository lies in the site."""
    return "index.md" if path in (HOME, CONTENTS) else path.removeprefix("docs/")


def repository_path(file: Any) -> str:
    """Which file of the repository a page of the site is."""
    if file.src_uri == "index.md":
        return HOME
    return f"docs/{file.src_uri}" if file.generated_by is None else str(file.src_uri)


def target(page: str, link: str) -> tuple[str, str]:
    """The file of the repository that a page's link leads to, "" where it leads elsewhere, and the fragment."""
    name, _, fragment = link.partition("#")
    if not name or ":" in name:
        return "", fragment
    return posixpath.normpath(posixpath.join(posixpath.dirname(page), unquote(name))), fragment


def prose(text: str) -> list[str]:
    """A page's text and its code in turn: text at even places, a block or a span of code at odd ones."""
    parts: list[str] = []
    end = 0
    for match in _CODE.finditer(text):
        parts += [text[end : match.start()], match[0]]
        end = match.end()
    return [*parts, text[end:]]


def linked(page: str) -> set[str]:
    """The files of the repository that a page links to."""
    text = "".join(prose((ROOT / page).read_text(encoding="utf-8"))[::2])
    return {path for match in _LINK.finditer(text) if (path := target(page, match[2])[0])}


def files_beyond_docs() -> set[str]:
    """README.md and all that it, the pages of docs/ and the pages so found link to outside docs/."""
    waiting = [HOME, *(f"docs/{file.name}" for file in sorted((ROOT / "docs").glob("*.md")))]
    visited: set[str] = set()
    while waiting:
        page = waiting.pop()
        if page not in visited:
            visited.add(page)
            paths = linked(page) if page.endswith(".md") else set()
            waiting += [path for path in paths if (ROOT / path).is_file()]
    return {path for path in visited if not path.startswith("docs/")}


def on_config(config: Any) -> Any:
    """Headings have the fragments that GitHub gives them."""
    from pymdownx.slugs import slugify

    config.mdx_configs.setdefault("toc", {})["slugify"] = slugify(case="lower")
    return config


def on_files(files: Any, *, config: Any) -> Any:
    """Take the files beyond docs/ into the site."""
    from mkdocs.structure.files import File

    for path in sorted(files_beyond_docs()):
        content = (ROOT / path).read_bytes()
        body = content.decode("utf-8") if path.endswith(".md") else content
        files.append(File.generated(config, site_path(path), content=body))
    return files


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Any) -> str:
    """Point a page's links to where the files lie in the site, and let lists and tables begin where GitHub does."""
    return with_room_before_lists(with_links_of_the_site(markdown, repository_path(page.file)))


def with_room_before_lists(markdown: str) -> str:
    """A page with an empty line before each list and table, without which Python-Markdown reads on in the paragraph."""
    lines: list[str] = []
    in_code = False
    for line in markdown.splitlines():
        before = lines[-1] if lines else ""
        begins = line.startswith(("- ", "1. ", "|")) and not in_code
        if begins and before and not before.startswith(("- ", " ", "|", "#")) and not re.match(r"\d+\. ", before):
            lines.append("")
        if line.startswith("```"):
            in_code = not in_code
        lines.append(line)
    return "\n".join(lines) + "\n"


def with_links_of_the_site(markdown: str, path: str) -> str:
    """The text of a page of the repository, with its links as they lead in the site."""
    folder = posixpath.dirname(site_path(path))

    def rewritten(match: re.Match[str]) -> str:
        file, fragment = target(path, match[2])
        if not file:
            return match[0]
        link = posixpath.relpath(site_path(file), folder or ".")
        return f"{match[1]}{link}{'#' * bool(fragment)}{fragment}{match[3]}"

    parts = prose(markdown)
    parts[::2] = [_LINK.sub(rewritten, text) for text in parts[::2]]
    return "".join(parts)
