"""The documentation site has every page, and links that lead where they lead in the repository.

`make site` builds it.
"""

from __future__ import annotations

import runpy
from collections.abc import Iterator

import yaml

from documentation import REPOSITORY

SITE = runpy.run_path(str(REPOSITORY / "docs" / "site_pages.py"))
CONFIG = yaml.safe_load((REPOSITORY / "mkdocs.yml").read_text(encoding="utf-8"))


def pages_of(entries: object) -> Iterator[str]:
    """The pages of a navigation, at any depth."""
    if isinstance(entries, str):
        yield entries
    elif isinstance(entries, dict):
        yield from (page for part in entries.values() for page in pages_of(part))
    elif isinstance(entries, list):
        yield from (page for part in entries for page in pages_of(part))


def test_every_page_has_one_place_in_the_navigation() -> None:
    navigation = list(pages_of(CONFIG["nav"]))
    own = {f"docs/{file.name}" for file in (REPOSITORY / "docs").glob("*.md")} - {SITE["CONTENTS"]}
    others = {path for path in SITE["files_beyond_docs"]() if path.endswith(".md")}
    assert sorted(navigation) == sorted(SITE["site_path"](path) for path in own | others)


def test_what_pages_link_to_outside_of_docs_is_taken_along() -> None:
    files = SITE["files_beyond_docs"]()
    assert {"README.md", "CONTRIBUTING.md", "examples/README.md", "examples/custom_task.py"} <= files
    assert all((REPOSITORY / path).is_file() for path in files)


def test_links_lead_to_the_same_place_in_the_site() -> None:
    links = SITE["with_links_of_the_site"]
    home = links(
        "[how](docs/search.md#whole-blocks) [net](examples/models.py) [web](https://example.org/docs/a.md)", "README.md"
    )
    assert home == "[how](search.md#whole-blocks) [net](examples/models.py) [web](https://example.org/docs/a.md)"
    assert links("[a](../CONTRIBUTING.md#a-device) [b](#here) [c](gate.md)", "docs/search.md") == (
        "[a](CONTRIBUTING.md#a-device) [b](#here) [c](gate.md)"
    )
    assert links("[home](../README.md) [doc](../docs/README.md)", "examples/README.md") == (
        "[home](../index.md) [doc](../index.md)"
    )
    assert links("`[no](../link.md)`\n```sh\n[no](../link.md)\n```\n", "docs/a.md").count("../link.md") == 2


def test_lists_and_tables_begin_where_github_lets_them_begin() -> None:
    room = SITE["with_room_before_lists"]
    assert room("text:\n- a\n- b\n  more\n- c\n") == "text:\n\n- a\n- b\n  more\n- c\n"
    assert room("text\n| a |\n|---|\n") == "text\n\n| a |\n|---|\n"
    assert room("```sh\ntext\n- a\n```\n- b\n") == "```sh\ntext\n- a\n```\n\n- b\n"


def test_the_site_asks_no_other_host_for_anything() -> None:
    assert CONFIG["theme"]["font"] is False and CONFIG["strict"] is True
    assert "offline" not in CONFIG["plugins"]  # loads a script from another host
