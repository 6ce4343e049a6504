"""LayerDrop's training step: against its limit, and against the same idea as a list that re-draws.

    python benchmarks/bench_layerdrop.py            minutes, on an idle machine; `make bench` keeps them
    python benchmarks/bench_layerdrop.py --quick    seconds: whether it runs, not how fast

With f the share of a plain step that is spent in the layers, measured by skipping them all, a step of which
a layers of L run takes 1 - f + f a / L of a plain one, if coins cost nothing and the rest takes as long as
ever. a is counted, so that the share of this limit does not depend on how the coins fell; on average a / L is
1 - p, and the limit 1 / (1 - p f). A share slightly above 1 is possible: fewer layers also leave more of the
caches to the rest.
"""

import argparse
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from statistics import median

import torch
from torch import nn

from benchmarks.turns import Turns, comparison, in_turns, spread
from minieff import layerdrop
from minieff.core.data import loss
from minieff.core.files import save_results
from minieff.core.optimizer import adamw
from minieff.core.surgery import is_a, swap
from minieff.core.transformer import Config, Transformer

RATES = (0.1, 0.2, 0.35, 0.5)
COMPARED = (0.2, 0.5)


@dataclass(frozen=True)
class Plan:
    """What is measured, and how often."""

    config: Config
    batch: int
    steps: int  # in a call
    runs: int
    warmup: int


FULL = Plan(Config(2048, 128, layers=8, heads=4, dim=128), 8, 5, 24, 2)
QUICK = Plan(Config(64, 32, layers=4, heads=2, dim=32), 2, 2, 3, 1)


class Redrawn(nn.ModuleList):
    """A list of layers that leaves some out whenever it is iterated in training."""

    def __init__(self, layers: nn.ModuleList, p: float, generator: torch.Generator) -> None:
        super().__init__(layers)
        self.p, self.generator = p, generator

    def __iter__(self) -> Iterator[nn.Module]:
        for layer in super().__iter__():
            if not (self.training and torch.rand((), generator=self.generator) < self.p):
                yield layer


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small shapes and few runs")
    plan = QUICK if parser.parse_args(argv).quick else FULL
    comparisons, limits, speed = [], [], {}
    for p in RATES:
        turns, ran = measure(plan, p)
        what = f"{plan.steps} training steps, p = {p}, batch {plan.batch} x {plan.config.context}"
        if p in COMPARED:
            comparisons.append(comparison(turns, what, None, ["plain", "a list that re-draws"]))
        bounds = [
            none + (plain - none) * a / plan.config.layers
            for plain, none, a in zip(turns.seconds["plain"], turns.seconds["no layer"], ran, strict=True)
        ]
        limits.append(against(turns, bounds, what, plan.steps))
        speed[f"{p}"] = summary(turns, bounds, limits[-1]["share"], p)
        print(p, speed[f"{p}"], flush=True)
    results = {
        "title": "LayerDrop's training step",
        "setting": {"dtype": "float32", **asdict(plan)},
        "comparisons": comparisons,
        "limits": limits,
        "speed": speed,
    }
    print(save_results("bench/layerdrop", results))


def measure(plan: Plan, p: float) -> tuple[Turns, list[float]]:
    """The turns, and for each of them the mean number of layers that ran in "ours"."""
    ran: list[float] = []

    def redraw(layers: nn.Module) -> nn.Module:
        return Redrawn(layers, p, torch.Generator().manual_seed(1))

    def ours() -> None:
        coins.set_state(mine.get_state())  # what ours is about to draw
        draws = torch.rand(plan.steps, plan.config.layers, generator=coins)
        ran.append(float((draws >= p).sum()) / plan.steps)
        stepping()

    mine, coins = torch.Generator().manual_seed(1), torch.Generator()
    stepping = stepper(plan, lambda model: layerdrop.apply(model, p=p, generator=mine))
    calls = {
        "plain": stepper(plan, lambda model: model),
        "no layer": stepper(plan, lambda model: layerdrop.apply(model, p=1.0)),
        "ours": ours,
        "a list that re-draws": stepper(plan, lambda model: swap(model, is_a(nn.ModuleList), redraw)),
    }
    turns = in_turns(calls, plan.runs, plan.warmup)
    return turns, ran[plan.warmup :]


def stepper(plan: Plan, change: Callable[[nn.Module], nn.Module]) -> Callable[[], None]:
    """`plan.steps` training steps: forward, cross-entropy, backward, clipping, AdamW."""
    torch.manual_seed(0)
    model = change(Transformer(plan.config).train())
    optimizer = adamw(model, decay=0.1)
    ids, targets = torch.randint(plan.config.vocab, (2, plan.batch, plan.config.context)).unbind()

    def call() -> None:
        for _ in range(plan.steps):
            loss(model(ids), targets).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()

    return call


def against(turns: Turns, bounds: list[float], what: str, steps: int) -> dict:
    """The share of the limit that ours reaches, as a row of the benchmarks' page."""
    bound = median(bounds)
    return {
        "what": what, "unit": "step", "work": steps, "rate": steps / bound, "seconds": bound,
        "share": spread(bound / own for bound, own in zip(bounds, turns.seconds["ours"], strict=True)),
        "probe": "a plain step without its skipped layers", "threads": turns.timings["ours"].threads,
    }  # fmt: skip


def summary(turns: Turns, bounds: list[float], share: dict[str, float], p: float) -> dict:
    """f; how many times as fast as plain; at most, with these coins; the share of that; at most, expected."""
    plain, none = turns.seconds["plain"], turns.seconds["no layer"]
    f = spread(1 - b / a for a, b in zip(plain, none, strict=True))
    return {
        "f": f,
        "faster": turns.quotient("plain", "ours"),
        "limit": spread(a / bound for a, bound in zip(plain, bounds, strict=True)),
        "share": share,
        "expected": 1 / (1 - p * f["median"]),
    }


if __name__ == "__main__":
    main()
