"""The code that edits and watches models: what is shared stays shared, and the original is never touched."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrize import register_parametrization, remove_parametrizations

from minieff.core import cost
from minieff.core.storage import halve
from minieff.core.surgery import Wrap, clone, is_a, named, parametrize, pick, recode, record, swap
from minieff.core.transformer import Block, FeedForward, Stack, Transformer


class Scale(nn.Module):
    """A parametrization: w * by."""

    def __init__(self, by: float = 0.5) -> None:
        super().__init__()
        self.by = by

    def forward(self, w: torch.Tensor) -> torch.Tensor:
        return w * self.by


class Noise(nn.Module):
    """A parametrization that draws from the random stream, in training."""

    def forward(self, w: torch.Tensor) -> torch.Tensor:
        return w + torch.randn_like(w) if self.training else w


class Tied(nn.Module):
    """Two linears and an embedding with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.table = nn.Linear(4, 4), nn.Linear(4, 4), nn.Embedding(4, 4)
        self.second.weight = self.table.weight = self.first.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(x)) + self.table(torch.arange(len(x)))


class Code(nn.Module):
    """A weight stored for inference, rounded to halves."""

    def __init__(self, weight: torch.Tensor, name: str = "") -> None:
        super().__init__()
        self.name = name
        self.register_buffer("doubled", (2 * weight).round())

    def decode(self) -> torch.Tensor:
        return self.doubled / 2


class Decoded(nn.Module):
    """A Linear that reads its weight from a code."""

    def __init__(self, linear: nn.Module, code: Code) -> None:
        super().__init__()
        self.code, self.bias = code, linear.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.code.decode(), self.bias)


class Leaves(nn.Module):
    """Keeps tensors of its last forward, with their graph, in every way a module can."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.register_buffer("seen", torch.zeros(1), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.linear(x)
        self.kept, self.seen, self.many, self.by_name = 1 * y, 1 * y, [1 * y, (1 * y,)], {"y": 1 * y}
        return y


def outer() -> nn.ModuleDict:
    """One linear with three places: twice in a list, once under another parent; and one that is alone."""
    shared = nn.Linear(4, 4)
    linears = nn.ModuleList([shared, shared, nn.Linear(4, 4)])
    return nn.ModuleDict({"list": linears, "deep": nn.Sequential(nn.Sequential(shared))})


def state(model: nn.Module) -> tuple:
    """Structure, weights, modes and identities, to compare before and after."""
    return (
        repr(model),
        {name: t.tolist() for name, t in model.state_dict().items()},
        [m.training for m in model.modules()],
        [id(m) for m in model.modules()],
        [(id(p), p.requires_grad) for p in model.parameters()],
    )


# --- asking


def test_named_takes_whole_parts_of_the_dotted_name():
    where = named("mix.q", "out")
    asked = ["mix.q", "layers.0.mix.q", "remix.q", "q", "mix.q.weight", "out", "a.out", "layout", ""]
    assert [name for name in asked if where(name, nn.Identity())] == [
        "mix.q",
        "layers.0.mix.q",
        "out",
        "a.out",
    ]


def test_is_a_takes_subclasses_and_several_types():
    where = is_a(nn.Linear, nn.Embedding)
    assert where("", nn.LazyLinear(2)) and where("", nn.Embedding(2, 2)) and not where("", nn.Identity())


def test_pick_asks_about_every_name_of_a_shared_module():
    model = outer()
    assert list(pick(model, named("deep.0.0"))) == [model["list"][0]]
    assert list(pick(model, is_a(nn.Linear)).values()) == ["list.0", "list.2"]


@pytest.mark.parametrize("verb", [
    lambda model, where: swap(model, where, nn.Identity),
    lambda model, where: parametrize(model, where, lambda w: Scale()),
    lambda model, where: recode(model, where, Code, Decoded),
    lambda model, where: record(model, where).__enter__(),
])  # fmt: skip
def test_a_where_that_matches_nothing_is_told_what_there_is(verb):
    with pytest.raises(ValueError, match="no module of ModuleDict, made of Linear, ModuleDict, Modul.*adopt"):
        verb(outer(), is_a(nn.Conv1d))


# --- swap


def test_a_shared_module_is_replaced_once_and_stays_shared():
    made = []
    new = swap(outer(), is_a(nn.Linear), lambda linear: made.append(linear) or Wrap(linear))
    assert len(made) == 2
    assert new["list"][0] is new["list"][1] is new["deep"][0][0]
    assert new["list"][2] is not new["list"][0]


def test_a_module_picked_by_one_of_its_names_is_replaced_under_all():
    new = swap(outer(), named("list.1"), Wrap)
    assert [type(m) for m in (*new["list"], new["deep"][0][0])] == [Wrap, Wrap, nn.Linear, Wrap]


def test_the_root_can_be_replaced():
    new = swap(nn.Linear(4, 2), is_a(nn.Linear), Wrap)
    assert type(new) is Wrap and new.inner.out_features == 2


def test_swap_leaves_the_original_alone(model, ids):
    model.blocks.layers[1].train()
    before, logits = state(model), model(ids)
    new = swap(model, is_a(FeedForward), lambda feed: feed.up)
    with torch.no_grad():
        for p in new.parameters():
            p.add_(1)
    new.train()
    assert state(model) == before
    assert torch.equal(model(ids), logits)


def test_make_is_given_the_copys_module():
    model, given = nn.Sequential(nn.Linear(2, 2)), []
    new = swap(model, is_a(nn.Linear), lambda linear: given.append(linear) or Wrap(linear))
    assert given == [new[0].inner] and given[0] is not model[0]


def test_children_are_replaced_before_their_parents():
    order = []
    nested = nn.Sequential(nn.Sequential(nn.Sequential()), nn.Sequential())
    new = swap(nested, is_a(nn.Sequential), lambda m: order.append(len(list(m.modules()))) or Wrap(m))
    assert order == [1, 3, 1, 7]  # a parent is given with its children already wrapped
    assert [type(m) for m in new.modules()].count(Wrap) == 4


@pytest.mark.parametrize("root_trains", [True, False])
def test_new_modules_take_the_mode_of_what_they_replace_and_no_other_changes(root_trains):
    model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2), nn.Dropout()))
    model.train(root_trains)
    model[1].train(not root_trains)
    model[1][1].train(root_trains)
    new = swap(model, is_a(nn.Linear), lambda linear: nn.Sequential(linear, nn.Dropout()))
    assert {new.training, new[0].training, new[0][1].training, new[1][1].training} == {root_trains}
    assert {m.training for m in (new[1], *new[1][0].modules())} == {not root_trains}


def test_a_part_kept_from_the_old_module_keeps_its_own_mode():
    model = nn.Sequential(nn.Sequential(nn.Linear(2, 2), nn.Dropout())).train()
    model[0][1].eval()
    new = swap(model, named("0"), Wrap)
    assert new[0].training and new[0].inner[0].training and not new[0].inner[1].training


def test_tied_weights_stay_tied_in_the_copy():
    new = swap(Tied(), named("second"), Wrap)
    assert new.first.weight is new.second.weight is new.table.weight


def test_tensors_that_a_forward_left_behind_do_not_break_surgery():
    model = nn.Sequential(Leaves())
    y = model(torch.randn(3, 4))
    new = swap(model, is_a(nn.Linear), Wrap)[0]
    for left in (new.kept, new.seen, new.many[0], new.many[1][0], new.by_name["y"]):
        assert torch.equal(left, y) and not left.requires_grad
    assert model[0].kept.grad_fn is not None


def test_a_copy_draws_from_the_callers_generator():
    """Copied generators would give two techniques the same coins, one after the other."""
    model, generator = nn.Sequential(nn.Linear(2, 2)), torch.Generator()
    model[0].generator = model.generator = generator
    new = clone(model)
    assert new.generator is new[0].generator is generator


def test_a_foreign_encoder_runs_with_wrapped_layers():
    theirs = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True), 2)
    wrapped = swap(theirs, is_a(nn.TransformerEncoderLayer), Wrap)
    x = torch.randn(2, 5, 8)
    assert torch.equal(wrapped(x), theirs(x))


# --- Wrap


class Picky(nn.Module):
    width = 4

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor, *args, **kwargs) -> tuple:
        return x, args, kwargs


def test_wrap_passes_on_what_it_does_not_know():
    x = torch.ones(1)
    assert Wrap(Picky())(x, 1, past=2) == (x, (1,), {"past": 2})


def test_wrap_answers_for_the_attributes_of_what_it_holds():
    wrapped = Wrap(Wrap(Picky()))
    assert wrapped.width == 4 and wrapped.linear is wrapped.inner.inner.linear
    assert not hasattr(wrapped, "height")
    with pytest.raises(AttributeError, match="'Picky' object has no attribute 'height'"):
        wrapped.height  # noqa: B018


def test_a_wrapped_module_can_be_copied():
    wrapped = Wrap(nn.Linear(2, 2))
    twin = copy.deepcopy(wrapped)
    assert twin.inner is not wrapped.inner and torch.equal(twin.weight, wrapped.weight)


def test_a_state_dict_goes_around_through_a_wrap():
    wrapped, other = Wrap(nn.Linear(2, 2)), Wrap(nn.Linear(2, 2))
    assert set(wrapped.state_dict()) == {"inner.weight", "inner.bias"}
    other.load_state_dict(wrapped.state_dict())
    assert torch.equal(other.inner.weight, wrapped.inner.weight)


# --- record


def test_a_block_that_runs_three_times_is_recorded_three_times_in_running_order(model, ids):
    model.blocks = Stack([model.blocks.layers[0]] * 3)
    with record(model, is_a(Block, Stack)) as calls:
        model(ids)
    assert [call.name for call in calls] == ["blocks.layers.0"] * 3 + ["blocks"]
    assert calls[1].inputs[0] is calls[0].output and calls[2].inputs[0] is calls[1].output
    assert calls[3].output is calls[2].output and calls[3].inputs[0] is calls[0].inputs[0]


def test_keyword_arguments_are_recorded_after_the_others():
    picky, x = Picky(), torch.ones(1)
    with record(picky, is_a(Picky)) as calls:
        output = picky(x, 1, past=2)
    assert calls == [("", (x, 1, 2), output)] and calls[0].output is output


def test_watching_changes_no_output_and_keeps_the_graph(model, ids):
    wanted = model(ids)
    with record(model, lambda name, module: True) as calls:
        found = model(ids)
    assert torch.equal(found, wanted)
    assert calls[-1].output is found and found.grad_fn is not None


def hooks(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) for m in model.modules())


def test_watching_ends_with_the_context(model, ids):
    with record(model, is_a(Block)) as calls:
        model(ids)
        assert hooks(model) == 3
    model(ids)
    assert len(calls) == 3 and hooks(model) == 0


def test_watching_ends_when_the_forward_raises(model):
    with pytest.raises(ValueError, match="vocabulary"), record(model, is_a(Block, nn.Dropout)):
        model(torch.full((1, 3), 50))
    assert hooks(model) == 0


def test_two_watchers_do_not_disturb_each_other(model, ids):
    with record(model, is_a(Block)) as outer_calls:
        with record(model, is_a(Block)) as inner_calls:
            model(ids)
        model(ids)
    assert (len(outer_calls), len(inner_calls)) == (6, 3)


# --- parametrize


def test_a_parametrized_weight_is_what_make_makes_of_it(model, ids):
    wanted = copy.deepcopy(model)
    with torch.no_grad():
        for m in wanted.modules():
            if isinstance(m, nn.Linear):
                m.weight.mul_(0.5)
    before = state(model)
    new = parametrize(model, is_a(nn.Linear), lambda w: Scale())
    assert torch.equal(new(ids), wanted(ids))
    assert state(model) == before


def test_users_of_one_weight_share_one_parametrization():
    made = []
    new = parametrize(Tied(), is_a(nn.Linear, nn.Embedding), lambda w: made.append(w) or Scale())
    lists = [m.parametrizations.weight for m in (new.first, new.second, new.table)]
    assert len(made) == 1 and made[0] is new.first.parametrizations.weight.original
    assert len({id(each[0]) for each in lists}) == len({id(each.original) for each in lists}) == 1
    assert len(list(new.parameters())) == 3  # one weight, two biases


class OtherName(nn.Module):
    """A weight shared with a Parameter that is called something else."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.table = self.first.weight


ALL_HALVED = [is_a(nn.Linear, nn.Embedding), lambda w: Scale()]
HALF_TIES = {
    "two of three": (Tied(), named("first", "second"), "second and table"),
    "one of three": (Tied(), named("second"), "second and first"),
    "parametrized before": (parametrize(Tied(), *ALL_HALVED), named("first", "second"), "second and table"),
    "under another name": (nn.ModuleList([OtherName()]), named("0.first"), "0.first and 0 share"),
}


@pytest.mark.parametrize("model, where, text", HALF_TIES.values(), ids=HALF_TIES)
def test_half_a_tie_is_refused_by_the_names_of_both(model, where, text):
    with pytest.raises(ValueError, match=text):
        parametrize(model, where, lambda w: Scale())
    with pytest.raises(ValueError, match=text):
        recode(model, where, Code, Decoded)


@pytest.mark.parametrize("weightless", [
    nn.ReLU(),
    nn.LayerNorm(4, elementwise_affine=False),
    Decoded(nn.Linear(4, 4), Code(torch.ones(4, 4))),
    nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)),
], ids=lambda m: type(m).__name__)  # fmt: skip
def test_a_module_without_a_weight_of_its_own_is_refused(weightless):
    model = nn.Sequential(nn.Linear(4, 4), weightless, nn.ReLU())

    def both(name: str, module: nn.Module) -> bool:
        return name in ("0", "1")

    with pytest.raises(ValueError, match=f"picked 1, a {type(weightless).__name__}"):
        parametrize(model, both, lambda w: Scale())
    with pytest.raises(ValueError, match=f"picked 1, a {type(weightless).__name__}"):
        recode(model, both, Code, Decoded)


def test_gradients_go_through_the_parametrization_to_the_original():
    model, x = nn.Sequential(nn.Linear(4, 4)), torch.randn(3, 4)
    (wanted,) = torch.autograd.grad(model(x).sum(), model[0].weight)
    new = parametrize(model, is_a(nn.Linear), lambda w: Scale(0.25))
    new(x).sum().backward()
    original = new[0].parametrizations.weight.original
    assert isinstance(original, nn.Parameter)
    torch.testing.assert_close(original.grad, wanted * 0.25)


def test_parametrizations_stack_in_the_order_given():
    model = nn.Sequential(nn.Linear(4, 4))
    once = parametrize(model, is_a(nn.Linear), lambda w: Scale(3.0))
    twice = parametrize(once, is_a(nn.Linear), lambda w: Noise())
    assert torch.equal(once[0].weight, model[0].weight * 3)
    assert torch.equal(twice.eval()[0].weight, once[0].weight)
    assert [type(m) for m in twice[0].parametrizations.weight] == [Scale, Noise]
    assert [type(m) for m in once[0].parametrizations.weight] == [Scale]


def test_stacked_parametrizations_of_a_tie_are_shared_too():
    new = parametrize(parametrize(Tied(), *ALL_HALVED), *ALL_HALVED)
    assert new.first.parametrizations.weight[1] is new.table.parametrizations.weight[1]
    assert torch.equal(new.table.weight, new.table.parametrizations.weight.original * 0.25)


def test_parametrizing_draws_nothing_from_the_random_stream():
    model, before = nn.Sequential(nn.Linear(4, 4)), torch.get_rng_state()
    new = parametrize(model, is_a(nn.Linear), lambda w: Noise())
    assert torch.equal(torch.get_rng_state(), before)
    new(torch.ones(1, 4))
    assert not torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("training", [True, False])
def test_a_parametrization_takes_the_mode_of_its_module(training):
    new = parametrize(nn.Sequential(nn.Linear(4, 4)).train(training), is_a(nn.Linear), lambda w: Noise())
    assert new[0].parametrizations.weight[0].training == training


def test_a_state_dict_of_a_parametrized_tie_loads_into_another():
    one, other = (parametrize(Tied(), *ALL_HALVED) for _ in range(2))
    other.load_state_dict(one.state_dict())
    x = torch.randn(3, 4)
    assert torch.equal(other(x), one(x))


def test_what_is_parametrized_in_a_copy_is_not_so_in_the_original():
    model = parametrize(nn.Sequential(nn.Linear(3, 2)), is_a(nn.Linear), lambda w: Scale())
    weight, bias = model[0].weight, model[0].bias.clone()
    twin = clone(model)
    register_parametrization(twin[0], "bias", Scale())
    assert torch.equal(model[0].bias, bias) and torch.equal(twin[0].bias, 0.5 * bias)
    remove_parametrizations(twin[0], "weight")
    assert torch.equal(twin[0].weight, weight) and torch.equal(model[0].weight, weight)


# --- recode


def test_recode_stores_each_weight_once_and_computes_with_the_code():
    encoded = []

    def encode(weight: torch.Tensor, name: str) -> Code:
        encoded.append(weight)
        return Code(weight, name)

    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    model[2].weight = model[0].weight
    before = state(model)
    new = recode(model, is_a(nn.Linear), encode, Decoded)
    assert len(encoded) == 2 and not any(weight.requires_grad for weight in encoded)
    assert new[0].code is new[2].code and new[1].code is not new[0].code
    assert new[0].code.name in ("0", "2") and new[1].code.name == "1"
    assert new[2].bias is not new[0].bias
    x = wanted = torch.randn(3, 4)
    for linear in model:
        wanted = F.linear(wanted, (2 * linear.weight).round() / 2, linear.bias)
    assert torch.equal(new(x), wanted)
    assert state(model) == before


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_a_shared_code_is_still_shared_in_another_type(dtype):
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    new = recode(model, is_a(nn.Linear), Code, Decoded).to(dtype)
    assert new[0].code is new[1].code and new[0].code.doubled.dtype == dtype
    assert new[0].code.doubled.data_ptr() == new[1].code.doubled.data_ptr()


def test_recode_returns_an_eval_model_and_encodes_weights_without_noise():
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout()).train()
    noisy = parametrize(model, is_a(nn.Linear), lambda w: Noise())
    new = recode(noisy, is_a(nn.Linear), Code, Decoded)
    assert torch.equal(new[0].code.doubled, (2 * model[0].weight).round())
    assert {m.training for m in new.modules()} == {False}
    assert {m.training for m in noisy.modules()} == {True}


def test_recode_takes_parametrizations_into_the_code():
    tied = Tied()
    new = recode(parametrize(tied, *ALL_HALVED), is_a(nn.Linear, nn.Embedding), Code, Wrapped)
    assert torch.equal(new.first.code.doubled, tied.first.weight.round())
    assert new.first.code is new.second.code is new.table.code
    assert not any("parametrizations" in name for name in new.state_dict())


class Wrapped(nn.Module):
    """Only holds a code."""

    def __init__(self, old: nn.Module, code: Code) -> None:
        super().__init__()
        self.code = code


def test_a_model_recoded_whole_runs(model: Transformer, ids):
    new = recode(model, is_a(nn.Linear), Code, Decoded)
    assert new(ids).isfinite().all() and not any(isinstance(m, nn.Linear) for m in new.modules())


# --- halve


def test_halve_stores_16_bits_and_computes_in_32(model: Transformer, ids):
    half = halve(model.eval())
    assert cost.stored_bytes(half) * 2 == cost.stored_bytes(model)
    assert {p.dtype for p in half.parameters()} == {torch.float16} and half.norm.weight.dtype == torch.float32
    rounded = clone(model)
    rounded.load_state_dict({name: t.half().float() for name, t in model.state_dict().items()})
    assert torch.equal(half(ids), rounded(ids)) and not any(m.training for m in half.modules())
    half(ids).sum().backward()
    assert all(p.grad is not None for p in half.parameters())


def test_halve_keeps_ties_and_refuses_what_fp16_cannot_hold():
    tied = nn.ModuleList([nn.Linear(3, 3), nn.Linear(3, 3)])
    tied[1].weight = tied[0].weight
    half = halve(tied)
    assert half[0].parametrizations.weight.original is half[1].parametrizations.weight.original
    for value in (1e5, float("nan"), float("inf")):
        nn.init.constant_(tied[0].bias, value)
        with pytest.raises(ValueError, match="bias holds .* fp16"):
            halve(tied)


def test_a_wrapper_is_copied_with_what_it_wraps_also_around_a_parametrization():
    """Parametrized modules bring a __deepcopy__ of their own, which must not answer for the wrapper."""
    scaled = parametrize(nn.Sequential(nn.Linear(3, 3)), is_a(nn.Linear), lambda weight: Scale())
    wrapped = swap(scaled, is_a(nn.Linear), Wrap)
    assert isinstance(clone(wrapped)[0], Wrap) and isinstance(clone(wrapped)[0].inner, nn.Linear)


@pytest.mark.parametrize("training", [True, False])
def test_a_part_that_is_added_to_a_kept_module_takes_its_mode(training):
    def with_a_part(linear: nn.Module) -> nn.Module:
        linear.part = nn.Sequential(nn.Dropout())
        return linear

    swapped = swap(nn.Sequential(nn.Linear(2, 2)).train(training), is_a(nn.Linear), with_a_part)
    assert {module.training for module in swapped.modules()} == {training}
