"""A published BERT in integers and in codebooks, for lessons 10 and 11: results/scalar_quant/minilm.json.

    python evidence/scalar_quant/minilm.py           minutes, on an idle machine; needs the extra `pretrained`
    python evidence/scalar_quant/minilm.py --quick   seconds: whether it runs, with one layer in other formats

all-MiniLM-L6-v2 (22.7 million parameters, about half of them token vectors), as it is, without finetuning.
`agreement`: its sentence vectors before and after (cosine, and whether the nearest other sentence is the
same), and the largest change in the cosine of two different sentences. Times are those of a batch of 32
sentences and of a single one.
"""

import argparse
from functools import partial

import torch
from torch import Tensor, nn

from evidence.layerdrop.minilm import agreement, minilm, sentences, vectors
from minieff import product_quant, scalar_quant
from minieff.core import cost
from minieff.core.files import save_results
from minieff.core.storage import matrices
from minieff.core.surgery import Where, named


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few sentences and runs, one layer")
    quick = parser.parse_args(argv).quick
    model, tokenizer = minilm()
    batch = tokenizer(sentences(16 if quick else 512), padding=True, truncation=True, return_tensors="pt")
    whole = vectors(model, batch)
    made = {
        "fp32": model,
        **formats(model, named("encoder.layer.0.attention.output.dense") if quick else matrices),
    }
    found = {"fp32": {"bytes": cost.stored_bytes(model)}}
    for name, small in list(made.items())[1:]:
        own = vectors(small, batch)
        found[name] = {"bytes": cost.stored_bytes(small), **agreement(own, whole), "moved": moved(own, whole)}
        print(name, found[name], flush=True)
    runs, warmup = (3, 1) if quick else (20, 3)
    for size, label in ((32, "seconds"), (1, "seconds_of_one")):
        few = tokenizer(sentences(512)[:size], padding=True, truncation=True, return_tensors="pt")
        with torch.no_grad():
            times = cost.interleaved(
                {name: partial(m, **few) for name, m in made.items()}, runs=runs, warmup=warmup
            )
        for name, t in times.items():
            found[name][label] = [t.low, t.median, t.high]
    print(save_results("scalar_quant/minilm", {"sentences": len(whole), "formats": found}))


def formats(model: nn.Module, where: Where) -> dict[str, nn.Module]:
    """The model in other formats, as far as `where` reaches."""

    def scalar(**knobs) -> nn.Module:
        return scalar_quant.finalize(scalar_quant.apply(model, where=where, **knobs))

    def coded(block: int, bits: int) -> nn.Module:
        coins = torch.Generator().manual_seed(0)
        coded = product_quant.finalize(model, block=block, iterations=10, where=where, generator=coins)
        return product_quant.store(coded, bits=bits)

    return {
        "int8": scalar(),
        "int8, inputs as they are": scalar(activations="none"),
        "int4": scalar(bits=4, activations="none"),
        "int4, 32 share a scale": scalar(bits=4, group=32, activations="none"),
        "codebooks, blocks of 4": coded(4, 16),
        "codebooks, blocks of 8": coded(8, 16),
    }


def moved(own: Tensor, whole: Tensor) -> float:
    """The largest change in the cosine of two sentences."""
    return float((own @ own.T - whole @ whole.T).abs().max())


if __name__ == "__main__":
    main()
