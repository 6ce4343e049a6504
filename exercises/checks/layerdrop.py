"""Exercise 08: layers that are skipped, counted, chosen, renumbered, and switched off in someone else's model."""

import re
from copy import deepcopy
from functools import partial
from itertools import pairwise, product
from math import ceil, prod
from random import Random
from statistics import mean

import numpy as np
import torch
from torch import Tensor, nn

from exercises.checks import Task, seeded
from exercises.checks.compare import difference, named
from minieff.layerdrop import keep_evenly

# Tasks 1 and 2


class Watched:
    """A function that notes its calls. It stays itself where arguments are copied."""

    def __init__(self, function, calls: list, name: str) -> None:
        self.function, self.calls, self.name = function, calls, name

    def __deepcopy__(self, memo: dict) -> "Watched":
        return self

    def __call__(self, *arguments):
        self.calls.append(self.name)
        return self.function(*arguments)


RULES = (lambda toss, p: toss < p, lambda toss, p: toss >= 1 - p)  # either skips with probability p


def by_either_rule(play, way):
    """The complaint about what `play` returns: (calls, whether a coin was tossed, numbers)."""

    def fault(mine, *case):
        rights = [play(partial(way, rule=rule), *case) for rule in RULES]
        if any(not difference(mine, right, 1e-4) for right in rights):
            return ""
        if rights[0][1] and not mine[1]:
            return "you never call coin(). All chance has to come from it."
        calls, _, x = min(rights, key=lambda right: right[0] != mine[0])
        called = f"in yours, this is called: {mine[0] or 'nothing'}. Expected: {calls or 'nothing'}. "
        return called * (mine[0] != calls) + difference(mine[2], x, 1e-4) or "in eval mode you toss a coin."

    return fault


def with_coins(*case) -> str:
    *_, p, training, tosses = case
    return f"p={p:g}, training={training}, coins {' '.join(f'{toss:.2f}' for toss in tosses)}"


def coin_cases(draw: Random, count: int, *sizes: tuple) -> list[tuple]:
    """For a small p the first coin skips nothing and the last one does; for a large p it is the other way round."""
    cases = []
    for p, training in ((0.3, False), (0.3, True), (0.7, True), (0, True), (1, True)):
        low, *some, high = (((i + draw.random()) / count) ** 1.5 for i in range(count))
        tosses = [low, *draw.sample(some, count - 2), high]
        tensors = (torch.randn(size, generator=seeded(draw)) for size in sizes)
        p = round(p + draw.uniform(-0.1, 0.1) * (0 < p < 1), 2)
        cases.append((*tensors, p, training, tosses[::-1] if p < 0.5 else tosses))
    return cases


def play_stack(run, x: Tensor, memories: Tensor, weights: Tensor, p: float, training: bool, tosses: list):
    ran, coin = [], []
    layers = [Watched(lambda x, memory, w=w: x + (x @ w + memory).tanh(), ran, str(i)) for i, w in enumerate(weights)]  # fmt: skip
    x = run(layers, list(memories), x, p, training, Watched(partial(next, iter(3 * tosses)), coin, "coin"))
    return " ".join(ran), bool(coin) and (not training or 0 < p < 1), x


def walk(
    layers, memories, x, p, training, coin, rule=RULES[0], skip=lambda on, toss: on and toss(), out=list,
    ran=lambda x, y, p: y, in_eval=lambda x, y, p: y, skipped=lambda x, first, run: x,
):  # fmt: skip
    """LayerDrop's forward; each keyword is a part that can be wrong."""
    first, gone = x, out(skip(training, lambda: rule(coin(), p)) for _ in layers)
    for layer, memory, skips in zip(layers, memories, gone, strict=True):
        run = partial(layer, x, memory)
        x = skipped(x, first, run) if skips else (ran if training else in_eval)(x, run(), p)
    return x


walks = partial(partial, walk)
skip_some = Task(
    inputs=lambda draw: coin_cases(draw, 7, (2, 3, 4), (7, 4), (7, 4, 4)),
    right=walk, play=play_stack, fault=by_either_rule(play_stack, walk), rtol=1e-4, label=with_coins,
    passed="Each layer with a coin of its own in training, the plain stack in eval mode, nothing rescaled.",
    wrong={
        "With training=False no layer runs. Read your condition for eval mode, word by word: what does it ask for before a layer may run?":
            (walks(skip=lambda on, toss: not on or toss()), walks(skip=lambda on, toss: toss() | (not on))),
        "You skip in eval mode, too. LayerDrop belongs to training: what should a trained model do?": walks(skip=lambda on, toss: toss()),
        "p is the probability of skipping. Your layers run with probability p: try p=0.1, and count.": walks(skip=lambda on, toss: on and not toss()),
        "You scale by 1 - p, as dropout does with numbers. What would that do to the residual stream? What does LayerDrop scale?":
            (walks(ran=lambda x, y, p: y / (1 - p)), walks(ran=lambda x, y, p: x + (y - x) / (1 - p)),
            walks(in_eval=lambda x, y, p: (1 - p) * y), walks(in_eval=lambda x, y, p: x + (1 - p) * (y - x))),
        "One coin decides for all layers: either all run or none. How many coins does a step need?": walks(out=lambda each: 7 * [next(each)]),
        "A skipped layer undoes what the layers before it have computed. What should the next layer get?":
            (walks(skipped=lambda x, first, run: 0 * x), walks(skipped=lambda x, first, run: first)),
    },
)  # fmt: skip


def play_sub_layer(run, x: Tensor, weight: Tensor, p: float, training: bool, tosses: list[float]):
    calls, coin, found = [], [], []
    norm = Watched(lambda x: nn.functional.layer_norm(x, x.shape[-1:]), calls, "norm")
    inner = Watched(lambda x: torch.tanh(x @ weight), calls, "inner")
    for i, toss in enumerate(tosses):
        calls.append(f"coin {toss:.2f}:")
        once = Watched(partial(next, iter(tosses[i:] + tosses)), coin, "coin")
        found.append(run(x, norm, inner, p, training, once))
    return " ".join(calls), bool(coin) and (not training or 0 < p < 1), torch.stack(found)


plain, scaled, normed, bare = (
    lambda x, n, f, p: x + f(n(x)), lambda x, n, f, p: x + f(n(x)) / (1 - p), lambda x, n, f, p: x + n(x), lambda x, n, f, p: x
)  # fmt: skip


def part(
    x, norm, inner, p, training, coin, rule=RULES[0], skip=lambda on, toss: on and toss(), ran=plain, in_eval=plain, skipped=bare
):  # fmt: skip
    """A sub-layer, skipped whole; each keyword is a part that can be wrong."""
    way = skipped if skip(training, lambda: rule(coin(), p)) else ran if training else in_eval
    return way(x, norm, inner, p)


def parts(ran=(plain,), in_eval=(plain,), skipped=(bare,), **change) -> tuple:
    return tuple(partial(part, ran=a, in_eval=b, skipped=c, **change) for a, b, c in product(ran, in_eval, skipped))  # fmt: skip


sub_layer = Task(
    inputs=lambda draw: coin_cases(draw, 4, (2, 3, 5), (5, 5)), right=part, play=play_sub_layer, fault=by_either_rule(play_sub_layer, part), rtol=1e-4, label=with_coins,
    passed="Skipped, it leaves x. Run, it is the plain sub-layer, in training as in eval mode.",
    wrong={
        "Begin with eval mode: with training=False nothing of `inner` is in what you return. When nothing is trained, which sub-layers should run?":
            parts(in_eval=(normed, bare), ran=(plain, scaled), skipped=(bare, normed)),
        "Where it is skipped, a norm is left over. Skipped *whole*: what does x look like if neither `norm` nor `inner` were there?":
            parts(skipped=(normed, lambda x, n, f, p: n(x)), ran=(plain, scaled)),
        "Right except where it runs in training: you scale by 1 - p, as dropout does with numbers. Does LayerDrop scale?": parts(ran=(scaled,)),
        "A coin still decides in eval mode. What decides first?": parts(skip=lambda on, toss: toss(), skipped=(bare, normed)),
        "p is the probability of skipping, and your sub-layer runs with probability p. Which coins are below 0.1, and how often?":
            parts(skip=lambda on, toss: on and not toss()),
        "Where it runs, x is missing, or norm(x) is in its place. What does a residual connection add to?":
            (*parts(*2 * [[lambda x, n, f, p: f(n(x))]]), *parts(*2 * [[lambda x, n, f, p: (h := n(x)) + f(h)]])),
    },
)  # fmt: skip

# Task 3


def expect(
    rates, share, run=lambda ps, s: sum(1 - p for p in ps), none=lambda ps, s: prod(ps), faster=lambda ps, s: 1 / (1 - s * mean(ps))
):  # fmt: skip
    """Each keyword is a number that can be wrong."""
    return run(rates, share), none(rates, share), faster(rates, share)


def wrongly(name: str, *ways) -> tuple:
    return tuple(partial(expect, **{name: way}) for way in ways)


what_to_expect = Task(
    inputs=lambda draw: [
        ([n / 100 for n in draw.sample(range(8, 92), depth)], round(share + draw.uniform(-0.05, 0.05), 2))
        for depth, share in ((4, 0.62), (5, 0.84), (7, 0.35), (1, 0.93))
    ],
    right=expect, passed="All three are right, for rates that differ.",
    wrong={
        "You read `rates` as the probabilities of running. They are those of being skipped.": lambda ps, s: expect([1 - p for p in ps], s),
        "The sum of the rates is how many layers are *skipped* in a mean step. How many run?": wrongly("run", lambda ps, s: sum(ps)),
        "That none runs: you take one rate, or their mean, to the power of the number of layers. That holds for equal rates; these differ.":
            wrongly("none", lambda ps, s: mean(ps) ** len(ps), lambda ps, s: ps[0] ** len(ps)),
        "Your second number is the probability that every layer runs, or that at least one does (or is skipped). When does *none* run?":
            wrongly("none", lambda ps, s: prod(1 - p for p in ps), lambda ps, s: 1 - prod(1 - p for p in ps), lambda ps, s: 1 - prod(ps)),
        "For the speed you take layers to be the whole step. What takes the rest of the time, `1 - share`, is not skipped.":
            wrongly("faster", lambda ps, s: 1 / (1 - mean(ps)), lambda ps, s: 1 / (s * (1 - mean(ps)))),
        "Your third number is no time over a time. A step that saves half its time is twice as fast: not 0.5, 1 or 1.5 times.":
            wrongly("faster", *(lambda ps, s, of=of: of(s * mean(ps)) for of in (lambda a: 1 - a, lambda a: a, lambda a: 1 + a, lambda a: 1 / (1 - a) - 1))),
    },
)  # fmt: skip

# Task 4


def papers_rule(layers: int, kept: int, first: int = 1, exact: bool = True) -> list[int]:
    every = kept < layers and (layers // (layers - kept) if exact else int(1 / (1 - kept / layers)))
    return [d for d in range(layers) if kept == layers or (d + first) % every]


def uneven(found, layers: int, kept: int) -> str:
    """What a list of layers lacks; empty if nothing."""
    if not isinstance(found, list | tuple | range | Tensor | np.ndarray):
        return f"you return {named(found)}, and a list is asked for."
    found = np.asarray(found).tolist()
    if (
        len(found) != kept
        or sorted({int(i) for i in found}) != found
        or not 0 <= found[0] <= found[-1] < layers
    ):
        return f"you return {found}. Give {kept} increasing whole numbers from 0 to {layers - 1}."
    if kept > 1 and (found[0] > 0 or found[-1] < layers - 1):
        return f"you return {found}. The first layer or the last one is missing."
    gaps = sorted(int(b - a) for a, b in pairwise(found)) or [0]
    wide = f"you return {found}. The gaps are from {gaps[0]} to {gaps[-1]}, more than one apart."
    return wide if gaps[-1] > gaps[0] + 1 else ""


keep_list = Task(
    inputs=lambda draw: [(12, 5), *((layers, kept) for layers in (1, 2, 3, 5, 8, 12, 16) for kept in range(1, layers + 1))],
    right=keep_evenly, fault=uneven, passed="All your lists are evenly spread.",
    wrong={
        "That is the paper's rule. Where more than half of the layers should go, it leaves none: see the text of the task for why.":
            tuple(partial(papers_rule, first=first, exact=exact) for first in (0, 1) for exact in (True, False)),
        "You take every n-th layer, and n is rounded: where `kept` does not divide `layers`, you get too many or too few.":
            (lambda L, k: range(0, L, L // k), lambda L, k: range(0, L, ceil(L / k))),
        "You take every n-th layer until you have enough. Where it does not divide, the last ones never stay.":
            (lambda L, k: range(0, L, L // k)[:k], lambda L, k: [i * ((L - 1) // max(1, k - 1)) for i in range(k)]),
        "Your distance is `layers / kept`, so an end is missing. How many gaps are there between `kept` layers?":
            (lambda L, k: [i * L // k for i in range(k)], lambda L, k: [round(i * L / k) for i in range(k)],
            lambda L, k: [(i + 1) * L // k - 1 for i in range(k)], lambda L, k: [(2 * i + 1) * L // (2 * k) for i in range(k)]),
        "You keep one end in one piece, or both. Removing a piece from the stack does more harm than removing layers here and there.":
            (lambda L, k: range(k), lambda L, k: range(L - k, L), lambda L, k: [*range(k - k // 2), *range(L - k // 2, L)]),
    },
)  # fmt: skip

# Task 5

LAYER = re.compile(r"blocks\.layers\.(\d+)\.(.*)")
PARTS = ("mix.norm.weight", "mix.inner.q.bias", "feed.inner.2.weight")
OTHERS = ("tok.weight", "pos.weight", "norm.weight", *(f"tasks.{i}.weight" for i in range(4)))


def checkpoint(draw: Random, layers: int) -> dict[str, Tensor]:
    names = [*OTHERS, *(f"blocks.layers.{i}.{part}" for i in range(layers) for part in PARTS)]
    return {name: torch.randn(2, 3, generator=seeded(draw)) for name in draw.sample(names, len(names))}


def renumbered(
    state, keep, new=lambda n, keep: keep.index(n), stays=lambda n, keep: n in keep, rest=lambda rest, n, keep: rest, other=lambda name, keep: name,
):  # fmt: skip
    """The pruned state dict; each keyword is a part that can be wrong."""
    small = {}
    for name, tensor in state.items():
        if (found := LAYER.fullmatch(name)) is None:
            small[other(name, keep)] = tensor
        elif stays(n := int(found[1]), keep):
            small[f"blocks.layers.{new(n, keep)}.{rest(found[2], n, keep)}"] = tensor
    return {name: tensor for name, tensor in small.items() if name}


prunes = partial(partial, renumbered)
prune = Task(
    inputs=lambda draw: [(checkpoint(draw, L), keep) for L, keep in ((13, [0, 3, 4, 7, 12]), (12, [1, 2, 10, 11]), (12, [11]), (3, [0, 1, 2]))],
    right=renumbered, rtol=0, label=lambda state, keep: f"the names of {(len(state) - len(OTHERS)) // len(PARTS)} layers and keep={keep}",
    passed="The checkpoints of 1, 3, 4 and 5 layers have the names and the tensors of the pruned models.",
    wrong={
        "The right layers stay, under their old numbers. The pruned model counts from 0, without gaps.": prunes(new=lambda n, keep: n),
        "You treat `keep` as the layers to remove. They are those that stay.":
            (prunes(stays=lambda n, keep: n not in keep, new=lambda n, keep: n - sum(k < n for k in keep)),
            prunes(stays=lambda n, keep: n not in keep, new=lambda n, keep: n)),
        "You number layers in the order in which their names come up. The names stand in no order: where in `keep` does a layer stand?":
            lambda state, keep: renumbered(state, [n for n in dict.fromkeys(int(m[1]) for m in map(LAYER.match, state) if m) if n in keep]),
        "Some of the other tensors are missing. Embeddings, last norm and heads belong to the pruned model, too.":
            tuple(prunes(other=lambda name, keep, gone=gone: name[: 99 * (not name.startswith(gone))]) for gone in ("", "norm", "tasks", ("tok", "pos"))),
        "You change or read a number that is no layer's: the second 2 in `blocks.layers.2.feed.inner.2.weight`, or the 3 in `tasks.3.weight`.":
            (prunes(rest=lambda rest, n, keep: rest.replace(f".{n}.", f".{keep.index(n)}."))),
    },
)  # fmt: skip

# Task 6


def encoder_of(draw: Random, i: int, pre: bool, activation: str, norm: nn.Module | None):
    layer = nn.TransformerEncoderLayer(8, 2, 5, 0.3, activation, norm_first=pre, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 2, norm, enable_nested_tensor=False).eval()
    for parameter in encoder.parameters():
        nn.init.normal_(parameter, generator=seeded(draw))
    padding = torch.arange(5) > torch.tensor([[4], [2]])
    return encoder, i, torch.randn(2, 5, 8, generator=seeded(draw)), padding


def evaluated(run, encoder, i: int, x: Tensor, padding: Tensor) -> dict:
    """What the returned encoder computes."""
    mine, found = run(encoder, i).eval(), {}
    for way in ("with gradients", "under no_grad"):
        with torch.set_grad_enabled(way == "with gradients"):
            found[way] = mine(x)
            found[f"{way}, padded"] = mine(x, src_key_padding_mask=padding)[~padding]
    return found


def zeroed(*parts: str, where=lambda n, i: n == i, also=lambda layers, i: None):
    """A copy in which these parts of some layers are zero, and something else is done."""

    def way(encoder, i):
        encoder = deepcopy(encoder)
        for name, parameter in encoder.layers.named_parameters():
            n, part = name.split(".", 1)
            if where(int(n), i) and part.startswith(parts):
                nn.init.zeros_(parameter)
        also(encoder.layers, i)
        return encoder

    return way


without_feed_forward = Task(
    inputs=lambda draw: [encoder_of(draw, 1, False, "relu", None), encoder_of(draw, 0, True, "gelu", nn.LayerNorm(8))],
    right=zeroed("linear2"), play=evaluated, rtol=1e-3,
    label=lambda encoder, i, *_: f"a {'pre' if encoder.layers[0].norm_first else 'post'}-norm encoder of two layers, i={i}",
    passed="Right for pre-norm and post-norm, padded or not, with gradients and without. The original is as it was.",
    wrong={
        "Under torch.no_grad() it computes exactly what the full encoder does, so an evaluation would say that the sub-layer is worth nothing. "
        "Read forward() of nn.TransformerEncoderLayer: in eval mode without gradients, what does it call, and what does it only read?":
            (zeroed(also=lambda layers, i: setattr(layers[i], "_ff_block", torch.zeros_like)),
            zeroed(also=lambda layers, i: setattr(layers[i], "activation", torch.zeros_like))),
        "A constant is still added, or the last bias alone is gone. What has to be zero so that the sub-layer adds nothing?":
            (zeroed("linear2.weight"), zeroed("linear1.weight"), zeroed("linear2.bias")),
        "You switch off another layer, or others as well. Layers are counted from 0.":
            (zeroed("linear2", where=lambda n, i: n == i - 1), zeroed("linear2", where=lambda n, i: True), zeroed("linear2", where=lambda n, i: n != i)),
        "More than the feed-forward is gone, or attention instead of it. Attention stays.":
            (zeroed(also=lambda layers, i: layers.__delitem__(i)), zeroed("self_attn.out"), zeroed("self_attn.out", "linear2")),
    },
)  # fmt: skip
