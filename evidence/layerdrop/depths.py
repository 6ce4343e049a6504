"""What is left of a model when layers are removed: results/layerdrop/depths.json, for lesson 08.

    python evidence/layerdrop/depths.py           after `make zoo`: an hour, most weights do not ship
    python evidence/layerdrop/depths.py --quick   the base model alone, on a few windows

`curve`: a model pruned to every depth by `keep_evenly`, on all held-out windows. `subsets`, for some models:
the loss with each of the 255 sets of layers, on two halves of 256 windows, so that a search can be judged on
windows that it did not see. `choices`, for two: what the strategies keep, and its loss. `heads`, for three:
the loss with a random half of the heads of each layer off. Models whose weights were measured before are not
measured again: delete the file to begin anew.
"""

import argparse
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from statistics import mean

import torch
import torch.nn.functional as F
from torch import Tensor

from evidence.layerdrop.learned import keep_learned
from minieff import layerdrop
from minieff.core import cost, zoo
from minieff.core.data import Corpus, loss, speeches
from minieff.core.files import ROOT, load_results, save_results
from minieff.core.surgery import clone
from minieff.core.transformer import Transformer

PLAIN = ["speeches-base", "speeches-base-seed-1", "speeches-base-seed-2"]
DROPPED = ["speeches-layerdrop-20", "speeches-layerdrop-20-seed-1", "speeches-layerdrop-20-seed-2"]
RATES = ["speeches-layerdrop-10", "speeches-layerdrop-35", "speeches-layerdrop-50"]
SPARED = ["speeches-layerdrop-spared-50", "speeches-layerdrop-spared-50-long"]  # 0, 2, 5, 7: no coin
LONG = ["speeches-base-long", "speeches-layerdrop-20-long"]  # three times the tokens
OTHERS = ["speeches-residualdrop-20", "speeches-headdrop-20"]

SEARCHED = [PLAIN[0], DROPPED[0], *RATES, SPARED[0]]
CHOSEN = [PLAIN[0], DROPPED[0]]
BEHEADED = [PLAIN[0], DROPPED[0], "speeches-headdrop-20"]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one model and few windows")
    quick = parser.parse_args(argv).quick
    names = PLAIN[:1] if quick else PLAIN + DROPPED + RATES + SPARED + LONG + OTHERS
    measured = (ROOT / "results" / "layerdrop" / "depths.json").exists() and not quick
    found = load_results("layerdrop/depths")["models"] if measured else {}
    for name in names:
        card = zoo.card(name, folder(name))
        if found.get(name, {}).get("sha256") != card["sha256"]:
            found[name] = {"sha256": card["sha256"], **measure(name, quick)}
            saved = save_results("layerdrop/depths", {"models": found})
            print(name, [round(q["nats"], 3) for q in found[name]["curve"].values()], saved, flush=True)


def measure(name: str, quick: bool) -> dict[str, dict | list]:
    """All that is asked about one model."""
    model, corpus = layerdrop.finalize(zoo.load(name, folder(name))), speeches()
    windows, batches = (4, 2) if quick else (256, 100)
    found: dict[str, dict | list] = {"curve": curve(model, corpus, windows if quick else None)}
    if name in BEHEADED:
        found["heads"] = half_of_the_heads(model, corpus, windows)
    if name in SEARCHED:
        found["subsets"] = nats = subsets(model, corpus, windows)
        if name in CHOSEN:
            found["choices"] = choices(model, corpus, nats, batches)
    return found


def folder(name: str) -> Path:
    """The zoo, or its folder layerdrop."""
    return next(f for f in (zoo.FOLDER, zoo.FOLDER / "layerdrop") if (f / f"{name}.json").exists())


def curve(model: Transformer, corpus: Corpus, windows: int | None) -> dict[str, dict]:
    """Quality by the number of layers kept evenly."""
    layers, found = model.config.layers, {}
    for kept in range(layers, 0, -1):
        small = layerdrop.finalize(model, keep=layerdrop.keep_evenly(layers, kept))
        quality = cost.quality(small, corpus, windows=windows)
        found[str(kept)] = {"nats": quality.nats, "bits_per_byte": quality.bits_per_byte}
    return found


@torch.no_grad()
def subsets(model: Transformer, corpus: Corpus, windows: int) -> dict[str, list[float]]:
    """Nats with each set of layers, "0,2,5,7", on even and on odd windows."""
    nats: dict[str, list[float]] = {}
    for ids, targets in corpus.windows(model.config.context, count=windows):
        for keep, logits in runs(model, ids):
            each = loss(logits, targets, "none").view(targets.shape).double().mean(1)
            sums = nats.setdefault(",".join(map(str, keep)), [0.0, 0.0])
            for half in (0, 1):
                sums[half] += float(each[half::2].sum()) / (windows // 2)
    return nats


def runs(model: Transformer, ids: Tensor) -> Iterator[tuple[list[int], Tensor]]:
    """(layers kept, logits) for every set of layers. What two sets have in common at the bottom runs once."""
    layers = model.blocks.layers

    def visit(x: Tensor, depth: int, keep: list[int]) -> Iterator[tuple[list[int], Tensor]]:
        if depth < len(layers):
            yield from visit(x, depth + 1, keep)
            yield from visit(layers[depth](x), depth + 1, [*keep, depth])
        elif keep:
            yield keep, F.linear(model.norm(x), model.tok.weight)

    return visit(model.embed(ids, 0), 0, [])


def choices(
    model: Transformer, corpus: Corpus, nats: dict[str, list[float]], batches: int
) -> dict[str, dict[str, list]]:
    """For each number of layers: what every strategy keeps, and its nats on the odd windows.

    The search looks at the even windows alone; the learned shares see training text.
    """
    layers = model.config.layers
    draw = torch.Generator().manual_seed(0)
    found: dict[str, dict[str, list]] = {}
    for kept in range(1, layers):
        text = (corpus.batch(8, model.config.context, draw) for _ in range(batches))
        picks = {
            "evenly": layerdrop.keep_evenly(layers, kept),
            "search": layerdrop.keep_best(layers, kept, lambda keep: at(nats, keep)[0]),
            "learned": keep_learned(model, text, kept, lambda m, pair: loss(m(pair[0]), pair[1])),
            "first": list(range(kept)),
            "last": list(range(layers - kept, layers)),
        }
        found[str(kept)] = {how: [keep, at(nats, keep)[1]] for how, keep in picks.items()}
        every = [at(nats, keep)[1] for keep in combinations(range(layers), kept)]
        found[str(kept)]["any"] = [None, mean(every), min(every), max(every)]
    return found


def at(nats: dict[str, list[float]], keep: tuple | list) -> list[float]:
    return nats[",".join(map(str, keep))]


def half_of_the_heads(model: Transformer, corpus: Corpus, windows: int, draws: int = 10) -> dict:
    """Nats whole, and with a random half of the heads of each layer off for each of `draws` draws."""
    heads, layers = model.config.heads, model.config.layers
    draw = torch.Generator().manual_seed(0)
    found = []
    for _ in range(draws):
        off = torch.rand(layers, heads, generator=draw).argsort(1) < heads // 2
        small = clone(model)
        for layer, hidden in zip(small.blocks.layers, off, strict=True):
            layer.mix.inner.reweight = lambda attn, distance, hidden=hidden: attn * ~hidden[:, None, None]
        found.append(cost.quality(small, corpus, windows=windows).nats)
    return {"whole": cost.quality(model, corpus, windows=windows).nats, "half_off": found}


if __name__ == "__main__":
    main()
