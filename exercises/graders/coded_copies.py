"""Task 6 of exercise 11: models of several kinds, and the misconceptions about coding what is not ours."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from random import Random
from typing import Self

import torch
from torch import Tensor, nn

from exercises.graders import Case, NotYet
from exercises.graders.clusters import close
from exercises.graders.guard import guarded, untouched
from exercises.graders.judge import answer
from exercises.graders.kinds import kind_of


class Head(nn.Linear):
    """Someone's own kind of linear."""


class Words(nn.Embedding):
    """Someone's own kind of embedding."""


class Look(nn.MultiheadAttention):
    """Someone's own kind of attention."""


OWN_KINDS = {Head: "nn.Linear", Words: "nn.Embedding", Look: "nn.MultiheadAttention"}


class Tagger(nn.Module):
    """Embedding, positions, two linears of which one is of an own kind and one without a bias, a norm. No ties."""

    def __init__(self, vocab: int, dim: int, hidden: int, classes: int) -> None:
        super().__init__()
        self.tok = nn.Embedding(vocab, dim)
        self.pos = nn.Parameter(torch.zeros(9, dim))
        self.up, self.norm = nn.Linear(dim, hidden, bias=False), nn.LayerNorm(hidden)
        self.head = Head(hidden, classes)


class Tied(nn.Module):
    """An embedding whose weight is that of a linear, and a Parameter of the model too; two linears with one weight; a layer that runs twice."""

    def __init__(self, vocab: int, dim: int) -> None:
        super().__init__()
        self.tok, self.head = nn.Embedding(vocab, dim), nn.Linear(dim, vocab)
        self.first, self.second = nn.Linear(dim, dim), nn.Linear(dim, dim, bias=False)
        self.layers = nn.ModuleList([nn.Linear(dim, dim)] * 2)
        self.second.weight = self.first.weight
        self.head.weight = self.candidates = self.tok.weight


class Odd(nn.Module):
    """Rows that no block divides; attention whose keys are of another size; layers of other kinds; names that mislead; a frozen weight."""

    def __init__(self, vocab: int, dim: int, block: int) -> None:
        super().__init__()
        self.tok, self.narrow = nn.Embedding(vocab, dim + 1), nn.Linear(dim + 1, dim)
        self.kinds, self.own = Words(5, dim), Look(dim, 2)
        self.look = nn.MultiheadAttention(dim, 2, kdim=2 * block, vdim=3 * block)
        self.in_proj_weight = nn.Parameter(torch.zeros(7, 2 * block))  # of no attention
        self.conv, self.run = nn.Conv1d(dim, dim, 3), nn.GRU(dim, 2 * block)
        self.head, self.bag = nn.Linear(2 * block, vocab), nn.EmbeddingBag(vocab, 2 * block)
        self.head.weight.requires_grad_(False)
        self.register_buffer("scale", torch.full((2, 2 * block), 1.5))


class Cluster:
    """Codewords for points, whatever their order; it counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def __deepcopy__(self, memo: dict) -> Self:
        return self

    def __call__(self, points: Tensor) -> tuple[Tensor, Tensor]:
        if not isinstance(points, Tensor) or points.ndim != 2:
            raise NotYet(f"cluster was called with {kind_of(points)}. It takes points (N, block), a tensor.")
        self.calls += 1
        return clustered(points.detach().float())


def clustered(points: Tensor) -> tuple[Tensor, Tensor]:
    """At most 6 codewords spread over the sorted points, and codes. A function of each point and of the set."""
    some = points.unique(dim=0)
    book = some[torch.linspace(0, len(some) - 1, min(6, len(some))).long()] * 0.9
    return book, nearest(points, book)


def nearest(points: Tensor, book: Tensor) -> Tensor:
    return torch.cdist(points, book, compute_mode="donot_use_mm_for_euclid_dist").argmin(1)


def coded(w: Tensor, block: int) -> Tensor:
    book, codes = clustered(w.reshape(-1, block))
    return book[codes].view(w.shape)


def full(path: str, name: str) -> str:
    return f"{path}.{name}".lstrip(".")


def role(model: nn.Module, path: str, name: str, block: int) -> str:
    """What a Parameter or buffer is to this task; "" for one that stays."""
    module = model.get_submodule(path)
    w = getattr(module, name)
    if w.ndim != 2 or w.shape[1] % block:
        return ""
    attention = isinstance(module, nn.MultiheadAttention) and name == "in_proj_weight"
    if not attention and not (isinstance(module, nn.Linear | nn.Embedding) and name == "weight"):
        return ""
    if type(module) in OWN_KINDS:
        return OWN_KINDS[type(module)]
    if attention:
        return name
    if not w.requires_grad:
        return "frozen"
    return (
        "embedding"
        if isinstance(module, nn.Embedding)
        else "out_proj"
        if path.endswith("out_proj")
        else "linear"
    )


def stays(model: nn.Module, path: str, name: str) -> str:
    """What a Parameter or buffer that stays is."""
    module = model.get_submodule(path)
    if isinstance(module, nn.Linear | nn.Embedding) and name == "weight":
        return "undivided"
    if isinstance(module, nn.LayerNorm):
        return "norm"
    return "bias" if "bias" in name else "namesake" if name == "in_proj_weight" else "other"


@dataclass(frozen=True)
class Theirs:
    """One call of Task 6: a model, the size of blocks, and what is special about the model."""

    model: nn.Module
    block: int
    label: str
    special: str

    @cached_property
    def places(self) -> list[tuple[str, str, Tensor]]:
        """(path of a module, name, tensor) of all Parameters and buffers, a shared one under each of its names."""
        return [
            (path, name, w)
            for path, module in self.model.named_modules(remove_duplicate=False)
            for name, w in [*module._parameters.items(), *module._buffers.items()]
            if w is not None
        ]

    @cached_property
    def to_code(self) -> dict[int, Tensor]:
        """What is coded, by identity of the tensor: one user that is coded is enough."""
        return {
            id(w): w.detach() for path, name, w in self.places if role(self.model, path, name, self.block)
        }

    @cached_property
    def right(self) -> dict[int, Tensor]:
        return {
            id(w): coded(w.detach(), self.block) if id(w) in self.to_code else w.detach()
            for *_, w in self.places
        }

    def variants(self, w: Tensor) -> dict[str, Tensor]:
        """Wrong values of a weight that is coded, by misconception."""
        w, block = w.detach(), self.block
        right = coded(w, block)
        book = clustered(torch.cat([other.reshape(-1, block) for other in self.to_code.values()]))[0]
        return {
            "unchanged": w,
            "columns": coded(w.T.contiguous(), block).view(w.shape[::-1]).T,
            "one codebook": book[nearest(w.reshape(-1, block), book)].view(w.shape),
            "three": torch.cat([coded(part, block) for part in w.chunk(3)]),
            "order": right.view(len(w), -1, block).transpose(1, 2).reshape(w.shape),
            "twice": coded(right, block),
            "each row": torch.cat([coded(row[None], block) for row in w]),
        }


def models(draw: Random) -> list[Theirs]:
    """Every model has odd sizes, and one module in another mode than the rest; the first has nothing else that is special."""
    with untouched():  # building a model draws from torch's stream, which is the learner's
        return drawn(draw)


def drawn(draw: Random) -> list[Theirs]:
    block = draw.choice((3, 4, 5))
    dim, vocab = block * 2 * draw.randrange(2, 4), block * draw.randrange(4, 7) + 1
    hidden, classes = block * draw.randrange(5, 8), draw.randrange(6, 9)
    encoder = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(dim, 2, hidden), 2, nn.LayerNorm(dim), enable_nested_tensor=False
    )
    found = [
        (Tagger(vocab, dim, hidden, classes), "an embedding, two linears and a norm", ""),
        (Tied(vocab, dim), "a model with tied weights", "Here some weights have several users."),
        (encoder, "an nn.TransformerEncoder", "Here attention keeps q, k and v in one Parameter of its own."),
        (
            Odd(vocab, dim, block), "a model with attention over keys of another size, a convolution, a GRU and an nn.EmbeddingBag",
            "Here are rows that the block does not divide, and an attention whose `in_proj_weight` is None.",
        ),
        (nn.Linear(dim, classes), "a model that is a single nn.Linear", "Here the model is itself what is coded."),
    ]  # fmt: skip
    generator = torch.Generator().manual_seed(draw.randrange(2**31))
    cases = []
    for model, label, special in found:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(0.6 * torch.randn(parameter.shape, generator=generator) + 0.2)
        next(model.eval().children(), model).train()
        cases.append(Theirs(model, block, f"{label}, block={block}", special))
    return cases


MISTAKES = {
    ("in_proj_weight", "unchanged"): "the `in_proj_weight` of nn.MultiheadAttention is as it was. It belongs to no nn.Linear: where does a loop over modules meet it?",
    ("out_proj", "unchanged"): "the `out_proj` of nn.MultiheadAttention is as it was. Its type is another one than nn.Linear, and yet it is an nn.Linear: how do you ask?",
    ("embedding", "unchanged"): "an nn.Embedding is as it was.",
    ("linear", "unchanged"): "an nn.Linear is as it was.",
    ("frozen", "unchanged"): "a frozen weight (requires_grad=False) is as it was. It is not trained, and takes as much room as any.",
    **{
        (kind, "unchanged"): f"a weight of a class that someone derived from {kind} is as it was. How do you ask what a module is?"
        for kind in OWN_KINDS.values()
    },
    ("in_proj_weight", "three"): "q, k and v have codebooks of their own. They are stacked in one weight, and one weight has one codebook.",
    ("", "columns"): "blocks are cut along the columns. A block is a piece of a row, which is what an input is multiplied with.",
    ("", "one codebook"): "all weights share one codebook. Each has its own here.",
    ("", "each row"): "each row has a codebook of its own. One serves the whole weight.",
    ("", "twice"): "a weight is coded twice, the second time what came of the first. How do you notice that you had it?",
    ("", "order"): "the codewords are right, and the numbers within a row are in another order.",
}  # fmt: skip
KEPT = {
    "bias": "a bias has changed. A codebook for so few numbers costs more than it saves.",
    "norm": "a norm has changed. Only weights of nn.Linear and nn.Embedding are coded, and attention's `in_proj_weight`.",
    "undivided": "a weight has changed whose rows the block does not divide. It stays as it is.",
    "namesake": "a Parameter has changed that has this name and belongs to no nn.MultiheadAttention. Ask whose it is.",
    "other": "a tensor has changed that belongs to no nn.Linear and no nn.Embedding. It stays, though a block may divide its rows.",
}


class Lent:
    """Its copy, which a learner's function is given, is a model that we know: so we see what it shares with theirs."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def __deepcopy__(self, memo: dict) -> nn.Module:
        return self.model


def copied(run: Callable, case: Theirs) -> tuple[nn.Module, Cluster]:
    """What the learner's function makes of a model. NotYet if it is none, or shares something with the original."""
    given, cluster = deepcopy(case.model), Cluster()
    try:
        mine = answer(run, Case((Lent(given), case.block, cluster), case.label), lambda value: value)
    except NotYet as refusal:
        if refusal.__cause__ is None or not case.special:
            raise
        raise NotYet(f"{refusal}\n{case.special}") from refusal.__cause__
    if not isinstance(mine, nn.Module):
        raise NotYet(
            f"Your function returns {kind_of(mine)}, and the task asks for a copy of the model, an nn.Module."
        )
    if mine is given:
        raise NotYet("You return the model that you were given, and the task asks for a copy.")
    own = {t.data_ptr() for t in [*given.parameters(), *given.buffers()]}
    for path, name, _ in case.places:
        if found(mine, path, name).data_ptr() in own:
            raise NotYet(
                f"Your copy shares `{full(path, name)}` with the original: what changes the one changes the other. What copies a module "
                "with all that is in it?"
            )
    return mine, cluster


def found(mine: nn.Module, path: str, name: str) -> Tensor:
    try:
        value = guarded(None, lambda: getattr(mine.get_submodule(path), name))
    except NotYet:
        value = None
    if not isinstance(value, Tensor):
        raise NotYet(
            f"Your copy has no tensor `{full(path, name)}`. The modules of a copy, and their names, are those of the original."
        )
    return value


def copy_complaint(case: Theirs, mine: nn.Module, cluster: Cluster) -> str:
    """What is wrong with a copy; empty if nothing is."""
    message = value_complaint(case, mine) or mode_complaint(case, mine)
    weights = len(case.to_code)
    if not message and cluster.calls > weights:
        tied = sum(id(w) in case.to_code for *_, w in case.places) > weights
        message = (
            f"the copy is right, and `cluster` was called {cluster.calls} times for {weights} weights. "
            f"{'A weight with two users is one weight, and clustering' if tied else 'Clustering'} is what takes time."
        )
    if not message and repr(mine) != repr(case.model):
        message = "your copy, printed, is not what the original is. Classes of modules and their settings stay as they are."
    return f"For {case.label}: {message}" if message else ""


def value_complaint(case: Theirs, mine: nn.Module) -> str:
    values = [(path, name, w, found(mine, path, name)) for path, name, w in case.places]
    for path, name, w, value in values:
        if value.shape != w.shape:
            return f"`{full(path, name)}` has the shape {tuple(value.shape)}, and had {tuple(w.shape)}."
        if value.dtype != w.dtype:
            return f"`{full(path, name)}` has the dtype {value.dtype}, and had {w.dtype}."
        if isinstance(w, nn.Parameter) and not isinstance(value, nn.Parameter):
            return f"`{full(path, name)}` is a Parameter in the original, and a plain tensor in your copy."
    wrong = [
        (path, name, w, value.detach().double())
        for path, name, w, value in values
        if not close(value.detach().double(), case.right[id(w)].double())
    ]
    for path, name, w, _ in wrong:
        if id(w) not in case.to_code:
            return f"{KEPT[stays(case.model, path, name)]} (`{full(path, name)}`)"
    first: dict[int, tuple[str, Tensor]] = {}
    for path, name, w, value in values:
        known, tied = first.setdefault(id(w), (full(path, name), value))
        if value is not tied:
            same = value.data_ptr() == tied.data_ptr()
            return (
                f"the weight of `{known}` and `{full(path, name)}`, which was one tensor in the original, is two in your copy. "
                f"{'They share their numbers, and are two Parameters all the same.' if same else 'A tied weight stays one, whoever uses it.'}"
            )
    for path, name, w, value in wrong:
        if kind := role(case.model, path, name, case.block):
            return f"{why_wrong(case, kind, w, value)} (`{full(path, name)}`)"
    return ""


def why_wrong(case: Theirs, kind: str, w: Tensor, value: Tensor) -> str:
    variants = case.variants(w)
    for (of, how), message in MISTAKES.items():
        if of in ("", kind) and close(value, variants[how].double()):
            return message
    off = (value - case.right[id(w)]).abs().max()
    return f"a weight is off by up to {off:.2g} from codebook[codes] of its own blocks. Compare what `cluster` got with a row of the weight."


def mode_complaint(case: Theirs, mine: nn.Module) -> str:
    own = dict(mine.named_modules())
    for path, module in case.model.named_modules():
        if path in own and own[path].training != module.training:
            modes = ("train mode", "eval mode") if module.training else ("eval mode", "train mode")
            return f"{f'`{path}`' if path else 'the model'} was in {modes[0]}, and is in {modes[1]} in your copy. A copy has the modes of its original."
    return ""
