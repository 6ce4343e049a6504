"""Layers from integers and from codebooks, and k-means, against what a user would pick instead.

    python benchmarks/bench_quant.py            minutes, on an idle machine; `make bench` keeps them
    python benchmarks/bench_quant.py --quick    seconds: whether it runs, not how fast

Ours for a linear is `IntLinear` with 8 bits and inputs rounded with a scale a token. Peers: the layer in
fp32; in bf16, input and output included; torch's dynamic quantization, with one scale for all inputs. The
limit is the time of the kernel alone, on operands that are codes already. For the model the layers and the
head are rounded; torch's way leaves the head, which is no nn.Linear.
"""

import argparse
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

import torch
from torch import Tensor, nn

from benchmarks.turns import Turns, comparison, in_turns, limit
from minieff import product_quant, scalar_quant
from minieff.core.files import save_results
from minieff.core.transformer import Config, Transformer
from minieff.product_quant.kmeans import kmeans
from minieff.scalar_quant.int8_kernel import KERNEL, bytes_multiply, product

Calls = dict[str, Callable[[], object]]


@dataclass(frozen=True)
class Plan:
    """What is measured, and how often."""

    config: Config
    shapes: list[tuple[int, int]] = field(default_factory=list)  # inputs, outputs
    batches: tuple[int, ...] = (1, 32, 512, 4096)
    windows: tuple[int, ...] = (1, 8, 32, 64)
    points: int = 2**15
    runs: int = 20
    warmup: int = 5


SHAPES = [(128, 512), (512, 128), (768, 3072), (3072, 768), (4096, 4096)]
FULL = Plan(Config(2048, 128, layers=8, heads=4, dim=128), SHAPES)
QUICK = Plan(Config(64, 32, 2, 2, 32), [(16, 24)], (1, 8), (2,), 600, 3, 1)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small shapes and few runs")
    plan = QUICK if parser.parse_args(argv).quick else FULL
    comparisons, limits = [], []
    with torch.no_grad():
        for into, out in plan.shapes:
            for batch in plan.batches:
                what = f"linear, {batch} x {into} to {out}"
                turns = timed(plan, linears(batch, into, out), work=batch * into * out)
                goal = 2.5 if (into, batch) in ((768, 32), (768, 512)) else None
                comparisons.append(
                    comparison(turns, f"int8 {what}", goal, ["fp32", "bf16", "torch, dynamic int8"])
                )
                macs = float(batch * into * out)
                limits.append(limit(turns, f"int8 {what}", "MAC", macs, f"{KERNEL} alone", macs))
        for windows in plan.windows:
            turns = timed(plan, models(plan.config, windows))
            what = f"the model, {windows} windows of {plan.config.context}, int8"
            comparisons.append(
                comparison(turns, what, 1.0, ["fp32", "torch, dynamic int8", "int4", "codebooks"])
            )
    comparisons += [comparison(*clusters(plan, K, d)) for K, d in ((256, 8), (256, 4), (16, 4))]
    note = "VNNI or AMX" if bytes_multiply() else "no VNNI: integer layers were dequantized"
    results = {
        "title": "Quantized layers",
        "setting": {"dtype": "float32", "processor": note, **asdict(plan)},
        "comparisons": comparisons,
        "limits": limits,
    }
    print(save_results("bench/quant", results))


def timed(plan: Plan, calls: Calls, work: float = 0.0) -> Turns:
    """In turns; work of billions runs less often."""
    runs = plan.runs if work < 1e9 else max(3, plan.runs // 2)
    return in_turns(calls, runs, plan.warmup)


def linears(batch: int, into: int, out: int) -> Calls:
    """One linear four times, and its product of integers alone."""
    layer, x = nn.Sequential(nn.Linear(into, out)).eval(), torch.randn(batch, into)
    ours, theirs = scalar_quant.finalize(scalar_quant.apply(layer)), dynamic(layer)
    half, x_half = nn.Sequential(nn.Linear(into, out)).eval().bfloat16(), x.bfloat16()
    codes = torch.randint(-127, 128, (batch, into), dtype=torch.int8)
    return {
        "ours": lambda: ours(x),
        "fp32": lambda: layer(x),
        "bf16": lambda: half(x_half),
        "torch, dynamic int8": lambda: theirs(x),
        f"{KERNEL} alone": lambda: product(codes, ours[0].code),
    }


def dynamic(model: nn.Module) -> nn.Module:
    """torch's one line. It is deprecated in favour of torchao, whose kernels are other than torch's own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)


def models(config: Config, windows: int) -> Calls:
    """A model in five formats."""
    torch.manual_seed(0)
    plain = Transformer(config).eval()
    ids = torch.randint(config.vocab, (windows, config.context))
    found: dict[str, nn.Module] = {
        "ours": scalar_quant.finalize(scalar_quant.apply(plain)),
        "fp32": plain,
        "torch, dynamic int8": dynamic(plain),
        "int4": scalar_quant.finalize(scalar_quant.apply(plain, bits=4)),
        "codebooks": product_quant.store(product_quant.finalize(plain, iterations=1)),
    }
    return {name: lambda model=model: model(ids) for name, model in found.items()}


def clusters(plan: Plan, codewords: int, size: int) -> tuple[Turns, str, None, list[str], str]:
    """k-means on normal numbers, ours and scikit-learn's, with equal start, steps and threads."""
    from sklearn.cluster import KMeans

    points = torch.randn(plan.points, size, generator=torch.Generator().manual_seed(0))
    theirs = KMeans(min(codewords, plan.points), n_init=1, max_iter=25, tol=0.0, random_state=0)

    def scikit() -> Tensor:
        return torch.from_numpy(theirs.fit(points.numpy()).cluster_centers_)

    calls = {
        "ours": lambda: kmeans(points, codewords, generator=torch.Generator().manual_seed(0)),
        "scikit-learn": scikit,
    }
    turns = in_turns(calls, max(3, plan.runs // 4), 1)
    errors = [torch.cdist(points, book).amin(1).square().sum() for book in (calls["ours"]()[0], scikit())]
    what = f"k-means, {plan.points} points of {size} to {codewords}, 25 steps"
    return (
        turns,
        what,
        None,
        ["scikit-learn"],
        f"{what}: squared error {errors[0] / errors[1]:.3f} of scikit-learn's",
    )


if __name__ == "__main__":
    main()
