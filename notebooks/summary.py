"""The first page's picture and tables, from `results/` and the notebooks: the last part of `make lessons`.

It writes `results/overview.png`, every file and model measured so far, its description and the reading times
into README.md, and `results/README.md`, what the lessons' sources claimed and what came out.
"""

import re
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import nbformat
from matplotlib.figure import Figure
from PIL import Image

from minieff.core import cost, plot
from minieff.core.files import ROOT, read_json, write

README, RESULTS = ROOT / "README.md", ROOT / "results"
FAMILIES = {  # of the talk, each with its mark and its colour
    "trained smaller": ("o", "blue"),
    "sparsity-inducing training": ("^", "sky"),
    "knowledge distillation": ("v", "purple"),
    "pruning": ("s", "red"),
    "weight sharing": ("P", "black"),
    "quantization": ("D", "green"),
    "efficient architectures": ("X", "orange"),
    "faster decoding": ("*", "grey"),
}
LESSONS = ([0, 1], [2, 3, 4, 5], [6, 7], [8], [9], [10, 11], [12, 13, 14], [15])  # of each family
FAMILY = {lesson: name for name, lessons in zip(FAMILIES, LESSONS, strict=True) for lesson in lessons}
HIGHEST = 1.9  # bits per byte that the picture shows
ANSWERS = {True: "yes", False: "no", "in part": "in part"}
PICTURE = re.compile(r'(<img src="results/overview\.png" width="\d+" alt=")[^"]*')


class Point(NamedTuple):
    """A file or a model: its bytes, its bits per byte on held-out text, and the family that made it."""

    size: int
    bits: float
    family: str


def lessons() -> list[Path]:
    return sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))


def main_story(path: Path) -> list:
    """The cells of a lesson up to "Going further"."""
    cells = nbformat.read(path, as_version=4).cells
    after = (i for i, cell in enumerate(cells) if cell.source.startswith("## Going further"))
    return cells[: next(after, None)]


def minutes(path: Path) -> int:
    """How long reading a lesson's main story takes: 200 words a minute, and half a minute for a code cell."""
    cells = main_story(path)
    words = sum(len(cell.source.split()) for cell in cells if cell.cell_type == "markdown")
    return round(words / 200 + sum(cell.cell_type == "code" for cell in cells) / 2)


def with_size(values: object) -> Iterator[dict]:
    """The dictionaries in results that have both a size and a quality, however deep."""
    if isinstance(values, dict):
        if "bits_per_byte" in values and values.keys() & {"bytes", "stored_bytes"}:
            yield values
        values = list(values.values())
    if isinstance(values, list):
        for value in values:
            yield from with_size(value)


def base() -> dict:
    """The row of the model that the course starts from."""
    return read_json(RESULTS / "00_start_here.json")["scoreboard"][0]


def points() -> list[Point]:
    """Everything measured in lessons and their evidence that is no larger than the base, each once."""
    largest = base()["stored_bytes"]
    number = {path.stem[3:]: int(path.stem[:2]) for path in lessons()}
    found = {}
    for path in sorted(RESULTS.glob("**/*.json")):
        topic = path.stem[3:] if path.parent == RESULTS else path.parent.name
        for row in with_size(read_json(path)) if topic in number else ():
            family = row.get("family") or FAMILY[number[topic]]
            size = row.get("stored_bytes", row.get("bytes"))
            found.setdefault((size, round(row["bits_per_byte"], 4)), family)
    return [Point(size, bits, family) for (size, bits), family in found.items() if size <= largest]


def front(measured: Sequence[Point]) -> list[Point]:
    """The points that no other beats in size and quality, from small to large."""
    names = cost.pareto({str(i): point[:2] for i, point in enumerate(measured)})
    return sorted(measured[int(name)] for name in names)


def overview(measured: Sequence[Point]) -> Figure:
    """Bits per byte over size, a mark for each family, with the front as a line."""
    figure, (ax,) = plot.panels(1, width=6.5, height=3.6)
    line, start = front(measured), base()
    ax.plot([p.size / 1e6 for p in line], [p.bits for p in line], color=plot.PALETTE["grey"], zorder=1)
    for family, (mark, colour) in FAMILIES.items():
        own = [point for point in measured if point.family == family and point.bits < HIGHEST]
        if own:
            x, y = [p.size / 1e6 for p in own], [p.bits for p in own]
            ax.plot(x, y, mark, color=plot.PALETTE[colour], mec="white", mew=0.5, label=family)
    ax.set(xscale="log", xlabel="size of the file in MB", ylabel="bits per byte on held-out text")
    ax.set_ylim(line[-1].bits - 0.08)
    ax.set_xticks([0.2, 0.5, 1, 2, 4], labels=["0.2", "0.5", "1", "2", "4"])
    ax.minorticks_off()
    notes = {
        "base model, 16 bits per number": (start["stored_bytes"], start["bits_per_byte"], (-150, 115)),
        "the front: nothing is smaller and better": (*line[len(line) // 3][:2], (-110, -35)),
    }
    for text, (size, bits, place) in notes.items():
        ax.annotate(text, (size / 1e6, bits), xytext=place, textcoords="offset points",
                    arrowprops={"arrowstyle": "-", "color": plot.PALETTE["grey"]})  # fmt: skip
    plot.legend(figure, columns=4)
    return figure


def description(measured: Sequence[Point]) -> str:
    """What the picture shows, in words."""
    line, above = front(measured), sum(point.bits > HIGHEST for point in measured)
    counts = [f"{sum(p.family == name for p in measured)} {name}" for name in FAMILIES]
    counts = [text for text in counts if not text.startswith("0 ")]
    return (
        f"Bits per byte on held-out text over the size of {len(measured)} files ({', '.join(counts)}). "
        f"The best of each size form a line, from {line[0].bits:.2f} at {line[0].size / 1e6:.2f} MB "
        f"to {line[-1].bits:.2f} at {line[-1].size / 1e6:.2f} MB; {above} lie above the picture."
    )


def png(figure: Figure) -> bytes:
    full, small = BytesIO(), BytesIO()
    figure.savefig(full, format="png", dpi=140)
    Image.open(full).convert("RGB").quantize(64).save(small, format="png", optimize=True)
    return small.getvalue()


def first_page(text: str) -> str:
    """README with the picture's description and the reading times of today."""
    text = PICTURE.sub(rf"\g<1>{description(points())}", text)
    for path in lessons():
        row = re.compile(rf"^(\| \[.*\]\(notebooks/{path.name}\) \| )\d+ min", re.M)
        text = row.sub(rf"\g<1>{minutes(path)} min", text)
    return text


def shown(value: object) -> str:
    """A measured value: three digits of a number, `low to high` of two."""
    if isinstance(value, list):
        return " to ".join(map(shown, value))
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def claims_page() -> str:
    """All claims as one page: a table for each lesson that has some."""
    text = (
        "# What was claimed, what came out\n\n"
        "Each lesson tests what the talk and the papers say about its technique. `make lessons` collects\n"
        'the answers here. "Holds" is about the models of this course, in the setting named beside it.\n'
    )
    for path in lessons():
        results = RESULTS / f"{path.stem}.json"
        claims = read_json(results).get("claims", []) if results.exists() else []
        if claims:
            title = nbformat.read(path, as_version=4).cells[0].source.splitlines()[0].removeprefix("# ")
            text += f"\n## [{title}](../notebooks/{path.name})\n\n"
            text += "| claim | by | said | measured here | holds | where |\n|---|---|---|---|---|---|\n"
        for claim in claims:
            spread = "" if claim["spread"] is None else f" (spread {shown(claim['spread'])})"
            measured = f"{shown(claim['measured'])} {claim['unit']}{spread}"
            row = (claim["claim"], claim["source"], shown(claim["said"]), measured, ANSWERS[claim["holds"]])
            text += "| " + " | ".join((*row, claim["where"])).replace("\n", " ") + " |\n"
    return text


def main() -> None:
    write(RESULTS / "overview.png", png(overview(points())))
    write(RESULTS / "README.md", claims_page())
    write(README, first_page(README.read_text()))


if __name__ == "__main__":
    main()
