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
    """What came of a call: x, the (layer, memory) pairs that ran, and the number of coins tossed."""

    x: Tensor
    ran: list[tuple[int, int]]
    coins: int


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
        coins = ", ".join(f"{toss:.2f}" for toss in self.tosses[: self.depth])
        return f"{self.depth} layers, p={self.p:g}, training={self.training}, coins {coins}"

    @cached_property
    def numbers(self) -> tuple[Tensor, list[Tensor], Tensor]:
        """Weights, memories, x."""
        generator = torch.Generator().manual_seed(self.seed)
        weights = torch.randn(self.depth, WIDTH, WIDTH, generator=generator)
        memories = list(torch.randn(self.depth, WIDTH, generator=generator))
        return weights, memories, torch.randn(2, 3, WIDTH, generator=generator)

    def play(self, run: Callable) -> Played:
        """NotYet when what comes back is no x."""
        (weights, memories, x), ran, coin = self.numbers, [], Coin(list(self.tosses))
        known = [memory.tolist() for memory in memories]
        layers = [Layer(i, weight, known, ran) for i, weight in enumerate(weights)]
        value = run(layers, list(memories), x, self.p, self.training, coin)
        return Played(read(value, x), ran, coin.used)


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
    "Where all coins say skip, you let a layer run. LayerDrop does not: in such a step x passes through as it is.": tuple(
        forward for place in (0, -1) for always in (True, False) for forward in never_none(place, always)
    ),
    "You add x to what a layer returns. A layer here has its residual connection inside.": ways(
        ran=lambda x, y, p: x + y, in_eval=lambda x, y, p: x + y
    ),
    "No layer is ever skipped, whatever p is.": (walk(lambda c, p: False),),
    "With p=0 a layer was skipped. coin() can return exactly 0: which comparison lets p=0 mean never?": (
        walk(lambda c, p: c <= p),
    ),
    "With p=1 a layer ran. coin() can return exactly 0: which comparison lets p=1 mean always?": (
        walk(lambda c, p: c > 1 - p),
    ),
}  # fmt: skip


def stacks(draw: Random) -> list[Stack]:
    """Calls in both modes, at both ends of p, and one in which all coins skip; drawn until no two mistakes look alike."""
    while True:
        found = [stack(draw, 5, False), stack(draw, 7, True, sure=0), stack(draw, 8, True)]
        found += [stack(draw, 6, True, 1, sure=0), stack(draw, 5, True, 1, sure=4)]
        found += [stack(draw, 3, True, p=0.0), stack(draw, 4, True, p=1.0), stack(draw, 4, False, p=1.0)]
        p = round(draw.uniform(0.65, 0.8), 2)
        found.append(Stack(5, p, True, tuple(between(draw, p) for _ in range(16)), draw.randrange(2**31)))
        if apart(found):
            return found


def stack(
    draw: Random, depth: int, training: bool, often: int = 0, p: float | None = None, sure: int | None = None
) -> Stack:
    """One call. At p=0 and p=1 one coin is exactly 0; the coin of layer `sure` decides alike by either rule."""
    ends = p is not None
    p = p if ends else round(draw.uniform(0.2, 0.42) + 0.4 * often, 2)
    tosses = [beyond(draw, p, 1 - p) for _ in range(2 * depth + 6)]
    if ends:
        tosses[draw.randrange(depth)] = 0.0
    if sure is not None:
        tosses[sure] = between(draw, p)
    return Stack(depth, p, training, tuple(tosses), draw.randrange(2**31))


def apart(found: list[Stack]) -> bool:
    """Whether no mistake gives what another one gives in all calls, or what is right."""
    groups = [[walk(skips) for skips in RULES], *STACK_MISTAKES.values()]
    rows, group = [], []
    for number, forwards in enumerate(groups):
        for forward in forwards:
            rows.append(torch.cat([call.play(forward).x.flatten() for call in found]).clamp(-1e4, 1e4))
            group.append(number)
    distance = torch.cdist(torch.stack(rows), torch.stack(rows), p=torch.inf)
    other = torch.tensor(group)[:, None] != torch.tensor(group)
    return bool((distance[other] > 1e-2).all())


def complaint(found: list[Stack], got: list[Played]) -> str:
    """What is wrong with what came of the calls; empty if nothing is."""

    def agrees(forward: Callable) -> bool:
        return all(close(mine.x, call.play(forward).x) for call, mine in zip(found, got, strict=True))

    right = next((rule for rule in RULES if agrees(walk(rule))), None)
    if right is None:
        for message, forwards in STACK_MISTAKES.items():
            if any(map(agrees, forwards)):
                return message
        return first_fault(found, got)
    for call, mine in zip(found, got, strict=True):
        if call.training and mine.ran != call.play(walk(right)).ran:
            return (
                "x is right, but layers that are skipped are called all the same, and their result is thrown away. Then skipping "
                "saves no time: decide before you call a layer."
            )
        if not call.training and mine.coins:
            return (
                f"In eval mode you call coin() {mine.coins} times. x is right, but every later random number is another one. "
                "What should be asked first: the mode, or the coin?"
            )
        if 0 < call.p < 1 and call.training and mine.coins != call.depth:
            return f"For {call.label}: x is right, and you tossed {mine.coins} coins. One for each layer, and no more."
    return ""


def first_fault(found: list[Stack], got: list[Played]) -> str:
    """No known misconception: the first thing that is wrong."""
    training = [(call, mine) for call, mine in zip(found, got, strict=True) if call.training]
    if not any(mine.coins for _, mine in training):
        return "In training you never call coin(). Whether a layer is skipped has to depend on it."
    for _, mine in training:
        for layer, memory in mine.ran:
            if layer != memory:
                return (
                    f"Layer {layer} was called with memories[{memory}]. Each layer has a memory of its own."
                )
    for call, mine in training:
        if 0 < call.p < 1 and mine.coins != call.depth:
            return f"For {call.label}: you tossed {mine.coins} coins, and there are {call.depth} layers. Each has a coin of its own."
    call, mine = next(
        (call, mine)
        for call, mine in zip(found, got, strict=True)
        if not close(mine.x, nearest(call, mine).x)
    )
    ran = ", ".join(str(layer) for layer, _ in mine.ran) or "none"
    if not call.training and mine.ran != nearest(call, mine).ran:
        return f"In eval mode these of your {call.depth} layers run, in this order: {ran}. All of them should, from 0 on."
    if mine.ran == nearest(call, mine).ran:
        return f"For {call.label}: the right layers run ({ran}), and x is not what the last of them returns. What do you do with it?"
    return f"For {call.label}: these layers run, in this order: {ran}. That is not what the coins say. Coins are tossed in running order."


def nearest(call: Stack, mine: Played) -> Played:
    """What is right, by the rule for the coin that fits better."""
    both = [call.play(walk(rule)) for rule in RULES]
    return min(both, key=lambda right: len(set(right.ran) ^ set(mine.ran)))


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
    figure, (ax,) = plot.panels(1, width=6.5, height=3.4)
    for row, (should, did) in enumerate(rows):
        ax.plot(should, [row] * len(should), "o", ms=13, mfc="none", mec=plot.PALETTE["grey"])
        ax.plot(did, [row] * len(did), "o", ms=6, color=plot.PALETTE["red"])
    ax.set_yticks(range(len(found)), names)
    ax.set(
        xlabel="layer",
        title="ring: should run; dot: ran in yours",
        xlim=(-0.6, 7.6),
        ylim=(len(found) - 0.4, -0.6),
    )
    said = f"they differ for {'; '.join(other)}" if other else "they are the same everywhere"
    return (
        figure,
        f"For each call, the layers that should run as rings, and those that ran in your function as dots: {said}.",
    )
