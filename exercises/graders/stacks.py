"""Task 1 of exercise 08: layers that note when they run, a counted coin, and the misconceptions about skipping."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from math import ceil
from random import Random
from typing import Self

import torch
from matplotlib.figure import Figure
from torch import Tensor

from exercises.graders import NotYet
from exercises.graders.kinds import kind_of
from minieff import plot

WIDTH = 4
DEEP = 20  # layers: more than most people count with
NEXT = 0.004  # how far from p the nearest coins are


class Coin:
    """Returns the numbers that were drawn for it, one a call. A copy of a coin is the coin itself."""

    def __init__(self, tosses: list[float]) -> None:
        self.tosses, self.used = tosses, 0

    def __deepcopy__(self, memo: dict) -> Self:
        return self

    def __call__(self) -> float:
        if self.used == len(self.tosses):
            raise NotYet(
                f"After {self.used} calls of coin() your function still tosses. Does a loop never end?"
            )
        self.used += 1
        return self.tosses[self.used - 1]


class Layer:
    """x + tanh(x W + memory), which notes which layer ran with which memory."""

    def __init__(self, number: int, weight: Tensor, memories: list[list[float]], log: list) -> None:
        self.number, self.weight, self.memories, self.log = number, weight, memories, log

    def __deepcopy__(self, memo: dict) -> Self:
        return self

    def __call__(self, x: Tensor, memory: Tensor) -> Tensor:
        if not isinstance(x, Tensor) or x.shape[-1:] != (WIDTH,):
            raise NotYet(
                f"Layer {self.number} was called with {kind_of(x)} for x. It takes the tensor that came so far."
            )
        key = memory.tolist() if isinstance(memory, Tensor) and memory.shape == (WIDTH,) else None
        if key not in self.memories:
            raise NotYet(
                f"Layer {self.number} was called with {kind_of(memory)} for its memory. It takes one of `memories`."
            )
        self.log.append((self.number, self.memories.index(key)))
        return x + torch.tanh(x @ self.weight + memory)


@dataclass(frozen=True)
class Played:
    """What came of a call: x, what ran ((layer, memory) pairs, or names), the number of coins tossed,
    what was returned, and the leaf from which the given x came.
    """

    x: Tensor
    ran: list
    coins: int
    value: Tensor
    leaf: Tensor

    @cached_property
    def gradient(self) -> Tensor | None:
        """That of the returned numbers' sum with respect to the given x; None if there is none."""
        if not self.value.requires_grad:
            return None
        ones = torch.ones_like(self.value)
        try:
            (found,) = torch.autograd.grad(self.value, self.leaf, ones, retain_graph=True, allow_unused=True)
        except RuntimeError:  # edited in place since
            return None
        return found

    def flows(self, right: Tensor) -> bool:
        """Whether the gradient is the right one. float32 loses more digits in it than in x."""
        return self.gradient is not None and torch.allclose(self.gradient, right, rtol=1e-2, atol=1e-2)


def leaf_of(x: Tensor) -> Tensor:
    """A leaf with the values of x. Its copies, one of which a learner's function is given, are linked to it."""
    leaf = x.clone().requires_grad_()
    leaf.__deepcopy__ = lambda memo: leaf.clone()
    return leaf


@dataclass(frozen=True)
class Stack:
    """One call of Task 1: how many layers, p, mode, and the coins, more of them than are needed."""

    depth: int
    p: float
    training: bool
    tosses: tuple[float, ...]
    seed: int

    @property
    def label(self) -> str:
        coins = " ".join(f"{toss:.3g}" for toss in self.tosses[: self.depth])
        said = f"{self.depth} layers, p={self.p:g}, training={self.training}"
        return f"{said}, coins {coins}" if self.training else said

    @cached_property
    def numbers(self) -> tuple[Tensor, list[Tensor], Tensor]:
        """Weights, memories, x."""
        generator = torch.Generator().manual_seed(self.seed)
        weights = 0.5 * torch.randn(self.depth, WIDTH, WIDTH, generator=generator)
        memories = list(torch.randn(self.depth, WIDTH, generator=generator))
        return weights, memories, torch.randn(2, 3, WIDTH, generator=generator)

    def play(self, run: Callable) -> Played:
        """NotYet when what comes back is no x."""
        (weights, memories, x), ran, coin = self.numbers, [], Coin(list(self.tosses))
        known = [memory.tolist() for memory in memories]
        layers = [Layer(i, weight, known, ran) for i, weight in enumerate(weights)]
        with torch.enable_grad():
            leaf = leaf_of(x)
            value = run(layers, list(memories), leaf, self.p, self.training, coin)
        return Played(read(value, x), ran, coin.used, value, leaf)


def read(value, x: Tensor) -> Tensor:
    """What a learner's function returned for x, in double precision."""
    if not isinstance(value, Tensor):
        raise NotYet(f"Your function returns {kind_of(value)}, and the task asks for x, a tensor.")
    if value.shape != x.shape:
        raise NotYet(
            f"Your function returns a tensor of shape {tuple(value.shape)}, and x has the shape {tuple(x.shape)}."
        )
    value = value.detach().double()
    if not value.isfinite().all():
        raise NotYet(
            "There are NaN or infinite numbers in the x that you return. Do you divide by 1 - p where p is 1?"
        )
    return value


def close(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, rtol=1e-4, atol=1e-4)


def beyond(draw: Random, *borders: float) -> float:
    """A coin that is not near a border."""
    return next(
        c for c in iter(lambda: draw.uniform(0.02, 0.98), None) if all(abs(c - b) > 0.02 for b in borders)
    )


def between(draw: Random, p: float) -> float:
    """A coin between p and 1 - p: whichever of the two a learner compares with, the decision is the same."""
    low, high = sorted((p, 1 - p))
    return draw.uniform(low + 0.02, high - 0.02)


# Task 1


def below(coin: float, p: float) -> bool:
    return coin < p


def above(coin: float, p: float) -> bool:
    """Skips as often, and for other coins."""
    return coin >= 1 - p


RULES = (below, above)
LOOSE = (
    *RULES,
    lambda coin, p: coin <= p,
    lambda coin, p: coin > 1 - p,
)  # wrong where p is 0 or 1, if nothing else is


def walk(
    skips=below,
    *,
    when=lambda training: training,
    ran=lambda x, y, p: y,
    in_eval=lambda x, y, p: y,
    skipped=lambda x, first, p: x,
    rate=lambda p, i, depth: p,
    end=lambda x, p, training: x,
):
    """LayerDrop's forward, with parts that can be wrong."""

    def forward(layers, memories, x, p, training, coin):
        first = x
        for i, (layer, memory) in enumerate(zip(layers, memories, strict=True)):
            if when(training) and skips(coin(), rate(p, i, len(layers))):
                x = skipped(x, first, p)
            else:
                x = (ran if training else in_eval)(x, layer(x, memory), p)
        return end(x, p, training)

    return forward


def ways(**change) -> tuple[Callable, ...]:
    """A mistake, with any rule for the coin."""
    return tuple(walk(skips, **change) for skips in LOOSE)


def stays(p: float) -> float:
    return max(1 - p, 1e-9)


def one_coin(skips):
    def forward(layers, memories, x, p, training, coin):
        return x if training and skips(coin(), p) else walk()(layers, memories, x, p, False, coin)

    return forward


def filtered(skips):
    """The layers that stay, beside the first of the memories."""

    def forward(layers, memories, x, p, training, coin):
        kept = [layer for layer in layers if not (training and skips(coin(), p))]
        for layer, memory in zip(kept, memories, strict=False):
            x = layer(x, memory)
        return x

    return forward


def ends_early(skips):
    def forward(layers, memories, x, p, training, coin):
        for layer, memory in zip(layers, memories, strict=True):
            if training and skips(coin(), p):
                break
            x = layer(x, memory)
        return x

    return forward


def ranked(turn: int, count: Callable = round):
    """Drops exactly `count(p L)` layers: those with the lowest coins, or with the highest."""

    def forward(layers, memories, x, p, training, coin):
        coins = [turn * coin() if training else 0.0 for _ in layers]
        out = sorted(range(len(layers)), key=coins.__getitem__)[: count(p * len(layers)) if training else 0]
        for i, layer in enumerate(layers):
            x = x if i in out else layer(x, memories[i])
        return x

    return forward


def spared(keeps: Callable[[int, int], bool]):
    """A layer that is never skipped, with a coin or without one."""
    rate = {"rate": lambda p, i, depth: 0.0 if keeps(i, depth) else p}

    def without(skips):
        def forward(layers, memories, x, p, training, coin):
            for i, layer in enumerate(layers):
                if keeps(i, len(layers)) or not training or not skips(coin(), p):
                    x = layer(x, memories[i])
            return x

        return forward

    return *ways(**rate), *map(without, LOOSE)


def never_none(place: int, always: bool):
    """Where all coins skip, one layer runs all the same; at p=1 only if `always`."""

    def of(skips):
        def forward(layers, memories, x, p, training, coin):
            out = [training and skips(coin(), p) for _ in layers]
            if all(out) and (always or p < 1):
                out[place] = False
            for layer, memory, skip in zip(layers, memories, out, strict=True):
                x = x if skip else layer(x, memory)
            return x

        return forward

    return tuple(map(of, LOOSE))


STACK_MISTAKES: dict[str, tuple[Callable, ...]] = {
    "With training=False no layer runs, and x comes back as it was. Read your condition for eval mode, word by word: what "
    "does it ask for before a layer may run?": ways(in_eval=lambda x, y, p: x),
    "You skip in eval mode, too. LayerDrop belongs to training: what should a trained model do?": ways(when=lambda training: True),
    "You skip in eval mode, and in training everything runs. It is the other way round.": ways(when=lambda training: not training),
    "p is the probability of skipping. Your layers run with probability p: try p=0.1, and count.": (
        *(walk(lambda c, p: c >= p), walk(lambda c, p: c < 1 - p), walk(lambda c, p: c > p), walk(lambda c, p: c <= 1 - p)),
    ),
    "In training you divide what a layer returns by 1 - p, as dropout does with numbers. A whole layer was not scaled in the lesson: "
    "what would it do to the residual stream?": ways(ran=lambda x, y, p: y / stays(p)),
    "You divide what a layer adds to x by 1 - p. LayerDrop leaves a layer that runs as it is.": ways(
        ran=lambda x, y, p: x + (y - x) / stays(p)
    ),
    "You divide x by 1 - p at the end of the stack. LayerDrop does not rescale anything.": ways(
        end=lambda x, p, training: x / stays(p) if training else x
    ),
    "In eval mode you multiply what comes out of a layer by 1 - p. The stack in eval mode is the plain stack.": ways(
        in_eval=lambda x, y, p: y * (1 - p)
    ),
    "In eval mode you multiply what a layer adds to x by 1 - p. That is its mean contribution in training, and LayerDrop does not "
    "use it.": ways(in_eval=lambda x, y, p: x + (1 - p) * (y - x)),
    "One coin decides for all layers: either all run or none. How many coins does a step need?": tuple(map(one_coin, LOOSE)),
    "A skipped layer returns zeros, and all that came before it is lost. What should the next layer get?": ways(
        skipped=lambda x, first, p: torch.zeros_like(x)
    ),
    "A skipped layer returns what the stack was given, and undoes the layers before it. What should the next layer get?": ways(
        skipped=lambda x, first, p: first
    ),
    "After the first layer that is skipped, no other one runs. What ends your loop?": tuple(map(ends_early, LOOSE)),
    "After a skipped layer, the others meet the memory of another layer: you leave layers out of one list and not of the other.": (
        tuple(map(filtered, LOOSE))
    ),
    "In every step you skip the same number of layers, about p of them. With a coin for each, their number varies: which layers depend "
    "on which coins?": tuple(ranked(turn, count) for turn in (1, -1) for count in (round, int, ceil)),
    "Your later layers are skipped more often than the earlier ones. That is stochastic depth (Huang et al. 2016); LayerDrop gives "
    "every layer the same p.": tuple(
        forward
        for rate in (
            lambda p, i, depth: p * i / depth,
            lambda p, i, depth: p * (i + 1) / depth,
            lambda p, i, depth: p * i / max(1, depth - 1),
        )
        for forward in ways(rate=rate)
    ),
    "Your first layer is never skipped. LayerDrop makes no exception for it.": spared(lambda i, depth: i == 0),
    "Your last layer is never skipped. LayerDrop makes no exception for it.": spared(lambda i, depth: i == depth - 1),
    "In a deep stack, only the first layers are ever skipped. LayerDrop gives every layer the same p, however many there are.": tuple(
        forward for most in (8, 10, 12) for forward in spared(lambda i, depth, most=most: i >= most)
    ),
    "Where all coins say skip, you let a layer run. LayerDrop does not: in such a step x passes through as it is.": tuple(
        forward for place in (0, -1) for always in (True, False) for forward in never_none(place, always)
    ),
    "You add x to what a layer returns. A layer here has its residual connection inside.": ways(
        ran=lambda x, y, p: x + y, in_eval=lambda x, y, p: x + y
    ),
    "No layer is ever skipped, whatever p is.": (walk(lambda c, p: False),),
    "With a large p, below 1, no layer runs in yours, whatever the coins show. Each layer still has its coin.": tuple(
        forward for most in (0.85, 0.95) for forward in ways(rate=lambda p, i, depth, most=most: 1.0 if p > most else p)
    ),
    "With a small p, above 0, no layer is skipped in yours, whatever the coins show. Each layer still has its coin.": tuple(
        forward for least in (0.05, 0.15) for forward in ways(rate=lambda p, i, depth, least=least: 0.0 if p < least else p)
    ),
    "Where a coin is close to p, or to 1 - p, you skip a little less often than with p. Do you round, or is another number compared?": (
        walk(lambda c, p: c < p - 0.01), walk(lambda c, p: c >= 1 - p + 0.01), walk(lambda c, p: round(c, 2) < p),
        walk(lambda c, p: round(c, 2) > 1 - p),
    ),
    "Where a coin is close to p, or to 1 - p, you skip a little more often than with p. Do you round, or is another number compared?": (
        walk(lambda c, p: c < p + 0.01), walk(lambda c, p: c >= 1 - p - 0.01), walk(lambda c, p: round(c, 2) <= p),
        walk(lambda c, p: round(c, 2) >= 1 - p), walk(lambda c, p: 0 < p and c < p + 0.01),
    ),
    "With p=0 a layer was skipped. coin() can return exactly 0: which comparison lets p=0 mean never?": (
        walk(lambda c, p: c <= p),
    ),
    "With p=1 a layer ran. coin() can return exactly 0: which comparison lets p=1 mean always?": (
        walk(lambda c, p: c > 1 - p),
    ),
}  # fmt: skip


def stacks(draw: Random) -> list[Stack]:
    """Calls in both modes, at both ends of p and near them, deep ones, one in which all coins skip, and one
    with coins next to p and 1 - p; drawn until no two mistakes look alike.
    """
    while True:
        found = [stack(draw, DEEP, False), stack(draw, 7, True, sure=0), stack(draw, 8, True)]
        found += [stack(draw, 6, True, 1, sure=0), stack(draw, 5, True, 1, sure=4)]
        found += [stack(draw, 3, True, p=0.0, aimed=(0.0,)), stack(draw, 4, True, p=1.0, aimed=(0.0,))]
        found.append(stack(draw, 4, False, p=1.0))
        found += [stack(draw, DEEP, True, often, sure=DEEP - 1) for often in (0, 1)]
        for p in (draw.choice((0.03, 0.04)), draw.choice((0.96, 0.97))):
            found.append(stack(draw, 6, True, p=p, aimed=at_the_ends(draw, p)))
        p = round(draw.uniform(0.2, 0.42), 2)
        found.append(stack(draw, 8, True, p=p, aimed=(p - NEXT, p + NEXT, 1 - p - NEXT, 1 - p + NEXT)))
        p = round(draw.uniform(0.65, 0.8), 2)
        found.append(Stack(5, p, True, tuple(between(draw, p) for _ in range(16)), draw.randrange(2**31)))
        if apart(found):
            return found


def stack(
    draw: Random,
    depth: int,
    training: bool,
    often: int = 0,
    p: float | None = None,
    sure: int | None = None,
    aimed: tuple[float, ...] = (),
) -> Stack:
    """One call. `aimed` coins fall anywhere; the coin of layer `sure` decides alike by either rule."""
    if p is None:
        p = round(draw.uniform(0.2, 0.42) + 0.4 * often, 2)
    tosses = [beyond(draw, p, 1 - p) for _ in range(2 * depth + 6)]
    for place, coin in zip(draw.sample(range(depth), len(aimed)), aimed, strict=True):
        tosses[place] = coin
    if sure is not None:
        tosses[sure] = between(draw, p)
    return Stack(depth, p, training, tuple(tosses), draw.randrange(2**31))


def at_the_ends(draw: Random, p: float) -> tuple[float, float]:
    """For a p near 0 or 1, the coins that decide the rare way: one by either rule."""
    rare = min(p, 1 - p) - 0.021
    return draw.uniform(0.002, rare), 1 - draw.uniform(0.002, rare)


def apart(found: list[Stack]) -> bool:
    """Whether each mistake gives, in some call, what is right by no rule, and no two give the same in all."""
    right = [[call.play(walk(skips)).x for call in found] for skips in RULES]
    rows, group = [], []
    for number, forwards in enumerate(STACK_MISTAKES.values()):
        for forward in forwards:
            mine = [call.play(forward).x for call in found]
            if not any(far(x, a) and far(x, b) for x, a, b in zip(mine, *right, strict=True)):
                return False
            rows.append(torch.cat([x.flatten() for x in mine]).clamp(-1e4, 1e4))
            group.append(number)
    distance = torch.cdist(torch.stack(rows), torch.stack(rows), p=torch.inf)
    other = torch.tensor(group)[:, None] != torch.tensor(group)
    return bool((distance[other] > 1e-2).all())


def far(a: Tensor, b: Tensor) -> bool:
    return bool((a - b).abs().max() > 1e-2)


def complaint(found: list[Stack], got: list[Played]) -> str:
    """What is wrong with what came of the calls; empty if nothing is."""
    trios = [(call, mine, nearest(call, mine)) for call, mine in zip(found, got, strict=True)]
    if all(close(mine.x, right.x) for _, mine, right in trios):
        return next(filter(None, (hidden_fault(*trio) for trio in trios)), "")
    for message, forwards in STACK_MISTAKES.items():
        for forward in forwards:
            if all(close(mine.x, call.play(forward).x) for call, mine, _ in trios):
                return message
    return first_fault(trios)


def hidden_fault(call: Stack, mine: Played, right: Played) -> str:
    """What is wrong with a call whose x is right; empty if nothing is."""
    if mine.ran != right.ran and len(set(mine.ran)) == len(mine.ran):
        return (
            "x is right, but layers that are skipped are called all the same, and their result is thrown away. Then skipping "
            "saves no time: decide before you call a layer."
        )
    if mine.ran != right.ran:
        return f"For {call.label}: x is right, and a layer is called more than once. That costs time: use what its call returned."
    if not call.training and mine.coins:
        return (
            f"In eval mode you call coin() {mine.coins} times. x is right, but every later random number is another one. "
            "What should be asked first: the mode, or the coin?"
        )
    if 0 < call.p < 1 and call.training and mine.coins != call.depth:
        return f"For {call.label}: x is right, and you tossed {mine.coins} coins. One for each layer, and no more."
    if not mine.flows(right.gradient):
        return (
            f"For {call.label}: x is right, and its gradient with respect to the x that you were given is "
            f"{'lost' if mine.gradient is None else 'another one'}. Whoever trains the stack needs it, also for what lies below. "
            "Which line of yours cuts x off from where it came?"
        )
    return ""


def first_fault(trios: list[tuple[Stack, Played, Played]]) -> str:
    """No known misconception: the first thing that is wrong. `trios` has calls, what came, and what is right."""
    training = [(call, mine) for call, mine, _ in trios if call.training]
    if not any(mine.coins for _, mine in training):
        return "In training you never call coin(). Whether a layer is skipped has to depend on it."
    for _, mine in training:
        for layer, memory in mine.ran:
            if layer != memory:
                return (
                    f"Layer {layer} was called with memories[{memory}]. Each layer has a memory of its own."
                )
    for call, mine, right in trios:
        if not call.training and mine.ran != right.ran:
            return f"In eval mode {unlike(mine, right)}"
    for call, mine in training:
        if 0 < call.p < 1 and mine.coins < call.depth:
            return f"For {call.label}: you tossed {mine.coins} coins for {call.depth} layers, so that some layers have none."
        if 0 < call.p < 1 and mine.coins > call.depth:
            return f"For {call.label}: you tossed {mine.coins} coins, and there are {call.depth} layers. Each has a coin of its own."
    call, mine, right = next(trio for trio in trios if not close(trio[1].x, trio[2].x))
    ran = ", ".join(str(layer) for layer, _ in mine.ran) or "none"
    if mine.ran == right.ran:
        return f"For {call.label}: the right layers run ({ran}), and x is not what the last of them returns. What do you do with it?"
    return f"For {call.label}: these layers run, in this order: {ran}. That is not what the coins say. Coins are tossed in running order."


def unlike(mine: Played, right: Played) -> str:
    """How the layers that ran in eval mode differ from all layers in their order."""
    ran, depth = mine.ran, len(right.ran)
    if ran and ran == right.ran[: len(ran)]:
        return f"only the first {len(ran)} of {depth} layers run. Where does your loop end, and what says so?"
    said = ", ".join(str(layer) for layer, _ in ran) or "none"
    return f"these of your {depth} layers run, in this order: {said}. All of them should, from 0 on."


def nearest(call: Stack, mine: Played) -> Played:
    """What is right, by the rule for the coin that fits better in this call."""
    both = [call.play(walk(rule)) for rule in RULES]
    return min(both, key=lambda right: (not close(mine.x, right.x), len(set(right.ran) ^ set(mine.ran))))


def marks(found: list[Stack], got: list[Played], always: bool = True) -> tuple[Figure | None, str]:
    """Which layers run in each call: rings where they should, dots where they did; if not `always`, only where something differs."""
    rows = [
        ([i for i, _ in nearest(call, mine).ran], [i for i, _ in mine.ran])
        for call, mine in zip(found, got, strict=True)
    ]
    names = [
        f"p={call.p:g}, {'training' if call.training else 'eval'}, {call.depth} layers" for call in found
    ]
    other = [name for name, (should, did) in zip(names, rows, strict=True) if should != did]
    if not other and not always:
        return None, ""
    figure, (ax,) = plot.panels(1, width=7.5, height=0.9 + 0.3 * len(found))
    for row, (should, did) in enumerate(rows):
        ax.plot(should, [row] * len(should), "o", ms=11, mfc="none", mec=plot.PALETTE["grey"])
        ax.plot(did, [row] * len(did), "o", ms=5, color=plot.PALETTE["red"])
    ax.set_yticks(range(len(found)), names)
    most = max(call.depth for call in found)
    ax.set(
        xlabel="layer",
        title="ring: should run; dot: ran in yours",
        xlim=(-0.6, most - 0.4),
        xticks=range(0, most, 2),
        ylim=(len(found) - 0.4, -0.6),
    )
    said = f"they differ for {'; '.join(other)}" if other else "they are the same everywhere"
    return (
        figure,
        f"For each call, the layers that should run as rings, and those that ran in your function as dots: {said}.",
    )
