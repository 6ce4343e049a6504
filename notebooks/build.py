"""Percent sources to notebooks: `make lessons`, with FORCE=--force to execute what did not change, too.

A lesson's source becomes one executed notebook. An exercise's source holds stub and solution between lines

    # stub
    # solution
    # end

and becomes two: a blank one, not executed, with the stubs, and an executed one with the solutions, folded
away. A cell tagged `solution` is in the second alone.

The output of a cell tagged `predict`, which answers a question, and the code of one tagged `figure` start
collapsed in JupyterLab: a click on the three dots opens them.

A notebook is executed again only when its cells are not those of its source. What it holds then depends on
the source and its results alone: cell ids are counted, and times, versions and paths of the run are left out.
"""

import argparse
import os
import re
import time
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

from minieff.core.files import ROOT, load_results, save_results, write

LESSONS, EXERCISES = ROOT / "notebooks" / "source", ROOT / "exercises" / "source"
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
COLLAPSED = {"predict": "outputs_hidden", "figure": "source_hidden"}  # tag: JupyterLab's name for it
MARKED = re.compile(r"^ *# stub\n(.*?)^ *# solution\n(.*?)^ *# end(?:\n|$)", re.MULTILINE | re.DOTALL)
MARKER = re.compile(r"^ *# (?:stub|solution|end)$", re.MULTILINE)


def notebook_of(source: Path, part: str = "solution") -> NotebookNode:
    """The notebook of a source, not executed, with the stubs (`part="stub"`) or the solutions in it.

    ValueError for a cell whose markers are not stub, solution, end.
    """
    notebook = jupytext.read(source)
    kept = [c for c in notebook.cells if part == "solution" or "solution" not in c.metadata.get("tags", [])]
    for number, cell in enumerate(kept):
        tags = cell.metadata.get("tags", [])
        hidden = {name: True for tag, name in COLLAPSED.items() if tag in tags}
        cell.id = f"cell-{number}"
        if MARKER.search(cell.source):
            cell.source = chosen(cell.source, part, source.name)
            hidden |= {"source_hidden": True} if part == "solution" else {}
        cell.metadata = NotebookNode({"tags": tags} if tags else {})
        if hidden:
            cell.metadata["jupyter"] = NotebookNode(hidden)
    notebook.cells = kept
    notebook.metadata = NotebookNode(kernelspec=KERNEL, language_info={"name": "python"})
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    return notebook


def chosen(text: str, part: str, name: str) -> str:
    """A cell's text with the stub or the solution in the place of what is between the markers."""
    text = MARKED.sub(lambda found: found[1] if part == "stub" else found[2], text)
    if left := MARKER.search(text):
        raise ValueError(
            f"{name}: `{left[0].strip()}` has no partner; a cell marks `# stub`, `# solution`, `# end`"
        )
    return text.rstrip("\n")


def inputs(notebook: NotebookNode) -> list[tuple]:
    """What identifies a notebook's cells: kind, text, metadata."""
    return [(cell.cell_type, cell.source, cell.metadata) for cell in notebook.cells]


def executed_target(source: Path) -> Path:
    """Where the executed notebook of a source lies."""
    folder = source.parent.parent
    return (folder / "solutions" if folder.name == "exercises" else folder) / f"{source.stem}.ipynb"


def blank_target(source: Path) -> Path | None:
    """Where the blank notebook of an exercise lies; None for a lesson."""
    folder = source.parent.parent
    return folder / f"{source.stem}.ipynb" if folder.name == "exercises" else None


def label(source: Path) -> str:
    """What messages and results call the notebooks of a source."""
    return ("exercises/" if blank_target(source) else "") + source.stem


def up_to_date(source: Path) -> bool:
    """Whether the notebooks of a source have its cells."""
    wanted = {executed_target(source): notebook_of(source)}
    if blank_target(source):
        wanted[blank_target(source)] = notebook_of(source, "stub")
    return all(
        path.exists() and inputs(nbformat.read(path, as_version=4)) == inputs(notebook)
        for path, notebook in wanted.items()
    )


def save(notebook: NotebookNode, target: Path) -> None:
    """Write a valid notebook."""
    nbformat.validate(notebook)
    write(target, nbformat.writes(notebook) + "\n")


def execute(source: Path) -> float:
    """Run and write the notebook of a source; returns the seconds it took. RuntimeError when a cell wrote to
    stderr.
    """
    notebook, target = notebook_of(source), executed_target(source)
    target.parent.mkdir(exist_ok=True)
    begun = time.perf_counter()
    client = NotebookClient(
        notebook, timeout=300, record_timing=False, coalesce_streams=True,
        resources={"metadata": {"path": str(target.parent)}},
    )  # fmt: skip
    client.execute()
    seconds = time.perf_counter() - begun
    notebook.metadata = notebook_of(source).metadata
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if output.get("name") == "stderr":
                raise RuntimeError(f"{source.name}: a cell wrote to stderr:\n{cell.source}\n{output.text}")
    save(notebook, target)
    if blank_target(source):
        save(notebook_of(source, "stub"), blank_target(source))
    return seconds


def main() -> None:
    """Build every notebook that changed, and note how long each took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--force", action="store_true", help="execute every notebook")
    parser.add_argument(
        "names", nargs="*", help="only these, such as 00_start_here or exercises/00_start_here"
    )
    arguments = parser.parse_args()
    for source in sorted([*LESSONS.glob("*.py"), *EXERCISES.glob("*.py")]):
        name = label(source)
        if arguments.names and name not in arguments.names:
            continue
        if not arguments.force and up_to_date(source):
            print(f"{name}: up to date")
            continue
        seconds = execute(source)
        print(f"{name}: {seconds:.0f} s")
        if "MINIEFF_RESULTS" in os.environ:
            known = load_results("lessons")["seconds"] if (ROOT / "results" / "lessons.json").exists() else {}
            save_results("lessons", {"seconds": known | {name: round(seconds, 1)}})


if __name__ == "__main__":
    main()
