"""Products with sparse weights against dense ones over density, and what each layout stores.

    python benchmarks/bench_sparse_weights.py            minutes, on an idle machine; `make bench` keeps them
    python benchmarks/bench_sparse_weights.py --quick    seconds: whether it runs, not how fast

Ours is a linear after `sparse_weights.finalize`. Peers: the dense layer; torch.nn.utils.prune, which
multiplies by its mask in each call and then computes a dense product; and torch's own sparse tensors, written
in one line, and given to F.linear. The limit is the time if what is stored were multiplied at the dense
layer's rate. The density below which ours is faster than dense is interpolated between those measured.
"""

import argparse
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from math import exp, log

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import prune

from benchmarks.turns import comparison, in_turns, limit
from minieff import sparse_weights
from minieff.core import cost
from minieff.core.files import save_results
from minieff.core.storage import halve

Calls = dict[str, Callable[[], object]]
DENSE, PRUNED, ONE_LINE, FUNCTIONAL = "dense", "torch's prune", "torch's sparse tensor", "F.linear with it"


@dataclass(frozen=True)
class Plan:
    """What is measured, and how often."""

    shapes: tuple[tuple[int, int, int], ...]  # inputs, outputs, tokens
    block: int
    densities: tuple[float, ...]
    runs: int
    warmup: int


SHAPES = ((768, 3072, 256), (3072, 768, 256), (768, 3072, 32), (128, 512, 1024))
FULL = Plan(SHAPES, 32, (0.7, 0.5, 0.3, 0.2, 0.1, 0.05, 0.02), 20, 4)
QUICK = Plan(((32, 64, 8),), 8, (0.5, 0.25), 3, 1)


@torch.no_grad()
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small shapes and few runs")
    plan = QUICK if parser.parse_args(argv).quick else FULL
    warnings.filterwarnings("ignore", message="Sparse CSR tensor support")
    results = {"title": "Sparse weights", "setting": {"dtype": "float32", **asdict(plan)}}
    results |= {"comparisons": [], "limits": [], "crossover": {}, "bytes": {}}
    for shape in plan.shapes:
        for layout, pattern in (("csr", "any"), ("bsr", plan.block)):
            over_density(plan, shape, layout, pattern, results)
        for density in (0.5, 0.1):
            layouts(plan, shape, density, results)
    print(save_results("bench/sparse_weights", results))


def over_density(plan: Plan, shape: tuple, layout: str, pattern: str | int, results: dict) -> None:
    """Comparisons and limits of one shape and layout, and its crossover."""
    into, out, tokens = shape
    name, faster = f"{layout}, {tokens} x {into} to {out}", {}
    for density in plan.densities:
        calls, macs = products(shape, layout, pattern, density)
        turns, what = in_turns(calls, plan.runs, plan.warmup), f"{name}, density {density:g}"
        goal = 1.8 if layout == "bsr" and density == 0.1 and shape == SHAPES[0] else None
        results["comparisons"].append(comparison(turns, what, goal, [DENSE, PRUNED, ONE_LINE, FUNCTIONAL]))
        results["limits"].append(limit(turns, what, "MAC", macs, DENSE, float(into * out * tokens)))
        faster[density] = turns.quotient(DENSE, "ours")["median"]
        print(what, faster[density], flush=True)
    results["crossover"][name] = crossover(faster)
    results["comparisons"][-1]["note"] = f"{name}: as fast as dense at density {results['crossover'][name]}"


def products(shape: tuple, layout: str, pattern: str | int, density: float) -> tuple[Calls, float]:
    """One product five times; and the multiplications of ours."""
    into, out, tokens = shape
    torch.manual_seed(0)
    layer, x = nn.Linear(into, out), torch.randn(tokens, into)
    masked = sparse_weights.apply(layer, sparsity=1 - density, pattern=pattern)
    ours, w, bias = sparse_weights.finalize(masked, layout=layout), masked.weight, layer.bias
    theirs = prune.custom_from_mask(nn.Linear(into, out), "weight", w != 0)
    sparse = w.to_sparse_csr() if layout == "csr" else w.to_sparse_bsr((pattern, pattern))
    calls = {
        "ours": lambda: ours(x),
        DENSE: lambda: layer(x),
        PRUNED: lambda: theirs(x),
        ONE_LINE: lambda: (sparse @ x.T).T + bias,
        FUNCTIONAL: lambda: F.linear(x, sparse, bias),
    }
    return calls, float(ours.code.entries.numel() * tokens)


def crossover(faster: dict[float, float]) -> float | None:
    """The density at which ours is as fast as dense, between two that were measured; None if there is none.

    >>> crossover({0.4: 0.5, 0.1: 2.0})
    0.2
    """
    points = sorted(faster.items())
    for (low, fast), (high, slow) in zip(points, points[1:], strict=False):
        if fast >= 1 > slow:
            return round(exp(log(low) + log(high / low) * log(fast) / log(fast / slow)), 3)
    return None


def layouts(plan: Plan, shape: tuple, density: float, results: dict) -> None:
    """Time and bytes of one matrix in every layout that holds it; 2:4 holds half of the weights."""
    into, out, tokens = shape
    torch.manual_seed(0)
    layer, x = nn.Linear(into, out, bias=False), torch.randn(tokens, into)
    patterns = {"csr": "any", "bsr": plan.block, "bitmask": "any"} | (
        {"2:4": "2:4"} if density == 0.5 else {}
    )
    models = {DENSE: layer}
    for layout, pattern in patterns.items():
        masked = sparse_weights.apply(layer, sparsity=1 - density, pattern=pattern)
        models[layout] = sparse_weights.finalize(masked, layout=layout)
    calls = {"ours" if name == "csr" else name: partial(model, x) for name, model in models.items()}
    turns, what = (
        in_turns(calls, plan.runs, plan.warmup),
        f"csr, {tokens} x {into} to {out}, {density:g} left",
    )
    sizes = {name: (cost.stored_bytes(m), cost.stored_bytes(halve(m))) for name, m in models.items()}
    results["bytes"][what] = {name: {"fp32": full, "fp16": half} for name, (full, half) in sizes.items()}
    told = ", ".join(f"{name} {full:,} ({half:,} with fp16 values)" for name, (full, half) in sizes.items())
    peers = [name for name in models if name != "csr"]
    results["comparisons"].append(comparison(turns, what, None, peers, f"Bytes of {what[5:]}: {told}"))


if __name__ == "__main__":
    main()
