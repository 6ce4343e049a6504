"""Architecture search: several operations in one place, and a gradient that finds out which one to keep.

A differentiable search (DARTS: Liu, Simonyan, Yang 2018, arXiv 1806.09055) puts all candidates into one
network. AdaBERT (Chen et al. 2020, "AdaBERT: Task-Adaptive BERT Compression", arXiv 2001.04246) draws one of
them in each pass, with logits alpha that are learned, by the Gumbel-softmax trick (Jang et al. 2016, arXiv
1611.01144), and adds the expected cost to the loss:

    g_i = -log(-log u_i);   soft = softmax((alpha + g) / temperature);   hard = onehot(argmax soft)
    y = sum_i w_i op_i(x),   w = hard in the forward pass, with the gradient of soft
    loss + price * sum over places and i of softmax(alpha)_i cost(op_i) / cost of the dearest network

Whatever the temperature, op_i is drawn with probability softmax(alpha)_i; a low one makes the gradient less
biased and more noisy. In eval mode the most likely operation runs alone, and `finalize` leaves only that.
AdaBERT's defaults are price=4, loss weights of 0.2 for the labels and 0.8 for the teacher's `Probes`, and a
temperature that falls by 0.98 per epoch.

Saves: what the found network has less, in parameters and MACs. Costs: in training all operations are
computed, since each alpha_i needs the output of op_i, so a search takes as long as all candidates together.
It does not save training time; the found network is trained again. By hand, where `small` is a narrower
feed-forward:

    # before the search
    layer.feed = Mixed([layer.feed, small], nn.Parameter(torch.zeros(2)))
    # during, with costs (2,) as shares of the largest network's
    loss = loss + 4.0 * (layer.feed.alpha.softmax(0) @ costs)
    # after it
    layer.feed = layer.feed.ops[layer.feed.choice]
"""

from collections.abc import Callable, Sequence
from math import inf

import torch
from torch import Tensor, nn

from minieff.architecture_search.mixed import (
    Mixed,
    Unchanged,
    Zero,
    gumbel_softmax,
    narrow,
    original,
    skip,
    zero,
)
from minieff.architecture_search.probes import KnowledgeLoss, Probes
from minieff.core.attention import Attention, everything, fused, softmax, unchanged
from minieff.core.storage import disable_fast_path
from minieff.core.surgery import Where, clone, is_a, parametrizations, pick, swap
from minieff.core.transformer import FeedForward

__all__ = [
    "KnowledgeLoss",
    "Mixed",
    "Probes",
    "Unchanged",
    "Zero",
    "apply",
    "decisions",
    "finalize",
    "gumbel_softmax",
    "narrow",
    "original",
    "penalty",
    "places",
    "project",
    "skip",
    "zero",
]

STAGE = "mixer"
IDEA = ("Mixed",)


def apply(
    model: nn.Module,
    *,
    choices: Sequence[Callable[[nn.Module], nn.Module]],
    where: Where = is_a(FeedForward),
    price: float = 0.0,
    costs: Sequence[Callable[[nn.Module], float]] = (),
    temperature: float = 1.0,
    decay: float = 1.0,
    shared: bool = False,
    generator: torch.Generator | None = None,
) -> nn.Module:
    """A copy in which each module that matches is one of several operations, to be chosen in training.

    Each of `choices` makes an operation from the module that is there, without changing it. `costs` are what
    a model costs, such as cost.parameters and cost.macs: each operation's is what the whole network costs
    more with it in this place than with the cheapest. `price` is that of the dearest network; `temperature`
    is multiplied by `decay` in each `project`. `shared`: one alpha for all places. With choices=[original]
    nothing changes. ValueError for impossible knobs, choices that make no module, places that overlap, have
    choices already, return a tuple or are changed by techniques that come after this one, and when nothing
    matches.

    >>> model = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    >>> apply(model, choices=[original, zero], where=is_a(nn.Linear))[0].alpha
    Parameter containing:
    tensor([0., 0.], requires_grad=True)
    """
    _check(choices, price, costs, temperature, decay)
    _refuse(model, pick(model, where))
    alphas: list[nn.Parameter] = []

    def mixed(module: nn.Module) -> Mixed:
        if not (shared and alphas):
            weight = next(module.parameters(), torch.zeros(()))
            alphas.append(nn.Parameter(weight.new_zeros(len(choices))))
        place = Mixed(_made(choices, module), alphas[-1], temperature, decay, price, generator)
        place.register_forward_pre_hook(disable_fast_path)
        return place

    searched = swap(model, where, mixed)
    _measure(searched, costs)
    return searched


def _check(choices: Sequence, price: float, costs: Sequence, temperature: float, decay: float) -> None:
    """ValueError for impossible knobs."""
    functions = isinstance(choices, list | tuple) and all(map(callable, choices))
    if not functions or not choices or any(isinstance(choice, nn.Module) for choice in choices):
        raise ValueError(
            f"choices={choices!r}: give at least one function from a module to a module, such as "
            "architecture_search.original"
        )
    numbers = all(isinstance(knob, int | float) for knob in (temperature, decay, price))
    if not (numbers and 0.05 <= temperature < inf and 0 < decay <= 1 and 0 <= price < inf):
        raise ValueError(
            f"temperature={temperature!r}, decay={decay!r}, price={price!r}: give a temperature of at least "
            "0.05, a decay above 0 and at most 1, and a price of at least 0"
        )
    if not isinstance(costs, list | tuple) or not all(map(callable, costs)) or (price and not costs):
        raise ValueError(
            f"price={price} of what? costs={costs!r}: give functions from a model to a number, such as "
            "[cost.parameters, cost.macs]"
        )


def _made(choices: Sequence[Callable], module: nn.Module) -> list[nn.Module]:
    """The operations of one place. ValueError for what is none."""
    ops = [choice(module) for choice in choices]
    if not all(isinstance(op, nn.Module) for op in ops):
        raise ValueError(f"choices make {[type(op).__name__ for op in ops]}; each makes an nn.Module")
    return ops


def _refuse(model: nn.Module, picked: dict[nn.Module, str]) -> None:
    """ValueError for places that overlap, and for what a replacement would drop silently."""
    inside = {part for place in places(model) for part in place.modules()}
    for module, name in picked.items():
        name, parts = name or "the root", set(module.modules())
        if parts & inside:
            raise ValueError(f"{name} has choices already; give all of a place's choices in one apply")
        if (parts - {module}) & picked.keys():
            raise ValueError(f"where picks {name} and something inside of it; pick one of them")
        if isinstance(module, nn.MultiheadAttention):
            raise ValueError(f"{name} returns a tuple; core.adopt the model, then where=is_a(Attention)")
        if any(_changed(part) for part in parts):
            raise ValueError(
                f"seams or weights of {name} are changed already, which other operations would drop; "
                "search before other techniques"
            )


def _changed(part: nn.Module) -> bool:
    """Whether a technique that comes later holds it."""
    if isinstance(part, Attention):
        seams = {"mask": everything, "normalize": softmax, "reweight": unchanged, "kernel": fused}
        return any(getattr(part, seam) is not default for seam, default in seams.items())
    return bool(parametrizations(part))


def _measure(model: nn.Module, costs: Sequence[Callable[[nn.Module], float]]) -> None:
    """Notes what each operation adds to the cost of the network that is found with it."""
    for number, place in enumerate(places(model)):
        if not place.costs:
            others = decisions(model)
            found = [
                finalize(model, choice=[*others[:number], i, *others[number + 1 :]])
                for i in range(len(place.ops) if costs else 0)
            ]
            values = [[measure(network) for network in found] for measure in costs]
            if not all(isinstance(value, int | float) and value == value for row in values for value in row):
                raise ValueError(f"costs give {values}; each has to return a number")
            place.costs = [[value - min(row) for value in row] for row in values]


def places(model: nn.Module) -> list[Mixed]:
    """The places that have choices, in the order of the modules.

    >>> len(places(nn.Linear(3, 2)))
    0
    """
    return [module for module in model.modules() if isinstance(module, Mixed)]


def decisions(model: nn.Module) -> list[int]:
    """The most likely choice of each place: what `finalize` needs to build the found network again.

    >>> decisions(apply(nn.Linear(4, 4), choices=[original, zero], where=is_a(nn.Linear)))
    [0]
    """
    return [place.choice for place in places(model)]


def penalty(model: nn.Module) -> Tensor:
    """`price` times the expected cost, as a share of the dearest network's: the efficiency loss.

    Each cost counts from the cheapest network, the costs' shares are averaged; 0 without a price. ValueError
    where two searches had different numbers of costs.

    >>> from minieff.core.cost import parameters
    >>> knobs = {"where": is_a(nn.Linear), "price": 4.0, "costs": [parameters]}
    >>> penalty(apply(nn.Linear(4, 4), choices=[original, zero], **knobs)).item()  # half of the dearest
    2.0
    """
    priced, total = [place for place in places(model) if place.price], torch.zeros(())
    if len({len(place.costs) for place in priced}) > 1:
        raise ValueError("places have different numbers of costs; give each apply the same costs=")
    dearest = [sum(map(max, rows)) or 1.0 for rows in zip(*(place.costs for place in priced), strict=True)]
    for place in priced:
        shares = [[cost / most for cost in row] for row, most in zip(place.costs, dearest, strict=True)]
        shares = place.alpha.new_tensor(shares)  # costs themselves may be beyond fp16
        total = total.to(shares) + place.price * (place.alpha.softmax(0) @ shares.mean(0))
    return total


def project(model: nn.Module) -> None:
    """One step of the schedule: the temperature is multiplied by `decay`.

    >>> model = apply(nn.Linear(4, 4), choices=[original, zero], where=is_a(nn.Linear), decay=0.5)
    >>> project(model)
    >>> model.temperature
    0.5
    """
    for place in places(model):
        place.step += 1


def finalize(model: nn.Module, *, choice: Sequence[int] | None = None) -> nn.Module:
    """A copy in eval mode with one operation in each place: `choice`, or the most likely ones (None).

    Bit-equal to the eval output for the most likely ones. ValueError for another number of choices than
    places, or a choice that a place does not have.

    >>> model = apply(nn.Sequential(nn.Linear(4, 4)), choices=[original, zero], where=is_a(nn.Linear))
    >>> finalize(model, choice=[1])
    Sequential(
      (0): Zero()
    )
    """
    choice = decisions(model) if choice is None else choice
    options = [len(place.ops) for place in places(model)]
    fits = isinstance(choice, list | tuple) and len(choice) == len(options)
    if not fits or not all(type(i) is int and 0 <= i < n for i, n in zip(choice, options, strict=True)):
        raise ValueError(f"choice={choice!r}: give a number from 0 for each place, below {options}")
    rest = iter(choice)

    def chosen(place: Mixed) -> nn.Module:
        op = place.ops[next(rest)]
        if "weight" not in op._parameters:  # which nn.TransformerEncoder's fused path would read
            op.register_forward_pre_hook(disable_fast_path)
        return op

    return (swap(model, is_a(Mixed), chosen) if choice else clone(model)).eval()
