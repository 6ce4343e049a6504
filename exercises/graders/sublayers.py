"""Task 2 of exercise 08: a sub-layer that is skipped whole, in eval mode, where it runs and where it does not."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from random import Random

import torch
from torch import Tensor, nn

from exercises.graders.stacks import (
    NEXT,
    RULES,
    WIDTH,
    Coin,
    Played,
    at_the_ends,
    close,
    leaf_of,
    read,
    stays,
)


@dataclass(frozen=True)
class Once:
    """One call of Task 2: p, mode, coin, and what should come of it: "eval", "runs", "skips", or "" where it is told by a rule."""

    p: float
    training: bool
    toss: float
    place: str
    seed: int

    @property
    def label(self) -> str:
        return f"p={self.p:g}, training={self.training}, coin {self.toss:.3g}"

    @cached_property
    def parts(self) -> tuple[Tensor, nn.Module, nn.Module]:
        """x, norm and inner."""
        generator = torch.Generator().manual_seed(self.seed)
        norm = nn.LayerNorm(WIDTH)
        inner = nn.Sequential(nn.Linear(WIDTH, 7), nn.Tanh(), nn.Linear(7, WIDTH))
        with torch.no_grad():
            for parameter in (*norm.parameters(), *inner.parameters()):
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
        return 2 * torch.randn(2, 3, WIDTH, generator=generator) + 1, norm, inner

    def play(self, run: Callable) -> Played:
        (x, norm, inner), coin = self.parts, Coin([self.toss, 0.01, 0.99, 0.01, 0.99, 0.01])
        ran: list[str] = []
        watches = [
            part.register_forward_hook(lambda *_, name=name: ran.append(name))
            for name, part in (("norm", norm), ("inner", inner))
        ]
        try:
            with torch.enable_grad():
                leaf = leaf_of(x)
                value = run(leaf, norm, inner, self.p, self.training, coin)
        finally:
            for watch in watches:
                watch.remove()
        return Played(read(value, x), ran, coin.used, value, leaf)

    @cached_property
    def slope(self) -> Tensor:
        """The gradient of the sum of inner(norm(x)) with respect to x."""
        x, norm, inner = self.parts
        with torch.enable_grad():
            leaf = leaf_of(x)
            return torch.autograd.grad(inner(norm(leaf)).sum(), leaf)[0]

    @cached_property
    def values(self) -> dict[str, Tensor]:
        """What could come back, by name."""
        with torch.no_grad():
            x, norm, inner = self.parts
            n, kept = norm(x), stays(self.p)
            f, bare = inner(n), inner(x)
            found = {
                "x + f": x + f, "x": x, "x + n": x + n, "n": n, "f": f, "n + f": n + f, "0": 0 * x, "2 x": 2 * x,
                "x + f / kept": x + f / kept, "(x + f) / kept": (x + f) / kept, "x + f kept": x + f * kept,
                "(x + f) kept": (x + f) * kept, "x / kept": x / kept, "x + n / kept": x + n / kept,
                "(x + n) / kept": (x + n) / kept, "x + bare": x + bare, "bare": bare, "x + norm(bare)": x + norm(bare),
                "norm(x + f)": norm(x + f), "norm(x + bare)": norm(x + bare), "f / kept": f / kept,
            }  # fmt: skip
        return {name: value.double() for name, value in found.items()}


def onces(draw: Random) -> list[Once]:
    """Calls in eval mode, in which any rule runs, and in which any rule skips; and calls that tell rules apart:
    at both ends of p and near them, with a coin far from p and from 1 - p, and with coins next to these.
    """
    rare, often = ([round(draw.uniform(0.15, 0.38) + shift, 2) for _ in range(3)] for shift in (0, 0.45))
    found = [
        (p, False, c, "eval")
        for p, c in ((rare[0], 0.05), (rare[1], 0.93), (often[0], 0.07), (often[1], 0.96))
    ]
    for ps, place in ((rare, "runs"), (often, "skips")):
        found += [
            (p, True, c, place)
            for p in ps
            for c in (draw.uniform(min(p, 1 - p) + 0.02, 0.48), draw.uniform(0.52, max(p, 1 - p) - 0.02))
        ]
    found += [(0.0, True, 0.0, ""), (0.0, True, 0.95, ""), (1.0, True, 0.0, ""), (1.0, True, 0.95, "")]
    found += [(rare[0], True, rare[0] / 2, ""), (rare[0], True, 1 - rare[0] / 2, "")]
    for p in (rare[0], often[0]):
        found += [(p, True, c + off, "") for c in (p, 1 - p) for off in (-NEXT, NEXT)]
    for p in (draw.choice((0.03, 0.04)), draw.choice((0.96, 0.97))):
        found += [(p, True, c, "") for c in at_the_ends(draw, p)]
    return [Once(*how, draw.randrange(2**31)) for how in found]  # fmt: skip


WANTED = {"eval": "x + f", "runs": "x + f", "skips": "x"}
PLACES = {
    "eval": "in eval mode",
    "runs": "where it runs in training",
    "skips": "where it is skipped",
    "inner": "wherever `inner` runs",
}
SCALED = ("x + f / kept", "(x + f) / kept", "x + f kept", "(x + f) kept", "f / kept")
NOT_RUN = ("x", "x + n", "n", "0", "2 x", "x / kept", "x + n / kept", "(x + n) / kept")
FAULTS = {
    ("eval", NOT_RUN): "with training=False nothing of `inner` is in what you return. When nothing is trained, which sub-layers should run?",
    ("eval", ("coin",)): "a coin still decides whether the sub-layer runs. What decides first?",
    ("eval", SCALED): "you scale by 1 - p. A model in eval mode is the plain model.",
    ("runs", NOT_RUN): "nothing of `inner` is in what you return.",
    ("runs", SCALED): "you scale by 1 - p, as dropout does with numbers. Does LayerDrop scale a sub-layer that runs?",
    ("inner", SCALED): "you scale by 1 - p, in eval mode as well as in training. What would the plain model return?",
    ("skips", ("x + n", "x + n / kept", "(x + n) / kept")): (
        "a norm is left over. Skipped *whole*: what does x look like if neither `norm` nor `inner` were there?"
    ),
    ("skips", ("n",)): "you return norm(x). The sub-layer is skipped with its norm: what is left?",
    ("skips", ("0",)): "you return zeros, and all that the layers before have computed is lost. What should the next sub-layer get?",
    ("skips", ("2 x",)): "you return twice x. What does a skipped sub-layer add to x?",
    ("skips", ("x / kept",)): "you divide x by 1 - p. x is what came from below, and has nothing to do with this coin.",
    ("skips", ("x + f", *SCALED)): "it runs all the same. The coin changes nothing.",
    ("inner", ("f",)): "x is missing: a sub-layer adds to x.",
    ("inner", ("n + f",)): "you add to norm(x). The residual connection adds to x itself.",
    ("inner", ("x + bare", "bare")): "`inner` gets x, and it should get norm(x).",
    ("inner", ("x + norm(bare)", "norm(x + f)", "norm(x + bare)")): "the norm stands in another place. Here it comes first: x + inner(norm(x)).",
}  # fmt: skip


def seen(found: list[Once], got: list[Played], place: str) -> str:
    """The name of what came back in all calls of a place; "coin" if a coin chose between two; empty if unknown."""
    pairs = [(call, mine.x) for call, mine in zip(found, got, strict=True) if call.place == place]

    def is_(name: str) -> list[bool]:
        return [close(x, call.values[name]) for call, x in pairs]

    names = list(pairs[0][0].values)
    for name in names:
        if all(is_(name)):
            return name
    runs = [any(row) for row in zip(*(is_(name) for name in ("x + f", "x + f / kept")), strict=True)]
    left = [any(row) for row in zip(*(is_(name) for name in NOT_RUN), strict=True)]
    return "coin" if all(a or b for a, b in zip(runs, left, strict=True)) else ""


def fault(found: list[Once], got: list[Played]) -> str:
    """What is wrong with what came of the calls; empty if nothing is."""
    most = max(mine.coins for mine in got)
    if most > 1:
        return f"You toss {most} coins for one sub-layer, and it is skipped more or less often than with p. One coin decides."
    kinds = {place: seen(found, got, place) for place in WANTED}
    if kinds["runs"] in NOT_RUN and kinds["skips"] in ("x + f", *SCALED):
        return "p is the probability of skipping, and your sub-layer runs with probability p. Which coins are below 0.1, and how often?"
    if "coin" in (kinds["runs"], kinds["skips"]):
        return "How often the sub-layer runs in training is not 1 - p. Compare the coin with p, and with nothing else."
    wrong = {place: kind for place, kind in kinds.items() if kind != WANTED[place]}
    if wrong.get("eval") == wrong.get("runs") and "eval" in wrong and wrong["eval"] not in NOT_RUN:
        wrong = {
            "inner": wrong.pop("eval"),
            **{place: kind for place, kind in wrong.items() if place != "runs"},
        }
    if wrong:
        return described(found, got, wrong)
    return off_rule(found, got)


def described(found: list[Once], got: list[Played], wrong: dict[str, str]) -> str:
    """The first fault, and how much else is wrong."""
    place, kind = next(iter(wrong.items()))
    said = next(
        (text for (where, kinds), text in FAULTS.items() if where in (place, "inner") and kind in kinds), ""
    )
    if not said and not any(mine.coins for mine in got):
        return "You never call coin(). Chance has to come from it: one coin for the whole sub-layer, and not one for each number."
    if not said:
        call, mine = next(
            (c, m)
            for c, m in zip(found, got, strict=True)
            if c.place and not close(m.x, c.values[WANTED[c.place]])
        )
        off = (mine.x - call.values[WANTED[call.place]]).flatten()[0]
        return (
            f"For {call.label}: the first number that you return is {mine.x.flatten()[0]:.4g}, which is off by {off:.4g}. Compute "
            "norm(x), then `inner` of it, and compare each step with your code."
        )
    if len(wrong) == 1:
        return f"Right except {PLACES[place]}: {said}"
    good = next(
        (name for name in WANTED if name not in wrong and not ("inner" in wrong and name != "skips")), None
    )
    begin = f"Right only {PLACES[good]}." if good else "Wrong in every case."
    return f"{begin} Begin with one case, {PLACES[place]}: {said}"


def off_rule(found: list[Once], got: list[Played]) -> str:
    """The calls in which the rule for the coin matters: both ends of p, and two coins of which one skips."""
    pairs = [(call, mine) for call, mine in zip(found, got, strict=True) if not call.place]
    for p, name, message in (
        (0.0, "x + f", "With p=0 the sub-layer was skipped. coin() can return exactly 0: which comparison lets p=0 mean never?"),
        (1.0, "x", "With p=1 the sub-layer ran. coin() can return exactly 0: which comparison lets p=1 mean always?"),
    ):  # fmt: skip
        if not all(close(mine.x, call.values[name]) for call, mine in pairs if call.p == p):
            return message
    for p in dict.fromkeys(call.p for call, _ in pairs if 0 < call.p < 1):
        message = unruly([(call, mine) for call, mine in pairs if call.p == p])
        if message:
            return message
    return next(filter(None, (hidden_fault(*pair) for pair in zip(found, got, strict=True))), "")


def unruly(pairs: list[tuple[Once, Played]]) -> str:
    """What is wrong with the decisions for one p, by either rule for the coin; empty if nothing is."""
    wrong = [
        [
            call
            for call, mine in pairs
            if not close(mine.x, call.values["x" if rule(call.toss, call.p) else "x + f"])
        ]
        for rule in RULES
    ]
    if not all(wrong):
        return ""
    fewest, p = min(wrong, key=len), pairs[0][0].p
    if min(p, 1 - p) < 0.1:
        return f"Right for most p, and wrong for {fewest[0].label}. Does your code make a case of its own of a p close to 0 or 1?"
    if all(min(abs(call.toss - p), abs(call.toss + p - 1)) < 2 * NEXT for call in fewest):
        return f"Right for most coins, and wrong for {fewest[0].label}, which is close to p or to 1 - p. Do you round, or is another number compared?"
    return "How often the sub-layer runs in training is not 1 - p. Compare the coin with p, and with nothing else."


def hidden_fault(call: Once, mine: Played) -> str:
    """What is wrong with a call that returns what is right; empty if nothing is."""
    skipped = call.training and close(mine.x, call.values["x"])
    if mine.coins and not call.training:
        return "What you return is right, and in eval mode you toss a coin that decides nothing. What should be asked first?"
    if skipped and "inner" in mine.ran:
        return (
            "What you return is right, and where the sub-layer is skipped `inner` is called all the same, and its result thrown away. "
            "Then skipping saves no time: decide before you call it."
        )
    if skipped and mine.ran:
        return (
            "What you return is right, and where the sub-layer is skipped `norm` is called for nothing. It belongs to what is skipped: "
            "when do you decide?"
        )
    through = torch.zeros_like(call.slope) if skipped else call.slope
    if mine.flows(1 + through):
        return ""
    where = "is skipped" if skipped else "runs"
    return f"What you return is right. Its gradient with respect to x is not, where the sub-layer {where}: {lacking(mine, through)}"


def lacking(mine: Played, through: Tensor) -> str:
    """What is missing in a gradient that should be 1, for x itself, plus what comes `through` norm and inner."""
    if mine.gradient is None:
        return "there is none. The layers below are trained by it, whether this one runs or not."
    if mine.flows(through):
        return "the part of x itself is missing, the 1 in the derivative of x + f(x)."
    if mine.flows(torch.ones_like(through)):
        return "the part that goes through `inner` and `norm` is missing."
    return "it is another one. Which line of yours cuts something off from x?"
