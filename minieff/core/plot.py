"""The drawings that lessons share. Each is a pure function from numbers to a figure; `show` displays it.

Colours are those of Okabe and Ito (2008), which people with colour blindness can tell apart; no picture
relies on colour alone: marks have labels beside them.
"""

from collections.abc import Sequence
from io import BytesIO

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
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


def panels(count: int = 1, width: float = 4.5, height: float = 3.2) -> tuple[Figure, list[Axes]]:
    """A figure with `count` axes side by side, in the course's style.

    >>> figure, (left, right) = panels(2, width=3.0)
    >>> [float(inches) for inches in figure.get_size_inches()]
    [6.0, 3.2]
    """
    with rc_context(STYLE):
        figure = Figure(figsize=(width * count, height), layout="constrained")
        return figure, list(figure.subplots(1, count, squeeze=False)[0])


def show(figure: Figure, *, alt: str) -> None:
    """Displays the figure as a PNG of 64 colours, with a description for readers who do not see it.

    64 colours take a quarter of the bytes of full colour. ValueError when `alt` is empty.

    >>> figure, _ = panels()
    >>> show(figure, alt="An empty figure.")
    <IPython.core.display.Image object>
    """
    from IPython.display import Image, display
    from PIL import Image as Picture

    if not alt.strip():
        raise ValueError("alt is empty: say in a sentence what the picture shows")
    full, png = BytesIO(), BytesIO()
    figure.savefig(full, format="png", dpi=96)
    Picture.open(full).convert("RGB").quantize(64).save(png, format="png", optimize=True)
    display(Image(png.getvalue(), format="png", alt=alt))


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
    axes.set(xlabel="million tokens seen", ylabel="nats a token")
    axes.legend(frameon=False)
    return axes


AXES = {
    "stored_bytes": ("size in MB", 1e-6),
    "seconds": ("forward pass in ms", 1e3),
    "macs": ("million MACs a token", 1e-6),
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
    figure, axes = panels(3, width=5.0, height=3.8)
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
    axes[0].set_ylabel("bits a byte on held-out text")
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
                name, (x, y), xytext=spot, textcoords="offset points", fontsize=7.5, color=colour,
                ha="left" if spot[0] > 0 else "right",
            )  # fmt: skip
            box = text.get_window_extent()
            beyond = between and not (axes.bbox.x0 <= box.x0 and box.x1 <= axes.bbox.x1)
            if n == len(tries) or not (beyond or any(box.overlaps(other) for other in taken)):
                break
            text.remove()
        taken.append(box)
