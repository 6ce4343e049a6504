"""Towards files 25 and 50 times smaller, step by step: results/product_quant/small.json, for lesson 11.

    python evidence/product_quant/small.py           hours on a thread; steps already in the results are kept
    python evidence/product_quant/small.py STEP ...  these alone, by their names below
    python evidence/product_quant/small.py --quick   few tokens and windows: whether it runs

Each step is a start (a trained model, perhaps pruned), a format, and what is trained in between: codewords
and all that is not coded yet, kind of weight after kind (iPQ), or all weights with the rounding on; with or
without the unrounded start as a teacher. Ratios are those of files, headers included, against `speeches-base`
in fp32; nats per token those on all held-out windows.
"""

import argparse
from collections.abc import Callable

import torch
from torch import nn

from evidence.finetune import finetune
from evidence.scalar_quant.grids import file_bytes
from minieff import compose, layerdrop, product_quant, scalar_quant
from minieff.core import cost, zoo
from minieff.core.data import Corpus, speeches
from minieff.core.files import measured, save_results
from minieff.core.surgery import Where, is_a, named

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
    return zoo.load("product_quant/pq-noise")


def half() -> nn.Module:
    """Four layers of the model that was trained to lose the other four (lesson 08)."""
    model = zoo.load("speeches-layerdrop-spared-50-long", SIDE)
    return layerdrop.finalize(model, keep=[i for i, skip in enumerate(model.blocks.layers) if skip.p == 0])


def long() -> nn.Module:
    """The base's twin, trained on three times the tokens."""
    return zoo.load("speeches-base-long", SIDE)


def one() -> nn.Module:
    """One layer, on more tokens: fewer MACs in all than the base's training."""
    return zoo.load("train_smaller/speeches-same-macs-1")


def wide() -> nn.Module:
    """One layer, wider: as wide as a file 25 times smaller holds."""
    return zoo.load("product_quant/one-wide")


def two() -> nn.Module:
    """Two layers, likewise."""
    return zoo.load("speeches-same-macs-2")


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


def rounded(start: Callable, *, tokens: int = 0, teacher: Callable | None = None, **knobs) -> Callable:
    """Codes of few bits, trained with all weights rounded on `tokens`, or not at all."""

    def make(corpus: Corpus, share: float) -> nn.Module:
        techniques = [(scalar_quant, {"activations": "none", **knobs})]
        model = compose.apply(start(), techniques)
        if tokens:
            model = finetune(
                model,
                corpus,
                int(share * tokens),
                techniques=techniques,
                teacher=teacher and teacher(),
                rate=2e-3,
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


THIRD = {"span": "mse", "bits": 2}  # -s, 0 and s
ALL = {"where": is_a(nn.Linear, nn.Embedding), "group": 64}  # positions too: in fp16 they take 33 kB
LONG = 12_000_000
FINE = {"bits": 4, "group": 32}
STEPS: dict[str, Callable] = {
    "blocks of 8, one codebook a kind": ipq(base, 8, shared=True),
    "the same, codewords finetuned": ipq(base, 8, shared=True, tokens=600_000),
    "the same, with a teacher": ipq(base, 8, shared=True, tokens=600_000, taught=True),
    "the same, trained with noise": ipq(noised, 8, shared=True, tokens=600_000, taught=True),
    "blocks of 4 and 8, with noise, not finetuned": ipq(noised, None),
    "blocks of 4 and 8, trained with noise": ipq(noised, None, tokens=600_000, taught=True),
    "blocks of 4, one codebook a kind, trained with noise": ipq(
        noised, 4, shared=True, tokens=600_000, taught=True
    ),
    "1 layer, int4": rounded(one, bits=4),
    "1 layer, int4, finetuned": rounded(one, bits=4, tokens=12_000_000),
    "1 layer, int4 in groups of 32, finetuned": rounded(one, tokens=LONG, **FINE),
    "1 layer, int4, all, finetuned long": rounded(one, tokens=4 * LONG, **ALL | FINE),
    "1 layer, int4, all, with a better teacher": rounded(one, tokens=2 * LONG, teacher=long, **ALL | FINE),
    "1 wider layer, int4, all, with a teacher": rounded(
        wide, bits=4, group=34, where=ALL["where"], tokens=2 * LONG, teacher=base
    ),
    "4 layers, blocks of 4": ipq(half, 4, bits=8),
    "4 layers, blocks of 4, finetuned": ipq(half, 4, bits=8, tokens=600_000, taught=True),
    "4 layers, all blocks replaced in training": blockwise(half, 4, bits=8, tokens=1_000_000),
    "4 layers, three values a weight": rounded(half, tokens=1_000_000, teacher=half, **THIRD),
    "4 layers, int4": rounded(half, bits=4),
    "2 layers, 3 bits": rounded(two, bits=3, **ALL),
    "2 layers, 3 bits, finetuned": rounded(two, bits=3, tokens=LONG, **ALL),
    "2 layers, 3 bits, finetuned with a teacher": rounded(two, bits=3, tokens=LONG, teacher=base, **ALL),
    "1 layer, 3 bits, finetuned with a teacher": rounded(one, bits=3, tokens=LONG, teacher=base, **ALL),
    "1 layer, 2 bits, finetuned with a teacher": rounded(
        one, bits=2, symmetric=False, tokens=LONG, teacher=base, **ALL
    ),
    "1 layer, blocks of 4": ipq(one, 4, bits=8, tokens=1_200_000),
}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few tokens and windows, and two steps")
    parser.add_argument("steps", nargs="*", metavar="STEP", help="all, unless some are named")
    arguments = parser.parse_args(argv)
    quick = arguments.quick
    share, windows = (0.01, 2) if quick else (1.0, None)
    corpus, whole, found = speeches(), file_bytes(base()), {}

    def known() -> dict:
        """What is there already, also from another process."""
        return {} if quick else measured("product_quant/small").get("steps", {})

    for name in arguments.steps or list(STEPS)[: 2 if quick else None]:
        if name in known():
            continue
        model = STEPS[name](corpus, share)
        quality, size = cost.quality(model, corpus, windows=windows), file_bytes(model)
        found = found | known()
        found[name] = {
            "bytes": size,
            "smaller": whole / size,
            "nats": quality.nats,
            "bits_per_byte": quality.bits_per_byte,
        }
        print(f"{name:48}{size:>9,} {whole / size:6.2f} {quality.nats:.4f}", flush=True)
        print(save_results("product_quant/small", {"steps": found}), flush=True)


if __name__ == "__main__":
    main()
