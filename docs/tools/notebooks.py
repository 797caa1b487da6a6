"""Runs the notebooks, whose sources are docs/notebooks/*.py (the percent format).

    python docs/tools/notebooks.py --out FOLDER [NAME ...]      writes NAME.ipynb and NAME.md, outputs included

jupytext reads a source, nbclient runs it in a kernel of this interpreter, nbconvert writes what the site shows. A cell
that raises ends the command with its traceback.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from nbconvert import MarkdownExporter

SOURCES = Path(__file__).parents[1] / "notebooks"
TIME_LIMIT = 300  # seconds of a cell: an end to what hangs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("names", nargs="*", default=[path.stem for path in sorted(SOURCES.glob("*.py"))])
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name in arguments.names:
        notebook = jupytext.read(SOURCES / f"{name}.py")
        notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
        NotebookClient(notebook, timeout=TIME_LIMIT, kernel_name="python3").execute()
        for cell in notebook.cells:  # what libraries say on stderr is about kernels and bars
            if cell.cell_type == "code":
                cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
        nbformat.write(notebook, arguments.out / f"{name}.ipynb")
        text, _ = MarkdownExporter().from_notebook_node(notebook)
        (arguments.out / f"{name}.md").write_text(text.strip() + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
