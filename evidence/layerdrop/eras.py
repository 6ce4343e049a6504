"""An encoder pretrained with LayerDrop, pruned, finetuned: results/layerdrop/eras.json, for lesson 08.

    python evidence/layerdrop/eras.py           after `make zoo`: half an hour, on two threads
    python evidence/layerdrop/eras.py --quick   a few steps on random weights: whether it runs

Encoders were trained to guess hidden tokens of the speeches. Here they learn to name the era of a passage of
31 tokens, 30 years each from 1790, from the training addresses; counted is, address by address, how many of
4,096 passages of held-out addresses get the right one. An encoder is pruned before it is finetuned, as the
paper does with RoBERTa, or afterwards, with LayerDrop on in both trainings or in none.
"""

import argparse

import torch
from torch import Tensor, nn

from minieff import layerdrop
from minieff.core import cost, zoo
from minieff.core.data import loss
from minieff.core.files import save_results
from minieff.core.masked import Eras, eras
from minieff.core.optimizer import adamw, rate_at
from minieff.core.transformer import Config, Transformer

CONTEXT = 32
ADDRESSES = 24  # held out
FOLDER = zoo.FOLDER / "layerdrop"
# name: (pretrained model or None, layers kept before finetuning, p while finetuning)
STARTS = {
    "6 layers, not pretrained": (None, 6, 0.0),
    "6 layers": ("masked-6", 6, 0.0),
    "6 layers, LayerDrop": ("masked-6-layerdrop-20", 6, 0.2),
    "3 of 6": ("masked-6", 3, 0.0),
    "3 of 6, LayerDrop": ("masked-6-layerdrop-20", 3, 0.0),
    "3 layers": ("masked-3", 3, 0.0),
}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="random weights and a few steps")
    quick = parser.parse_args(argv).quick
    steps, rows, seeds, passages = (2, 2, 1, 4) if quick else (400, 64, 3, 4096)
    corpus = eras(CONTEXT)
    picks = torch.linspace(0, len(corpus.valid[0]) - 1, passages).long()
    addresses = corpus.addresses("valid")[picks]
    results: dict[str, dict[str, list[list[int]]]] = {}  # by layers left: for each seed, for each address
    for name, (start, kept, p) in STARTS.items():
        model = start_from(start, kept, corpus, quick)
        tuned = [finetune(model, p, corpus, steps, rows, seed) for seed in range(seeds)]
        depths = range(6, 0, -1) if start and kept == 6 else [kept]  # whole ones are pruned afterwards
        results[name] = {
            str(n): [
                per_address(addresses[right(pruned(m, n) if n < kept else m, corpus, picks)]) for m in tuned
            ]
            for n in depths
        }
        share = {n: [round(sum(c) / passages, 3) for c in counts] for n, counts in results[name].items()}
        print(name, share, flush=True)
    setting = {
        "steps": steps,
        "rows": rows,
        "passages": per_address(addresses),
        "commonest": int(corpus.valid[1][picks, 0].unique(return_counts=True)[1].max()),
    }
    print(save_results("layerdrop/eras", {"setting": setting, "right": results}))


def start_from(name: str | None, kept: int, corpus: Eras, quick: bool) -> nn.Module:
    """An encoder with `kept` of its layers, pretrained if it has a name."""
    if quick or name is None:
        torch.manual_seed(0)
        layers = 3 if name == "masked-3" else 6
        model = Transformer(Config(corpus.vocab, CONTEXT, layers, heads=4, dim=16 if quick else 128))
    else:
        model = zoo.load(name, FOLDER)
    return pruned(model, kept)


def pruned(model: nn.Module, kept: int) -> nn.Module:
    return layerdrop.finalize(model, keep=layerdrop.keep_evenly(model.config.layers, kept))


def finetune(model: nn.Module, p: float, corpus: Eras, steps: int, rows: int, seed: int) -> nn.Module:
    """A copy, trained to name the era: AdamW, warm-up and cosine from 1e-3."""
    draw = torch.Generator().manual_seed(seed)
    model = layerdrop.apply(model, p=p, generator=torch.Generator().manual_seed(1000 + seed)).train()
    optimizer = adamw(model, decay=0.1)
    ids, targets = corpus.train
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate_at(step, steps, steps // 10, 1e-3)
        picked = torch.randint(len(ids), (rows,), generator=draw)
        loss(model(ids[picked], corpus.mask), targets[picked]).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


@torch.no_grad()
def right(model: nn.Module, corpus: Eras, picks: Tensor) -> Tensor:
    """Of which of the picked held-out passages the era is the likeliest of the eras: (len(picks),)."""
    ids, targets = (t[picks] for t in corpus.valid)
    first = corpus.text.vocab + 1
    with cost.evaluating(model):
        parts = [model(part, corpus.mask)[:, 0, first:].argmax(-1) for part in ids.split(64)]
    return torch.cat(parts) + first == targets[:, 0]


def per_address(addresses: Tensor) -> list[int]:
    """How many there are of each of the held-out addresses."""
    return torch.bincount(addresses, minlength=ADDRESSES).tolist()


if __name__ == "__main__":
    main()
