"""What codebooks after training cost, by size of block, codewords and sharing, for lesson 11:
results/product_quant/codebooks.json.

    python evidence/product_quant/codebooks.py           all held-out windows: a quarter of an hour
    python evidence/product_quant/codebooks.py --quick   two of them, of a small model, on a few windows

Nothing is trained. `kinds`: one kind of weight in codebooks, the others as they are. `bytes` are those of the
tensors, `file` those of the file with its header.
"""

import argparse
from functools import partial

import torch

from evidence.product_quant import weighted
from evidence.product_quant.small import KINDS
from evidence.scalar_quant.grids import MODEL, look, training_text
from minieff import product_quant
from minieff.core import zoo
from minieff.core.data import speeches
from minieff.core.files import save_results

PLANS = [
    *({"block": block} for block in (2, 4, 8, 16)),
    *({"block": block, "shared": True} for block in (2, 4, 8, 16)),
    *({"block": 4, "codewords": codewords} for codewords in (64, 16)),
    {"block": 4, "weighted": True},
    {"block": 8, "weighted": True},
    {"block": 4, "bits": 8},
    {"block": 8, "bits": 8},
]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two codebooks and few windows")
    quick = parser.parse_args(argv).quick
    model = "speeches-depth-1" if quick else MODEL
    base, corpus, windows = zoo.load(model), speeches(), 4 if quick else None
    moments = weighted.input_second_moment(base, training_text(corpus))
    found = {"model": model, "plain": look(base, corpus, windows), "plans": [], "kinds": {}}

    def coded(bits: int = 16, **knobs) -> dict:
        finalize = product_quant.finalize
        if knobs.pop("weighted", False):
            finalize = partial(weighted.finalize, moments=moments)
        knobs |= {"generator": torch.Generator().manual_seed(0), "iterations": 2 if quick else 25}
        return look(product_quant.store(finalize(base, **knobs), bits=bits), corpus, windows)

    for plan in PLANS[::9] if quick else PLANS:
        found["plans"].append(plan | coded(**plan))
        print(found["plans"][-1], flush=True)
    for kind, where in KINDS.items():
        for block in (8,) if quick else (4, 8):
            found["kinds"][f"{kind}, blocks of {block}"] = coded(block=block, where=where)
        print(kind, found["kinds"], flush=True)
    print(save_results("product_quant/codebooks", found))


if __name__ == "__main__":
    main()
