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
from typing import Any

import torch
from torch import nn

from minieff.core.surgery import Where

Facts = dict[str, list]  # by the path of an attribute or parameter: its value in each layer
ABSENT = "absent"


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
    for name, keys in lists.items():
        layers = [model.get_submodule(name)._modules[key] for key in keys]
        if not keep or sorted(set(keep)) != list(keep) or not 0 <= keep[0] <= keep[-1] < len(layers):
            raise ValueError(
                f"keep={keep}: give increasing layer numbers from 0 to {len(layers) - 1}, at least one"
            )
        facts = {path: v for path, v in _table(layers).items() if any(value != v[0] for value in v)}
        _refuse_lost_parts(name, facts, keep)
        wanted = {path: _kept(values, keep) for path, values in facts.items()}
        _shorten(model.get_submodule(name), keys, keep)
        _number([layers[i] for i in keep], wanted)
        if len(keep) < len(layers):
            _follow(model, name, len(layers), keep, wanted)


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


def _refuse_lost_parts(name: str, facts: Facts, keep: list[int]) -> None:
    """ValueError when a layer is dropped that has parts which no other has, and all that the others have."""
    shapes = {path: v for path, v in facts.items() if any(isinstance(part, torch.Size) for part in v)}
    for i in range(len(next(iter(facts.values()), []))):
        alone = [path for path, v in shapes.items() if [part != ABSENT for part in v].count(True) == 1]
        more = [path for path in alone if shapes[path][i] != ABSENT]
        if i not in keep and more and len(more) == len(shapes):
            raise ValueError(
                f"{name}.{i} alone has {more[0]}, which the layers behind it may use; keep layer {i}, too"
            )


def _follow(model: nn.Module, name: str, layers: int, keep: list[int], wanted: Facts) -> None:
    """Changes all configs on the way from the list to the root, as the pruned list needs it."""
    parts = name.split(".") if name else []
    paths = [".".join(parts[:end]) for end in range(len(parts), -1, -1)]
    owners: dict[int, list[tuple[nn.Module, str]]] = {}  # those with the same config, the outermost last
    for path in paths:
        owner = model.get_submodule(path)
        if vars(owner).get("config") is not None:
            rest = name.removeprefix(path).lstrip(".").replace("inner.", "")
            owners.setdefault(id(owner.config), []).append((owner, rest))
    for same in owners.values():
        _change(same, name, layers, keep, wanted)


def _change(
    owners: list[tuple[nn.Module, str]], name: str, layers: int, keep: list[int], wanted: Facts
) -> None:
    """Changes one config. ValueError when its class builds no such layers, a warning when it builds none."""
    config = owners[0][0].config
    for owner, rest in reversed(owners):
        now = _built(type(owner), config, {}, rest)
        if now is None:
            continue
        known = _table(now)
        for change in _changes(config, layers, keep):
            built = _built(type(owner), config, change, rest)
            unlike = _unlike(built, known, wanted, len(keep))
            if unlike is not None and all(type(wanted[path][0]) is float for path in unlike):
                vars(config).update(change)
                return
        raise ValueError(
            f"no change of its config makes {type(owner).__name__} build the layers {keep} of {name}, and a "
            f"saved model would load wrong; layers differ in {', '.join(sorted(known.keys() & wanted)[:3])}; "
            "keep others"
        )
    warnings.warn(
        f"the config of {type(owners[-1][0]).__name__} is left as it was, since no {name} can be built from "
        f"it alone: if it says that there are {layers} layers, correct it",
        stacklevel=5,
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


def _built(kind: type, config: Any, change: dict[str, Any], rest: str) -> list[nn.Module] | None:
    """The list of layers that a class makes of a changed config, without memory; None if it does not."""
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            return list(kind(_changed(config, change)).get_submodule(rest).children())
    except Exception:  # of a class that takes other arguments, or a config that does not fit
        return None


def _unlike(built: list[nn.Module] | None, known: Facts, wanted: Facts, layers: int) -> list[str] | None:
    """The paths at which built layers are not those that were kept, in what is known of both.

    None if there are not as many.
    """
    if built is None or len(built) != layers:
        return None
    table = _table(built)
    absent = [ABSENT] * layers
    return [path for path in wanted if path in known and table.get(path, absent) != wanted[path]]
