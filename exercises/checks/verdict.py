"""The two things that a check can say."""

from html import escape
from textwrap import fill

from IPython import get_ipython
from IPython.display import display
from matplotlib.figure import Figure

from minieff.core import plot


class Verdict:
    """A right answer: what it shows, and a picture where looking helps. A notebook draws it with a green bar."""

    def __init__(self, message: str, picture: Figure | None = None, alt: str = "") -> None:
        self.message, self.picture, self.alt = message, picture, alt
        self.seen = False

    def __repr__(self) -> str:
        return f"Passed. {self.message}"

    def shown(self) -> "Verdict":
        """In a notebook, displayed now: also where the check is not the last line of its cell."""
        if get_ipython() is not None:
            self._ipython_display_()
        return self

    def _ipython_display_(self) -> None:
        if self.seen:
            return
        self.seen = True
        bar = f"border-left: 4px solid {plot.PALETTE['green']}; padding-left: 0.8em"
        html = f'<div style="{bar}"><b>Passed.</b> {escape(self.message)}</div>'
        display({"text/plain": repr(self), "text/html": html}, raw=True)
        if self.picture is not None:
            plot.show(self.picture, alt=self.alt)


class NotYet(Exception):
    """Any other answer: what is wrong and where to look, with a picture of what was expected beside the answer."""

    def __init__(self, message: str, picture: Figure | None = None, alt: str = "") -> None:
        super().__init__(message)
        self.picture, self.alt = picture, alt

    def _render_traceback_(self) -> list[str]:
        """What IPython shows in place of a stack trace (its protocol for exceptions that know better).

        It asks twice; the picture is drawn once.
        """
        picture, self.picture = self.picture, None
        if picture is not None:
            plot.show(picture, alt=self.alt)
        paragraphs = f"Not yet. {self}".split("\n")
        return [
            fill(text, 100, subsequent_indent=" " * (len(text) - len(text.lstrip()))) for text in paragraphs
        ]
