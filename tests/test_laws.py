"""The laws that every technique obeys, alone and in every ordered pair. A technique is a line in SUBJECTS."""

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import product
from types import ModuleType

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from minieff import (
    adaptive_span,
    architecture_search,
    compose,
    dynamic_conv,
    entmax,
    fast_decoding,
    feedback,
    headdrop,
    layerdrop,
    product_quant,
    scalar_quant,
    sparse_attention,
    sparse_weights,
    weight_sharing,
)
from minieff.core import cost
from minieff.core.adopt import adopt
from minieff.core.attention import Mask, causal, everything, itself
from minieff.core.checkpoint import pack, unpack
from minieff.core.data import loss
from minieff.core.past import Past
from minieff.core.surgery import clone, is_a, named, record
from minieff.core.transformer import Transformer
from minieff.sparse_attention import fixed, head, local


@dataclass(frozen=True)
class Subject:
    """A technique and the knobs under which each law is asked."""

    technique: ModuleType
    rest: dict | None  # apply: changes nothing; None for an architecture, which has anchors instead
    busy: dict  # apply: at work
    final: dict = field(default_factory=dict)  # finalize: keeps the function
    cheaper: dict = field(default_factory=dict)  # finalize: lowers the cost, may change the function
    cost: str | None = "parameters"  # a function in minieff.core.cost; None for what saves nothing by itself
    foreign: dict | None = None  # apply on nn.TransformerEncoder, None where that cannot be asked like this
    adopted: bool = False  # whether it reaches nn.TransformerEncoder by `adopt` only
    explicit: bool = False  # whether it computes attention by the explicit path, equal up to 1e-5
    tolerance: float = 1e-4  # of finalize: 1e-3 where what is left is stored in fp16
    inference: bool = False  # whether it is at work in eval mode alone
    lossy: bool = False  # whether apply changes what the model computes in eval mode
    runs: tuple[type, ...] = ()  # on nn.TransformerEncoder, where apply adds no type of its own

    def __repr__(self) -> str:
        return self.technique.__name__.removeprefix("minieff.")


def technique(name: str, stage: str, apply: Callable[..., nn.Module]) -> ModuleType:
    """A function that changes a model, as a module with the verbs that the laws call."""
    module = ModuleType(name)
    module.STAGE, module.apply = stage, apply
    return module


def other_linear(linear: nn.Module) -> nn.Module:
    return nn.Linear(32, 64)


UNIVERSAL = technique("universal", "stack", weight_sharing.universal)
GROUP = technique("group", "mixer", fast_decoding.group)
EXITS = technique("exits", "stack", fast_decoding.exits)
LAYERS = {"where": is_a(nn.TransformerEncoderLayer)}
FEED = {"where": named("linear1", "linear2")}

SUBJECTS = [
    Subject(layerdrop, {"p": 0.0}, {"p": 0.5}, cheaper={"keep": [0, 2]}, foreign={"p": 0.5, **LAYERS}),
    Subject(headdrop, {"p": 0.0}, {"p": 0.5}, cost=None, foreign={"p": 0.5}, adopted=True, explicit=True),
    Subject(
        entmax,
        {"alpha": 1.0},
        {"alpha": "learned"},
        cost=None,
        foreign={"alpha": 1.0},
        adopted=True,
        explicit=True,
    ),
    Subject(
        adaptive_span,
        {"max_span": 24, "start": 1.0},
        {"max_span": 24, "ramp": 4, "price": 1e-3, "start": 0.1},
        cost="macs",
        foreign={"max_span": 8, "start": 1.0},
        adopted=True,
        explicit=True,
    ),
    Subject(
        sparse_attention,
        {"mask": everything},
        {"mask": head(0) & local(4) | ~head(0) & fixed(8, 1)},
        final={"context": 24},
        cost="macs",
        foreign=None,  # a mask replaces no module: test_sparse_attention.py
    ),
    Subject(
        scalar_quant,
        {"p": 0.0},
        {"bits": 4, "p": 0.5, "activations": "none"},  # rounded ones: test_scalar_quant.py
        cost="stored_bytes",
        foreign=FEED,
        tolerance=1e-3,
        lossy=True,
    ),
    Subject(
        product_quant,
        {"p": 0.0},
        {"p": 0.5},
        final={"block": 32},  # 128 blocks at most: the 256 codewords lose none of them
        cheaper={"block": 4, "codewords": 16},
        cost="stored_bytes",
        foreign=FEED,
    ),
    Subject(
        sparse_weights,
        {"sparsity": 0.0},
        {"sparsity": 0.9},
        cost="stored_bytes",
        foreign={"sparsity": 0.9, **FEED},
        lossy=True,
    ),
    Subject(
        weight_sharing,
        {"every": 1},
        {"every": 2},
        foreign={"every": 2, **LAYERS},
        lossy=True,
        runs=(nn.TransformerEncoderLayer,),
    ),
    Subject(UNIVERSAL, None, {"steps": 3}, foreign={"steps": 3, **LAYERS}, lossy=True),
    Subject(
        dynamic_conv,
        None,
        {"width": 4},
        cost="macs",
        foreign={"width": 3, "ahead": 1},
        adopted=True,
        lossy=True,
    ),
    Subject(
        architecture_search,
        {"choices": [architecture_search.original]},
        {"choices": [architecture_search.narrow(32), architecture_search.original, architecture_search.zero]},
        cheaper={"choice": [0, 0, 0]},
        foreign={"choices": [other_linear, architecture_search.original], "where": named("linear1")},
    ),
    Subject(feedback, None, {}, tolerance=3e-3),  # fp16 leftovers of others, read again at every token
    Subject(GROUP, {"heads": 4}, {"heads": 2}),  # on nn.TransformerEncoder: test_speculate.py
    Subject(EXITS, {"threshold": 2.0}, {"threshold": 0.08}, cost=None, inference=True),
]

# What is held once, and by whom: each of these pairs is refused.
HELD = {
    "normalize": [entmax],
    "reweight": [headdrop, adaptive_span],
    "kernel": [adaptive_span, sparse_attention],
    "softmax, before which alone keys can be left out": [adaptive_span, entmax],
    "a stored format": [scalar_quant, product_quant, sparse_weights],
    "the runner of a stack": [feedback, EXITS],
    "the weights of its layers": [weight_sharing, UNIVERSAL],
    "the choices of a place": [architecture_search],
}
ONCE = {frozenset(pair) for holders in HELD.values() for pair in product(holders, holders)}
# a convolution takes the place of attention and of its seams, so these have nothing to hold
ONCE |= {
    frozenset({dynamic_conv, other})
    for other in (dynamic_conv, headdrop, entmax, adaptive_span, sparse_attention, feedback)
}
# what replaces weights would drop what another technique made of them: refused in this order only
AFTER = [
    *product(HELD["a stored format"], [dynamic_conv, GROUP, architecture_search]),
    (dynamic_conv, GROUP),
    (feedback, GROUP),
]
AFTER += [(feedback, UNIVERSAL)]  # a memory of three layers finds one, in the first pass

each = pytest.mark.parametrize("subject", SUBJECTS, ids=repr)


def held_once(pair: tuple[Subject, Subject]) -> bool:
    techniques = tuple(subject.technique for subject in pair)
    return frozenset(techniques) in ONCE or techniques in AFTER


PAIRS = [pair for pair in product(SUBJECTS, SUBJECTS) if not held_once(pair)]
each_pair = pytest.mark.parametrize("pair", PAIRS, ids=repr)
# of layers that share their weights, any number has as many parameters
ONE_BLOCK = [layerdrop, weight_sharing, UNIVERSAL, architecture_search, feedback]


def rests_on_top(first: Subject, second: Subject) -> bool:
    """scalar_quant rests in training alone, and grouped heads are fewer than `rest` asks for."""
    twice = first.technique is second.technique is GROUP
    return second.rest is not None and second.technique is not scalar_quant and not twice


def saves_on_top(first: Subject, second: Subject) -> bool:
    shared = {first.technique, second.technique} & {weight_sharing, UNIVERSAL}
    if shared and first.technique in ONE_BLOCK and second.technique in ONE_BLOCK:
        return False
    return second.cost is not None and first is not second


def apply(model: nn.Module, *subjects: Subject) -> nn.Module:
    for subject in subjects:
        model = subject.technique.apply(model, **subject.busy)
    return decided(model)


def decided(model: nn.Module) -> nn.Module:
    """The same, where a search has found that the second choice is the best."""
    for place in architecture_search.places(model):
        place.alpha.data[1] = 1.0
    return model


def finalize(model: nn.Module, *subjects: Subject) -> nn.Module:
    return compose.finalize(model, [(subject.technique, subject.final) for subject in subjects])


def snapshot(model: nn.Module) -> tuple[dict[str, Tensor], str, list[bool]]:
    """Weights, structure and modes."""
    weights = {name: t.clone() for name, t in model.state_dict().items()}
    return weights, str(model), [m.training for m in model.modules()]


def assert_untouched(model: nn.Module, before: tuple) -> None:
    weights, structure, modes = snapshot(model)
    assert structure == before[1] and modes == before[2]
    assert weights.keys() == before[0].keys()
    assert all(torch.equal(weights[name], before[0][name]) for name in weights)


@dataclass(frozen=True)
class Made:
    """What techniques make of a model, in eval mode."""

    subjects: tuple[Subject, ...]
    applied: nn.Module
    final: nn.Module


def make(model: nn.Module, *subjects: Subject) -> Made:
    applied = apply(model, *subjects).eval()
    before = snapshot(applied)
    final = finalize(applied, *subjects)
    assert_untouched(applied, before)
    return Made(subjects, applied, final)


@torch.no_grad()
def check_finalize(made: Made, ids: Tensor) -> None:
    assert not any(m.training for m in made.final.modules())
    tolerance = max(subject.tolerance for subject in made.subjects)
    wanted = made.applied(ids)
    torch.testing.assert_close(made.final(ids), wanted, atol=tolerance * wanted.abs().max().item(), rtol=0)


@torch.no_grad()
def check_decodes(made: Made, ids: Tensor) -> None:
    for stage in (made.applied, made.final):
        past = Past()
        chunks = [stage(chunk, past=past) for chunk in ids.split([5, 1, 7, 3], dim=1)]
        torch.testing.assert_close(torch.cat(chunks, 1), stage(ids), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def check_padding(made: Made, ids: Tensor) -> None:
    """Tokens hidden by the mask change no other output."""
    real = torch.ones_like(ids, dtype=torch.bool)
    real[0, 4:7] = real[1, 0:2] = False
    mask = causal & (Mask(lambda b, h, q, k: real[b, k], "real") | itself)
    other = torch.where(real, ids, (ids + 1) % 50)
    assert not torch.equal(other, ids)
    for stage in (made.applied, made.final):
        torch.testing.assert_close(stage(ids, mask)[real], stage(other, mask)[real])


@torch.no_grad()
def check_round_trip(made: Made, ids: Tensor) -> None:
    blank = make(Transformer(made.applied.config), *made.subjects)
    for built, source in ((blank.applied, made.applied), (blank.final, made.final)):
        assert not torch.equal(built(ids), source(ids))
        unpack(built, load(save({name: t.contiguous() for name, t in pack(source).items()})))
        assert torch.equal(built(ids), source(ids))


def check_trains(made: Made, ids: Tensor) -> None:
    """Over enough draws every parameter gets a gradient, and all are finite."""
    applied = made.applied.train()
    for _ in range(60):
        loss(applied(ids), ids.roll(-1, 1)).backward()
        missing = [n for n, p in applied.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
        # attention does not change when all keys move by one vector: the key bias has no gradient
        missing = [name for name in missing if not name.endswith("k.bias")]
        if not missing:
            break
    assert missing == []
    assert all(p.grad is None or p.grad.isfinite().all() for p in applied.parameters())


CHECKS = [check_finalize, check_decodes, check_padding, check_round_trip, check_trains]


@each
@pytest.mark.parametrize("check", CHECKS)
def test_alone(check, subject, model, ids):
    check(make(model, subject), ids)


@each_pair
def test_in_pairs(pair, model, ids, unchecked):
    before = snapshot(model)
    made = make(model, *pair)
    for check in CHECKS:
        check(made, ids)
    assert_untouched(model, before)


@pytest.mark.parametrize("pair", [pair for pair in PAIRS if rests_on_top(*pair)], ids=repr)
def test_neutral_on_top(pair, model, ids, unchecked):
    """A knob at rest changes nothing in a model that another technique has changed."""
    busy = apply(model, pair[0]).eval()
    rested = pair[1].technique.apply(busy, **pair[1].rest).eval()
    tolerance = 1e-5 if pair[1].explicit else 0.0
    torch.testing.assert_close(rested(ids), busy(ids), atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("pair", [pair for pair in PAIRS if saves_on_top(*pair)], ids=repr)
def test_the_named_cost_falls_on_top(pair, model, unchecked):
    """A technique lowers its cost in a model that another one has changed."""
    (first, knobs), (second, more) = ((s.technique, s.final | s.cheaper) for s in pair)
    busy = apply(model, pair[0])
    measure = getattr(cost, pair[1].cost)
    both = compose.finalize(apply(busy, pair[1]), [(first, knobs), (second, more)])
    assert measure(both) < measure(compose.finalize(busy, [(first, knobs)]))


@each
@pytest.mark.parametrize("training", [True, False])
def test_pure(subject, model, ids, training):
    model.train(training)
    before = snapshot(model)
    applied = apply(model, subject)
    assert [applied.training, applied.blocks.training] == [training, training]
    applied.train()(ids).sum().backward()
    torch.optim.SGD(applied.parameters(), lr=0.1).step()
    assert_untouched(model, before)
    before = snapshot(applied)
    finalize(applied, subject)
    assert_untouched(applied, before)


@pytest.mark.parametrize("subject", [s for s in SUBJECTS if s.rest is not None], ids=repr)
def test_neutral(subject, model, ids):
    """A knob at rest equals the model without the technique, in the mode in which it would be at work."""
    rested = subject.technique.apply(model.train(not subject.inference), **subject.rest)
    tolerance = 1e-5 if subject.explicit else 0.0
    torch.testing.assert_close(rested(ids), model(ids), atol=tolerance, rtol=tolerance)


@each
def test_at_work(subject, model, ids):
    """The busy knobs do change something, or the other laws would be about nothing."""
    busy = apply(model.train(not subject.inference), subject)
    assert any(not torch.equal(busy(ids), model(ids)) for _ in range(20))


@each
def test_the_named_cost_falls(subject, model):
    knobs = subject.final | subject.cheaper
    final = compose.finalize(apply(model, subject), [(subject.technique, knobs)])
    if subject.cost is None:
        for measure in (cost.parameters, cost.stored_bytes, cost.macs):
            assert measure(final) >= measure(model)  # it may add a parameter per head
    else:
        measure = getattr(cost, subject.cost)
        assert measure(final) < measure(model)


@pytest.mark.parametrize("pair", [pair for pair in product(SUBJECTS, SUBJECTS) if held_once(pair)], ids=repr)
def test_what_is_held_once_is_refused_twice(pair, model, ids):
    reason = "already|taken|matched no module|only before softmax|has no attention|states for"
    with pytest.raises(ValueError, match=reason):
        finalize(apply(model, *pair), *pair)(ids)


@pytest.mark.parametrize("subject", [s for s in SUBJECTS if s.foreign is not None], ids=repr)
@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("grad", [True, False])
def test_foreign(subject, norm_first, grad):
    """On nn.TransformerEncoder with padding, in eval mode: every replaced module runs, with and without the
    path that is fused there."""
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, norm_first=norm_first, dropout=0.0)
    theirs = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False).eval()
    x, hidden = torch.randn(2, 7, 32), torch.arange(7) >= torch.tensor([[7], [4]])
    start = adopt(theirs) if subject.adopted else theirs
    applied = decided(subject.technique.apply(start, **subject.foreign))
    never_called = {nn.ModuleDict, sparse_weights.Schedule}  # they hold parts or state
    new = {type(m) for m in applied.modules()} - {type(m) for m in start.modules()} - never_called
    new = new or set(subject.runs)
    # in train mode there is no fused path, and what is lossy rounds all weights there, too
    wanted = (clone(applied).train() if subject.lossy else theirs)(x, src_key_padding_mask=hidden)
    with torch.set_grad_enabled(grad), record(applied, is_a(*new)) as calls:
        ours = applied(x, src_key_padding_mask=hidden)
    assert {call.name for call in calls} == {n for n, m in applied.named_modules() if type(m) in new}
    torch.testing.assert_close(ours[~hidden], wanted[~hidden], atol=1e-5, rtol=1e-5)


def test_compose_orders_by_stage_and_refuses_unknown_knobs(model):
    techniques = compose.parse([{"name": "layerdrop", "p": 0.5}])
    assert techniques == [(layerdrop, {"p": 0.5})]
    applied = compose.apply(model, techniques, torch.Generator())
    assert sum(isinstance(m, layerdrop.Skip) for m in applied.modules()) == 3
    assert compose.penalty(applied, techniques) == 0
    for wrong in ({"name": "layerdrop", "q": 0.5}, {"name": "layerdorp"}, {"p": 0.5}, {"name": "surgery"}):
        with pytest.raises(ValueError, match="q|layerdorp|technique"):
            compose.parse([wrong])
