"""Percent sources to executed notebooks: `make lessons`, with FORCE=--force to execute what did not change,
too.

A notebook is executed again only when its cells are not those of its source. What it holds then depends on
the source and its results alone: cell ids are counted, and times, versions and paths of the run are left out.
"""

import argparse
import os
import time
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

from minieff.files import ROOT, load_results, save_results, write

SOURCES = ROOT / "notebooks" / "source"
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def blank(source: Path) -> NotebookNode:
    """The notebook of a source, not executed."""
    notebook = jupytext.read(source)
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"
        cell.metadata = NotebookNode({"tags": cell.metadata.tags} if cell.metadata.get("tags") else {})
    notebook.metadata = NotebookNode(kernelspec=KERNEL, language_info={"name": "python"})
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    return notebook


def inputs(notebook: NotebookNode) -> list[tuple]:
    """What identifies a notebook's cells: kind, text, tags."""
    return [(cell.cell_type, cell.source, cell.metadata.get("tags", [])) for cell in notebook.cells]


def target_of(source: Path) -> Path:
    """Where the notebook of a source lies."""
    return source.parent.parent / f"{source.stem}.ipynb"


def up_to_date(source: Path) -> bool:
    """Whether the executed notebook has the cells of its source."""
    target = target_of(source)
    return target.exists() and inputs(nbformat.read(target, as_version=4)) == inputs(blank(source))


def execute(source: Path) -> float:
    """Run and write the notebook of a source; returns the seconds it took. RuntimeError when a cell wrote to
    stderr.
    """
    notebook = blank(source)
    begun = time.perf_counter()
    client = NotebookClient(
        notebook, timeout=300, record_timing=False, coalesce_streams=True,
        resources={"metadata": {"path": str(target_of(source).parent)}},
    )  # fmt: skip
    client.execute()
    seconds = time.perf_counter() - begun
    notebook.metadata = blank(source).metadata
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if output.get("name") == "stderr":
                raise RuntimeError(f"{source.name}: a cell wrote to stderr:\n{cell.source}\n{output.text}")
    nbformat.validate(notebook)
    write(target_of(source), nbformat.writes(notebook) + "\n")
    return seconds


def main() -> None:
    """Build every lesson that changed, and note how long each took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--force", action="store_true", help="execute every notebook")
    parser.add_argument("names", nargs="*", help="only these, such as 00_start_here")
    arguments = parser.parse_args()
    for source in sorted(SOURCES.glob("*.py")):
        if arguments.names and source.stem not in arguments.names:
            continue
        if not arguments.force and up_to_date(source):
            print(f"{source.stem}: up to date")
            continue
        seconds = execute(source)
        print(f"{source.stem}: {seconds:.0f} s")
        if "MINIEFF_RESULTS" in os.environ:
            known = load_results("lessons")["seconds"] if (ROOT / "results" / "lessons.json").exists() else {}
            save_results("lessons", {"seconds": known | {source.stem: round(seconds, 1)}})


if __name__ == "__main__":
    main()
