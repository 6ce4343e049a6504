"""The drawings and tables that lessons share. A drawing is a pure function from numbers to a figure, which
`show` displays.

Readers have columns as narrow as 468 pixels (JupyterLab beside its sidebar, in a window of 900), to which a
browser shrinks what is wider. So no figure is wider than `WIDEST`, where text of 10 points is still 10 pixels
high, and `show` refuses text that would be smaller.

Colours are those of Okabe and Ito (2008), which people with colour blindness can tell apart; no picture
relies on colour alone: marks have labels beside them.
"""

from base64 import b64encode
from collections.abc import Sequence
from html import escape
from io import BytesIO
from math import ceil

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

PALETTE = {
    "blue": "#0072B2",
    "orange": "#E69F00",
    "green": "#009E73",
    "red": "#D55E00",
    "purple": "#CC79A7",
    "sky": "#56B4E9",
    "black": "#000000",
    "grey": "#8A8A8A",
}
STYLE = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#E5E5E5",
    "axes.axisbelow": True,
}
COLUMN, WIDEST = 468, 6.5  # pixels, inches


class Html:
    """What a notebook shows as HTML, and everything else as plain text.

    >>> Html("<b>no</b>", "no")
    no
    """

    def __init__(self, html: str, text: str) -> None:
        self.html, self.text = html, text

    def __repr__(self) -> str:
        return self.text

    def _repr_html_(self) -> str:
        return self.html


def panels(
    count: int = 1, width: float = 4.5, height: float = 3.2, *, columns: int = 2
) -> tuple[Figure, list[Axes]]:
    """A figure with `count` axes in the course's style, in rows of at most `columns`.

    `width` and `height` are those of one of the axes; a row is at most `WIDEST` wide.

    >>> figure, (left, right) = panels(2, width=3.0)
    >>> [float(inches) for inches in figure.get_size_inches()]
    [6.0, 3.2]
    >>> figure, (first, second, third) = panels(3)
    >>> [float(inches) for inches in figure.get_size_inches()]
    [6.5, 6.4]
    """
    columns = min(columns, count)
    rows = ceil(count / columns)
    with rc_context(STYLE):
        figure = Figure(figsize=(min(width * columns, WIDEST), height * rows), layout="constrained")
        axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for ax in axes[count:]:
        ax.remove()
    return figure, axes[:count]


def picture(figure: Figure, *, alt: str) -> Html:
    """The figure as a PNG in HTML, with a description for readers who do not see it.

    Its 64 colours take a quarter of the bytes of full colour. ValueError when `alt` is empty, and for text
    that would be less than 10 pixels high in a narrow column.

    >>> figure, _ = panels()
    >>> picture(figure, alt="An empty figure.")
    An empty figure.
    """
    from PIL import Image

    if not alt.strip():
        raise ValueError("alt is empty: say in a sentence what the picture shows")
    check_text(figure)
    full, png = BytesIO(), BytesIO()
    figure.savefig(full, format="png", dpi=96)
    Image.open(full).convert("RGB").quantize(64).save(png, format="png", optimize=True)
    data = b64encode(png.getvalue()).decode()
    return Html(f'<img alt="{escape(alt)}" src="data:image/png;base64,{data}">', alt)


def check_text(figure: Figure) -> None:
    """ValueError for text that is less than 10 pixels high where the figure has to fit into `COLUMN`.

    >>> figure, (ax,) = panels()
    >>> check_text(figure)
    """
    width = figure.get_figwidth()
    least = 7.5 * max(1.0, 96 * width / COLUMN)  # 10 pixels are 7.5 points
    for text in figure.findobj(Text):
        size = text.get_fontsize()
        if text.get_visible() and text.get_text().strip() and size < least - 0.01:
            raise ValueError(
                f"{text.get_text()!r} in {size:g} points is too small in a figure {width:g} inches wide: "
                f"take {least:.1f} points or a narrower figure"
            )


def show(figure: Figure, *, alt: str) -> None:
    """Displays the picture of a figure.

    >>> figure, _ = panels()
    >>> show(figure, alt="An empty figure.")
    An empty figure.
    """
    from IPython.display import display

    display(picture(figure, alt=alt))


def table(rows: Sequence[Sequence], columns: Sequence[str]) -> Html:
    """A table: the first column to the left, the others, usually numbers, to the right.

    ValueError for a row of another length than `columns`.

    >>> table([["base", "3.294"], ["four layers", "3.431"]], ["model", "nats per token"])
    model        nats per token
    base                  3.294
    four layers           3.431
    """
    cells = [[str(value) for value in row] for row in (columns, *rows)]
    for row in cells:
        if len(row) != len(columns):
            raise ValueError(f"row {row} has {len(row)} values for {len(columns)} columns: give one for each")
    wide = [max(len(row[i]) for row in cells) for i in range(len(columns))]
    lines = ["  ".join([row[0].ljust(wide[0]), *map(str.rjust, row[1:], wide[1:])]).rstrip() for row in cells]
    html = ""
    for row, kind in zip(cells, ["th", *["td"] * len(rows)], strict=True):
        sides = ["left", *["right"] * (len(columns) - 1)]
        html += "<tr>" + "".join(
            f'<{kind} style="text-align: {side}">{escape(value)}</{kind}>'
            for value, side in zip(row, sides, strict=True)
        )
    return Html(f"<table>{html}</table>", "\n".join(lines))


def legend(figure: Figure, columns: int = 2) -> None:
    """The names of what any of the axes show, once each, below all of them, where they cover nothing.

    >>> figure, (left, right) = panels(2)
    >>> for ax in (left, right):
    ...     _ = ax.plot([1, 2], label="base")
    >>> legend(figure)
    >>> [text.get_text() for text in figure.legends[0].texts]
    ['base']
    """
    named = {}
    for ax in figure.axes:
        handles, names = ax.get_legend_handles_labels()
        named |= dict(zip(names, handles, strict=True))
    figure.legend(named.values(), named.keys(), loc="outside lower center", ncols=columns, frameon=False)


def threshold(axes: Axes, price: float, label: str) -> Axes:
    """Makes the y axis linear up to `price`, where it draws a dotted line, and logarithmic above.

    >>> _, (axes,) = panels()
    >>> threshold(axes, 0.05, "layer removed").get_yscale()
    'symlog'
    """
    axes.set_yscale("symlog", linthresh=price)
    axes.axhline(price, ls=":", color=PALETTE["black"])
    ticks = [0, price, 10 * price, 100 * price]
    axes.set(
        xlabel=label, ylim=(-price / 5, 160 * price), yticks=ticks, yticklabels=[f"{t:g}" for t in ticks]
    )
    return axes


def log_curves(axes: Axes, log: Sequence[dict]) -> Axes:
    """Training loss, dashed, and held-out loss over the tokens seen, from the log of a card.

    >>> _, (axes,) = panels()
    >>> log = [{"tokens": 1e6, "train": 5.1}, {"tokens": 2e6, "train": 4.6, "valid": 4.7}]
    >>> len(log_curves(axes, log).lines)
    2
    """
    looked = [row for row in log if "valid" in row]
    for rows, key, style, name in ((log, "train", "--", "training"), (looked, "valid", "o-", "held out")):
        axes.plot([row["tokens"] / 1e6 for row in rows], [row[key] for row in rows], style, label=name)
    axes.set(xlabel="million tokens seen", ylabel="nats per token")
    axes.legend(frameon=False)
    return axes


AXES = {
    "stored_bytes": ("size in MB", 1e-6),
    "seconds": ("forward pass in ms", 1e3),
    "macs": ("million MACs per token", 1e-6),
}


def scoreboard(rows: Sequence[dict], *, highlight: Sequence[str] = ()) -> Figure:
    """Bits per byte over size, time and MACs: down and to the left is better.

    A row has `name, stored_bytes, macs, bits_per_byte` and `seconds` as (low, median, high), drawn as a bar.
    Rows named in `highlight` have another colour. ValueError for a row that lacks a value.

    >>> tiny = {"name": "tiny", "stored_bytes": 1e6, "macs": 1e5, "bits_per_byte": 1.6}
    >>> len(scoreboard([tiny | {"seconds": (0.001, 0.002, 0.003)}]).axes)
    3
    """
    for row in rows:
        missing = {"name", "stored_bytes", "macs", "bits_per_byte", "seconds"} - row.keys()
        if missing:
            raise ValueError(f"row {row.get('name', row)} lacks {sorted(missing)}")
    figure, axes = panels(3, width=WIDEST, height=2.8, columns=1)
    named: list[list[tuple]] = []
    for ax, (key, (title, unit)) in zip(axes, AXES.items(), strict=True):
        named.append([])
        for row in rows:
            colour = PALETTE["red"] if row["name"] in highlight else PALETTE["blue"]
            low, value, high = row[key] if key == "seconds" else (row[key],) * 3
            ax.plot([unit * low, unit * high], [row["bits_per_byte"]] * 2, color=colour, lw=3, alpha=0.4)
            ax.plot(unit * value, row["bits_per_byte"], "o", color=colour)
            named[-1].append((row["name"], unit * value, row["bits_per_byte"], colour))
        largest = max(row[key][2] if key == "seconds" else row[key] for row in rows)
        ax.set(xlabel=title, xlim=(0, 1.3 * unit * largest))
        ax.margins(y=0.12)
    figure.supylabel("bits per byte on held-out text")
    figure.draw_without_rendering()  # so that positions are final
    for ax, points in zip(axes, named, strict=True):
        label(ax, points)
    return figure


SPOTS = [(6, 3), (6, -10), (-6, 3), (-6, -10), (6, 13), (6, -20), (-6, 13), (-6, -20)]


def label(axes: Axes, points: Sequence[tuple[str, float, float, str]]) -> None:
    """Writes a name beside each point (name, x, y, colour), where it covers nothing else.

    Of the spots that cover nothing, the first inside the axes is taken, else the first.

    >>> _, (axes,) = panels()
    >>> label(axes, [("small", 0.2, 0.5, "black"), ("large", 0.8, 0.5, "black")])
    >>> [text.get_text() for text in axes.texts]
    ['small', 'large']
    """
    centres = axes.transData.transform([point[1:3] for point in points])  # in pixels
    taken = [Bbox.from_bounds(*centre, 0, 0).padded(4) for centre in centres]
    tries = [(spot, True) for spot in SPOTS] + [(spot, False) for spot in SPOTS]
    for name, x, y, colour in points:
        for n, (spot, between) in enumerate(tries, start=1):
            text = axes.annotate(
                name, (x, y), xytext=spot, textcoords="offset points", color=colour,
                ha="left" if spot[0] > 0 else "right",
            )  # fmt: skip
            box = text.get_window_extent()
            beyond = between and not (axes.bbox.x0 <= box.x0 and box.x1 <= axes.bbox.x1)
            if n == len(tries) or not (beyond or any(box.overlaps(other) for other in taken)):
                break
            text.remove()
        taken.append(box)
