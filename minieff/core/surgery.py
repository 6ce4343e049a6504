"""The only code that edits or watches a model.

Techniques do not subclass a model and do not patch its forward. They say *where* (a predicate of a name and a
module) and *what instead* (a function from the old module to the new one), and get back a changed copy:

    swap(model, is_a(nn.Linear), lambda linear: Half(linear))      # replaces the modules that match
    parametrize(model, is_a(nn.Linear), lambda weight: Noise())    # changes their weights during training
    recode(model, is_a(nn.Linear), encode, make)                   # stores their weights for inference
    with record(model, is_a(Block)) as calls: model(ids)           # only watches

The original is never changed. What was shared stays shared: a module used in two places is replaced once, and
a weight used by two modules gets one parametrization or one code.
"""

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.nn.utils.parametrize as torch_parametrize
from torch import Tensor, nn

Where = Callable[[str, nn.Module], bool]


def is_a(*types: type) -> Where:
    """Matches modules of these types. ValueError for what is no class.

    >>> linear = is_a(nn.Linear)
    >>> linear("0", nn.Linear(3, 2)), linear("1", nn.ReLU())
    (True, False)
    """
    if not all(isinstance(kind, type) for kind in types):
        raise ValueError(f"is_a{types}: give classes, such as is_a(nn.Linear)")
    return lambda name, module: isinstance(module, types)


def named(*endings: str) -> Where:
    """Matches modules whose dotted name ends in one of these.

    >>> query = named("inner.q")
    >>> query("blocks.0.mix.inner.q", nn.Identity()), query("blocks.0.mix.inner.k", nn.Identity())
    (True, False)
    """
    return lambda name, module: any(f".{name}".endswith(f".{ending}") for ending in endings)


def clone(model: nn.Module) -> nn.Module:
    """A deep copy, with three exceptions.

    Tensors that a forward left behind are detached, since deepcopy refuses those with a graph. Generators are
    shared with the original: a copy would draw the same random numbers again. A parametrized module has a
    class that torch made for it alone; its copy gets a class of its own, or parametrizing the copy would
    change the original.

    >>> model = nn.Linear(3, 2)
    >>> copied = clone(model)
    >>> torch.equal(copied.weight, model.weight), copied.weight is model.weight
    (True, False)
    """
    memo: dict[int, Any] = {}

    def note(values: Iterable) -> None:
        for value in values:
            if isinstance(value, Tensor) and not value.is_leaf:
                memo[id(value)] = value.detach()
            elif isinstance(value, torch.Generator):
                memo[id(value)] = value
            elif isinstance(value, dict | list | tuple) and value:
                note(value.values() if isinstance(value, dict) else value)

    for module in model.modules():
        note(vars(module).values())
    model = copy.deepcopy(model, memo)
    for module in filter(parametrizations, model.modules()):
        kind = type(module)
        module.__class__ = type(kind.__name__, kind.__bases__, dict(vars(kind)))
    return model


def parametrizations(module: nn.Module) -> dict[str, nn.Module]:
    """A module's own parametrizations, by the name of the tensor.

    A wrapper has none, although it passes on the attributes of its inner module, which misleads torch's
    `is_parametrized`.

    >>> parametrizations(nn.Linear(3, 2))
    {}
    """
    own = module._modules.get("parametrizations")
    return own._modules if isinstance(own, nn.ModuleDict) else {}


def pick(model: nn.Module, where: Where) -> dict[nn.Module, str]:
    """The modules that match, each with the first of its names that matches.

    A shared module is tried under every name it has. ValueError when nothing matches, or `where` is a type, a
    name or a module.

    >>> model = nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 2))
    >>> list(pick(model, is_a(nn.Linear)).values())
    ['0', '2']
    """
    if isinstance(where, type | nn.Module) or not callable(where):
        raise ValueError(f"where={where!r}: give a function of name and module, such as is_a(nn.Linear)")
    chosen: dict[nn.Module, str] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        if module not in chosen and where(name, module):
            chosen[module] = name
    if not chosen:
        kinds = ", ".join(sorted({type(m).__name__ for m in model.modules()}))
        hint = "give a type or name of these, as where=is_a(nn.Linear), or core.adopt torch's attention first"
        raise ValueError(f"where matched no module of {type(model).__name__}, made of {kinds}; {hint}")
    return chosen


def _replace(
    model: nn.Module, chosen: dict[nn.Module, str], make: Callable[[nn.Module], nn.Module]
) -> nn.Module:
    """Replaces each chosen module by make(module), in place, children before parents.

    A new module starts in train mode: its own parts get the mode of what it replaces.
    """
    done: dict[nn.Module, nn.Module] = {}

    def visit(module: nn.Module) -> nn.Module:
        if module not in done:
            for key, child in list(module._modules.items()):
                if child is not None:
                    setattr(module, key, visit(child))
            known = set(module.modules())  # before `make`, which may add parts to the module itself
            done[module] = make(module) if module in chosen else module
            for part in set(done[module].modules()) - known:
                part.training = module.training
        return done[module]

    return visit(model)


def swap(model: nn.Module, where: Where, make: Callable[[nn.Module], nn.Module]) -> nn.Module:
    """A copy of `model` in which each module that matches is replaced by `make(module)`.

    `make` receives the copy's module and may keep it (see `Wrap`). A shared module is replaced once and stays
    shared; the root may match; train or eval mode carries over. ValueError when nothing matches.

    >>> model = nn.Sequential(nn.Linear(3, 2), nn.ReLU())
    >>> swap(model, is_a(nn.ReLU), lambda relu: nn.GELU())[1], model[1]
    (GELU(approximate='none'), ReLU())
    """
    model = clone(model)
    return _replace(model, pick(model, where), make)


class Wrap(nn.Module):
    """A module around another: it passes on all arguments, and gives access to the attributes of `inner`.

    >>> Wrap(nn.Linear(3, 2)).out_features
    2
    """

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name.startswith("__"):  # inner's __deepcopy__, say, would copy only inner
                raise
            return getattr(super().__getattr__("inner"), name)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        return self.inner(x, *args, **kwargs)


class Call(NamedTuple):
    """One call of a watched module."""

    name: str
    inputs: tuple
    output: Any


@contextmanager
def record(model: nn.Module, where: Where) -> Iterator[list[Call]]:
    """Inputs and output of every call of the modules that match, in running order.

    A block that runs twelve times gives twelve entries. Nothing is copied or detached. Do not `swap` inside:
    the copy would continue to record.

    >>> model = nn.Sequential(nn.Linear(3, 2), nn.ReLU())
    >>> with record(model, is_a(nn.Linear)) as calls:
    ...     y = model(torch.ones(5, 3))
    >>> [(call.name, call.output.shape) for call in calls]
    [('0', torch.Size([5, 2]))]
    """
    calls: list[Call] = []

    def watch(name: str) -> Callable:
        return lambda module, args, kwargs, output: calls.append(
            Call(name, (*args, *kwargs.values()), output)
        )

    handles = [
        module.register_forward_hook(watch(name), with_kwargs=True)
        for module, name in pick(model, where).items()
    ]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode inside the `with`; afterwards, also after an error, each module has its old mode again.

    >>> model = nn.Dropout(0.5)
    >>> with evaluating(model):
    ...     during = model.training
    >>> during, model.training
    (False, True)
    """
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def source(module: nn.Module) -> nn.Parameter | None:
    """The Parameter behind `module.weight`, also under parametrizations; None if there is none.

    >>> linear = nn.Linear(3, 2)
    >>> source(linear) is linear.weight, source(nn.ReLU()) is None
    (True, True)
    """
    own = parametrizations(module).get("weight", module)
    return own._parameters.get("weight" if own is module else "original")


@contextmanager
def about(name: str) -> Iterator[None]:
    """Errors inside the `with` get the name of the layer that they are about.

    >>> with about("layers.0"):
    ...     raise ValueError("NaN among the weights")
    Traceback (most recent call last):
        ...
    ValueError: layers.0: NaN among the weights
    """
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{name or 'the root'}: {error}") from None


def first_users(model: nn.Module, chosen: dict[nn.Module, str]) -> dict[nn.Parameter, str]:
    """The weights of the chosen modules, each with the name of the first that has it.

    ValueError for a module without a weight of its own, and for a weight that a module outside of `chosen`
    uses, too.

    >>> embedding, head = nn.Embedding(9, 4), nn.Linear(4, 9)
    >>> head.weight = embedding.weight
    >>> first_users(nn.Sequential(embedding, head), {embedding: "0"})
    Traceback (most recent call last):
        ...
    ValueError: 0 and 1 share one weight; pick both, or neither
    """
    users: dict[nn.Parameter | None, list[str]] = {}
    for module, name in chosen.items():
        users.setdefault(source(module), []).append(name)
    if None in users:
        kind = type(model.get_submodule(users[None][0])).__name__
        raise ValueError(
            f"where picked {users[None][0]}, a {kind}, whose weight is no Parameter of its own; "
            "pick modules such as nn.Linear or nn.Embedding, each before its weight is stored otherwise"
        )
    inside = {part for module in chosen for part in module.modules()}  # with their parametrizations
    for name, module in model.named_modules():
        for own in module._parameters.values():
            if own in users and module not in inside:
                other = name.removesuffix(".parametrizations.weight")
                raise ValueError(f"{users[own][-1]} and {other} share one weight; pick both, or neither")
    return {weight: names[0] for weight, names in users.items()}


def parametrize(model: nn.Module, where: Where, make: Callable[[Tensor], nn.Module]) -> nn.Module:
    """A copy in which `weight` of each module that matches is `make(weight)(weight)`: noise, masks.

    Users of one weight share one parametrization. ValueError when nothing matches, or only some of the users
    of a shared weight match.

    >>> clipped = parametrize(nn.Linear(3, 2), is_a(nn.Linear), lambda weight: nn.Hardtanh(-0.01, 0.01))
    >>> clipped.weight.abs().max() <= 0.01
    tensor(True)
    """
    model = clone(model)
    chosen = pick(model, where)
    made = {}
    for weight, name in first_users(model, chosen).items():
        with about(name):
            made[weight] = make(weight).train(model.get_submodule(name).training)
    for module in chosen:
        # unsafe: the check would run the parametrization, which may draw random numbers
        torch_parametrize.register_parametrization(module, "weight", made[source(module)], unsafe=True)
    return model


def recode(
    model: nn.Module,
    where: Where,
    encode: Callable[[Tensor, str], nn.Module],
    make: Callable[[nn.Module, nn.Module], nn.Module],
) -> nn.Module:
    """A copy in eval mode in which each module that matches becomes `make(module, code)`.

    `code = encode(weight, name)` is how the weight is stored: made once per weight, with the name of its
    first user, and shared by all its users. ValueError as for `parametrize`.

    >>> model = nn.Sequential(nn.Linear(3, 2), nn.ReLU())
    >>> recode(model, is_a(nn.Linear), lambda weight, name: nn.Identity(), lambda linear, code: code)
    Sequential(
      (0): Identity()
      (1): ReLU()
    )
    """
    model = clone(model).eval()
    chosen = pick(model, where)
    codes = {}
    for weight, name in first_users(model, chosen).items():
        with about(name):
            codes[weight] = encode(model.get_submodule(name).weight.detach(), name)
    return _replace(model, chosen, lambda module: make(module, codes[source(module)]))
