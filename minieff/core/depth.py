"""Removing layers from a list, with all else that knows how many there are or where they stand.

Layers may store their own number, as those of transformers do for their cache: what counts 0, 1, 2, ... over
the layers is counted anew. A config may say how many there are, and have lists with an entry for each layer.
Which of its fields these are is found by trying: a change of the config is right when the model that a class
builds from it has layers like those that were kept.
"""

import copy
import warnings
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from itertools import combinations
from typing import Any, NamedTuple

import torch
from torch import nn

from minieff.core.surgery import Where

Facts = dict[str, list]  # by the path of an attribute or parameter: its value in each layer
ABSENT = "absent"


class Cut(NamedTuple):
    """A list of layers, which of them are kept, how the layers differ, and how those that are left shall."""

    name: str
    layers: int
    keep: list[int]
    facts: Facts
    wanted: Facts


def prune(model: nn.Module, keep: list[int], where: Where) -> None:
    """Leaves, in place, only the layers `keep` in every list of layers that match. ValueError if none is.

    >>> layers = nn.ModuleList(nn.Linear(2, 2) for _ in range(3))
    >>> prune(layers, [0, 2], lambda name, module: isinstance(module, nn.Linear))
    >>> len(layers)
    2
    """
    lists = {name: keys for name, m in model.named_modules() if (keys := _layers_of(name, m, where))}
    if not lists:
        raise ValueError(
            "keep= prunes a list, but no nn.ModuleList holds only layers that where matches, and no "
            "nn.Sequential any"
        )
    for cut in [_cut(model, name, keys, keep) for name, keys in lists.items()]:
        _follow(model, cut)


def _cut(model: nn.Module, name: str, keys: list[str], keep: list[int]) -> Cut:
    """One list without the other layers. ValueError for an impossible `keep`."""
    layers = [model.get_submodule(name)._modules[key] for key in keys]
    if not keep or sorted(set(keep)) != list(keep) or not 0 <= keep[0] <= keep[-1] < len(layers):
        raise ValueError(
            f"keep={keep}: give increasing layer numbers from 0 to {len(layers) - 1}, at least one"
        )
    facts = {path: v for path, v in _table(layers).items() if any(value != v[0] for value in v)}
    cut = Cut(name, len(layers), keep, facts, {path: _kept(values, keep) for path, values in facts.items()})
    _refuse_lost_parts(cut)
    _shorten(model.get_submodule(name), keys, keep)
    _number([layers[i] for i in keep], cut.wanted)
    return cut


def _layers_of(name: str, container: nn.Module, where: Where) -> list[str]:
    """The keys of the layers in a list. Anything may stand between those of an nn.Sequential."""
    items = container._modules.items()
    keys = [key for key, layer in items if layer is not None and where(f"{name}.{key}".lstrip("."), layer)]
    if isinstance(container, nn.ModuleList):
        return keys if len(keys) == len(container) else []
    return keys if type(container).forward is nn.Sequential.forward else []


def _shorten(container: nn.Module, keys: list[str], keep: list[int]) -> None:
    """Without the other layers; those behind move up, and take the names that are there."""
    names, gone = iter(keys), {key for i, key in enumerate(keys) if i not in keep}
    left = [(key, part) for key, part in container._modules.items() if key not in gone]
    if all(key.isdigit() for key in container._modules):
        left = [(str(i), part) for i, (_, part) in enumerate(left)]
    else:
        left = [(next(names) if key in keys else key, part) for key, part in left]
    container._modules.clear()
    container._modules.update(left)


def _table(layers: list[nn.Module]) -> Facts:
    """Plain attributes, and the shapes of parameters."""
    found = []
    for layer in layers:
        own = {
            f"{path}.{key}": value
            for path, part in layer.named_modules()
            for key, value in vars(part).items()
            if key != "training" and (value is None or type(value) in (bool, int, float, str))
        }
        found.append(own | {name: p.shape for name, p in layer.named_parameters()})
    return {path: [own.get(path, ABSENT) for own in found] for one in found for path in one}


def _counts(values: list) -> bool:
    return values == list(range(len(values))) and type(values[0]) is int


def _kept(values: list, keep: list[int]) -> list:
    return list(range(len(keep))) if _counts(values) else [values[i] for i in keep]


def _number(layers: list[nn.Module], wanted: Facts) -> None:
    """Layers that store their own number get the new one."""
    for path in [path for path, values in wanted.items() if _counts(values)]:
        part, _, key = path.rpartition(".")
        for number, layer in enumerate(layers):
            setattr(layer.get_submodule(part), key, number)


def _refuse_lost_parts(cut: Cut) -> None:
    """ValueError when a layer is dropped that has parts which no other has, and all that the others have."""
    shapes = {path: v for path, v in cut.facts.items() if any(isinstance(part, torch.Size) for part in v)}
    alone = [path for path, v in shapes.items() if [part != ABSENT for part in v].count(True) == 1]
    for i in set(range(cut.layers)) - set(cut.keep):
        more = [path for path in alone if shapes[path][i] != ABSENT]
        if more and len(more) == len(shapes):
            raise ValueError(
                f"{cut.name}.{i} alone has {more[0]}, which the layers behind it may use; keep layer {i}, too"
            )


def _follow(model: nn.Module, cut: Cut) -> None:
    """Changes all configs on the way from the list to the root, as the pruned list needs it."""
    if len(cut.keep) == cut.layers:
        return
    parts = cut.name.split(".") if cut.name else []
    owners: dict[int, list[tuple[nn.Module, str]]] = {}  # those with the same config, the outermost last
    for end in range(len(parts), -1, -1):
        owner = model.get_submodule(".".join(parts[:end]))
        if vars(owner).get("config") is not None:
            rest = ".".join(part for part in parts[end:] if part != "inner")
            owners.setdefault(id(owner.config), []).append((owner, rest))
    for same in owners.values():
        _change(same, cut)


def _change(owners: list[tuple[nn.Module, str]], cut: Cut) -> None:
    """Changes one config. ValueError when its class builds no such layers, a warning when it builds none."""
    config = owners[0][0].config
    for owner, rest in reversed(owners):
        now = _built(type(owner), config, {}, rest)
        if now is not None:
            change, unlike = _fitting(owner, rest, now, cut)
            vars(config).update(change)
            return _warn_of_rates(unlike, cut)
    warnings.warn(
        f"the config of {type(owners[-1][0]).__name__} is left as it was, since no {cut.name} can be built "
        f"from it alone: if it says that there are {cut.layers} layers, correct it",
        stacklevel=5,  # where the verb is called
    )


def _fitting(owner: nn.Module, rest: str, now: nn.Module, cut: Cut) -> tuple[dict[str, Any], list[str]]:
    """The first change with which the owner's class builds what was kept, and which rates still differ."""
    known, kind = _known(_layers(now, rest), cut), type(owner)
    sizes = _sizes(now, rest).items() | _sizes(owner, rest).items()  # other lists stay as they were, or are
    closest = known or ["the number of layers"]
    for change in _changes(owner.config, cut.layers, cut.keep):
        built = _built(kind, owner.config, change, rest)
        layers = [] if built is None else _layers(built, rest)
        if len(layers) != len(cut.keep) or not _sizes(built, rest).items() <= sizes:
            continue
        table, absent = _table(layers), [ABSENT] * len(layers)
        unlike = [path for path in known if table.get(path, absent) != cut.wanted[path]]
        if all({type(value) for value in cut.facts[path]} - {str} == {float} for path in unlike):
            return change, unlike
        closest = min(closest, unlike, key=len)
    raise ValueError(
        f"no change of its config makes {kind.__name__} build the layers {cut.keep} of {cut.name}, and "
        f"a saved model would load wrong: {', '.join(closest[:3])} would differ; keep other layers"
    )


def _layers(model: nn.Module, rest: str) -> list[nn.Module]:
    return list(model.get_submodule(rest).children())


def _sizes(model: nn.Module, rest: str) -> dict[str, int]:
    """The lengths of all other lists."""
    parts = [(name.replace("inner.", ""), part) for name, part in model.named_modules()]
    others = [(n, p) for n, p in parts if not f"{n}.".startswith(f"{rest}.".lstrip("."))]
    return {name: len(part) for name, part in others if isinstance(part, nn.ModuleList)}


def _known(built: list[nn.Module], cut: Cut) -> list[str]:
    """What a config decides: where layers built from it, as it is, differ as those of the model do."""
    table = _table(built)
    if len(built) == len(cut.keep):  # it holds another config, which was changed before
        return [path for path in cut.wanted if path in table]
    return [path for path, values in cut.facts.items() if table.get(path) == values]


def _warn_of_rates(unlike: list[str], cut: Cut) -> None:
    if unlike:
        warnings.warn(
            f"loaded again, the layers {cut.keep} of {cut.name} would have another {', '.join(unlike[:3])}, "
            "which their class computes from the number of a layer; set it after loading",
            stacklevel=6,  # where the verb is called
        )


def _changes(config: Any, layers: int, keep: list[int]) -> Iterator[dict[str, Any]]:
    """New values of fields: none, then one number of layers, with ever more of the lists cut."""
    lists = {k: v for k, v in vars(config).items() if type(v) in (list, tuple) and len(v) == layers}
    cut = {k: type(v)(v[i] for i in keep) for k, v in lists.items()}
    counts: list[dict] = [{}]
    for key, value in vars(config).items():
        if type(value) is int and value == layers:
            counts.append({key: len(keep)})
        elif type(value) in (list, tuple):
            spots = [i for i, part in enumerate(value) if type(part) is int and part == layers]
            counts += [{key: type(value)([*value[:i], len(keep), *value[i + 1 :]])} for i in spots]
    for size in range(len(cut) + 1):
        for chosen in combinations(cut, size):
            yield from ({key: cut[key] for key in chosen} | count for count in counts)


def _changed(config: Any, change: dict[str, Any]) -> Any:
    """A copy. A dataclass is made anew, since it may check whether its fields agree."""
    if is_dataclass(config) and change.keys() <= {field.name for field in fields(config)}:
        return replace(config, **change)
    config = copy.deepcopy(config)
    vars(config).update(change)
    return config


def _built(kind: type, config: Any, change: dict[str, Any], rest: str) -> nn.Module | None:
    """What a class makes of a changed config, without memory; None if that has no such list."""
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            model = kind(_changed(config, change))
        model.get_submodule(rest)
    except Exception:  # of a class that takes other arguments, or a config that does not fit
        return None
    return model
