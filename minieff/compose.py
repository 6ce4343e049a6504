"""Several techniques on one model, in the order that works.

A technique is a module with some of four verbs; a list of (technique, knobs) goes through them together:

    techniques = [(layerdrop, {"p": 0.2}), (scalar_quant, {"bits": 8, "p": 0.5})]
    model = compose.apply(model, techniques)              # before training
    loss = loss + compose.penalty(model, techniques)      # during
    compose.project(model, techniques)                    # during, after optimizer.step()
    small = compose.finalize(model, [(layerdrop, {"keep": [0, 3, 7]}), (scalar_quant, {})])

In place of `apply`, "verb" among the knobs names another function that makes a model for training:
(weight_sharing, {"verb": "universal", "steps": 6}). A technique lists those in `VERBS`.

Each technique states its `STAGE`. What is replaced must be replaced before it is decorated, so mixers come
before the stack, the stack before skipped layers, then attention's seams, then weights; `finalize` takes the
same order. A loss, such as distillation, changes no model and has none of the verbs.
"""

import inspect
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType, UnionType
from typing import Any

import torch
from torch import Tensor, nn

from minieff.core import transformer
from minieff.core.surgery import Where, clone, is_a, named

STAGES = ("mixer", "stack", "depth", "seam", "weight", "loss")

Techniques = list[tuple[ModuleType, dict]]


def parse(tables: list[dict]) -> Techniques:
    """The techniques of a recipe as a list of (module, knobs).

    ValueError for a name that is no technique, a verb that is none of its `VERBS` (by default `apply`), or a
    knob that the verb does not have. `where` is the name of a type, or a list of modules' names.

    >>> [(technique, knobs)] = parse([{"name": "layerdrop", "p": 0.2}])
    >>> technique.__name__, knobs
    ('minieff.layerdrop', {'p': 0.2})
    >>> parse([{"name": "weight_sharing", "verb": "factorize", "rank": 32}])[0][1]
    {'verb': 'factorize', 'rank': 32}
    """
    return [(find(table.get("name", "")), _knobs(table)) for table in tables]


def find(name: str) -> ModuleType:
    """The technique of that name. ValueError if there is none.

    >>> find("layerdrop").STAGE
    'depth'
    """
    there = name.isidentifier() and find_spec(f"minieff.{name}")
    module = import_module(f"minieff.{name}") if there else None
    if getattr(module, "STAGE", None) not in STAGES:
        raise ValueError(f"technique {name!r}: there is no technique minieff.{name}")
    return module


def _knobs(table: dict) -> dict:
    """The knobs of a recipe's technique. ValueError for one that is unknown, missing or of a wrong type."""
    name, knobs = table.get("name", ""), {key: value for key, value in table.items() if key != "name"}
    verb = _verb(find(name), knobs.get("verb", "apply"))
    name = name if verb.__name__ == "apply" else f"{name}.{verb.__name__}"
    parameters = inspect.signature(verb).parameters
    known = {key: p for key, p in parameters.items() if key not in ("model", "generator")}
    unknown = sorted(knobs.keys() - known - {"verb"})
    if unknown:
        raise ValueError(f"{name} has no knob {unknown}; it has {sorted(known)}")
    missing = [key for key, p in known.items() if p.default is p.empty and key not in knobs]
    if missing:
        raise ValueError(f"{name} needs a value for {missing}")
    for key, value in knobs.items():
        if key not in ("where", "verb") and not _fits(value, known[key].annotation):
            raise ValueError(f"{name}: {key}={value!r} is not of type {known[key].annotation}")
    return knobs | ({"where": _where(knobs["where"])} if "where" in knobs else {})


def _verb(technique: ModuleType, verb: Any) -> Callable:
    """The function of that name. ValueError unless it makes a model for training."""
    name = technique.__name__.removeprefix("minieff.")
    verbs = [verb for verb in getattr(technique, "VERBS", ("apply",)) if hasattr(technique, verb)]
    if not verbs:
        raise ValueError(f"technique {name!r} changes no model before training; leave it out of techniques")
    if verb not in verbs:
        raise ValueError(f"{name} has no verb {verb!r} for recipes; give verb = one of {verbs}")
    return getattr(technique, verb)


def _where(kind: Any) -> Where:
    """The `where` of a recipe: a type of core.transformer or torch.nn, or a list of modules' names."""
    if isinstance(kind, list):
        return named(*map(str, kind))
    for home in (transformer, nn):
        found = getattr(home, str(kind), None)
        if isinstance(found, type) and issubclass(found, nn.Module):
            return is_a(found)
    raise ValueError(
        f"where={kind!r}: name a module of minieff.core.transformer or torch.nn, such as Residual, or give "
        "a list of modules' names in the model"
    )


def _fits(value: Any, annotation: Any) -> bool:
    """Whether a value of a recipe is of the annotated type or one of a union; other annotations take any."""
    kinds = annotation.__args__ if isinstance(annotation, UnionType) else (annotation,)
    if inspect.Parameter.empty in kinds or not all(isinstance(kind, type) for kind in kinds):
        return True
    if isinstance(value, bool):
        return bool in kinds
    return isinstance(value, (*kinds, int) if float in kinds else kinds)


def _in_order(techniques: Techniques) -> Techniques:
    """By stage; within a stage as given."""
    return sorted(techniques, key=lambda entry: STAGES.index(entry[0].STAGE))


def _taken(function: Callable, **offered: Any) -> dict[str, Any]:
    """What a function has parameters for."""
    return {key: offered[key] for key in offered.keys() & inspect.signature(function).parameters}


def apply(model: nn.Module, techniques: Techniques, generator: torch.Generator | None = None) -> nn.Module:
    """Each technique's `apply`, or other verb; those that draw random numbers take them from `generator`.

    >>> model = transformer.Transformer(transformer.Config(vocab=50, context=16, layers=2, heads=2, dim=8))
    >>> apply(model, parse([{"name": "layerdrop", "p": 0.2}])).blocks.layers[0].p
    0.2
    """
    for technique, knobs in _in_order(techniques):
        verb = _verb(technique, knobs.get("verb", "apply"))
        own = {key: value for key, value in knobs.items() if key != "verb"}
        model = verb(model, **_taken(verb, generator=generator), **own)
    return model


def _each(techniques: Techniques) -> list[ModuleType]:
    """The techniques in order, one with several entries once."""
    return list(dict.fromkeys(technique for technique, _ in _in_order(techniques)))


def penalty(model: nn.Module, techniques: Techniques) -> Tensor | float:
    """The sum of the techniques' penalties, 0 for those without one.

    >>> penalty(nn.Linear(3, 2), parse([{"name": "layerdrop", "p": 0.2}]))
    0.0
    """
    return sum((t.penalty(model) for t in _each(techniques) if hasattr(t, "penalty")), 0.0)


def project(model: nn.Module, techniques: Techniques, *, rate: float = 1.0) -> None:
    """Each technique's `project`, for those that have one; `rate`, the learning rate, for those that ask.

    >>> project(nn.Linear(3, 2), parse([{"name": "layerdrop", "p": 0.2}]))  # it has none
    """
    for technique in _each(techniques):
        if hasattr(technique, "project"):
            technique.project(model, **_taken(technique.project, rate=rate))


def finalize(model: nn.Module, techniques: Techniques) -> nn.Module:
    """Each technique's `finalize`, with knobs for that verb: a copy in eval mode.

    >>> model = transformer.Transformer(transformer.Config(vocab=50, context=16, layers=4, heads=2, dim=8))
    >>> len(finalize(model, [(find("layerdrop"), {"keep": [0, 3]})]).blocks.layers)
    2
    """
    model = clone(model).eval()
    for technique, knobs in _in_order(techniques):
        if hasattr(technique, "finalize"):
            model = technique.finalize(model, **knobs)
    return model
