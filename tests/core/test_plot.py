"""Drawings: what they refuse, and that names on the scoreboard can be read."""

import re
from base64 import b64decode
from io import BytesIO
from itertools import combinations

import pytest
from PIL import Image

from minieff.core import plot


def row(name: str, megabytes: float, bits: float) -> dict:
    seconds = (0.009, 0.010, 0.012)
    return {
        "name": name,
        "stored_bytes": 1e6 * megabytes,
        "macs": 1e6,
        "bits_per_byte": bits,
        "seconds": seconds,
    }


def test_names_on_the_scoreboard_cover_neither_each_other_nor_a_point():
    rows = [row(f"model {n}, pruned to four", 2 + n / 50, 1.40 + n / 500) for n in range(5)]
    figure = plot.scoreboard([*rows, row("far away", 1, 1.9)], highlight=["far away"])
    for axes in figure.axes:
        assert {text.get_text() for text in axes.texts} == {r["name"] for r in rows} | {"far away"}
        boxes = [text.get_window_extent() for text in axes.texts]
        assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))
        points = [line.get_xydata()[0] for line in axes.lines if line.get_marker() == "o"]
        assert len(points) == 6
        assert not any(box.contains(*axes.transData.transform(point)) for box in boxes for point in points)


def test_a_long_name_at_the_right_side_stands_to_the_left_of_its_point():
    rows = [row("near", 1, 1.5), row("a name that would run beyond the side", 4, 1.4)]
    axes = plot.scoreboard(rows).figure.axes[0]
    assert all(axes.bbox.x0 <= t.get_window_extent().x0 for t in axes.texts)
    assert all(t.get_window_extent().x1 <= axes.bbox.x1 for t in axes.texts)


def test_highlighted_names_have_another_colour():
    figure = plot.scoreboard([row("a", 1, 1.5), row("b", 2, 1.4)], highlight=["b"])
    colours = {text.get_text(): text.get_color() for text in figure.axes[0].texts}
    assert colours == {"a": plot.PALETTE["blue"], "b": plot.PALETTE["red"]}


def test_an_incomplete_row_and_a_picture_without_words_are_refused():
    with pytest.raises(ValueError, match="lacks .'macs'"):
        plot.scoreboard([{k: v for k, v in row("a", 1, 1.5).items() if k != "macs"}])
    with pytest.raises(ValueError, match="alt is empty"):
        plot.show(plot.panels()[0], alt=" ")


def test_small_text_is_refused_where_the_figure_is_wide():
    figure, (axes,) = plot.panels(1, width=4.5)
    axes.set_title("small", fontsize=8)
    plot.picture(figure, alt="a title")
    figure.set_figwidth(6.5)
    with pytest.raises(ValueError, match="'small' in 8 points is too small in a figure 6.5 inches wide"):
        plot.picture(figure, alt="a title")


def test_no_figure_is_wider_than_a_column_and_a_third_panel_goes_below():
    for count in range(1, 6):
        figure, axes = plot.panels(count, width=5.0)
        assert len(figure.axes) == len(axes) == count and figure.get_figwidth() <= plot.WIDEST
        assert len({ax.get_subplotspec().colspan.start for ax in axes}) <= 2
        plot.check_text(figure)


def test_a_table_is_escaped_in_html_and_aligned_in_text():
    shown = plot.table([["a < b", 1], ["c", 20]], ["", "count"])
    assert repr(shown) == "       count\na < b      1\nc         20"
    assert "<td" in shown.html and "a &lt; b" in shown.html and shown.html.count("<tr>") == 3
    with pytest.raises(ValueError, match="has 1 values for 2 columns"):
        plot.table([["a"]], ["", "count"])


def test_a_picture_has_few_colours_and_its_description():
    figure, (axes,) = plot.panels(1)
    for n, colour in enumerate(plot.PALETTE.values()):
        axes.plot([0, 1], [0, n], color=colour, lw=5)
    shown = plot.picture(figure, alt='eight "lines"')
    data = re.fullmatch('<img alt="eight &quot;lines&quot;" src="data:image/png;base64,(.+)">', shown.html)
    picture = Image.open(BytesIO(b64decode(data[1])))
    assert repr(shown) == 'eight "lines"' and len(picture.getcolors()) <= 64

    def far_from(wanted: str) -> int:
        rgb = bytes.fromhex(wanted[1:])
        near = (
            max(abs(a - b) for a, b in zip(rgb, c, strict=True))
            for _, c in picture.convert("RGB").getcolors()
        )
        return min(near)

    assert all(far_from(colour) <= 8 for colour in plot.PALETTE.values())
