"""Pages against what is installed."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import spliteasy as se
from spliteasy.codecs.registry import describe_codecs

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "codecs.md").read_text()


def test_the_page_names_every_codec_of_this_package() -> None:
    listed = re.search(r"<!-- codecs: begin -->(.*)<!-- codecs: end -->", PAGE, re.DOTALL)
    assert listed is not None
    own = [row for row in describe_codecs() if row.origin.split()[0] == "spliteasy"]
    missing = [row.name for row in own if f"| `{row.name}`" not in listed[1]]
    assert not missing, f"{missing}: run `python benchmarks/codecs.py --page docs/codecs.md --list`"
    assert all(row.summary and (row.citation or row.name == "raw") for row in own if row.kind != "broken")


def test_the_page_explains_every_column() -> None:
    columns = {field.name for field in fields(se.Measurement)} - {"chain", "shape", "message"}
    assert not [name for name in columns if f"`{name}`" not in PAGE]


def test_the_page_has_room_for_the_tables_and_links_that_exist() -> None:
    assert PAGE.index("<!-- tables: begin -->") < PAGE.index("<!-- tables: end -->")
    for target in re.findall(r"\]\(([^)#]+)", PAGE):
        assert (ROOT / "docs" / target).exists(), target
    assert "## Write a codec" in (ROOT / "CONTRIBUTING.md").read_text()


def test_every_chain_of_the_page_can_be_read() -> None:
    installed = set(se.list_codecs())
    chains = re.findall(r'"([a-z0-9]+(?:\([^"]*\))?(?: \| [^"]+)+)"', PAGE)
    assert len(chains) > 4
    for chain in chains:
        if {name.partition("(")[0] for name in chain.split(" | ")} <= installed:
            assert repr(se.codec(chain)) == chain
