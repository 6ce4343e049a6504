"""Exercise 08: layers that are skipped, counted, chosen, renumbered, and switched off in someone else's model."""

import re
from copy import deepcopy
from functools import partial
from itertools import cycle, pairwise, permutations, product, takewhile
from math import ceil, prod
from random import Random
from statistics import mean

import numpy as np
import torch
from torch import Tensor, nn
from torch.backends import mha

from exercises.checks import Task, seeded
from exercises.checks.compare import difference, named
from minieff.core import plot
from minieff.layerdrop import keep_evenly

# Tasks 1 and 2
SKIPS = {
    "rightly": lambda training, coin, p: training and coin() < p,
    "unless training": lambda training, coin, p: not training or coin() < p,
    "as on the slide": lambda training, coin, p: not (coin() > p and training),
    "in eval mode, too": lambda training, coin, p: coin() < p,
    "with 1 - p": lambda training, coin, p: training and coin() >= p,
}
SUB_LAYERS = {
    "plain": lambda x, norm, inner, p: x + inner(norm(x)),
    "scaled": lambda x, norm, inner, p: x + inner(norm(x)) / (1 - p),
    "shrunk": lambda x, norm, inner, p: x + inner(norm(x)) * (1 - p),
    "without x": lambda x, norm, inner, p: inner(norm(x)),
    "norm": lambda x, norm, inner, p: x + norm(x),
    "x": lambda x, norm, inner, p: x,
}


def watched(part, calls: list):
    """A function, or each of a list of them, so that it notes its calls; anything else as it is."""
    if isinstance(part, list):
        return [watched(each, calls) for each in part]
    return (lambda *given: calls.append(part) or part(*given)) if callable(part) else part


def with_coins(run, *case) -> dict:
    """Of two calls, with these tosses and with 1 - each: skipping where toss < p or where toss >= 1 - p is equally right."""
    *given, p, training, tosses = case
    called, tossed, total = [], [], 0
    for coins in (tosses, [1 - toss for toss in tosses]):
        total = total + run(*watched(given, called), p, training, watched(cycle(coins).__next__, tossed))
    return {"tosses": len(tossed), "calls": len(called), "x": total}


def miscounted(right, found: dict, *case) -> str:
    """How tosses, calls or x are not what they are with the right way; empty if they are."""
    wanted, (p, training) = with_coins(right, *case), case[-3:-1]
    tosses, free = found["tosses"], p in (0, 1)  # then no coin is needed
    if tosses != wanted["tosses"] and not (free and tosses == 0):
        rightly = f"{wanted['tosses']} are right, one wherever something may be skipped"
        return f"in two runs you toss {tosses} coins; {rightly if training else 'toss none'}."
    if found["calls"] > wanted["calls"]:
        return "you call what is skipped. What is skipped is not called at all."
    if found["calls"] < wanted["calls"]:
        return "you leave out what should run."
    return difference(found["x"], wanted["x"], 1e-4)


def named_coins(*case) -> str:
    *_, p, training, tosses = case
    return f"p={p}, training={training}, coins {' '.join(f'{toss:.2f}' for toss in tosses)} (then 1 - each)"


def stack_case(draw: Random, p: float, training: bool) -> tuple:
    sizes = (2, 3, 4), (7, 4), (7, 4, 4)
    x, memories, weights = (torch.randn(size, generator=seeded(draw)) for size in sizes)
    layers = [lambda x, memory, weight=weight: x + (x @ weight + memory).tanh() for weight in weights]
    tosses = [toss + draw.uniform(-0.04, 0.04) for toss in (0.9, 0.2, 0.5, 0.05, 0.65, 0.8, 0.1)]
    return layers, list(memories), x, p, training, tosses


def walk(layers, memories, x, p, training, coin, skips="rightly", ran=lambda x, y, p, training: y):
    """LayerDrop's forward; each keyword is a part that can be wrong."""
    for layer, memory in zip(layers, memories, strict=False):
        if not SKIPS[skips](training, coin, p):
            x = ran(x, layer(x, memory), p, training)
    return x


skip_some = Task(
    inputs=lambda draw: [stack_case(draw, *mode) for mode in ((0.3, False), (0.7, False), (0.3, True), (0.7, True), (0.0, True), (1.0, True))],
    right=walk, play=with_coins, fault=partial(miscounted, walk), rtol=1e-4, label=named_coins, passed="Each layer with a coin of its own in training, the plain stack in eval mode, nothing rescaled.",
    wrong={
        "With training=False no layer runs. Read your condition for eval mode, word by word: what may run then?":
            (partial(walk, skips="unless training"), partial(walk, skips="as on the slide")),
        "You skip in eval mode, too. LayerDrop belongs to training: what should a trained model do?": partial(walk, skips="in eval mode, too"),
        "p is the probability of skipping. Your layers run with probability p: try p=0.1, and count.": partial(walk, skips="with 1 - p"),
        "You scale by 1 - p, as dropout does with numbers. What would that do to the residual stream? What does LayerDrop scale?":
            (partial(walk, ran=lambda x, y, p, training: y / (1 - p) if training else y),
            partial(walk, ran=lambda x, y, p, training: x + (y - x) / (1 - p) if training else y)),
        "In eval mode you scale by 1 - p. Stochastic depth does that. What does LayerDrop do at inference?":
            (partial(walk, ran=lambda x, y, p, training: y if training else y * (1 - p)),
            partial(walk, ran=lambda x, y, p, training: y if training else x + (y - x) * (1 - p))),
        "You stop at the first layer that is skipped. The layers after it have coins of their own.":
            lambda layers, memories, x, p, training, coin: walk([*takewhile(lambda f: not training or coin() >= p, layers)], memories, x, p, False, coin),
        "You add x to what a layer returns. The layer has its residual connection inside.": partial(walk, ran=lambda x, y, p, training: x + y),
        "One coin decides for all layers: either all run or none. How many coins does a step need?":
            lambda layers, memories, x, p, training, coin: x if training and coin() < p else walk(layers, memories, x, p, False, coin),
        "After a skipped layer, the others get the memory of the wrong layer: you leave layers out of one list and not of the other.":
            lambda layers, memories, x, p, training, coin: walk([f for f in layers if not training or coin() >= p], memories, x, p, False, coin),
    },
)  # fmt: skip


def sub_layer_case(draw: Random, p: float, training: bool, toss: float) -> tuple:
    x, weight = (torch.randn(size, generator=seeded(draw)) for size in ((2, 3, 5), (5, 5)))
    norm = partial(nn.functional.layer_norm, normalized_shape=(5,))
    return x, norm, lambda x: torch.tanh(x @ weight), p, training, [toss]


def part(x, norm, inner, p, training, coin, skips="rightly", in_eval="plain", ran="plain", skipped="x"):
    """A sub-layer, skipped whole; each keyword is a part that can be wrong."""
    way = skipped if SKIPS[skips](training, coin, p) else ran if training else in_eval
    return SUB_LAYERS[way](x, norm, inner, p)


sub_layer = Task(
    inputs=lambda draw: [sub_layer_case(draw, *mode) for mode in product((0.3, 0.7, 0.0, 1.0), (False, True), (0.1, 0.5))],
    right=part, play=with_coins, fault=partial(miscounted, part), rtol=1e-4, label=named_coins, passed="Skipped, it leaves x. Run, it is the plain sub-layer, in training as in eval mode.",
    wrong={
        "Begin with eval mode: with training=False nothing of `inner` is in what you return. When nothing is trained, which sub-layers should run?":
            tuple(partial(part, in_eval=a, ran=b, skipped=c) for a, b, c in product(["norm", "x"], ["plain", "scaled"], ["x", "norm"])),
        "When it is skipped, a norm still runs. It should be skipped as a whole: what happens to x if there is neither `norm` nor `inner`?":
            tuple(partial(part, in_eval=a, ran=b, skipped="norm") for a, b in product(["plain", "scaled"], repeat=2)),
        "You scale by 1 - p, as dropout does with numbers. Does LayerDrop scale?": (partial(part, ran="scaled"), partial(part, ran="scaled", in_eval="scaled")),
        "In eval mode you scale by 1 - p. Stochastic depth does that. What does LayerDrop do at inference?": partial(part, in_eval="shrunk"),
        "A coin still decides in eval mode. What decides first?": partial(part, skips="in eval mode, too"),
        "p is the probability of skipping, and your sub-layer runs with it. How often is a coin below 0.1?": partial(part, skips="with 1 - p"),
        "When it runs, x is missing. What does a residual connection add to?": partial(part, ran="without x", in_eval="without x"),
    },
)  # fmt: skip


# Task 3
def expect(rates: list[float], share: float, **wrong: float) -> list[float]:
    """The three numbers, any of which can be replaced by a wrong one."""
    numbers = {"run": sum(1 - p for p in rates), "none": prod(rates), "faster": 1 / (1 - share * mean(rates))}
    return [*(numbers | wrong).values()]


what_to_expect = Task(
    inputs=lambda draw: [([*never, *(n / 100 for n in draw.sample(range(8, 92), 5))], round(draw.uniform(0.6, 0.9), 2)) for never in ([], [0.5], [0.0])],
    right=expect, passed="All three are right, for rates that differ.",
    wrong={
        "You have the three numbers, in another order than the task.":
            tuple(lambda rates, share, order=order: [expect(rates, share)[i] for i in order] for order in [*permutations(range(3))][1:]),
        "You read `rates` as the probabilities that a layer runs. They are the probabilities that it is skipped.": lambda rates, share: expect([1 - p for p in rates], share),
        "The sum of the rates is how many layers an average step *skips*. How many run?": lambda rates, share: expect(rates, share, run=sum(rates)),
        "For the case that no layer runs, you take the mean rate to the power of the number of layers. That holds for equal rates; these differ.":
            lambda rates, share: expect(rates, share, none=mean(rates) ** len(rates)),
        "Your second number says how often every layer runs. When does *none* run?": lambda rates, share: expect(rates, share, none=prod(1 - p for p in rates)),
        "For the speed: layers take `share` of a step, and skipped layers take nothing. How much do the others take, and how much the rest of the step?":
            (lambda rates, share: expect(rates, share, faster=1 / (1 - mean(rates))),
            lambda rates, share: expect(rates, share, faster=1 / (1 - share * sum(rates))),
            lambda rates, share: expect(rates, share, faster=1 / (1 - share * (1 - mean(rates))))),
        "Your third number is the part of the time that a step still takes, or saves. How many times as fast is a step that takes half the time?":
            (lambda rates, share: expect(rates, share, faster=1 - share * mean(rates)), lambda rates, share: expect(rates, share, faster=share * mean(rates))),
    },
)  # fmt: skip


# Task 4
def papers_rule(layers: int, kept: int, floor=lambda layers, removed: layers // removed) -> list[int]:
    return [d - 1 for d in range(1, layers + 1) if kept == layers or d % floor(layers, layers - kept)]


def uneven(found, layers: int, kept: int) -> str:
    """What a list of layers lacks; empty if nothing."""
    if not isinstance(found, list | tuple | range | Tensor | np.ndarray) or len(found) != kept:
        return f"you return {named(found)}, and a list of the numbers of {kept} layers is asked for."
    found = np.asarray(found).tolist()
    whole = {type(i) for i in found} == {int}
    if not whole or found != sorted({*found}) or not 0 <= found[0] <= found[-1] < layers:
        return f"you return {found}. Give increasing whole numbers from 0 to {layers - 1}."
    if kept > 1 and found[-1] - found[0] < layers - 1:
        return f"you return {found}. The first layer or the last one is missing."
    gaps = [b - a for a, b in pairwise(found)] or [0]
    return f"you return {found}, with gaps that differ by more than one." if max(gaps) > min(gaps) + 1 else ""


def two_rows(found, evenly: list[int], layers: int, kept: int):
    rows = {"yours": np.asarray(found).tolist(), "the paper's rule": papers_rule(layers, kept)}
    figure, (ax,) = plot.panels(1, width=6, height=1.5)
    for name, stay in rows.items():
        ax.plot(range(layers), [name] * layers, "o", ms=3, color=plot.PALETTE["grey"])
        ax.plot(stay, [name] * len(stay), "s", ms=8, color=plot.PALETTE["blue"])
    ax.set(xlabel="layer", title=f"{kept} of {layers} should stay", ylim=(1.5, -0.5), xticks=range(layers))
    return figure, f"The layers that stay, where {kept} of {layers} should: {rows}."


keep_list = Task(
    inputs=lambda draw: [(12, 5), *((layers, kept) for layers in (1, 2, 3, 5, 8, 12, 16) for kept in range(1, layers + 1))],
    right=keep_evenly, fault=uneven, picture=two_rows, passed="All your lists are evenly spread. The picture has one of them.",
    wrong={
        "That is the paper's rule. Where more than half of the layers should go, it leaves none: see the text of the task for why.":
            (papers_rule, partial(papers_rule, floor=lambda layers, removed: int(1 / (1 - (layers - removed) / layers)))),
        "You take every n-th layer, and n is rounded: where `kept` does not divide `layers`, you get too many or too few.":
            (lambda layers, kept: range(0, layers, layers // kept), lambda layers, kept: range(0, layers, ceil(layers / kept))),
        "Your distance is a whole number. If the division leaves a rest, that rest lies behind your last layer: print your list for 12 and 5.":
            (lambda layers, kept: range(0, layers, layers // kept)[:kept], lambda layers, kept: [i * ((layers - 1) // max(1, kept - 1)) for i in range(kept)]),
        "Your distance is `layers / kept`, so an end is missing. How many gaps are there between `kept` layers?":
            (lambda layers, kept: [i * layers // kept for i in range(kept)], lambda layers, kept: [round(i * layers / kept) for i in range(kept)]),
        "These are the layers to remove. The task asks for the layers to keep.":
            lambda layers, kept: sorted({*range(layers)} - {i * (layers - 1) // max(1, kept - 1) for i in range(kept)}),
    },
)  # fmt: skip


# Task 5
def checkpoint(draw: Random, layers: int) -> dict[str, Tensor]:
    parts = "mix.norm.weight", "feed.inner.2.weight"
    names = [f"blocks.layers.{i}.{part}" for i in range(layers) for part in parts]
    names += ["tok.weight", "pos.weight", "norm.weight", *(f"tasks.{i}.layers.0.weight" for i in range(4))]
    return {name: torch.randn(2, 3, generator=seeded(draw)) for name in draw.sample(names, len(names))}


def pruned(state, keep, pattern=r"(blocks.layers).(\d+).(.*)", rename=lambda old, new, rest: f"{new}.{rest}"):
    small = {}
    for name, tensor in state.items():
        if not (layer := re.fullmatch(pattern, name)):
            small[name] = tensor
        elif (old := int(layer[2])) in keep:
            small[f"{layer[1]}.{rename(old, keep.index(old), layer[3])}"] = tensor
    return small


def odd_name(small, state, keep) -> str:
    right = pruned(state, keep)
    if isinstance(small, dict) and (odd := right.keys() ^ small.keys()):
        name = min(odd, key=str)
        return f"`{name}` is {'missing' if name in right else 'one too many'}."
    return difference(small, right, 0)


prune = Task(
    inputs=lambda draw: [(checkpoint(draw, layers), keep) for layers, keep in ((13, [0, 3, 4, 7, 12]), (12, [1, 2, 10, 11]), (12, [11]))], right=pruned, fault=odd_name,
    label=lambda state, keep: f"{len(state)} tensors and keep={keep}", passed="The checkpoints of 5, 4 and 1 layers have the names and the tensors of the pruned models.",
    wrong={
        "The right layers stay, under their old numbers. The pruned model counts from 0, without gaps.": partial(pruned, rename=lambda old, new, rest: f"{old}.{rest}"),
        "You treat `keep` as the layers to remove. They are those that stay.": lambda state, keep: pruned(state, [n for n in range(13) if n not in keep]),
        "You number layers in the order in which their names come up, and the names have no order. What is the position of a layer in `keep`?":
            lambda state, keep: pruned(state, sorted(keep, key=lambda n: [name.split(".")[2:3] for name in state].index([str(n)]))),
        "The tensors outside the layers are missing. Embeddings, last norm and heads belong to the pruned model, too.":
            lambda state, keep: pruned({name: state[name] for name in state if name.startswith("blocks")}, keep),
        "You change or read a number that is not that of a layer: the second 2 in `blocks.layers.2.feed.inner.2.weight`, or those in `tasks.3.layers.0.weight`.":
            (partial(pruned, rename=lambda old, new, rest: f"{new}.{rest.replace(f'.{old}.', f'.{new}.')}"), partial(pruned, pattern=r"(\D*).(\d+).(.*)"),
            partial(pruned, pattern=r"(.*layers).(\d+).(.*)")),
        "`blocks.layers.11` begins like `blocks.layers.1`, and you confuse the two. Where does the number end?":
            lambda state, keep: pruned(state, []) | {
                name.replace(f"layers.{old}", f"layers.{new}"): state[name] for new, old in enumerate(keep) for name in state if f"layers.{old}" in name},
        "No layer is left. Do you compare a number with a string? 3 is not '3'.": lambda state, keep: pruned(state, []),
    },
)  # fmt: skip


# Task 6
def encoder_case(draw: Random, i: int, pre: bool) -> tuple:
    layer = nn.TransformerEncoderLayer(8, 2, 5, 0.3, norm_first=pre, batch_first=True)
    encoder = nn.TransformerEncoder(
        layer, 2, nn.LayerNorm(8) if pre else None, enable_nested_tensor=False
    ).eval()
    for parameter in encoder.parameters():
        nn.init.normal_(parameter, generator=seeded(draw))
    padding = torch.arange(5) > torch.tensor([[4], [2]])
    return encoder, i, torch.randn(2, 5, 8, generator=seeded(draw)), padding


def evaluated(run, encoder, i: int, x: Tensor, padding: Tensor) -> dict:
    """What the returned encoder computes, and whether torch is as it was afterwards."""
    theirs = dict(vars(nn.TransformerEncoderLayer))
    try:
        mine, found = run(encoder, i).eval(), {}
        for way in ("with gradients", "under no_grad"):
            with torch.set_grad_enabled(way == "with gradients"):
                found |= {way: mine(x), f"{way}, padded": mine(x, src_key_padding_mask=padding)[~padding]}
        return found | {
            "torch is as it was": mha.get_fastpath_enabled() and vars(nn.TransformerEncoderLayer) == theirs
        }
    finally:
        mha.set_fastpath_enabled(True)
        for name in theirs.keys() & {"forward", "_ff_block", "_sa_block"}:
            setattr(nn.TransformerEncoderLayer, name, theirs[name])


def without(encoder, i: int, *parts: str, also=lambda layer: None):
    """A copy in which these parts of layer i are zero, and something else is done."""
    encoder = deepcopy(encoder)
    for name, parameter in encoder.layers[i].named_parameters():
        if name.startswith(parts):
            nn.init.zeros_(parameter)
    also(encoder.layers[i])
    return encoder


without_feed_forward = Task(
    inputs=lambda draw: [encoder_case(draw, 1, False), encoder_case(draw, 0, True)], right=lambda encoder, i: without(encoder, i, "linear2"), play=evaluated, rtol=1e-3,
    label=lambda encoder, i, *_: f"a {'pre' if encoder.layers[0].norm_first else 'post'}-norm encoder of two layers{' and a norm after them' * bool(encoder.norm)}, i={i}",
    passed="Right for pre-norm and post-norm, padded or not, with gradients and without. The original is as it was.",
    wrong={
        "Under torch.no_grad() it computes exactly what the full encoder does, so an evaluation would say that the sub-layer is worth nothing. "
        "Read forward() of nn.TransformerEncoderLayer: in eval mode without gradients, what does it call, and what does it only read?":
            partial(without, also=lambda layer: setattr(layer, "_ff_block", torch.zeros_like)),
        "Nothing is switched off. If you changed a part of the copy, look up whether torch calls that part in eval mode.": without,
        "You change torch for every model of the process: its class of layers, or its fused path. Change only the copy.":
            (lambda encoder, i: without(encoder, i, "linear2", also=lambda layer: mha.set_fastpath_enabled(False)),
            partial(without, also=lambda layer: setattr(type(layer), "_ff_block", lambda self, x: torch.zeros_like(x)))),
        "A constant is still added, or only the last bias is zero. What has to be zero so that the sub-layer adds nothing?":
            (lambda encoder, i: without(encoder, i, "linear2.weight"), lambda encoder, i: without(encoder, i, "linear2.bias")),
        "You switch off another layer, or others as well. Layers are counted from 0.":
            (lambda encoder, i: without(encoder, i - 1, "linear2"), lambda encoder, i: without(without(encoder, i, "linear2"), i - 1, "linear2")),
        "You switch off more than the feed-forward. Attention stays.": lambda encoder, i: without(encoder, i, "linear2", "self_attn.out_proj"),
    },
)  # fmt: skip
