"""Task 5 of exercise 08: models whose checkpoints have misleading numbers in their names, and what goes wrong in renumbering."""

import re
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from random import Random
from typing import Self

import torch
from minieff.transformer import Config, Transformer
from torch import Tensor, nn

from exercises.graders import NotYet
from exercises.graders.guard import frozen
from exercises.graders.kinds import kind_of
from minieff import layerdrop

LAYER = re.compile(r"blocks\.layers\.(\d+)\.(.*)")
State = dict[str, Tensor]


class Numbered(nn.Sequential):
    """A feed-forward whose parts have numbers for names. It has no use for mask and past."""

    def forward(self, x: Tensor, *_: object) -> Tensor:
        return super().forward(x)


class Given(dict):
    """A checkpoint that remembers its copies, the first of which is the one that a learner's function is given."""

    def __init__(self, *pairs: object) -> None:
        super().__init__(*pairs)
        self.copies: list = []

    def __deepcopy__(self, memo: dict) -> Self:
        new = type(self)(deepcopy(dict(self), memo))
        new.copies = self.copies
        self.copies.append(new)
        return new


@dataclass(frozen=True)
class Pruning:
    """A model, its checkpoint with the names in some order, and the layers to keep."""

    model: Transformer
    state: Given
    keep: list[int]

    def read(self, value) -> State:
        """`value` as a dictionary of tensors; the given one itself if it is that."""
        found = tensors(value)
        return value if self.gave(value) else found

    def gave(self, value) -> bool:
        return value is self.state.copies[0]

    @property
    def label(self) -> str:
        return f"a model of {self.model.config.layers} layers, keep={self.keep}"

    def right(self) -> State:
        return RIGHT(self.state, self.keep)

    def is_the_pruned_model(self, state: State) -> bool:
        """Whether a fresh model that takes this checkpoint is the one that was pruned: its tensors and its logits."""
        pruned = layerdrop.finalize(self.model, keep=self.keep)
        if frozen_state(state) != frozen_state(pruned.state_dict()):
            return False
        small = built(replace(self.model.config, layers=len(self.keep))).eval()
        small.load_state_dict(state)
        ids = torch.arange(2 * 5).reshape(2, 5) % self.model.config.vocab
        with torch.no_grad():
            return bool(small(ids).equal(pruned(ids)))


def built(config: Config) -> Transformer:
    """The course's Transformer, with numbers in the names of its feed-forwards, and four heads for other tasks."""
    model = Transformer(config)
    for block in model.blocks.layers:
        block.feed.inner = Numbered(
            nn.Linear(config.dim, config.ffn), nn.GELU(), nn.Linear(config.ffn, config.dim)
        )
    model.tasks = nn.ModuleList(nn.Linear(config.dim, 2) for _ in range(4))
    return model


def prunings(draw: Random) -> list[Pruning]:
    """Layers whose numbers begin alike, layers with the number of a part inside; four kept, one, six, or all."""
    sizes = [
        (13, [0, draw.choice((3, 4)), 7, 12]),
        (12, [1, 2, 10, 11]),
        (14, [1, draw.choice((2, 3)), draw.choice((5, 6)), 11]),
        (12, [draw.choice((10, 11))]),
        (14, [draw.choice((0, 1)), 3, *sorted(draw.sample(range(4, 13), 3)), 13]),
        (3, [0, 1, 2]),
    ]
    return [pruning(draw, *size) for size in sizes]


def pruning(draw: Random, layers: int, keep: list[int]) -> Pruning:
    heads = draw.choice((1, 2))
    config = Config(
        draw.randrange(7, 12), draw.randrange(5, 9), layers, heads, 2 * heads, ffn=draw.choice((3, 5, 7))
    )
    model = built(config).eval()
    generator = torch.Generator().manual_seed(draw.randrange(2**31))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    pairs = list(model.state_dict().items())
    draw.shuffle(pairs)
    return Pruning(model, Given(pairs), keep)


def tensors(value) -> State:
    """A dictionary from names to tensors."""
    if isinstance(value, nn.Module):
        raise NotYet(
            "Your function returns a model, and the task asks for its state dict: names and tensors."
        )
    if not isinstance(value, Mapping):
        raise NotYet(
            f"Your function returns {kind_of(value)}, and the task asks for a dictionary of tensors."
        )
    for name, tensor in value.items():
        if not isinstance(name, str):
            raise NotYet(f"Your dictionary has {name!r} for a name. A state dict has texts for names.")
        if not isinstance(tensor, Tensor):
            raise NotYet(f"Under {name!r} your dictionary has {kind_of(tensor)} instead of a tensor.")
    return dict(value)


def mapped(rename: Callable[[str, list[int]], str | None], value=lambda tensor: tensor):
    """The checkpoint with names changed by `rename`; None leaves a tensor out."""

    def prune(state: State, keep: list[int]) -> State:
        pairs = ((rename(name, keep), tensor) for name, tensor in state.items())
        return {name: value(tensor) for name, tensor in pairs if name is not None}

    return prune


def numbered(new: Callable[[int, list[int]], int | None], rest: Callable[[str], bool] = lambda name: True):
    """Layers renumbered by `new` (None: gone); of other tensors those for which `rest` is true."""

    def rename(name: str, keep: list[int]) -> str | None:
        found = LAYER.fullmatch(name)
        if not found:
            return name if rest(name) else None
        number = new(int(found[1]), keep)
        return None if number is None else f"blocks.layers.{number}.{found[2]}"

    return rename


def place(number: int, keep: list[int]) -> int | None:
    return keep.index(number) if number in keep else None


RIGHT = mapped(numbered(place))


def without(number: int, dropped: list[int]) -> int | None:
    """The new number if `dropped` are the layers to remove."""
    return None if number in dropped else number - sum(d < number for d in dropped)


def unseen_order(state: State, keep: list[int]) -> State:
    """Numbers in the order in which the layers come up in the file."""
    order = list(dict.fromkeys(int(m[1]) for m in map(LAYER.fullmatch, state) if m))
    order = [number for number in order if number in keep]
    return mapped(numbered(lambda n, _: order.index(n) if n in order else None))(state, keep)


def by_replace(old: str, new: str):
    """Each kept layer's own names, changed with str.replace, which changes every place that looks like it."""

    def rename(name: str, keep: list[int]) -> str | None:
        found = LAYER.fullmatch(name)
        if not found:
            return name
        if int(found[1]) not in keep:
            return None
        return name.replace(old.format(found[1]), new.format(place(int(found[1]), keep)))

    return mapped(rename)


def one_after_another(old: str, new: str):
    """All names go through all replacements, one kept layer after the other."""

    def rename(name: str, keep: list[int]) -> str | None:
        found = LAYER.fullmatch(name)
        if found and int(found[1]) not in keep:
            return None
        for i, number in enumerate(keep):
            name = name.replace(old.format(number), new.format(i))
        return name

    return mapped(rename)


def all_numbers(everywhere: bool):
    """Every number of a name that is in `keep` is changed, in names of layers or in all."""

    def rename(name: str, keep: list[int]) -> str | None:
        found = LAYER.fullmatch(name)
        if found and int(found[1]) not in keep:
            return None
        if not found and not everywhere:
            return name
        return re.sub(r"\d+", lambda m: str(keep.index(int(m[0]))) if int(m[0]) in keep else m[0], name)

    return mapped(rename)


def any_number(last: bool, renamed: bool):
    """A layer is kept where the last number of its name is in `keep`, or any one."""

    def rename(name: str, keep: list[int]) -> str | None:
        found = LAYER.fullmatch(name)
        if not found:
            return name
        seen = [int(part) for part in re.findall(r"\.(\d+)(?=\.)", name)][-1 if last else 0 :]
        if not any(number in keep for number in seen):
            return None
        number = int(found[1])
        return f"blocks.layers.{place(number, keep) if renamed and number in keep else number}.{found[2]}"

    return mapped(rename)


def by_beginning(whole_number: bool, renamed: bool = True):
    """A layer is kept where its name *begins* like that of a kept one, so 11 is taken along with 1."""

    def prune(state: State, keep: list[int]) -> State:
        small = {name: tensor for name, tensor in state.items() if not LAYER.fullmatch(name)}
        for i, number in enumerate(keep):
            for name, tensor in state.items():
                start = f"blocks.layers.{number}"
                if name.startswith(start):
                    rest = (
                        name.partition("layers.")[2].partition(".")[2]
                        if whole_number
                        else name[len(start) :].lstrip(".")
                    )
                    small[f"blocks.layers.{i}.{rest}" if renamed else name] = tensor
        return small

    return prune


def cut_off(state: State, keep: list[int]) -> State:
    """Whatever stands behind the kept number goes on, so layer 11 becomes 01 along with 1."""
    small = {name: tensor for name, tensor in state.items() if not LAYER.fullmatch(name)}
    for i, number in enumerate(keep):
        start = f"blocks.layers.{number}"
        small |= {
            f"blocks.layers.{i}{name.removeprefix(start)}": tensor
            for name, tensor in state.items()
            if name.startswith(start)
        }
    return small


PRUNE_MISTAKES: dict[str, tuple[Callable, ...]] = {
    "The right layers stay, under their old numbers. The pruned model counts its layers from 0 without gaps: which number does each get?": (
        mapped(numbered(lambda n, keep: n if n in keep else None)),
    ),
    "Your layers are numbered from 1. The first one that is kept becomes layer 0.": (
        mapped(numbered(lambda n, keep: None if n not in keep else keep.index(n) + 1)),
    ),
    "You keep the layers one before those in `keep`. Layers are counted from 0, in `keep` and in the names.": (
        mapped(numbered(lambda n, keep: keep.index(n + 1) if n + 1 in keep else None)),
    ),
    "You treat `keep` as the layers to remove. They are those that stay.": (
        mapped(numbered(without)),
        mapped(numbered(lambda n, keep: None if n in keep else n)),
    ),
    "You keep as many layers as `keep` has, and they are the first ones. Which tensors belong under the new numbers?": (
        mapped(numbered(lambda n, keep: n if n < len(keep) else None)),
    ),
    "Your layers are in the reverse order.": (
        mapped(numbered(lambda n, keep: len(keep) - 1 - keep.index(n) if n in keep else None)),
    ),
    "You number layers in the order in which their names come up. The names stand in no order: where in `keep` does a layer stand?": (
        unseen_order,
    ),
    "You sort layer numbers as texts, and as a text '10' comes before '2'. What do numbers sort like?": (
        mapped(numbered(lambda n, keep: sorted(keep, key=str).index(n) if n in keep else None)),
    ),
    "Only the layers are left. Embeddings, last norm and the other tensors belong to the pruned model, too.": (
        mapped(numbered(place, rest=lambda name: False)),
    ),
    "The last norm is missing (`norm.weight`, `norm.bias`). It belongs to no layer and stays.": (
        mapped(numbered(place, rest=lambda name: not name.startswith("norm."))),
    ),
    "The embeddings are missing (`tok.weight`, `pos.weight`). They belong to no layer and stay.": (
        mapped(numbered(place, rest=lambda name: not name.startswith(("tok.", "pos.")))),
    ),
    "The heads for other tasks are lost, or some of them: `tasks.3` is no layer, and its number says nothing about layers.": (
        mapped(numbered(place, rest=lambda name: not name.startswith("tasks."))),
        lambda state, keep: {
            name: tensor
            for name, tensor in RIGHT(state, keep).items()
            if not name.startswith("tasks.") or int(name.split(".")[1]) in keep
        },
    ),
    "You renumber the heads for other tasks as well. Only the number after `blocks.layers.` says which layer.": (
        lambda state, keep: {
            re.sub(r"(?<=tasks\.)\d", lambda m: str(keep.index(int(m[0]))), name) if name.startswith("tasks.") else name: tensor
            for name, tensor in RIGHT(state, keep).items()
            if not name.startswith("tasks.") or int(name.split(".")[1]) in keep
        },
    ),
    "str.replace changes every place that looks alike. In `blocks.layers.2.feed.inner.2.weight` the second 2 is no layer number.": (
        *(by_replace(text, text) for text in (".{}.", "{}.", ".{}", "{}")),
    ),
    "You change every number in a name that is in `keep`, also those of `feed.inner.2` and `tasks.3`. One number says which layer.": (
        one_after_another(".{}.", ".{}."), all_numbers(everywhere=True), all_numbers(everywhere=False),
    ),
    "You run each name through the replacements of all kept layers, and `layers.1` is also the beginning of `layers.11`. Where does the "
    "number end?": (
        *(one_after_another(text, text) for text in ("layers.{}", "blocks.layers.{}", "{}.", "{}", "layers.{}.", "blocks.layers.{}.")),
    ),
    "You keep a layer because of another number in its name: in `blocks.layers.5.feed.inner.2.weight` the 2 is no layer.": (
        *(any_number(last, renamed) for last in (True, False) for renamed in (True, False)),
    ),
    "No layer is left. Do you compare a number with a text? 3 is not '3'.": (mapped(numbered(lambda n, keep: None)),),
    "`blocks.layers.11` begins like `blocks.layers.1`, and you take the one for the other. Where does the number end?": (
        *(by_beginning(whole, renamed) for whole in (True, False) for renamed in (True, False)),
        mapped(numbered(lambda n, keep: keep.index(int(str(n)[0])) if int(str(n)[0]) in keep else None)),
        mapped(numbered(lambda n, keep: n if any(str(n).startswith(str(k)) for k in keep) else None)),
        mapped(numbered(lambda n, keep: n if any(str(k) in str(n) for k in keep) else None)),
    ),
    "Names like `blocks.layers.01.mix.norm.weight` come out: `blocks.layers.11` starts with `blocks.layers.1`, and its last 1 is left over. "
    "Where does the number end?": (cut_off,),
    "The values are no longer those of the checkpoint: another precision. Renaming changes no number.": (
        *(mapped(numbered(place), value=change) for change in (Tensor.half, Tensor.double, Tensor.bfloat16)),
    ),
    "Nothing changes: you return the checkpoint as it was.": (mapped(lambda name, keep: name),),
    "You renumber layers that stay, and those that should go are still there.": (
        mapped(numbered(lambda n, keep: keep.index(n) if n in keep else n)),
        lambda state, keep: {**state, **RIGHT(state, keep)},
    ),
    "A part of the name is lost. Only the number changes: what stands before it and after it stays.": (
        *(mapped(lambda name, keep, start=start: None if (new := numbered(place)(name, keep)) is None else new.removeprefix(start)) for start in ("blocks.", "blocks.layers.")),
    ),
}  # fmt: skip


ITSELF = (
    "you return the same dictionary that you were given. Whoever changes the one then changes the other: "
    "the task asks for a new dictionary."
)


def prune_complaint(found: list[Pruning], got: list[State]) -> str:
    """What is wrong with the checkpoints; empty if nothing is."""
    mine = [frozen_state(state) for state in got]
    if mine == [frozen_state(case.right()) for case in found]:
        itself = next((case for case, state in zip(found, got, strict=True) if case.gave(state)), None)
        return "" if itself is None else f"For {itself.label}: {ITSELF}"
    for message, mistakes in PRUNE_MISTAKES.items():
        for mistake in mistakes:
            made = (frozen_state(mistake(case.state, case.keep)) for case in found)
            if all(a == b for a, b in zip(mine, made, strict=True)):
                return message
    pairs = zip(found, got, strict=True)
    case, state = next(
        (case, state) for case, state in pairs if frozen_state(state) != frozen_state(case.right())
    )
    return f"For {case.label}: {odd_one(state, case.right())}"


def frozen_state(state: State) -> dict:
    return {name: frozen(tensor.detach().requires_grad_(False)) for name, tensor in state.items()}


def odd_one(state: State, right: State) -> str:
    """The first tensor that is missing, that does not belong, or that is another one."""
    extra, missing = sorted(set(state) - set(right)), sorted(set(right) - set(state))
    if missing:
        count = (
            f"{len(missing)} tensors are missing, among them"
            if len(missing) > 1
            else "One tensor is missing,"
        )
        return f"{count} `{missing[0]}`." + (f" `{extra[0]}` is one too many." if extra else "")
    if extra:
        return f"the pruned model has no tensor of the name `{extra[0]}`."
    name = next(
        name for name in sorted(right) if frozen_state({"": state[name]}) != frozen_state({"": right[name]})
    )
    other = f"{state[name].dtype} of shape {tuple(state[name].shape)}"
    if other != f"{right[name].dtype} of shape {tuple(right[name].shape)}":
        return (
            f"under `{name}` lies a tensor of {other}, which is not what that layer of the pruned model has."
        )
    return f"under `{name}` lie other values than those of the layer that belongs there."
