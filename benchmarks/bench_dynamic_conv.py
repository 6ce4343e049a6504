"""Dynamic convolution against attention over the length of the sequence.

    python benchmarks/bench_dynamic_conv.py            minutes, on an idle machine; `make bench` keeps them
    python benchmarks/bench_dynamic_conv.py --quick    seconds: whether it runs, not how fast

Each is a whole mixer with its linears, causal, on one sequence: attention through torch's fused kernel, and
convolutions with W taps. Peers of the lightweight one: the same function through torch's grouped convolution.
The limit of the dynamic one is the rate at which its three linears run when nothing is between them. `growth`
is the exponent of T between the two longest sequences: 1 where time doubles with T, 2 where it quadruples.
"""

import argparse
from collections.abc import Callable
from dataclasses import asdict, dataclass
from math import log2

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.turns import Turns, comparison, in_turns, limit
from minieff import dynamic_conv
from minieff.core.attention import Attention
from minieff.core.files import save_results


@dataclass(frozen=True)
class Plan:
    """What is measured, and how often."""

    lengths: tuple[int, ...]
    shapes: tuple[tuple[int, int], ...]  # dim, heads
    width: int
    runs: int
    warmup: int


FULL = Plan((256, 512, 1024, 2048, 4096, 8192), ((128, 4), (512, 8)), 7, 12, 2)
QUICK = Plan((32, 64), ((32, 4),), 7, 3, 1)


class Grouped(nn.Module):
    """A lightweight convolution of the same weights by `F.conv1d(groups=C)`."""

    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        conv, C = self.conv, x.shape[-1]
        kernel = conv.taps.weight.softmax(-1).repeat_interleave(C // conv.heads, 0)[:, None]
        x = F.pad(F.glu(conv.into(x), dim=-1).mT, (conv.width - 1, 0))
        return conv.out(F.conv1d(x, kernel, groups=C).mT)


class Linears(nn.Module):
    """The linears of a dynamic convolution, and nothing between them."""

    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        inside = self.conv.into(x)[..., : x.shape[-1]]
        return self.conv.out(inside) + self.conv.taps.query(inside).mean()


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small shapes and few runs")
    plan = QUICK if parser.parse_args(argv).quick else FULL
    comparisons, limits, growth = [], [], {}
    for dim, heads in plan.shapes:
        mixers = build(dim, heads, plan.width)
        for training in (False, True):
            passes = "forward and backward" if training else "forward"
            seconds: dict[str, list[float]] = {}
            for length in plan.lengths:
                calls = {name: call(mixer, length, dim, training) for name, mixer in mixers.items()}
                turns = in_turns(calls, plan.runs, plan.warmup)
                what = f"{passes}, C = {dim}, T = {length}"
                comparisons += rows(turns, what)
                work = length * dim * (3 * dim + (heads + 1) * plan.width)
                spent = length * dim * (3 * dim + heads * plan.width)
                limits.append(limit(turns, what, "MAC", work, "its linears alone", spent))
                for name, timing in turns.timings.items():
                    seconds.setdefault(name, []).append(timing.median)
                print(
                    what, {name: f"{1e3 * times[-1]:.3g} ms" for name, times in seconds.items()}, flush=True
                )
            growth[f"{passes}, C = {dim}"] = {n: log2(times[-1] / times[-2]) for n, times in seconds.items()}
    results = {
        "title": "Dynamic convolution",
        "setting": {"dtype": "float32", "batch": 1, **asdict(plan)},
        "comparisons": comparisons,
        "limits": limits,
        "growth": growth,
    }
    print(save_results("bench/dynamic_conv", results))


def build(dim: int, heads: int, width: int) -> dict[str, nn.Module]:
    torch.manual_seed(0)
    attention = Attention(dim, heads)
    light = dynamic_conv.apply(attention, width=width, dynamic=False)
    dynamic = dynamic_conv.apply(attention, width=width)
    x = torch.randn(1, 40, dim)
    torch.testing.assert_close(Grouped(light)(x), light(x), atol=1e-5, rtol=1e-4)
    return {
        "ours": dynamic, "attention (SDPA, causal)": attention, "lightweight": light,
        "lightweight by conv1d": Grouped(light), "its linears alone": Linears(dynamic),
    }  # fmt: skip


def call(mixer: nn.Module, length: int, dim: int, training: bool) -> Callable[[], None]:
    x = torch.randn(1, length, dim, requires_grad=training)

    def run() -> None:
        with torch.set_grad_enabled(training):
            y = mixer(x)
        if training:
            y.backward(torch.ones_like(y))

    return run


def rows(turns: Turns, what: str) -> list[dict]:
    """Dynamic against attention; and lightweight against the same by torch."""
    light = Turns(
        turns.timings | {"ours": turns.timings["lightweight"]},
        turns.seconds | {"ours": turns.seconds["lightweight"]},
    )
    return [
        comparison(turns, f"dynamic, {what}", None, ["attention (SDPA, causal)"]),
        comparison(light, f"lightweight, {what}", None, ["lightweight by conv1d"]),
    ]


if __name__ == "__main__":
    main()
