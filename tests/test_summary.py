"""The first page's picture, tables and times are those of the results and the notebooks."""

import re
import sys
from io import BytesIO

import pytest
from PIL import Image

from minieff.core.files import ROOT, read_json

sys.path.insert(0, str(ROOT / "notebooks"))
import summary  # noqa: E402

LESSONS = pytest.mark.parametrize("path", summary.lessons(), ids=lambda path: path.stem)
KEYS = {"claim", "source", "said", "measured", "spread", "unit", "holds", "where"}


def test_the_first_page_and_the_claims_are_those_of_the_results():
    readme, claims = summary.README.read_text(), (summary.RESULTS / "README.md").read_text()
    assert summary.first_page(readme) == readme, "run `make lessons`: results or lessons have changed"
    assert summary.claims_page() == claims, "run `make lessons`: the claims have changed"
    assert summary.description(summary.points()) in readme


def test_the_picture_shows_every_point_and_is_small():
    measured = summary.points()
    (ax,) = summary.overview(measured).axes
    line, *families = (curve.get_xydata() for curve in ax.lines)
    assert sum(map(len, families)) == sum(point.bits < summary.HIGHEST for point in measured) > 100
    assert len(line) == len(summary.front(measured)) >= 5
    stored = (summary.RESULTS / "overview.png").read_bytes()
    assert len(stored) < 60_000
    assert Image.open(BytesIO(stored)).size == Image.open(BytesIO(summary.png(ax.figure))).size


def test_the_front_rises_nowhere_and_nothing_lies_below_it():
    measured = summary.points()
    line = summary.front(measured)
    assert all(a.size < b.size and a.bits > b.bits for a, b in zip(line, line[1:], strict=False))
    for point in measured:
        assert any(best.size <= point.size and best.bits <= point.bits for best in line)


@LESSONS
def test_a_lesson_states_how_long_reading_takes(path):
    header = summary.main_story(path)[0].source
    stated = re.search(r"(\d+) minutes", header)
    assert stated is None or abs(int(stated[1]) - summary.minutes(path)) <= 5, summary.minutes(path)


@pytest.mark.parametrize("name", ["00_start_here", "01_train_smaller"])
def test_a_lesson_ends_after_2500_words_and_40_cells(name):
    cells = summary.main_story(ROOT / "notebooks" / f"{name}.ipynb")
    assert sum(len(cell.source.split()) for cell in cells if cell.cell_type == "markdown") <= 2500
    assert sum(cell.cell_type == "code" for cell in cells) <= 40


@LESSONS
def test_claims_are_complete(path):
    for claim in read_json(summary.RESULTS / f"{path.stem}.json").get("claims", []):
        assert claim.keys() == KEYS and claim["holds"] in summary.ANSWERS
