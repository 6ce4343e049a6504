"""Sparse weights: most of a matrix is zero, and what is zero is neither stored nor multiplied.

    w_sparse = w * keep        keep: all but the round(s n) smallest |w| of a matrix of n weights

Magnitude pruning (Han, Pool, Tran and Dally 2015, arXiv 1506.02626) drops small weights and trains those that
are left. `apply` drops them at once, or a growing share of them over `steps` training steps:

    s_t = s (1 - (1 - t / steps)^3)

(Zhu and Gupta 2017, arXiv 1710.01878). Sparsity can be part of the loss instead: `shrink` takes a little off
every weight in each step (L1), `gate` learns which to use (L0); see penalties.py.

Saves: bytes, where less than half of fp32 weights are left (`csr`) or nearly always (`bitmask`); and time,
where less than about a fifth is left, or with blocks of 32 x 32 (`bsr`) about half. It does not save:
anything while training, nor time where zeros have no structure and are few. 2:4 is a pattern of Nvidia's
tensor cores (Mishra et al. 2021, arXiv 2104.08378; `torch.sparse.to_sparse_semi_structured`): on a CPU it
saves bytes alone. Torch's one line, `prune.l1_unstructured(layer, "weight", 0.9)`, makes files larger
until `prune.remove`: it stores the mask, too. By hand, for one layer:

    # before training, or when it is nearly over
    keep = keep_largest(layer.weight.detach().abs(), zeros=round(0.9 * layer.weight.numel()))
    nn.utils.parametrize.register_parametrization(layer, "weight", Pruned(keep))
    # at inference
    sparse = layer.weight.detach().to_sparse_csr()
    y = (sparse @ x.T).T + layer.bias
"""

from math import inf, log

import torch
from torch import Tensor, nn

from minieff.core.storage import refuse_other_layers
from minieff.core.surgery import Where, is_a, parametrizations, parametrize, pick, recode, source
from minieff.sparse_weights.layouts import LAYOUTS, SparseLinear, Stored
from minieff.sparse_weights.masks import Pruned, Schedule, keep_largest, norms, prune, two_of_four, unit_of
from minieff.sparse_weights.penalties import FURTHEST, SHIFT, Gate, Shrink, soft_threshold

STAGE = "weight"
VERBS = ("apply", "shrink", "gate")
IDEA = ("keep_largest", "Pruned")


def is_sparse(name: str, module: nn.Module) -> bool:
    """Matches modules whose weight `apply`, `shrink` or `gate` has prepared.

    >>> is_sparse("0", apply(nn.Linear(4, 2), sparsity=0.5)), is_sparse("0", nn.Linear(4, 2))
    (True, False)
    """
    return any(
        isinstance(part, Pruned | Shrink | Gate) for part in parametrizations(module).get("weight", ())
    )


def apply(
    model: nn.Module,
    *,
    sparsity: float,
    pattern: str | int = "any",
    scope: str = "matrix",
    steps: int = 0,
    where: Where = is_a(nn.Linear),
) -> nn.Module:
    """A copy in which a share `sparsity` of the weights is zero, those with the least magnitude.

    Exactly round(sparsity * n) of n units. `pattern` is what a unit is: "any" weight, a "row", a "column", or
    a square block, given by its size; "2:4" zeros two of every four weights in a row, with sparsity=0.5.
    `scope`: so many in each "matrix", or in all together ("global"), by one threshold. With `steps`, the
    share grows in as many calls of `project`, from none. The q, k and v of nn.MultiheadAttention are linears,
    and pruned, only after `adopt`. ValueError for values that make no sense, weights that cannot be cut into
    the units, hold NaN or are parametrized already, or when nothing matches.

    >>> model = apply(nn.Sequential(nn.Linear(8, 8), nn.ReLU()), sparsity=0.75)
    >>> model[0].weight.count_nonzero()
    tensor(16)
    """
    _refuse_share(sparsity, pattern, scope, steps)
    _refuse(model, where, pattern, sparsity)
    shared, made = Schedule(pattern, sparsity, steps), []

    def mask(weight: Tensor) -> Pruned:
        made.append(shared if scope == "global" else Schedule(pattern, sparsity, steps))
        made[-1].to(weight.device)
        grid = made[-1].scores(weight.detach()).shape
        return Pruned(torch.ones(grid, dtype=torch.bool, device=weight.device), made[-1])

    model = parametrize(model, where, mask)
    for schedule, masks in _masks(model).items():
        if schedule in made:
            prune(masks, schedule)
    return model


def shrink(
    model: nn.Module, *, price: float, pattern: str | int = "any", where: Where = is_a(nn.Linear)
) -> nn.Module:
    """A copy whose `project` makes weights smaller, and small ones zero: L1, by its proximal step.

    `price` is what a step with rate 1 takes off each |w|; with a `pattern`, off the norm of each "row",
    "column" or block (group L1). ValueError as for `apply`.

    >>> model = shrink(nn.Linear(100, 100), price=0.05)  # its weights are uniform from -0.1 to 0.1
    >>> project(model)
    >>> 0.4 < (model.weight == 0).float().mean() < 0.6
    tensor(True)
    """
    _refuse_price(price, pattern)
    _refuse(model, where, pattern)
    return parametrize(model, where, lambda weight: Shrink(price, pattern))


def gate(
    model: nn.Module,
    *,
    price: float,
    pattern: str | int = "any",
    start: float = 0.9,
    where: Where = is_a(nn.Linear),
    generator: torch.Generator | None = None,
) -> nn.Module:
    """A copy in which each weight, "row", "column" or block has a gate, learned from loss and `penalty`.

    `price` is that of a weight; `start`, the probability that a gate is open in the beginning (of a trained
    model, 0.9 makes each weight 0.67 times as large in eval mode). Gates are drawn at each use of a weight,
    for all tokens alike; with a `generator`, activation checkpointing would draw others. ValueError as for
    `apply`, and for a start of 0 or 1.

    >>> gated = gate(nn.Linear(10, 10), price=0.01, start=0.5)
    >>> round(penalty(gated).item(), 6)  # 50 of 100 weights are expected to stay
    0.5
    """
    if not (isinstance(start, int | float) and 0 < start < 1):
        raise ValueError(
            f"start={start!r}: a probability more than 0 and less than 1; 0.9 leaves most gates open"
        )
    _refuse_price(price, pattern)
    _refuse(model, where, pattern)

    def gated(weight: Tensor) -> Gate:
        r, c = unit_of(pattern, weight.shape)
        grid = weight.shape[0] // r, weight.shape[1] // c
        log_alpha = weight.new_full(grid, log(start / (1 - start)) + SHIFT)
        return Gate(log_alpha, r * c, price, pattern, generator)

    return parametrize(model, where, gated)


def _refuse_share(sparsity: float, pattern: str | int, scope: str, steps: int) -> None:
    """ValueError for an impossible share, or way to reach it."""
    share = isinstance(sparsity, int | float) and 0 <= sparsity < 1
    if not share or scope not in ("matrix", "global") or type(steps) is not int or steps < 0:
        raise ValueError(
            f"sparsity={sparsity!r}, scope={scope!r}, steps={steps!r}: a share from 0 to less than 1, "
            '"matrix" or "global", and a whole number of training steps, 0 for a mask at once'
        )
    if pattern == "2:4" and sparsity not in (0, 0.5):
        raise ValueError(f'sparsity={sparsity}: pattern="2:4" makes half of the weights zero; give 0.5')


def _refuse_price(price: float, pattern: str | int) -> None:
    """ValueError for an impossible price."""
    if not (isinstance(price, int | float) and 0 <= price < inf) or pattern == "2:4":
        raise ValueError(
            f"price={price!r}, pattern={pattern!r}: a price is finite and not negative, and it is on each "
            'weight, row, column or block; apply(pattern="2:4", sparsity=0.5) prunes two of four'
        )


def _refuse(model: nn.Module, where: Where, pattern: str | int, sparsity: float = 0.0) -> None:
    """ValueError for weights that cannot be made sparse so."""
    for module, name in pick(model, where).items():
        name = name or type(module).__name__
        if parametrizations(module).get("weight"):
            kind = type(parametrizations(module)["weight"][0]).__name__
            raise ValueError(
                f"{name}.weight has a {kind} already; make it sparse once, and before other formats"
            )
        if source(module) is not None:
            try:
                units = norms(module.weight.detach(), unit_of(pattern, module.weight.shape)).numel()
                if round(sparsity * units) == units:
                    raise ValueError(
                        f"sparsity={sparsity} of {units} units is all of them; take smaller units"
                    )
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None


def _parts(model: nn.Module, kind: type) -> dict[nn.Module, Tensor]:
    """The parametrizations of a type, each once, with the weight that it gets."""
    return {
        part: source(module)
        for module in model.modules()
        for part in parametrizations(module).get("weight", ())
        if isinstance(part, kind)
    }


def _masks(model: nn.Module) -> dict[Schedule, dict[Pruned, Tensor]]:
    """The masks of each schedule, with their weights; not those that stay."""
    found: dict[Schedule, dict[Pruned, Tensor]] = {}
    for mask, weight in _parts(model, Pruned).items():
        if mask.schedule is not None:
            found.setdefault(mask.schedule, {})[mask] = weight
    return found


def penalty(model: nn.Module) -> Tensor | float:
    """What joins the loss: the price of all weights that gates are expected to leave; 0 without gates.

    >>> penalty(apply(nn.Linear(3, 2), sparsity=0.5))
    0.0
    """
    return sum((part.penalty() for part in _parts(model, Gate)), 0.0)


@torch.no_grad()
def project(model: nn.Module, *, rate: float = 1.0) -> None:
    """After optimizer.step(): a step of each schedule; the proximal step of what `shrink` prepared, by
    rate * price, where rate may be the learning rate; and gates are kept where they can still move.

    >>> model = apply(nn.Linear(8, 8), sparsity=0.5, steps=2)
    >>> before = model.weight.count_nonzero()
    >>> project(model)
    >>> project(model)
    >>> before, model.weight.count_nonzero()
    (tensor(64), tensor(32))
    """
    if not (isinstance(rate, int | float) and 0 <= rate < inf):
        raise ValueError(f"rate={rate!r}: the learning rate, a finite number that is not negative")
    for schedule, masks in _masks(model).items():
        if schedule.advance():
            prune(masks, schedule)
    for part, weight in _parts(model, Shrink).items():
        weight.copy_(soft_threshold(weight, rate * part.price, unit_of(part.pattern, weight.shape)))
    for part in _parts(model, Gate):
        part.log_alpha.clamp_(-FURTHEST, FURTHEST)


def finalize(
    model: nn.Module,
    *,
    layout: str = "csr",
    block: int | None = None,
    keep: dict[str, int] | None = None,
    where: Where = is_sparse,
) -> nn.Module:
    """A copy in eval mode whose linears store only what is not zero. Equals the eval output.

    `layout`, as layouts.py says: "csr"; "bsr", in blocks of `block` (None: in which the weight was pruned);
    "bitmask"; "2:4". How much is stored follows from the values: to build a model for a file, give `keep`,
    the number of weights or blocks by the name of a layer, which `stored` counts; the largest are kept.
    ValueError for an unknown layout, one that the weights do not fit, layers that are no linears or have
    another format, or when nothing matches.

    >>> small = finalize(apply(nn.Linear(64, 64, bias=False), sparsity=0.9))
    >>> [t.numel() for t in small.state_dict().values()]  # values, starts of rows, columns
    [410, 65, 410]
    """
    keep = {} if keep is None else keep
    _refuse_storage(layout, block, keep)
    chosen = pick(model, where)
    refuse_other_layers(chosen)
    sizes = {}
    for module, name in chosen.items():
        if type(module).forward is not nn.Linear.forward:
            raise ValueError(f"{name} is of type {type(module).__name__}; only nn.Linear is stored sparse")
        sizes[name] = _block(module, name, block) if layout == "bsr" else 1
    if keep.keys() - sizes:
        raise ValueError(f"keep has {sorted(keep.keys() - sizes)}; the layers are {sorted(sizes)}")

    def encode(w: Tensor, name: str) -> Stored:
        size = norms(w, unit_of(sizes[name], w.shape))
        return LAYOUTS[layout](w, _kept(w, size, layout, keep.get(name)))

    return recode(model, where, encode, lambda linear, code: SparseLinear(code, linear.bias))


def _refuse_storage(layout: str, block: int | None, keep: dict[str, int]) -> None:
    """ValueError for an unknown layout, blocks where there are none, or numbers to keep that are none."""
    if layout not in list(LAYOUTS) or (block is not None and layout != "bsr"):
        blocks = '; only "bsr" has blocks'
        raise ValueError(f"layout={layout!r}, block={block!r}: give one of {list(LAYOUTS)}{blocks}")
    if not isinstance(keep, dict) or not all(type(count) is int for count in keep.values()):
        raise ValueError(f"keep={keep!r}: give whole numbers by the names of layers, as `stored` does")


def _kept(w: Tensor, size: Tensor, layout: str, count: int | None) -> Tensor:
    """The units to store: those that are not zero (None), or the `count` largest."""
    if count is None:
        return size > 0
    if not 0 <= count <= size.numel():
        raise ValueError(f"keep={count}: give a number from 0 to {size.numel()}, which this layer has")
    return two_of_four(w) if layout == "2:4" else keep_largest(size, size.numel() - count)


def _block(module: nn.Module, name: str, block: int | None) -> int:
    """The size of a layer's blocks: as given, or as it was pruned."""
    part = next(iter(parametrizations(module).get("weight", ())), None)
    known = part.schedule if isinstance(part, Pruned) else part
    size = getattr(known, "pattern", None) if block is None else block
    if type(size) is not int:
        raise ValueError(f"{name} was not pruned in blocks; say into which to cut it, as in block=32")
    return size


def stored(model: nn.Module) -> dict[str, int]:
    """How many weights, or blocks, each sparse layer stores: what `finalize(keep=...)` takes.

    >>> stored(finalize(apply(nn.Sequential(nn.Linear(8, 8)), sparsity=0.75)))
    {'0': 16}
    """
    return {name: m.code.units for name, m in model.named_modules() if isinstance(m, SparseLinear)}
