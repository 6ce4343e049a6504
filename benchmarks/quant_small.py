"""Towards files 25 and 50 times smaller, step by step: results/quant_small.json, for lesson 11.

    python benchmarks/quant_small.py           an hour on a thread; steps already in the results are kept
    python benchmarks/quant_small.py --quick   few tokens and windows: whether it runs

Each step is a start (a trained model, perhaps pruned), a format, and what is trained in between: codewords
and all that is not coded yet, kind of weight after kind (iPQ), or all weights with the rounding on; with or
without the unrounded start as a teacher. Ratios are those of the tensors' bytes against `speeches-base` in
fp32; nats a token those on all held-out windows.
"""

import argparse
from collections.abc import Callable

import torch
from torch import nn

from benchmarks.finetune import finetune
from minieff import compose, cost, layerdrop, product_quant, scalar_quant, zoo
from minieff.data import Corpus, speeches
from minieff.files import measured, save_results
from minieff.surgery import Where, named

BASE, SIDE = "speeches-base", zoo.FOLDER / "layerdrop"
KINDS = {  # the order of iPQ
    "ffn": named("up", "down"),
    "embedding": named("tok"),
    "attention": named("q", "k", "v", "out"),
}


def base() -> nn.Module:
    return zoo.load(BASE)


def noised() -> nn.Module:
    """The base's twin that was trained with blocks of zeros."""
    return zoo.load("pq-noise", zoo.FOLDER / "quant")


def half() -> nn.Module:
    """Four layers of the model that was trained to lose the other four (lesson 08)."""
    model = zoo.load("speeches-layerdrop-spared-50-long", SIDE)
    return layerdrop.finalize(model, keep=[i for i, skip in enumerate(model.blocks.layers) if skip.p == 0])


def one() -> nn.Module:
    """One layer, on more tokens: fewer MACs in all than the base's training."""
    return zoo.load("speeches-same-macs-1")


def ipq(
    start: Callable, block: int | None, *, shared: bool = False, bits: int = 16, tokens: int = 0, taught=False
) -> Callable:
    """Codebooks for kind after kind, with `tokens` of training in all."""

    def make(corpus: Corpus, share: float) -> nn.Module:
        whole = start()
        model = whole
        for where in KINDS.values():
            model = coded(model, where, block, shared)
            if tokens:
                each = int(share * tokens / len(KINDS))
                model = finetune(model, corpus, each, teacher=whole if taught else None)
        return product_quant.store(model, bits=bits)

    return make


def coded(model: nn.Module, where: Where, block: int | None, shared: bool) -> nn.Module:
    coins = torch.Generator().manual_seed(0)
    return product_quant.finalize(model, where=where, block=block, shared=shared, generator=coins)


def rounded(start: Callable, *, tokens: int = 0, taught: bool = False, **knobs) -> Callable:
    """Codes of few bits, trained with all weights rounded on `tokens`, or not at all."""

    def make(corpus: Corpus, share: float) -> nn.Module:
        whole = start()
        techniques = [(scalar_quant, {"activations": "none", **knobs})]
        model = compose.apply(whole, techniques)
        if tokens:
            teacher = whole if taught else None
            model = finetune(
                model, corpus, int(share * tokens), techniques=techniques, teacher=teacher, rate=2e-3
            )
        return scalar_quant.finalize(model)

    return make


def blockwise(start: Callable, block: int, *, bits: int, tokens: int) -> Callable:
    """A codebook a weight, trained with all blocks replaced by their codewords."""

    def make(corpus: Corpus, share: float) -> nn.Module:
        techniques = [(product_quant, {"p": 1.0, "proxy": "exact", "block": block})]
        model = compose.apply(start(), techniques, torch.Generator().manual_seed(0))
        model = finetune(model, corpus, int(share * tokens), techniques=techniques)
        return product_quant.store(product_quant.finalize(model, block=block), bits=bits)

    return make


THIRD = {"span": "least_squares", "bits": 2}  # -s, 0 and s
STEPS: dict[str, Callable] = {
    "blocks of 8, one codebook a kind": ipq(base, 8, shared=True),
    "the same, codewords finetuned": ipq(base, 8, shared=True, tokens=600_000),
    "the same, with a teacher": ipq(base, 8, shared=True, tokens=600_000, taught=True),
    "the same, trained with noise": ipq(noised, 8, shared=True, tokens=600_000, taught=True),
    "blocks of 4 and 8, trained with noise": ipq(noised, None, tokens=600_000, taught=True),
    "blocks of 4, one codebook, trained with noise": ipq(noised, 4, shared=True, tokens=600_000, taught=True),
    "1 layer, int4": rounded(one, bits=4),
    "1 layer, int4, finetuned": rounded(one, bits=4, tokens=12_000_000),
    "1 layer, int4 in groups of 32, finetuned": rounded(one, bits=4, group=32, tokens=12_000_000),
    "4 layers, blocks of 4": ipq(half, 4, bits=8),
    "4 layers, blocks of 4, finetuned": ipq(half, 4, bits=8, tokens=600_000, taught=True),
    "4 layers, all blocks replaced in training": blockwise(half, 4, bits=8, tokens=1_000_000),
    "4 layers, three values a weight": rounded(half, tokens=1_000_000, taught=True, **THIRD),
    "4 layers, int4": rounded(half, bits=4),
    "1 layer, three values a weight": rounded(one, tokens=3_000_000, **THIRD),
    "1 layer, blocks of 4": ipq(one, 4, bits=8, tokens=1_200_000),
}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few tokens and windows, and two steps")
    quick = parser.parse_args(argv).quick
    share, windows = (0.01, 2) if quick else (1.0, None)
    corpus, whole = speeches(), cost.stored_bytes(base())
    found = {} if quick else measured("quant_small").get("steps", {})
    for name, make in list(STEPS.items())[: 2 if quick else None]:
        if name in found:
            continue
        model = make(corpus, share)
        quality = cost.quality(model, corpus, windows=windows)
        size = cost.stored_bytes(model)
        found[name] = {
            "bytes": size,
            "smaller": whole / size,
            "nats": quality.nats,
            "bits_per_byte": quality.bits_per_byte,
        }
        print(f"{name:48}{size:>9,} {whole / size:6.2f} {quality.nats:.4f}", flush=True)
        print(save_results("quant_small", {"steps": found}), flush=True)


if __name__ == "__main__":
    main()
