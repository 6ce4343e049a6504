"""Attention over the visible pairs alone, against the fused kernel: causal, and with the mask as booleans.

    python benchmarks/bench_sparse_attention.py            minutes, on an idle machine, as `make bench`
    python benchmarks/bench_sparse_attention.py --quick    seconds: whether it runs, not how fast

All calls get q, k and v of one sequence, and give the same output as the mask computed densely, but for the
causal one, which computes all pairs. The stride is the power of two at or above sqrt(T). A limit is the time
of the visible pairs at the rate at which the causal kernel computes its own. Time grows as T to the slope of
log time over log T, fitted by least squares.
"""

import argparse
from dataclasses import asdict, dataclass
from math import ceil, log, log2

import torch
import torch.nn.functional as F

from benchmarks.turns import Turns, comparison, in_turns, limit
from minieff.core.attention import Attention, Mask, causal
from minieff.core.files import save_results
from minieff.sparse_attention import fixed, head, local, strides
from minieff.sparse_attention.gather import Gather
from minieff.sparse_attention.masks import pairs

CAUSAL, MASKED = "SDPA causal", "SDPA with the mask as booleans"
GOALS = {(4096, CAUSAL): 4.0, (4096, MASKED): 12.0}
MOST = 1.6  # the goal for the exponent


@dataclass(frozen=True)
class Plan:
    """What is measured, and how often."""

    lengths: tuple[int, ...]
    heads: int
    width: int  # of a head
    runs: int
    warmup: int


FULL = Plan((1024, 4096, 8192), heads=4, width=32, runs=15, warmup=2)
QUICK = Plan((64, 256), heads=4, width=8, runs=3, warmup=1)


def patterns(stride: int) -> dict[str, Mask]:
    """Two halves in one head, the same halves in different heads, and the pattern for text."""
    half = head(0) | head(1)
    return {
        "local and strides, merged": local(stride) | strides(stride),
        "local and strides, two heads each": half & local(stride) | ~half & strides(stride),
        "fixed": fixed(stride, 1),
    }


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small shapes and few runs")
    plan = QUICK if parser.parse_args(argv).quick else FULL
    comparisons, limits, seconds = [], [], {}
    for T in plan.lengths:
        stride = 2 ** ceil(log2(T) / 2)
        for name, mask in patterns(stride).items():
            turns, visible = measure(plan, T, causal & mask)
            what = f"{name}, stride {stride}, T = {T:,}"
            for peer in (CAUSAL, MASKED):
                comparisons.append(comparison(turns, what, GOALS.get((T, peer)), [peer]))
            limits.append(limit(turns, what, "pairs", visible, CAUSAL, plan.heads * T * (T + 1) / 2))
            for call in ("ours", CAUSAL, MASKED):
                seconds.setdefault(f"{name}: {call}", []).append(turns.timings[call].median)
            print(
                what, {peer: turns.quotient(peer, "ours")["median"] for peer in (CAUSAL, MASKED)}, flush=True
            )
    growth = {name: exponent(plan.lengths, times) for name, times in seconds.items()}
    comparisons[-1]["note"] = "Time grows as T to the power of: " + ", ".join(
        f"{name} {power:.2f}" for name, power in growth.items()
    )
    results = {
        "title": "Sparse attention",
        "setting": {"dtype": "float32", **asdict(plan)},
        "comparisons": comparisons,
        "limits": limits,
        "growth": {"goal": MOST, "exponents": growth},
    }
    print(save_results("bench/sparse_attention", results))


@torch.inference_mode()
def measure(plan: Plan, T: int, mask: Mask) -> tuple[Turns, int]:
    """The turns, and how many pairs of a head, a query and a key are visible."""
    torch.manual_seed(0)
    C = plan.heads * plan.width
    attention = Attention(C, plan.heads).eval()
    q, k, v = (attention.split(x) for x in torch.randn(3, 1, T, C))
    visible, kernel = pairs(mask, T, plan.heads), Gather(mask, plan.heads, T)
    calls = {
        "ours": lambda: kernel(attention, q, k, v, mask, 0),
        CAUSAL: lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True),
        MASKED: lambda: F.scaled_dot_product_attention(q, k, v, attn_mask=visible[None]),
    }
    torch.testing.assert_close(calls["ours"](), calls[MASKED](), atol=1e-5, rtol=1e-5)
    seen = visible.expand(plan.heads, T, T).sum().item()
    return in_turns(calls, plan.runs, plan.warmup), seen


def exponent(lengths: tuple[int, ...], seconds: list[float]) -> float:
    """The slope of log seconds over log length."""
    x, y = ([log(value) for value in values] for values in (lengths, seconds))
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    over = sum((a - mean_x) ** 2 for a in x)
    return sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / over


if __name__ == "__main__":
    main()
