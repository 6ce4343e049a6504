"""Task 6 of exercise 10: models that are not ours, and what goes wrong in rounding each output channel of a copy."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from random import Random

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from exercises.graders import NotYet
from exercises.graders.grids import handed, most, snapped
from exercises.graders.guard import guarded
from exercises.graders.kinds import kind_of


class Conv1D(nn.Module):
    """GPT-2's layer, as in the library transformers: y = x W + b, with W of shape (in, out)."""

    def __init__(self, n_out: int, n_in: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(0.02 * torch.randn(n_in, n_out))
        self.bias = nn.Parameter(torch.zeros(n_out))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight + self.bias


class Block(nn.Module):
    def __init__(self, dim: int, ffn: int) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(dim), Conv1D(ffn, dim), Conv1D(dim, ffn)
        self.gain = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.gain * self.down(F.gelu(self.up(self.norm(x))))


class Gpt(nn.Module):
    """Tied token vectors and head, positions in an embedding, a matrix that is a bare parameter, a frozen weight, a block that is used twice."""

    def __init__(self, vocab: int, dim: int, ffn: int) -> None:
        super().__init__()
        self.head = nn.Linear(dim, vocab)
        self.tok, self.pos = nn.Embedding(vocab, dim), nn.Embedding(11, dim)
        self.tok.weight = self.head.weight
        self.blocks = nn.ModuleList([Block(dim, ffn), Block(dim, ffn)])
        self.blocks[1].down.weight.requires_grad_(False)
        self.blocks.append(self.blocks[0])
        self.mixing = nn.Parameter(torch.zeros(dim, dim))

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tok(ids) + self.pos(torch.arange(ids.shape[1])) @ self.mixing
        for block in self.blocks:
            x = block(x)
        return self.head(x)


class Sound(nn.Module):
    """Convolutions, one of them in groups and two not to be rounded, a norm with buffers, attention, two linears that are tied; two layers that nothing runs."""

    def __init__(self, channels: int, dim: int) -> None:
        super().__init__()
        front = nn.Conv1d(channels, dim, 3), nn.BatchNorm1d(dim), nn.GELU(), nn.Conv1d(dim, dim, 5, groups=2)
        self.front, self.first = nn.Sequential(*front, nn.ConvTranspose1d(dim, dim, 3)), nn.Linear(dim, dim)
        self.attention = nn.MultiheadAttention(dim, 2, batch_first=True)
        self.second = nn.Sequential(nn.Linear(dim, dim), nn.Dropout(0.3))
        self.second[0].weight = self.first.weight
        self.image, self.bag = nn.Conv2d(channels, dim, 3), nn.EmbeddingBag(channels, dim)

    def forward(self, x: Tensor) -> Tensor:
        x = self.front(x).transpose(1, 2)
        return self.second(torch.tanh(self.first(x + self.attention(x, x, x)[0])))


def derived(name: str, kind: type) -> type:
    """A class two steps below this one, with a name that does not tell."""
    return type(name, (type("Their", (kind,), {}),), {})


# At the top of the module under their names: a model can be copied by pickle, too
OwnA, OwnB, OwnC, OwnD = map(
    derived, ("OwnA", "OwnB", "OwnC", "OwnD"), (nn.Embedding, nn.Conv1d, Conv1D, nn.Linear)
)


class Derived(nn.Module):
    """The four kinds, each as a class of its own; the linear has no bias."""

    def __init__(self, vocab: int, dim: int, ffn: int) -> None:
        super().__init__()
        self.words, self.near = OwnA(vocab, dim), OwnB(dim, dim, 3)
        self.wide, self.last = OwnC(ffn, dim), OwnD(ffn, vocab, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        return self.last(self.wide(self.near(self.words(ids).mT).mT))


# The dimension of output channels, or of tokens
OUTPUT = {nn.Linear: 0, nn.Embedding: 0, nn.Conv1d: 0, Conv1D: 1}


def layer_kind(module: nn.Module) -> type | None:
    return next((kind for kind in OUTPUT if isinstance(module, kind)), None)


@dataclass(frozen=True, eq=False)
class Weight:
    """A weight to round, under one of its names: its kind, its value, the bits; whether its class is derived from the kind, and if it is frozen."""

    name: str
    kind: type
    w: Tensor
    bits: int
    derived: bool
    frozen: bool

    @property
    def depth(self) -> int:
        return self.name.count(".")

    def unchanged(self, mine: Tensor) -> bool:
        return torch.equal(self.w.double(), mine)

    def fits(self, mine: Tensor, *shared: int, bits: int | None = None) -> bool:
        """Whether `mine` is w on a grid where the dimensions `shared` have one scale."""
        bits, w = bits or self.bits, self.w.double()
        return bool(snapped(mine, w, w.abs().amax(shared, keepdim=True) / most(bits), bits).all())

    @property
    def inputs(self) -> list[int]:
        """The dimensions that should share a scale."""
        return [d for d in range(self.w.dim()) if d != OUTPUT[self.kind]]


@dataclass(frozen=True, eq=False)
class Theirs:
    """Someone's model, how it is described, the bits, and an input."""

    model: nn.Module
    what: str
    bits: int
    x: Tensor

    @property
    def label(self) -> str:
        return f"{self.what}, bits={self.bits}"

    @cached_property
    def before(self) -> nn.Module:
        return deepcopy(self.model)

    @cached_property
    def weights(self) -> list[Weight]:
        modules = self.before.named_modules(remove_duplicate=False)
        found = [(f"{name}.weight".lstrip("."), m, layer_kind(m)) for name, m in modules if layer_kind(m)]
        return [
            Weight(name, kind, m.weight.detach(), self.bits, type(m) is not kind, not m.weight.requires_grad)
            for name, m, kind in found
        ]

    def mixed(self, one: Weight) -> bool:
        """Whether a weight is that of two kinds of layers, or lies at two depths: then it tells little."""
        twins = [other for other in self.weights if other.w.data_ptr() == one.w.data_ptr()]
        return len({(other.kind, other.depth) for other in twins}) > 1


def uneven(p: Tensor, generator: torch.Generator) -> Tensor:
    """Random numbers whose size differs along each dimension, some channels of zeros."""
    value = 0.3 * torch.randn(p.shape, generator=generator)
    if p.dim() == 1:
        return value
    for d, n in enumerate(p.shape):
        sizes = torch.logspace(-0.5, 0.5, n)[torch.randperm(n, generator=generator)]
        value *= sizes.view([-1 if other == d else 1 for other in range(p.dim())])
    value[2], value[:, 1] = 0, 0
    return value


def models(draw: Random) -> list[Theirs]:
    """The three above, and models of a single layer; one partly in train mode, one frozen, one in float64; each with a copy that nobody else has."""
    V, C, ffn, H = (draw.choice(sizes) for sizes in (range(13, 30), range(6, 12), range(14, 24), (6, 8, 10)))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(draw.randrange(2**31))
        ids, x, one = torch.randint(V, (2, 5)), torch.randn(2, C, 15), nn.Linear(C, ffn, bias=False)
        found = [
            Theirs(Gpt(V, C, ffn), "a model like GPT-2", draw.choice((3, 4)), ids),
            Theirs(Sound(C, H), "a model with convolutions and attention", draw.choice((4, 6)), x),
            Theirs(
                Derived(V, C, ffn), "a model whose layers are derived from the four", draw.choice((3, 5)), ids
            ),
            Theirs(Conv1D(ffn, C), "a model that is one Conv1D", 8, x.mT),
            Theirs(nn.Sequential(one.requires_grad_(False)), "an nn.Sequential of a frozen Linear", 2, x.mT),
            Theirs(nn.Embedding(V, C).double(), "a model that is one nn.Embedding in float64", 5, ids),
        ]
    generator = torch.Generator().manual_seed(draw.randrange(2**31))
    with torch.no_grad():
        for case in found:
            for p in case.model.parameters():
                p.copy_(uneven(p, generator))
            for module in case.model.modules():
                module.training = isinstance(module, Gpt | Block)
            case.before  # noqa: B018
    return found


def made(run: Callable, case: Theirs) -> nn.Module:
    """The copy that a learner's function returns. NotYet if it is none."""
    mine = run(handed(case.model), case.bits)
    if not isinstance(mine, nn.Module):
        raise NotYet(f"Your function returns {kind_of(mine)}, and the task asks for a model, an nn.Module.")
    if mine is case.model:
        raise NotYet("You return the model that you were given, and not a copy of it.")
    own = {t.data_ptr() for t in tensors(case.model).values()}
    shared = [name for name, t in tensors(mine).items() if t.data_ptr() in own and t.numel()]
    if shared:
        raise NotYet(
            f"Your copy shares `{shared[0]}` with the original: whoever changes the one changes the other. What copies all tensors of a model?"
        )
    return mine


def tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers under all of their names."""
    return {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }


def looks_complaint(old: dict[str, Tensor], new: dict[str, Tensor]) -> str:
    """Which tensor is missing, or new, or of another kind, or no longer tied; empty if none is."""
    for name in {**old, **new}:
        if name not in old or name not in new:
            return f"`{name}` is {'missing' if name in old else 'new'} in your copy."
        if isinstance(old[name], nn.Parameter) and not isinstance(new[name], nn.Parameter):
            return f"`{name}` is a Parameter in the original, and a plain tensor in your copy: no optimizer finds it there."
        for what in ("shape", "dtype", "requires_grad"):
            was, now = getattr(old[name], what), getattr(new[name], what)
            if was != now:
                return f"`{name}` has another {what} in your copy: {now}, not {was}. These stay as they are."
        twin = next(other for other in old if old[other] is old[name])
        if new[twin] is not new[name]:
            return (
                f"`{twin}` and `{name}` were one parameter, and are two in your copy, which differ after a step of training. "
                "Put the new values into the parameter that is there."
            )
    return ""


def copies_complaint(cases: list[Theirs], mine: list[nn.Module]) -> str:
    """What is wrong with the copies; empty if nothing is."""
    found = []
    for case, model in zip(cases, mine, strict=True):
        old, new = tensors(case.before), tensors(model)
        odd = looks_complaint(old, new)
        if odd:
            return f"For {case.label}: {odd}"
        found += [(case, one, new[one.name].detach().double()) for one in case.weights]
    message = weights_complaint(found)
    return message or next(filter(None, map(rest_complaint, cases, mine)), "")


def weights_complaint(found: list[tuple[Theirs, Weight, Tensor]]) -> str:
    """What is wrong with the weights; empty if nothing is."""
    wrong = [(case, one, mine) for case, one, mine in found if not one.fits(mine, *one.inputs)]
    if not wrong:
        return ""
    telling = [(case, one, mine) for case, one, mine in wrong if not case.mixed(one)] or wrong
    pairs = [(one, mine) for _, one, mine in telling]
    right = [one for case, one, mine in found if not case.mixed(one) and one.fits(mine, *one.inputs)]
    case, first, mine = telling[0]
    begin = f"For {case.label}: `{first.name}`"
    if not mine.isfinite().all():
        return f"{begin} has NaN or infinite numbers. Some of its channels are zeros: what is their scale?"
    if first.unchanged(mine):
        alone = all(one.unchanged(mine) for one, mine in pairs)
        why = left_out([one for one, _ in pairs], right) if alone else ""
        return f"{begin} has not changed at all. " + (
            why or "Others have: what keeps your loop from this one?"
        )
    return wrong_axis(pairs) or (
        f"{begin}, of {first.kind.__name__}, is not at the nearest values of its grid. Round this weight by itself, and compare."
    )


def left_out(plain: list[Weight], right: list[Weight]) -> str:
    """What weights that are not rounded have in common; empty if it is nothing."""
    kinds, depths = {one.kind for one in plain}, {one.depth for one in plain}
    reached = {one.depth for one in right}
    if not right:
        return "Nothing is rounded: your copy has the weights of the original. Did the rounded values arrive in it?"
    if depths == {0}:
        return "A model that is itself one of these layers is not rounded: your loop looks at what is inside of it."
    if all(one.derived for one in plain):
        names = " and ".join(sorted(kind.__name__ for kind in kinds))
        return f"All that are left out are of a class derived from {names}, with a name of its own: what asks for that?"
    if all(one.frozen for one in plain) and not any(one.frozen for one in right):
        return "It is frozen, like all that are left out (requires_grad=False). Frozen weights are rounded, too, and stay frozen."
    if len(kinds) == 1 and not kinds & {one.kind for one in right}:
        return f"No {kinds.pop().__name__} is rounded. The task names four kinds of layers."
    if min(depths) > max(reached):
        return "Only modules at the top are rounded. Those inside of other modules are as they were: what goes through all of them?"
    if 0 in depths and min(depths - {0}) > max(reached):
        return "Neither what lies deep inside is rounded, nor a model that is itself one of these layers: what goes through all of them?"
    return ""


KERNELS = {
    (2,): "each pair of output and input has a scale. All inputs of an output channel share one",
    (0, 2): "a scale serves an input channel. Where in (out, in, k) is an output channel",
    (1,): "each output channel has a scale for each place of its kernel. They share one",
}


def wrong_axis(pairs: list[tuple[Weight, Tensor]]) -> str:
    """Which numbers share a scale that should not; empty if unknown."""
    kinds = {one.kind for one, _ in pairs}
    names = " and ".join(sorted(kind.__name__ for kind in kinds))

    def all_fit(shared: Callable, bits: int | None = None) -> bool:
        return all(one.fits(mine, *shared(one), bits=bits) for one, mine in pairs)

    if all_fit(lambda one: range(one.w.dim())):
        return f"In {names} one scale serves a whole weight. Each output channel, and each row of an embedding, has its own."
    if all_fit(lambda one: one.inputs, bits=8):
        return "You round to 8 bits whatever `bits` is."
    if kinds == {Conv1D} and all_fit(lambda one: [1]):
        return "Right except for Conv1D: there a scale serves a row of its weight, which is an input. Where in (in, out) is an output channel?"
    if nn.Conv1d not in kinds and all_fit(lambda one: [OUTPUT[one.kind]]):
        return f"In {names} the scales lie along the wrong dimension of the weight. Which one is that of the outputs, or of the tokens?"
    if kinds == {nn.Conv1d}:
        said = next((said for shared, said in KERNELS.items() if all_fit(lambda one: shared)), "")  # noqa: B023
        ask = "How can its weight become a matrix with a row for each output channel?"
        return f"Right except for nn.Conv1d: there {said}. {ask}" if said else ""
    return ""


def rest_complaint(case: Theirs, mine: nn.Module) -> str:
    """What is wrong with all that is not rounded, and with what the copy computes; empty if nothing is."""
    old, new, begin = tensors(case.before), tensors(mine), f"For {case.label}: "
    weights = {one.name for one in case.weights}
    for name in (n for n in old if n not in weights and not torch.equal(old[n], new[n])):
        begin += f"`{name}` is not what it was. "
        if old[name].dim() > 1:
            owner = type(case.before.get_submodule(name.rpartition(".")[0])).__name__
            return f"{begin}It belongs to {owner}, which is none of the four kinds of layers: ask for the class, and not for shapes or names."
        if f"{name.removesuffix('bias')}weight" in weights:
            return begin + "A bias has no channel over which to share a scale: biases stay as they are."
        return begin + "Norms, buffers and other parameters stay as they are."
    modules = dict(mine.named_modules())
    odd = [n for n, m in case.before.named_modules() if n not in modules or modules[n].training != m.training]
    if odd:
        return f"{begin}`{odd[0] or 'model'}` is not in the mode of the original (train or eval)."
    if repr(mine) != repr(case.before):
        return f"{begin}your copy, printed, is not what the original is. Classes of modules and their settings stay as they are."
    same = deepcopy(case.before)
    same.load_state_dict(mine.state_dict())
    with torch.no_grad():
        y = guarded(None, lambda: mine(case.x))
        if not isinstance(y, Tensor) or not torch.allclose(y, same(case.x), rtol=1e-3, atol=1e-4):
            return (
                begin
                + "all parameters are right, and the copy does not compute what a model with them does. What else did you change?"
            )
    return ""
