"""The index of the manual leads to each page, and shows the README's tested code."""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

import pytest

from .test_docs import DOCS

INDEX = (DOCS / "index.md").read_text(encoding="utf-8")
PAGES = sorted(page.stem for page in DOCS.glob("*.md") if page.stem != "index")


def test_each_page_is_in_the_table_of_contents() -> None:
    trees = re.findall(r"```\{toctree\}\n:hidden:\n:caption: [\w ]+\n\n(.*?)```", INDEX, re.DOTALL)
    assert INDEX.count("{toctree}") == len(trees)
    assert sorted(name for tree in trees for name in tree.split()) == PAGES


def test_each_page_has_a_card() -> None:
    assert sorted(re.findall(r":::\{grid-item-card\} [\w ]+\n:link: ([\w-]+)\n:link-type: doc\n", INDEX)) == PAGES


def test_the_code_is_the_tested_code_of_the_readme() -> None:
    assert INDEX.count("```{literalinclude} ../README.md\n") == 2
    assert "```python" not in INDEX


@pytest.mark.parametrize("name", ["streams.svg", "byte-path.svg"])
def test_each_picture_is_used_and_says_in_words_what_it_shows(name: str) -> None:
    assert f"```{{raw}} html\n:file: images/{name}\n```" in INDEX
    root = ET.parse(DOCS / "images" / name).getroot()
    title = root.find("{http://www.w3.org/2000/svg}title")
    assert title is not None
    assert title.text
    assert root.get("aria-labelledby") == title.get("id")
