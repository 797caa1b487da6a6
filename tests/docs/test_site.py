"""The site that `make docs` has built: it says what it says without a network, and `llms.txt` leads somewhere."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import pytest

from tests.support.pages import ROOT

SITE = ROOT / "build" / "site"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (SITE / "llms.txt").exists(), reason="`make docs` has not built the site"),
]


def html() -> list[Path]:
    return sorted(SITE.rglob("*.html"))


def test_nothing_is_fetched_from_elsewhere() -> None:
    loading = re.compile(
        r"<(?:script|img|iframe|source)[^>]*\ssrc=[\"'](?:https?:)?//|<link[^>]*\shref=[\"'](?:https?:)?//"
    )
    for path in html():
        found = loading.search(path.read_text(encoding="utf-8"))
        assert found is None or "canonical" in found[0], path
    for path in SITE.rglob("*.css"):
        assert not re.search(r"@import|url\([\"']?https?://", path.read_text(encoding="utf-8")), path


def test_no_diagram_waits_for_a_script_that_is_not_there() -> None:
    assert not [path for path in html() if 'class="mermaid"' in path.read_text(encoding="utf-8")]


def test_tables_and_lists_are_tables_and_lists() -> None:
    """Python-Markdown shows them as text where it does not find a blank line before them."""
    for path in html():
        text = re.sub(r"<(pre|code)\b.*?</\1>", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
        assert not re.search(r"<p>[^<]*\n\|.*\|\n", text), path
        assert not re.search(r"^- ", re.sub(r"<head>.*?</head>", "", text, flags=re.DOTALL), flags=re.MULTILINE), path


def test_llms_txt_names_pages_that_are_there() -> None:
    text = (SITE / "llms.txt").read_text(encoding="utf-8")
    assert text.startswith("# power-sampling\n\n> ")
    links = re.findall(r"^- \[.+?\]\((.+?)\): .+$", text, flags=re.MULTILINE)
    assert len(links) > 20 and len(links) == text.count("\n- ")
    for link in links:
        assert (SITE / link).read_text(encoding="utf-8").startswith("#"), link
    whole = (SITE / "llms-full.txt").read_text(encoding="utf-8")
    assert "# Quick start" in whole and "# Errors, and what to do" in whole


@pytest.mark.parametrize(
    ("page", "module"),
    [
        ("power_sampling", "power_sampling"),
        ("langchain_power_sampling", "langchain_power_sampling"),
        ("llamaindex_power_sampling", "llamaindex_power_sampling"),
        ("evaluation", "power_sampling.evaluation"),
        ("tracing", "power_sampling.tracing"),
        ("testing", "power_sampling.testing"),
    ],
)
def test_the_reference_has_every_public_name(page: str, module: str) -> None:
    text = (SITE / "reference" / f"{page}.html").read_text(encoding="utf-8")
    public = [name for name in import_module(module).__all__ if not name.startswith("_")]
    assert [name for name in public if not re.search(rf'id="{re.escape(module)}\.([a-z]+\.)?{name}"', text)] == []
