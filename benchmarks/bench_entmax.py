"""Entmax: against the `entmax` package (where it is installed), the same mappings by sorting, and softmax.

    python benchmarks/bench_entmax.py            minutes, on an idle machine; `make bench` keeps them
    python benchmarks/bench_entmax.py --quick    seconds: whether it runs, not how fast

Rows are standard normal scores, as many as 32 sequences of 128 tokens have in 4 heads. Every call is first
held against a bisection in float64, and none may be further from it than 1e-6. "Learned" has an alpha for
each row, with a gradient of its own.
"""

import argparse
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import import_module
from importlib.util import find_spec

import torch
from torch import Tensor

from benchmarks.turns import Turns, comparison, in_turns
from minieff import entmax
from minieff.core.files import save_results

TOLERANCE = 1e-6
GOALS = {"sparsemax": 3.0, "1.5-entmax": 3.0, "alpha = 1.33": 4.0, "alpha learned": 4.0}

Mapping = Callable[[Tensor, Tensor], Tensor]  # of scores and of an alpha for each row


@dataclass(frozen=True)
class Plan:
    """What is measured, and how often."""

    rows: int
    width: int
    runs: int
    warmup: int


FULL = Plan(16_384, 128, 30, 5)
QUICK = Plan(64, 16, 3, 1)


def sorted_sparsemax(z: Tensor) -> Tensor:
    """tau from the largest k of which the last is above it (Martins, Astudillo 2016)."""
    ordered, _ = z.sort(-1, descending=True)
    k = torch.arange(1, z.shape[-1] + 1, dtype=z.dtype)
    total = ordered.cumsum(-1)
    last = (1 + k * ordered > total).sum(-1, keepdim=True)
    return (z - (total.gather(-1, last - 1) - 1) / last).relu()


def sorted_entmax15(z: Tensor) -> Tensor:
    """tau of each k from the mean and the spread of the k largest (Peters, Niculae, Martins 2019)."""
    x = (z - z.amax(-1, keepdim=True)) / 2
    ordered, _ = x.sort(-1, descending=True)
    k = torch.arange(1, z.shape[-1] + 1, dtype=z.dtype)
    mean = ordered.cumsum(-1) / k
    spread = (ordered**2).cumsum(-1) - k * mean**2
    tau = mean - ((1 - spread) / k).relu().sqrt()
    last = (tau <= ordered).sum(-1, keepdim=True)
    return (x - tau.gather(-1, last - 1)).relu() ** 2


def bisection(z: Tensor, alpha: Tensor) -> Tensor:
    """The reference: 60 halvings in float64."""
    x, power = (alpha.double() - 1) * z.double(), 1 / (alpha.double() - 1)
    low = x.amax(-1, keepdim=True) - 1
    for halving in range(1, 61):
        middle = low + 0.5**halving
        low = torch.where(((x - middle).relu() ** power).sum(-1, keepdim=True) >= 1, middle, low)
    return (x - low).relu() ** power


def mappings() -> dict[str, tuple[float | None, dict[str, Mapping]]]:
    """Of each case its alpha, None for a learned one, and what computes it."""
    calls = {
        "sparsemax": (
            2.0,
            {"ours": lambda z, a: entmax.sparsemax(z), "by sorting": lambda z, a: sorted_sparsemax(z)},
        ),
        "1.5-entmax": (
            1.5,
            {"ours": lambda z, a: entmax.entmax15(z), "by sorting": lambda z, a: sorted_entmax15(z)},
        ),
        "alpha = 1.33": (1.33, {"ours": lambda z, a: entmax.entmax(z, 1.33)}),
        "alpha learned": (None, {"ours": entmax.entmax}),
    }
    if find_spec("entmax"):
        package = import_module("entmax")
        theirs = (
            lambda z, a: package.sparsemax(z),
            lambda z, a: package.entmax15(z),
            lambda z, a: package.entmax_bisect(z, 1.33),
            package.entmax_bisect,
        )
        for (_, own), their in zip(calls.values(), theirs, strict=True):
            own["entmax package"] = their
    for _, own in calls.values():
        own["softmax"] = lambda z, a: z.softmax(-1)
    return calls


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small shapes and few runs")
    plan = QUICK if parser.parse_args(argv).quick else FULL
    comparisons, errors = [], {}
    for case, (alpha, own) in mappings().items():
        torch.manual_seed(0)
        z, upstream = torch.randn(2, plan.rows, plan.width).unbind()
        rows = 1.05 + 0.9 * torch.rand(plan.rows, 1) if alpha is None else torch.full((plan.rows, 1), alpha)
        errors[case] = check(own, z, rows)
        for what, turns in measure(plan, own, z, rows, upstream, learned=alpha is None).items():
            shape = f"{case}, {what}, {plan.rows} x {plan.width}"
            comparisons += rated(turns, shape, GOALS[case])
            print(comparisons[-1]["what"], [p["times"] for p in comparisons[-1]["peers"]], flush=True)
    setting = {"dtype": "float32", "error of ours at most": max(e["ours"] for e in errors.values())}
    results = {
        "title": "Entmax",
        "setting": {**setting, **asdict(plan)},
        "comparisons": comparisons,
        "limits": [],
        "errors": errors,
    }
    print(save_results("bench/entmax", results))


def check(own: dict[str, Mapping], z: Tensor, alpha: Tensor) -> dict[str, float]:
    """The largest error of each, of ours at most TOLERANCE."""
    wanted = bisection(z, alpha)
    errors = {name: (call(z, alpha) - wanted).abs().max().item() for name, call in own.items()}
    if errors["ours"] > TOLERANCE:
        raise ValueError(f"ours is {errors['ours']} from the bisection; at most {TOLERANCE} is allowed")
    del errors["softmax"]  # another function
    return errors


def measure(
    plan: Plan, own: dict[str, Mapping], z: Tensor, alpha: Tensor, upstream: Tensor, learned: bool
) -> dict[str, Turns]:
    """The turns of the forward pass, and of forward and backward."""
    z, alpha = z.clone().requires_grad_(), alpha.clone().requires_grad_(learned)

    def forward(call: Mapping) -> Callable[[], object]:
        return torch.no_grad()(lambda: call(z, alpha))

    def both(call: Mapping) -> Callable[[], object]:
        inputs = (z, alpha) if learned else (z,)
        return lambda: torch.autograd.grad(call(z, alpha), inputs, upstream, allow_unused=True)

    return {
        what: in_turns({name: kind(call) for name, call in own.items()}, plan.runs, plan.warmup)
        for what, kind in {"forward": forward, "forward and backward": both}.items()
    }


def rated(turns: Turns, what: str, goal: float) -> list[dict]:
    """The package with the goal, the others without."""
    others = [name for name in turns.timings if name not in ("ours", "entmax package")]
    found = [comparison(turns, what, None, others)]
    if "entmax package" in turns.timings:
        found.insert(0, comparison(turns, what, goal, ["entmax package"]))
    return found


if __name__ == "__main__":
    main()
