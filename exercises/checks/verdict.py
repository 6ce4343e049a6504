"""The two things that a check can say."""

import re
from html import escape

from IPython import get_ipython
from IPython.display import display
from matplotlib.figure import Figure

from minieff.core import plot


def box(heading: str, message: str, colour: str) -> plot.Html:
    """A message beside a coloured bar, in its own lines, with what stands between backticks as code."""
    text = re.sub("`([^`]+)`", r"<code>\1</code>", escape(message, quote=False))
    style = f"border-left: 4px solid {plot.PALETTE[colour]}; padding-left: 0.8em; white-space: pre-wrap"
    return plot.Html(f'<div style="{style}"><b>{heading}</b> {text}</div>', f"{heading} {message}")


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
        display(box("Passed.", self.message, "green"))
        if self.picture is not None:
            plot.show(self.picture, alt=self.alt)


class NotYet(Exception):
    """Any other answer: what is wrong and where to look, with a picture of what was expected beside the answer."""

    def __init__(self, message: str, picture: Figure | None = None, alt: str = "") -> None:
        super().__init__(message)
        self.picture, self.alt = picture, alt
        self.seen = False

    def _render_traceback_(self) -> list[str]:
        """What IPython shows in place of a stack trace (its protocol for exceptions that know better).

        It asks twice; message and picture are shown once.
        """
        if not self.seen:
            self.seen = True
            display(box("Not yet.", str(self), "red"))
            if self.picture is not None:
                plot.show(self.picture, alt=self.alt)
        return ["Change your answer and run this cell again."]
