"""Task 6 of exercise 08: encoders of torch, what they compute as formulas, and the misconceptions about switching a sub-layer off."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property, partial
from random import Random
from typing import Self

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor, nn

from exercises.graders import NotYet
from exercises.graders.guard import guarded
from exercises.graders.kinds import kind_of
from minieff import plot

MODES = {"with gradients": True, "under no_grad": False}
FASTPATH = torch.backends.mha


class Theirs(nn.TransformerEncoder):
    """Someone's encoder. It remembers its copies, the first of which is the one that a learner's function is given."""

    copies: list

    def __deepcopy__(self, memo: dict) -> Self:
        new = type(self).__new__(type(self))
        memo[id(self)] = new
        for name, value in vars(self).items():
            vars(new)[name] = value if name == "copies" else deepcopy(value, memo)
        vars(self).get("copies", []).append(new)
        return new


@dataclass(frozen=True)
class Encoder:
    """An encoder, the layer in question, an input, and which of its positions are padding."""

    encoder: Theirs
    i: int
    x: Tensor
    padding: Tensor

    @property
    def label(self) -> str:
        first = self.encoder.layers[0]
        order = "pre-norm" if first.norm_first else "post-norm"
        other = ", activation=torch.sigmoid" if first.activation is torch.sigmoid else ""
        return f"a {order} encoder of {len(self.encoder.layers)} layers, i={self.i}{other}"

    def inputs(self) -> list[tuple[str, bool, Tensor | None]]:
        """The four ways to evaluate: a name, with gradients or not, and the padding."""
        return [
            (f"{mode}{', padded' if padding is not None else ''}", grad, padding)
            for mode, grad in MODES.items()
            for padding in (None, self.padding)
        ]

    def outputs(self, encoder: nn.Module) -> list[Tensor]:
        """What an encoder returns in each of these ways, at the real positions."""
        return [self.output(encoder, self.x, *how).detach() for how in self.inputs()]

    def output(self, encoder: nn.Module, x: Tensor, name: str, grad: bool, padding: Tensor | None) -> Tensor:
        masks = {} if padding is None else {"src_key_padding_mask": padding}
        with torch.set_grad_enabled(grad):
            value = guarded(None, partial(encoder, x, **masks))
        if not isinstance(value, Tensor) or value.shape != x.shape:
            raise NotYet(
                f"Called {name}, your encoder returns {kind_of(value)}, and its input has the shape {tuple(x.shape)}."
            )
        return real(value, padding)

    def computed(self, change: Callable) -> list[Tensor]:
        """The same by formula."""
        return 2 * [self.formula(self.x, padding, change).detach() for padding in (None, self.padding)]

    def formula(self, x: Tensor, padding: Tensor | None, change: Callable) -> Tensor:
        """`change(n, i, depth)` says how to compute layer n: the arguments for `layer`, or None for none."""
        x, layers = x.double(), self.doubled.layers
        for n, module in enumerate(layers):
            how = change(n, self.i, len(layers))
            x = x if how is None else layer(module, x, padding, **how)
        last = self.doubled.norm is not None and change("norm", self.i, len(layers)) is not None
        return real(self.doubled.norm(x) if last else x, padding)

    def slopes(self, encoder: nn.Module) -> list[tuple[str, Tensor, Tensor | None, Tensor]]:
        """With gradients: how it is called, the output, its gradient with respect to x, or None, and the right one."""
        found = []
        for name, grad, padding in self.inputs():
            if grad:
                mine, right = self.x.clone().requires_grad_(), self.x.clone().requires_grad_()
                value = self.output(encoder, mine, name, grad, padding)
                with torch.enable_grad():
                    wanted = self.formula(right, padding, OFF)
                found.append((name, value, guarded(None, partial(slope, value, mine)), slope(wanted, right)))
        return found

    @cached_property
    def doubled(self) -> nn.Module:
        encoder = deepcopy(self.encoder).double()
        del self.encoder.copies[:]  # this one is ours
        return encoder


def real(x: Tensor, padding: Tensor | None) -> Tensor:
    return (x if padding is None else x[~padding]).double()


def slope(value: Tensor, x: Tensor) -> Tensor | None:
    """The gradient of value's weighted sum with respect to x; None if there is none."""
    if not value.requires_grad:
        return None
    weights = torch.randn(value.shape, generator=torch.Generator().manual_seed(0)).to(value)
    return torch.autograd.grad(value, x, weights, allow_unused=True)[0]


def near(a: Tensor, b: Tensor) -> bool:
    return bool((a - b).abs().max() <= 1e-3 * (1 + b.abs().max()))


# A layer, by formula


def attention(module: nn.Module, x: Tensor, padding: Tensor | None) -> Tensor:
    heads = module.self_attn.num_heads
    q, k, v = (
        part.unflatten(-1, (heads, -1)).transpose(1, 2)  # (B, H, T, D)
        for part in F.linear(x, module.self_attn.in_proj_weight, module.self_attn.in_proj_bias).chunk(3, -1)
    )
    scores = q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5
    if padding is not None:
        scores = scores.masked_fill(padding[:, None, None], -torch.inf)
    return module.self_attn.out_proj((scores.softmax(-1) @ v).transpose(1, 2).flatten(-2))


def feed_forward(module: nn.Module, x: Tensor) -> Tensor:
    return module.linear2(module.activation(module.linear1(x)))


def nothing(module: nn.Module, x: Tensor) -> Tensor:
    return torch.zeros_like(x)


def last_bias(module: nn.Module, x: Tensor) -> Tensor:
    return module.linear2.bias.expand_as(x)


def first_bias(module: nn.Module, x: Tensor) -> Tensor:
    return module.linear2(module.activation(module.linear1.bias.expand(*x.shape[:-1], -1)))


def no_last_bias(module: nn.Module, x: Tensor) -> Tensor:
    return feed_forward(module, x) - module.linear2.bias


def of_zero(module: nn.Module, x: Tensor) -> Tensor:
    hidden = module.activation(torch.zeros_like(module.linear1.bias))
    return F.linear(hidden, module.linear2.weight).expand_as(x)


def unchanged(module: nn.Module, x: Tensor) -> Tensor:
    return x


def layer(
    module: nn.Module,
    x: Tensor,
    padding,
    feed=feed_forward,
    attend=attention,
    norms=(True, True),
    residual=True,
) -> Tensor:
    """x after a layer of torch's, pre-norm or post-norm, with parts that can be something else."""
    first, second = (
        norm if on else nn.Identity() for norm, on in zip((module.norm1, module.norm2), norms, strict=True)
    )
    if module.norm_first:
        x = x + attend(module, first(x), padding)
        return residual * x + feed(module, second(x))
    x = first(x + attend(module, x, padding))
    return second(residual * x + feed(module, x))


def no_attention(module: nn.Module, x: Tensor, padding) -> Tensor:
    return torch.zeros_like(x)


def only_at(place: Callable[[int, int], int], **how):
    """A change of one layer."""
    return lambda n, i, depth: how if n == place(i, depth) else {}


def here(**how):
    return only_at(lambda i, depth: i, **how)


OFF = here(feed=nothing)
FULL = here()
ENCODER_MISTAKES: dict[str, tuple[Callable, ...]] = {
    "Nothing is switched off: your encoder computes what the full one does, with gradients and without. If you changed a part of it, "
    "look up whether torch calls that part in eval mode.": (FULL,),
    "You switch off layer i - 1. Layers are counted from 0.": (only_at(lambda i, depth: (i - 1) % depth, feed=nothing),),
    "You switch off layer i + 1. Layers are counted from 0.": (only_at(lambda i, depth: i + 1, feed=nothing),),
    "You switch off the first layer's feed-forward, whatever i is.": (only_at(lambda i, depth: 0, feed=nothing),),
    "You switch off the last layer's feed-forward, whatever i is.": (only_at(lambda i, depth: depth - 1, feed=nothing),),
    "The feed-forwards of all layers are off. Only that of layer i should be.": (lambda n, i, depth: {"feed": nothing},),
    "The feed-forwards of all other layers are off, and that of layer i is on.": (
        lambda n, i, depth: {} if n == i else {"feed": nothing},
    ),
    "The whole layer is gone. Its attention stays; only the feed-forward goes.": (lambda n, i, depth: None if n == i else {},),
    "The stack ends before layer i. The layers after it stay as they are.": (lambda n, i, depth: {} if n == "norm" or n < i else None,),
    "The stack ends with layer i. The layers after it stay as they are.": (
        lambda n, i, depth: ({"feed": nothing} if n == i else {}) if n == "norm" or n <= i else None,
        lambda n, i, depth: {} if n == "norm" or n <= i else None,
    ),
    "The attention of layer i is off, and its feed-forward is on. It is the other way round.": (here(attend=no_attention),),
    "Both sub-layers of layer i are off. Its attention stays.": (here(attend=no_attention, feed=nothing),),
    "A norm of the layer is lost with the feed-forward. In a post-norm layer the second norm stands after the sum, and stays: "
    "x = norm2(x + 0).": (here(feed=nothing, norms=(True, False)), here(feed=nothing, norms=(False, False))),
    "In a post-norm layer the first norm is lost. It belongs to attention.": (here(feed=nothing, norms=(False, True)),),
    "A constant is still added: the feed-forward ends with a bias, which does not depend on its input.": (here(feed=last_bias),),
    "A constant is still added, which comes from the first linear's bias. What has to be zero so that the sub-layer adds nothing?": (
        here(feed=first_bias),
    ),
    "Only the last bias is gone. What the matrices compute is still added.": (here(feed=no_last_bias),),
    "The feed-forward returns its own input, and that is added to x. In a pre-norm layer x + norm2(x) is left. What should be added?": (
        here(feed=unchanged),
    ),
    "The residual connection around the feed-forward is off with it. What attention has added to x should go on.": (
        here(feed=nothing, residual=False), here(residual=False),
    ),
    "The norm at the end of the encoder is missing. (The encoder's `norm` is one of its parts, beside `layers`.)": (
        lambda n, i, depth: None if n == "norm" else {"feed": nothing} if n == i else {},
    ),
}  # fmt: skip


CASE_MISTAKES: dict[str, tuple[Callable, ...]] = {
    "the feed-forward is still on.": (FULL,),
    "the feed-forwards of layers 10 and 11 are off, too: their numbers begin with 1. Where does the number end?": (
        lambda n, i, depth: {"feed": nothing} if str(n).startswith(str(i)) else {},
    ),
    "the feed-forward of another layer is off. What does your code make of i?": tuple(
        only_at(lambda i, depth, place=place: place, feed=nothing) for place in range(12)
    ),
    "a constant is still added. Of which activations do you know that they turn 0 into 0?": (
        here(feed=of_zero),
    ),
}


def encoders(draw: Random) -> list[Encoder]:
    """Pre-norm and post-norm, both activations, with and without a last norm, the layer never the last."""
    return [
        encoder(draw, depth, i, *how)
        for depth, i, *how in (
            (3, 1, False, "relu", True),
            (4, 0, True, "gelu", True),
            (4, 2, False, "gelu", False),
        )
    ]


def further(draw: Random) -> list[Encoder]:
    """More layers than ten, the last layer, another activation."""
    return [
        encoder(draw, 12, 1, True, "gelu", False),
        encoder(draw, 5, 4, False, "relu", True),
        encoder(draw, 4, 1, True, torch.sigmoid, True),
    ]


def encoder(
    draw: Random, depth: int, i: int, pre: bool, activation: str | Callable[[Tensor], Tensor], last: bool
) -> Encoder:
    heads, length = draw.choice((2, 4)), draw.randrange(5, 8)
    width = heads * draw.choice((2, 3)) * 2
    module = nn.TransformerEncoderLayer(
        width,
        heads,
        draw.randrange(5, 25),
        dropout=0.3,
        activation=activation,
        norm_first=pre,
        batch_first=True,
    )
    theirs = Theirs(module, depth, nn.LayerNorm(width) if last else None, enable_nested_tensor=False).eval()
    theirs.copies = []
    generator = torch.Generator().manual_seed(draw.randrange(2**31))
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            norm = "norm" in name and name.endswith("weight")
            parameter.copy_(norm + 0.5 * torch.randn(parameter.shape, generator=generator))
    padding = torch.rand(3, length, generator=generator) < 0.4
    padding[:, 0], padding[0], padding[1, -1] = False, False, True
    return Encoder(theirs, i, torch.randn(3, length, width, generator=generator), padding)


# What a learner's function made of it


CLASSES = (
    Theirs,
    nn.TransformerEncoder,
    nn.TransformerEncoderLayer,
    nn.MultiheadAttention,
    nn.Linear,
    nn.LayerNorm,
)


def attributes(kind: type) -> dict[str, object]:
    """Those that code sets. Python itself may store annotations at any time."""
    return {name: value for name, value in vars(kind).items() if "annotations" not in name}


def differing(kind: type, before: dict[str, object]) -> list[str]:
    now = attributes(kind)
    return sorted(name for name in before | now if before.get(name) is not now.get(name))


@contextmanager
def torch_kept() -> Iterator[Callable[[], str]]:
    """Torch's switch for its fused path and its classes as they were, whatever happens inside.

    Gives a function that says what has been done to them since; empty if nothing.
    """
    switch, before = FASTPATH.get_fastpath_enabled(), {kind: attributes(kind) for kind in CLASSES}

    def done() -> str:
        if FASTPATH.get_fastpath_enabled() != switch:
            return "switches torch's fused path off for every model of the process"
        other = [(kind.__name__, name) for kind in CLASSES for name in differing(kind, before[kind])]
        return f"changes `{'.'.join(other[0])}`, and with it every model of the process" if other else ""

    try:
        yield done
    finally:
        FASTPATH.set_fastpath_enabled(switch)
        for kind, old in before.items():
            for name in differing(kind, old):
                if name in old:
                    setattr(kind, name, old[name])
                else:
                    delattr(kind, name)


def made(run: Callable, case: Encoder) -> nn.Module:
    """The encoder that a learner's function returns. NotYet if it is none, or if something else changed."""
    case.doubled  # noqa: B018  (so that the next copy is the one that the function gets)
    with torch_kept() as done:
        mine = run(case.encoder, case.i)
        if done():
            raise NotYet(f"Your function {done()}. Change the copy alone.")
    if isinstance(mine, nn.TransformerEncoderLayer | nn.ModuleList | nn.MultiheadAttention):
        raise NotYet(
            f"Your function returns a {type(mine).__name__}, and the task asks for the whole encoder."
        )
    if not isinstance(mine, nn.Module):
        raise NotYet(
            f"Your function returns {kind_of(mine)}, and the task asks for an encoder, an nn.Module."
        )
    given = case.encoder.copies[0]
    if not same(outputs(case, given, "the encoder that you were given"), case.computed(FULL)):
        raise NotYet(
            "The encoder that your function was given has changed: it no longer computes what it did. Whoever calls you still "
            "needs it. Work on a copy."
        )
    own = {parameter.data_ptr() for parameter in given.parameters()}
    shared = [name for name, parameter in mine.named_parameters() if parameter.data_ptr() in own]
    if shared:
        raise NotYet(
            f"Your encoder shares `{shared[0]}` with the one that was given: what changes the one changes the other. What copies "
            "a module with all that is in it?"
        )
    return mine


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(near(x, y) for x, y in zip(a, b, strict=True))


def outputs(case: Encoder, mine: nn.Module, name: str = "your encoder") -> list[Tensor]:
    """What it returns, called in all ways."""
    return called(case, name, partial(case.outputs, mine))


def called(case: Encoder, name: str, work: Callable) -> list:
    """What `work` returns, which calls an encoder. A crash gets a message that says who asked for what."""
    try:
        with torch_kept() as done:
            found = work()
            if done():
                raise NotYet(f"Whoever calls {name} {done()}, and leaves it so.")
            return found
    except NotYet as refusal:
        error = refusal.__cause__
        lacking = (
            re.search(r"has no attribute '(\w+)'", str(error)) if isinstance(error, AttributeError) else None
        )
        if error is None:
            raise
        if lacking is None:
            raise NotYet(f"For {case.label}, calling {name}: {refusal}") from error
        asked = lacking[1]
        if asked in (
            "self_attn",
            "norm1",
            "linear1",
            "linear2",
            "training",
        ) and "TransformerEncoderLayer'" not in str(error):
            why = "nn.TransformerEncoder reads attributes of its first layer before it calls it. What you put there has to have them."
        else:
            why = (
                f"Torch reads `{asked}` of a part that you replaced or removed, without calling it. In which line of the forward() of "
                "nn.TransformerEncoderLayer, and what for?"
            )
        raise NotYet(
            f"For {case.label}, {name} stops with {type(error).__name__}: {error}.\n{why}"
        ) from error


def judged(run: Callable, found: list[Encoder], named: Callable[[list, list], str]) -> list[list[Tensor]]:
    """What the learner's encoders return, if it is right; else NotYet. `named` knows the misconceptions."""
    mine = [made(run, case) for case in found]
    message, got = encoder_complaint(found, mine, named)
    if message:
        raise NotYet(message, *moved(found, got))
    message = next(filter(None, map(gradient_complaint, found, mine)), "")
    if message:
        raise NotYet(message)
    return got


def encoder_complaint(
    found: list[Encoder], mine: list[nn.Module], named: Callable[[list, list], str]
) -> tuple[str, list[list[Tensor]]]:
    """What is wrong with the encoders, and what they return; empty if nothing is."""
    got = [outputs(case, module) for case, module in zip(found, mine, strict=True)]
    trains = any(module.training for module in mine)
    for module in mine:
        module.eval()
    again = [outputs(case, module) for case, module in zip(found, mine, strict=True)]
    right, full = ([case.computed(change) for case in found] for change in (OFF, FULL))

    def fits(answers: list, wanted: list, ways: slice = slice(None)) -> bool:
        return all(same(a[ways], b[ways]) for a, b in zip(answers, wanted, strict=True))

    grad, no_grad = slice(0, 2), slice(2, 4)
    if fits(got, right):
        if not fits(again, right):
            return (
                "Right as it is, but after .eval() it computes something else. An evaluation calls eval() first: do not hide a switch in "
                "`training`."
            ), again
        return "", got
    if fits(again, right):
        return (
            "Your encoder is in train mode, so dropout is at work. After .eval() it is right: leave a copy in the mode of its original.",
            got,
        )
    if trains and not fits(got, again):
        return (
            "Your copy has dropout at work, as it is in train mode, and after .eval() it is not right either. Leave a copy in the mode of "
            "its original, and compare the two with gradients and under torch.no_grad().",
            again,
        )
    if fits(got, full, no_grad) and not fits(got, full, grad):
        begin = (
            "With gradients your encoder is right. "
            if fits(got, right, grad)
            else "Something changed with gradients, but not under no_grad. "
        )
        return begin + IGNORED, got
    if fits(got, right, no_grad):
        return (
            "Right under torch.no_grad(), and wrong with gradients: there torch takes another path. Which parts does each path use?",
            got,
        )
    return named(found, got) or unknown(found, got, right), got


def in_all(found: list[Encoder], got: list[list[Tensor]]) -> str:
    """The misconception that explains all encoders; empty if none does."""
    for message, changes in ENCODER_MISTAKES.items():
        for change in changes:
            if all(same(mine, case.computed(change)) for case, mine in zip(found, got, strict=True)):
                return message
    return ""


def in_one(found: list[Encoder], got: list[list[Tensor]]) -> str:
    """The misconception that explains the first wrong encoder; empty if none does."""
    case, mine = next(
        pair for pair in zip(found, got, strict=True) if not same(pair[1], pair[0].computed(OFF))
    )
    for message, changes in CASE_MISTAKES.items():
        if any(same(mine, case.computed(change)) for change in changes):
            return f"Right for other encoders. For {case.label}, {message}"
    return ""


def gradient_complaint(case: Encoder, mine: nn.Module) -> str:
    """What is wrong with the gradients of an encoder that returns what is right; empty if nothing is."""
    for name, value, found, right in called(case, "your encoder", partial(case.slopes, mine)):
        begin = f"For {case.label}, {name}: the output is right, and"
        if not value.requires_grad:
            return f"{begin} it has no gradients at all (requires_grad is False). What switches them off?"
        if found is None:
            return f"{begin} no gradient comes back to the input. What cuts the input off?"
        if not near(found, right):
            off = (found - right).abs().max()
            return f"{begin} the gradient of the input is off by up to {off:.2g}. What cuts a part of it off?"
    theirs = dict(case.encoder.named_parameters())
    for name, parameter in mine.named_parameters():
        if name in theirs and not name.startswith(f"layers.{case.i}.") and not parameter.requires_grad:
            return f"For {case.label}: the requires_grad of `{name}` is now False. Outside layer {case.i} everything stays as it was."
    return ""


IGNORED = (
    "Under torch.no_grad() it computes exactly what the full encoder does, so an evaluation would say that the sub-layer is worth "
    "nothing. Read forward() of nn.TransformerEncoderLayer: in eval mode without gradients, what does it call, and what does it only read?"
)


def unknown(found: list[Encoder], got: list, right: list) -> str:
    case, ways, wanted = next(trio for trio in zip(found, got, right, strict=True) if not same(*trio[1:]))
    way = next(n for n, (a, b) in enumerate(zip(ways, wanted, strict=True)) if not near(a, b))
    off = (ways[way] - wanted[way]).abs().max()
    return (
        f"For {case.label}, {case.inputs()[way][0]}: your encoder is off by up to {off:.2g}. Without its feed-forward a post-norm layer "
        "computes x = norm1(x + attention(x)), then norm2(x); a pre-norm layer x + attention(norm1(x))."
    )


def moved(found: list[Encoder], got: list[list[Tensor]]) -> tuple[Figure, str]:
    """How far the output moves away from that of the full encoder, in each of the four ways: expected and yours."""
    wrong = [not same(mine, case.computed(OFF)) for case, mine in zip(found, got, strict=True)]
    place = wrong.index(True) if True in wrong else 0
    case, full = found[place], found[place].computed(FULL)

    def distance(answers: list[Tensor]) -> list[float]:
        return [float((a - b).abs().mean()) for a, b in zip(answers, full, strict=True)]

    figure, (ax,) = plot.panels(1, width=6.0, height=2.8)
    for shift, colour, name, answers in (
        (-0.2, "grey", "expected", case.computed(OFF)),
        (0.2, "red", "yours", got[place]),
    ):
        ax.bar([n + shift for n in range(4)], distance(answers), 0.4, color=plot.PALETTE[colour], label=name)
    ax.set_xticks(range(4), [name.replace(", ", "\n") for name, *_ in case.inputs()])
    ax.set_ylabel("mean distance from\nthe full encoder's output")
    ax.set_title(case.label, fontsize=10)
    ax.margins(y=0.4)
    ax.legend(frameon=False, ncols=2, loc="upper left")
    said = ", ".join(
        f"{far:.2f} {name}" for far, (name, *_) in zip(distance(got[place]), case.inputs(), strict=True)
    )
    return figure, f"How far the output moves when the sub-layer is off, expected and yours; yours: {said}."
