"""Calls timed in turns, and what follows turn by turn: how many times as long, and how near to a limit.

A quotient of two medians has no spread, and on a shared machine a median may come from a quiet minute for one
call and a busy one for the other. Both calls of one turn run within the same second, so each turn gives a
quotient of its own; we report the median and the quartiles of those.
"""

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from statistics import quantiles
from time import perf_counter
from typing import Any

from minieff.core.cost import Timing, interleaved


@dataclass(frozen=True)
class Turns:
    """The calls of one run: their timings, and the seconds of each turn after the warm-up."""

    timings: dict[str, Timing]
    seconds: dict[str, list[float]]

    def quotient(self, name: str, by: str, scale: float = 1.0) -> dict[str, float]:
        """Of `name`'s seconds by those of `by`, turn by turn, times `scale`: median and quartiles."""
        pairs = zip(self.seconds[name], self.seconds[by], strict=True)
        return spread(scale * a / b for a, b in pairs)


def spread(values: Iterable[float]) -> dict[str, float]:
    """Median and quartiles."""
    low, median, high = quantiles(values, n=4, method="inclusive")
    return {"median": median, "low": low, "high": high}


def in_turns(calls: dict[str, Callable[[], object]], runs: int, warmup: int) -> Turns:
    """`cost.interleaved`, keeping the seconds of each turn."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}

    def kept(name: str) -> Callable[[], None]:
        def call() -> None:
            begun = perf_counter()
            calls[name]()
            seconds[name].append(perf_counter() - begun)

        return call

    timings = interleaved({name: kept(name) for name in calls}, runs, warmup)
    return Turns(timings, {name: values[warmup:] for name, values in seconds.items()})


def comparison(
    turns: Turns, what: str, goal: float | None, peers: list[str], note: str = ""
) -> dict[str, Any]:
    """The call "ours" against `peers`: for each its time and how many times as long it takes."""
    return {
        "what": what,
        "goal": goal,
        "note": note,
        "ours": asdict(turns.timings["ours"]),
        "peers": [
            {"name": peer, **asdict(turns.timings[peer]), "times": turns.quotient(peer, "ours")}
            for peer in peers
        ],
    }


def limit(turns: Turns, what: str, unit: str, work: float, probe: str, probed: float) -> dict[str, Any]:
    """How near "ours", which needs `work`, comes to the rate of the call `probe`, which does `probed`.

    A share of 1 would be the probe's own rate, with no time for anything else.
    """
    timing, scale = turns.timings[probe], work / probed
    return {
        "what": what,
        "unit": unit,
        "work": work,
        "probe": probe,
        "rate": probed / timing.median,
        "seconds": scale * timing.median,
        "threads": timing.threads,
        "share": turns.quotient(probe, "ours", scale),
    }
