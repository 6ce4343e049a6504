"""A simulated machine on which two models are timed: as unreliable as a real one, and repeatable.

    machine.threads(n)      from now on, runs use n threads; it starts with 2
    machine.clock()         seconds
    machine.old()           runs the old model once
    machine.new()           runs the new model once

First runs are slow, some runs are interrupted, one in a while ends early, and the whole machine becomes slower or faster
while you measure.
"""

from random import Random
from statistics import mean, median, median_high, median_low
from typing import Self

from matplotlib.figure import Figure

from exercises.graders.verdict import NotYet
from minieff import plot

COLD, RUNS = 10, 30  # what the task asks for: runs before measuring, and runs measured
TOO_MANY = 1_000
# of an even number of runs, either of the two in the middle will do
MIDDLES = (median, median_low, median_high)


def near(a: float, b: float, tolerance: float) -> bool:
    return abs(a - b) <= tolerance * abs(b)


def warm(runs: list[float]) -> range:
    """How many runs may have been left out, so that the cold ones are and enough remain."""
    return range(COLD, len(runs) - RUNS + 1)


def mistaken(old: list[float], new: list[float]) -> dict[str, list[float]]:
    """What wrong statistics of the runs come to, by the message for each."""
    turns = [a / b for a, b in zip(old, new, strict=True)]
    return {
        "That is new over old. How many times as fast the new one is, is the old time over the new time.": (
            [middle(new[COLD:]) / middle(old[COLD:]) for middle in MIDDLES]
        ),
        "The mean follows the interrupted runs: a few of them move it far. Which statistic do they hardly move?": (
            [
                a(old[skip:]) / b(new[skip:])
                for a, b in ((mean, mean), (mean, median), (median, mean))
                for skip in warm(old)
            ]
        ),
        "The fastest run is an exception too: here one ended early. Take a statistic that no single run decides.": (
            [min(old[skip:]) / min(new[skip:]) for skip in (0, *warm(old))]
        ),
        "That is the median of each turn's ratio. The task asks for the ratio of the two medians.": (
            [median(turns[skip:]) for skip in (0, *warm(old))]
        ),
        f"Cold runs are among those that you count. The first {COLD} of each model warm up and do not count.": (
            [middle(old[skip:]) / middle(new[skip:]) for middle in (*MIDDLES, mean) for skip in range(COLD)]
        ),
    }


class Machine:
    """`slowing` is by what factor the machine slows down in 80 runs. A copy of a machine is the machine itself."""

    # with slots, `machine.threads = 1` is an error and not a silent assignment
    __slots__ = ("_draw", "_log", "_now", "_reads", "_seconds", "_slowing", "_threads")

    def __init__(self, draw: Random, slowing: float) -> None:
        self._draw, self._slowing = Random(draw.random()), slowing
        self._seconds = {"new": draw.uniform(2e-3, 4e-3)}
        self._seconds["old"] = draw.uniform(1.3, 1.9) * self._seconds["new"]
        self._now, self._threads, self._reads = draw.uniform(100, 1000), 2, 0
        self._log: list[tuple[str, int, float]] = []  # model, threads, seconds of each run

    def __deepcopy__(self, memo: dict) -> Self:
        return self

    def threads(self, count: int) -> None:
        if count not in (1, 2):
            raise ValueError(f"threads({count!r}): this machine has two cores")
        self._threads = count

    def clock(self) -> float:
        self._now, self._reads = self._now + 1e-7, self._reads + 1
        return self._now

    def old(self) -> None:
        self._run("old")

    def new(self) -> None:
        self._run("new")

    def _run(self, name: str) -> None:
        if len(self._log) >= TOO_MANY:
            raise NotYet(
                f"After {TOO_MANY:,} runs the machine is still running models. {COLD} and {RUNS} of each will do."
            )
        earlier = len(self._of(name))
        spread = 0.3 if name == "old" else 0.01
        seconds = self._seconds[name] * self._draw.uniform(1 - spread, 1 + spread)
        seconds *= self._slowing ** (len(self._log) / 80)
        if earlier < COLD:
            seconds *= 1.5 + (9 if name == "old" else 5) * 0.6**earlier
        elif earlier % 13 == 0:
            seconds *= 0.8 if name == "old" else 0.4
        elif self._draw.random() < 0.12:
            seconds *= self._draw.uniform(5, 9) if name == "old" else 2
        if self._threads == 2:
            seconds /= 1.8 if name == "new" else 1.3
        self._now += seconds
        self._log.append((name, self._threads, seconds))

    def _of(self, name: str) -> list[float]:
        return [seconds for model, _, seconds in self._log if model == name]

    def complaint(self, found: float) -> str:
        """What is wrong with how the machine was used, or with the answer; empty if nothing is."""
        old, new = self._of("old"), self._of("new")
        return (
            self._runs(len(old), len(new))
            or self._threads_used()
            or self._turns()
            or self._answer(found, old, new)
        )

    def _runs(self, old: int, new: int) -> str:
        if not old or not new:
            missing = "new" if old else "old"
            return f"The {missing} model never ran: call machine.{missing}()."
        if min(old, new) < COLD + RUNS:
            few, count = ("old", old) if old <= new else ("new", new)
            return f"Runs of the {few} model: {count}. The task asks for {COLD} runs that warm up, which are not counted, and {RUNS} that are."
        if old != new:
            return (
                f"The old model ran {old} times, the new one {new} times. Give both the same number of runs."
            )
        if self._reads <= 2 * RUNS:
            return (
                f"{self._reads} readings of machine.clock() are too few for {2 * RUNS} runs, each timed by itself, before and "
                "after. (Your computer's own clock knows nothing of this machine.)"
            )
        return ""

    def _threads_used(self) -> str:
        used = [threads for _, threads, _ in self._log]
        if set(used[-2 * RUNS :]) == {1} and set(used) != {1}:
            return "The warm-up ran on 2 threads and the measured runs on 1: set the threads before the first run."
        if len(set(used)) > 1:
            return "The two did not run on the same number of threads, so their times do not compare."
        if set(used) != {1}:
            return "Everything ran on 2 threads: the machine starts with 2, and the task asks for 1."
        return ""

    def _turns(self) -> str:
        places = {
            name: [i for i, (model, _, _) in enumerate(self._log[-2 * RUNS :]) if model == name]
            for name in ("old", "new")
        }
        if not all(places.values()) or abs(mean(places["old"]) - mean(places["new"])) > 12:
            return (
                "You measure one model after the other, and the machine's speed changed in between: whatever ran later is "
                "charged for it. How can such a change fall on both?"
            )
        return ""

    def _answer(self, found: float, old: list[float], new: list[float]) -> str:
        if found <= 0:
            return f"You return {found:.3g}. A ratio of two times is more than 0."
        if any(
            near(found, middle(old[skip:]) / middle(new[skip:]), 5e-3)
            for middle in MIDDLES
            for skip in warm(old)
        ):
            return ""
        for message, ratios in mistaken(old, new).items():
            if any(near(found, ratio, 2e-4) for ratio in ratios):
                return message
        if found < 0.2:
            return (
                f"You return {found:.3g}, which looks like seconds. The task asks for old time over new time."
            )
        return (
            f"You return {found:.3f}, and the machine's own record of its runs says otherwise. Time each run by itself: clock, "
            "one run, clock; then take the median of each model's measured runs."
        )

    def picture(self) -> tuple[Figure | None, str]:
        """All runs in the order in which they ran, and a description; nothing where nothing ran."""
        if not self._log:
            return None, ""
        figure, (ax,) = plot.panels(1, width=6.5, height=2.8)
        for name, colour, mark in (("old", "blue", "o"), ("new", "orange", "^")):
            runs = [(i, 1e3 * seconds) for i, (model, _, seconds) in enumerate(self._log) if model == name]
            ax.plot(
                [i for i, _ in runs],
                [ms for _, ms in runs],
                mark,
                color=plot.PALETTE[colour],
                label=name,
                ms=4,
            )
        ax.set(xlabel="run, in the order in which they ran", ylabel="ms", yscale="log")
        ax.legend(frameon=False)
        return (
            figure,
            "Milliseconds of every run: cold ones at first, interrupted ones far above the rest, and a slow drift.",
        )
