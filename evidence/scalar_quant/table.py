"""8, 4, 2 and 1 bits and codebooks, after training and with finetuning: results/scalar_quant/table.json.

    python evidence/scalar_quant/table.py           after `make zoo`: an hour on a thread; rows there are kept
    python evidence/scalar_quant/table.py int4-qat  one row, or several
    python evidence/scalar_quant/table.py --quick   four rows of a small model, few tokens: whether it runs

The base model is rounded as it is, or finetuned on 600,000 tokens with all weights rounded in each pass
(quantization-aware training) or a random share of them (Quant-Noise), and rounded then; as a control it is
finetuned without. Rows with `-long` have ten times the tokens. `bytes` are those of the tensors, `file` those
of the file with its header; nats per token are those on all held-out windows.
"""

import argparse

import torch
from torch import nn

from evidence.finetune import finetune
from evidence.scalar_quant.grids import look
from minieff import compose, product_quant, scalar_quant
from minieff.core import zoo
from minieff.core.data import speeches
from minieff.core.files import measured, save_results

START = "speeches-base"
TRAINED = {  # of codebooks: {"p": 1.0, "proxy": "exact"} is quantization-aware training
    "plain": None,
    **{
        f"int{bits}-{way}": (scalar_quant, {"bits": bits, "p": p, "activations": "none"})
        for bits in (8, 4, 2, 1)
        for way, p in (("qat", 1.0), ("noise", 0.5))
    },
    "int4by32-qat": (scalar_quant, {"bits": 4, "group": 32, "activations": "none"}),
    "pq-qat": (product_quant, {"p": 1.0, "proxy": "exact"}),
    "pq-noise": (product_quant, {"p": 0.1, "proxy": "exact"}),
    "pq-zero": (product_quant, {"p": 0.1}),
    "plain-long": None,  # ten times the tokens
    "int4by32-long": (scalar_quant, {"bits": 4, "group": 32, "activations": "none"}),
}
# what rounds without training: the base, and the control
KINDS = {name.split("-")[0]: technique for name, technique in TRAINED.items() if name.endswith("qat")}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rows", nargs="*", choices=[[], *TRAINED], help="which ones; all if none is named")
    parser.add_argument("--quick", action="store_true", help="few tokens and windows")
    chosen = parser.parse_args(argv)
    quick = chosen.quick
    tokens, windows = (2 * 1024, 2) if quick else (600_000, None)
    start = "speeches-depth-1" if quick else START
    base, corpus = zoo.load(start), speeches()

    def looked(model: nn.Module) -> dict:
        return look(model, corpus, windows)

    found = {"model": start, "tokens": tokens, "whole": looked(base), "after": {}, "trained": {}}
    found |= {} if quick else measured("scalar_quant/table")
    for name in chosen.rows or list(TRAINED)[:: 4 if quick else 1]:
        if name in found["trained"]:
            continue
        technique = TRAINED[name]
        techniques = [technique] if technique else []
        coins = torch.Generator().manual_seed(0)
        noisy = compose.apply(base, techniques, coins)
        times = 10 if name.endswith("-long") else 1
        model = finetune(noisy, corpus, times * tokens, techniques=techniques, rate=3e-4)
        if name == "plain":  # what more training alone does, and rounding after it
            found["trained"][name] = looked(model)
            found["after"] = {
                kind: {n: looked(small(compose.apply(m, [t]))) for n, m in (("base", base), ("plain", model))}
                for kind, t in KINDS.items()
            }
        else:
            found["trained"][name] = looked(small(model) if techniques else model)
        print(name, found["trained"][name], flush=True)
        print(save_results("scalar_quant/table", found), flush=True)


def small(model: nn.Module) -> nn.Module:
    """As it is stored: codes of the rounding that `apply` chose, or a codebook a weight."""
    if any(isinstance(m, scalar_quant.FakeQuant) for m in model.modules()):
        return scalar_quant.finalize(model)
    return product_quant.store(product_quant.finalize(model, generator=torch.Generator().manual_seed(0)))


if __name__ == "__main__":
    main()
