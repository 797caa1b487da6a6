"""What the site needs beyond the files in docs/: pages made of others, Markdown as GitHub reads it, `llms.txt`.

MkDocs calls the functions whose names begin with `on_`. Nothing here is fetched from elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
NOTEBOOKS = ROOT / ".cache" / "notebooks"  # where `make docs` leaves them, run

ELSEWHERE = {"index.md": "README.md", "contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md"}
"""Pages of the site that stand at the project's root."""

HIDDEN = {"power_sampling": ["power_sampling.vote.vote"]}
"""Names that a module of the same name hides from who reads the source alone."""

REFERENCE = {
    "power_sampling": "power_sampling",
    "langchain_power_sampling": "langchain_power_sampling",
    "llamaindex_power_sampling": "llamaindex_power_sampling",
    "evaluation": "power_sampling.evaluation",
    "server": "power_sampling.server",
    "tracing": "power_sampling.tracing",
    "integrations": "power_sampling.integrations",
    "testing": "power_sampling.testing",
}
"""Pages of the API reference, and the module that each is made of."""

_IN_FENCE = re.compile(r"^\s*```")
_BLOCK = re.compile(r"^(?:[-*] |\d+\. |\|)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that are made of something else."""
    made = {name: (ROOT / source).read_text(encoding="utf-8") for name, source in ELSEWHERE.items()}
    for name, module in REFERENCE.items():
        shown = [module, *HIDDEN.get(module, [])]
        made[f"reference/{name}.md"] = f"# {module}\n\n" + "".join(f"::: {path}\n\n" for path in shown)
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        text = path.with_suffix(".md").read_text(encoding="utf-8")
        made[f"notebooks/{path.stem}.md"] = text.replace("\n", f"\n\n[The notebook itself]({path.name})\n", 1)
        files.append(File.generated(config, f"notebooks/{path.name}", abs_src_path=str(path)))
    for name, text in made.items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """The text of a page as Python-Markdown has to be given it."""
    text = _with_site_links(markdown) if page.file.src_uri in ELSEWHERE else markdown
    return "\n".join(_with_blank_lines(text.splitlines()))


def _with_site_links(text: str) -> str:
    """Links of a page at the project's root, as they are from docs/."""
    for name, source in ELSEWHERE.items():
        text = text.replace(f"]({source})", f"]({name})")
    return re.sub(r"(\]\(|src=\")docs/", r"\1", text)


def _with_blank_lines(lines: list[str]) -> Iterator[str]:
    """GitHub begins a list or a table right behind a paragraph, Python-Markdown behind a blank line."""
    before, is_code = "", False
    for line in lines:
        fence = _IN_FENCE.match(line)
        begins = _BLOCK.match(line) or (fence and not is_code)
        if (
            not is_code
            and begins
            and before.strip()
            and not before.startswith(("  ", line[:1]))
            and not _BLOCK.match(before)
        ):
            yield ""
        if fence:
            is_code = not is_code
        yield line
        before = line


def on_post_build(config: MkDocsConfig) -> None:
    """Writes `llms.txt` (llmstxt.org), and the Markdown that it points to beside every page."""
    site = Path(config.site_dir)
    lines, whole = [f"# {config.site_name}", "", f"> {config.site_description}"], []
    for section in config.nav or []:
        ((title, entries),) = section.items()
        lines += ["", f"## {title}", ""]
        for name, uri in _pages([section] if isinstance(entries, str) else entries):
            text = _source(uri, config)
            target = site / uri
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8")
            lines.append(f"- [{name}]({uri}): {_summary(text)}")
            if not uri.startswith("reference/"):
                whole.append(text)
    (site / "llms.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (site / "llms-full.txt").write_text("\n\n".join(whole), encoding="utf-8")


def _pages(entries: list[Any]) -> Iterator[tuple[str, str]]:
    for entry in entries:
        yield from entry.items()


def _source(uri: str, config: MkDocsConfig) -> str:
    if uri in ELSEWHERE:
        return _with_site_links((ROOT / ELSEWHERE[uri]).read_text(encoding="utf-8"))
    name = Path(uri).stem
    if uri.startswith("reference/"):
        module = REFERENCE[name]
        path = ROOT / module.replace(".", "/") / "__init__.py"
        text = path.read_text(encoding="utf-8")
        return f"# {module}\n\n" + text.split('"""')[1].strip() + "\n"
    folder = NOTEBOOKS if uri.startswith("notebooks/") else Path(config.docs_dir)
    path = folder / (name + ".md" if folder == NOTEBOOKS else uri)
    return path.read_text(encoding="utf-8")


def _summary(text: str) -> str:
    """The first sentence of a page that is prose."""
    for paragraph in re.split(r"\n\s*\n", re.sub(r"```.*?```", "", text, flags=re.DOTALL)):
        if not paragraph.lstrip().startswith(("#", "|", "<", "!", "-")) and paragraph.strip():
            words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", " ".join(paragraph.split())).replace("**", "")
            return re.split(r"(?<=[.])\s", words)[0].rstrip(":")
    return ""
