"""Search over operations, and the teacher's probes. General laws are in test_laws.py."""

import jaxtyping
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from minieff import architecture_search, scalar_quant
from minieff.architecture_search import (
    KnowledgeLoss,
    Mixed,
    Probes,
    Unchanged,
    Zero,
    decisions,
    gumbel_softmax,
    narrow,
    original,
    skip,
    zero,
)
from minieff.core import cost
from minieff.core.attention import Attention, itself
from minieff.core.checkpoint import generators, pack, unpack
from minieff.core.past import Past
from minieff.core.surgery import is_a, named, record
from minieff.core.transformer import Block, Config, FeedForward, Residual, Transformer

CHOICES = [original, narrow(16), zero]
COSTS = [cost.parameters, cost.macs]


def decide(model, choices):
    """Alphas that prefer these."""
    for place, i in zip(architecture_search.places(model), choices, strict=True):
        with torch.no_grad():
            place.alpha.copy_(F.one_hot(torch.tensor(i), len(place.alpha)))
    return model


@pytest.mark.parametrize("temperature", [0.1, 1.0, 5.0])
def test_draws_and_gradients_are_those_of_torch(temperature):
    alpha = torch.tensor([0.0, 1.0, -0.5], requires_grad=True)
    values = torch.tensor([1.0, 2.0, 7.0])
    for seed in range(20):
        torch.manual_seed(seed)
        theirs = F.gumbel_softmax(alpha, temperature, hard=True)
        (wanted,) = torch.autograd.grad(theirs @ values, alpha)
        torch.manual_seed(seed)
        ours = gumbel_softmax(alpha, temperature)
        (gradient,) = torch.autograd.grad(ours @ values, alpha)
        assert torch.equal(ours, theirs) and torch.equal(gradient, wanted)


def test_draws_are_one_hot_and_as_likely_as_softmax_says():
    alpha, generator = torch.tensor([0.0, 1.0, -0.5]), torch.Generator().manual_seed(0)
    for temperature in (0.1, 5.0):
        draws = torch.stack([gumbel_softmax(alpha, temperature, generator) for _ in range(3000)])
        torch.testing.assert_close(draws.sort(-1).values, torch.tensor([0.0, 0.0, 1.0]).expand(3000, 3))
        p = alpha.softmax(0)
        assert ((draws.mean(0) - p).abs() < 4 * (p * (1 - p) / 3000).sqrt()).all()


def test_in_training_all_operations_are_computed_and_at_inference_one(model, ids):
    searched = decide(architecture_search.apply(model, choices=CHOICES), [2, 1, 0])
    ops = {name for name, _ in searched.named_modules() if name.split(".")[-2:-1] == ["ops"]}
    for training, wanted in ((True, 9), (False, 3)):
        with record(searched.train(training), lambda name, module: name in ops) as calls:
            searched(ids)
        assert len(calls) == wanted
    assert {call.name.split("layers.")[1] for call in calls} == {
        "0.feed.inner.ops.2",
        "1.feed.inner.ops.1",
        "2.feed.inner.ops.0",
    }


def test_the_found_network_is_bit_equal_smaller_and_can_be_rebuilt(model, ids):
    searched = decide(architecture_search.apply(model, choices=CHOICES), [2, 1, 0]).eval()
    found = architecture_search.finalize(searched)
    assert torch.equal(found(ids), searched(ids)) and not list(architecture_search.places(found))
    assert cost.macs(found) < cost.macs(model) and cost.parameters(found) < cost.parameters(model)
    other = architecture_search.apply(model, choices=CHOICES)  # would choose otherwise
    again = architecture_search.finalize(other, choice=decisions(searched))
    assert torch.equal(unpack(again, pack(found))(ids), found(ids))
    certain = searched.train()
    for place in architecture_search.places(certain):
        place.alpha = nn.Parameter(place.alpha * 1e4)
    torch.testing.assert_close(certain(ids), found(ids))  # what training draws when it is sure


def test_costs_add_up_to_those_of_the_found_network(model):
    searched = architecture_search.apply(model, choices=CHOICES, price=1.0, costs=COSTS)
    places = architecture_search.places(searched)
    cheapest = architecture_search.finalize(searched, choice=[2, 2, 2])
    for choice in ([0, 1, 2], [1, 1, 0]):
        found = architecture_search.finalize(searched, choice=choice)
        for row, measure in enumerate(COSTS):
            added = sum(place.costs[row][i] for place, i in zip(places, choice, strict=True))
            assert measure(found) == pytest.approx(measure(cheapest) + added)
    for place in places:
        sizes, macs = place.costs
        assert sizes == [32 * 128 * 2 + 128 + 32, 32 * 16 * 2 + 16 + 32, 0]
        assert macs == pytest.approx([32 * 128 * 2, 32 * 16 * 2, 0])


def test_the_penalty_grows_towards_dearer_operations(model):
    searched = architecture_search.apply(model, choices=CHOICES, price=4.0, costs=COSTS)
    values = []
    for dear in ([0, 0, 0], [0, 1, 0], [1, 1, 1], [1, 2, 1], [2, 2, 2]):
        for place, i in zip(architecture_search.places(searched), dear, strict=True):
            place.alpha = nn.Parameter(30.0 * F.one_hot(torch.tensor(i), 3))
        values.append(architecture_search.penalty(searched).item())
    assert values == sorted(values, reverse=True) and len(set(values)) == 5
    assert values[0] == pytest.approx(4.0) and values[-1] == pytest.approx(0.0, abs=1e-5)
    architecture_search.penalty(searched).backward()
    assert all(place.alpha.grad.isfinite().all() for place in architecture_search.places(searched))
    assert architecture_search.penalty(model) == 0


@pytest.mark.parametrize("price, wanted", [(0.0, 0), (50.0, 1)])
def test_a_search_keeps_what_is_worth_its_price(price, wanted):
    inner = nn.Sequential(nn.Linear(4, 4))
    knobs = {"where": is_a(nn.Linear), "price": price, "costs": [cost.parameters]}
    searched = architecture_search.apply(inner, choices=[original, zero], decay=0.98, **knobs).train()
    optimizer = torch.optim.Adam(searched.parameters(), lr=0.05)
    x = torch.randn(64, 4)
    for _ in range(100):
        (F.mse_loss(searched(x), 2 * x) + architecture_search.penalty(searched)).backward()
        optimizer.step()
        optimizer.zero_grad()
        architecture_search.project(searched)
    assert decisions(searched) == [wanted]
    assert cost.parameters(architecture_search.finalize(searched)) == (20, 0)[wanted]


def test_the_temperature_falls_to_a_floor_and_is_resumed(model):
    searched = architecture_search.apply(model, choices=CHOICES, temperature=2.0, decay=0.5)
    for wanted in (1.0, 0.5, 0.25, 0.125, 0.0625, 0.05, 0.05):
        architecture_search.project(searched)
        assert {place.temperature for place in architecture_search.places(searched)} == {wanted}
    again = architecture_search.apply(model, choices=CHOICES, temperature=2.0, decay=0.5)
    assert unpack(again, pack(searched)).blocks.layers[0].feed.inner.temperature == 0.05


def test_one_alpha_may_serve_all_places_and_draws_have_their_stream(model, ids):
    searched = architecture_search.apply(model, choices=CHOICES, shared=True, generator=torch.Generator())
    assert len({place.alpha for place in architecture_search.places(searched)}) == 1
    assert len(generators(searched)) == 1
    outputs = []
    for _ in range(2):
        searched.blocks.layers[0].feed.inner.generator.manual_seed(3)
        outputs.append(searched.train()(ids))
    assert torch.equal(*outputs)
    assert "choice=0, probabilities=[0.333, 0.333, 0.333]" in str(searched)


def test_attention_and_layers_have_choices_too(model, ids):
    """In two goes; what is left of the layers decodes."""
    searched = architecture_search.apply(model, choices=[original, zero], where=is_a(Attention))
    searched = architecture_search.apply(searched, choices=[original, narrow(8)], price=1.0, costs=COSTS)
    assert len(decisions(searched)) == 6
    found = architecture_search.finalize(searched, choice=[0, 1, 1, 0, 0, 1])
    past = Past()
    chunks = torch.cat([found(chunk, past=past) for chunk in ids.split(5, 1)], 1)
    torch.testing.assert_close(chunks, found(ids), atol=1e-4, rtol=1e-4)
    assert len(past.slots) == 2 and type(found.blocks.layers[1].mix.inner) is Zero
    depth = architecture_search.apply(model, choices=[original, skip], where=is_a(Block))
    shallow = architecture_search.finalize(depth, choice=[0, 1, 1])
    assert type(shallow.blocks.layers[2]) is Unchanged and shallow(ids).shape == (2, 16, 50)


def test_a_shared_module_is_one_place(model, ids):
    for block in model.blocks.layers:
        block.feed = model.blocks.layers[0].feed
    searched = architecture_search.apply(model, choices=CHOICES, price=1.0, costs=[cost.macs])
    (place,) = architecture_search.places(searched)
    assert place.costs[0][0] == pytest.approx(3 * 32 * 128 * 2)  # it runs three times
    assert torch.equal(searched.eval()(ids), model.eval()(ids))


def test_a_narrow_feed_forward_has_the_first_hidden_units():
    feed, x = FeedForward(8, 32), torch.randn(2, 3, 8)
    assert torch.equal(narrow(32)(feed)(x), feed(x))
    hidden = F.gelu(feed.up(x), approximate="tanh")[..., :4]
    torch.testing.assert_close(narrow(4)(feed)(x), hidden @ feed.down.weight[:, :4].T + feed.down.bias)
    assert narrow(4)(feed.double()).up.weight.dtype == torch.float64


def searched(**knobs):
    return lambda model: architecture_search.apply(model, **({"choices": CHOICES} | knobs))


def found(choice):
    return lambda model: architecture_search.finalize(searched()(model), choice=choice)


def probed(hidden, targets):
    return lambda model: Probes(layers=2, dim=8, classes=5).loss(hidden, targets)


def unequal_costs(model):
    knobs = {"choices": [original, zero], "price": 1.0}
    model = architecture_search.apply(model, where=is_a(Attention), costs=[cost.macs], **knobs)
    return architecture_search.penalty(architecture_search.apply(model, costs=COSTS, **knobs))


ENCODER = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2)
PAIR, TARGETS = [torch.randn(4, 8)] * 2, torch.tensor([1, 4, 0, -100])
BAD = {
    "no choices": (searched(choices=[]), "at least one function"),
    "a function": (searched(choices=zero), "choices=<function zero.*at least one"),
    "names": (searched(choices=["zero"]), r"choices=\['zero'\]"),
    "a module": (searched(choices=[nn.ReLU()]), r"choices=\[ReLU\(\)\].*function from a module"),
    "nothing made": (searched(choices=[original, lambda module: None]), "NoneType.*makes an nn.Module"),
    "no width": (searched(choices=[original, narrow]), "function.*makes an nn.Module"),
    "temperature": (searched(temperature=0.0), "at least 0.05"),
    "nan": (searched(temperature=float("nan")), "at least 0.05"),
    "temperature text": (searched(temperature="1"), "temperature='1'"),
    "decay": (searched(decay=1.1), "decay above 0"),
    "decay none": (searched(decay=None), "decay=None"),
    "price": (searched(price=-1.0), "price of at least 0"),
    "price text": (searched(price="4"), "price='4'"),
    "no costs": (searched(price=1.0), "of what"),
    "a cost": (searched(price=1.0, costs=cost.macs), r"costs=<function macs.*\[cost.parameters, cost.macs\]"),
    "names of costs": (searched(price=1.0, costs=["macs"]), r"costs=\['macs'\]"),
    "costs none": (searched(price=1.0, costs=[lambda model: None]), "None.*return a number"),
    "costs nan": (searched(price=1.0, costs=[lambda model: float("nan")]), "nan.*return a number"),
    "unequal costs": (unequal_costs, "different numbers of costs"),
    "overlap": (searched(where=is_a(Residual, FeedForward)), "something inside"),
    "nowhere": (searched(where=is_a(nn.Conv1d)), "matched no module"),
    "a type as where": (searched(where=FeedForward), "where=<class"),
    "a name as where": (searched(where="feed"), "where='feed'"),
    "an encoder": (lambda m: searched()(ENCODER), "where=.*core.adopt"),
    "torch attention": (
        lambda m: searched(choices=[original, zero], where=is_a(nn.MultiheadAttention))(ENCODER),
        "layers.0.self_attn returns a tuple; core.adopt",
    ),
    "too wide": (searched(choices=[narrow(129)]), "128 hidden units"),
    "width float": (lambda m: searched(choices=[narrow(2.5)])(m), r"narrow\(2.5\)"),
    "no feed-forward": (searched(choices=[narrow(4)], where=is_a(Attention)), "no linears"),
    "few numbers": (found([0, 0]), "a number from 0 for each place"),
    "no such number": (found([0, 0, 3]), "a number from 0 for each place"),
    "negative": (found([0, 0, -1]), "a number from 0 for each place"),
    "one number": (found(1), "choice=1: give"),
    "numbers as text": (found(["0"] * 3), r"choice=\['0'"),
    "cold": (lambda m: gumbel_softmax(torch.zeros(3), 0.0), "temperature=0.0"),
    "few layers": (probed(PAIR[:1], TARGETS), "outputs of 1 layers for 2 probes"),
    "narrow layers": (probed([x[:, :6] for x in PAIR], TARGETS), r"\[6, 6\], not \[8, 8\]"),
    "tuples": (probed([(x, None) for x in PAIR], TARGETS), "'tuple'"),
    "few targets": (probed(PAIR, TARGETS[:2]), r"\(2,\).*\(4,\)"),
    "targets float": (probed(PAIR, TARGETS.float()), "float32.*integers"),
    "no such class": (probed(PAIR, TARGETS.abs()), "to 100.*below 5"),
    "no layers": (lambda m: Probes(0, 8, 5), "layers=0"),
    "no teacher": (lambda m: KnowledgeLoss(m, layers=2, dim=6), "teacher is a Transformer; give Probes"),
    "warm text": (lambda m: KnowledgeLoss(Probes(2, 8, 5), layers=2, dim=6, temperature="1"), "='1'"),
}


@pytest.mark.parametrize("call, text", BAD.values(), ids=BAD)
def test_bad_input_is_refused(model, monkeypatch, call, text):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users call it
    with pytest.raises(ValueError, match=text):
        call(model)


def test_what_is_changed_already_is_refused(model):
    apply = architecture_search.apply
    searched = apply(model, choices=CHOICES)
    for where in (is_a(FeedForward), is_a(Mixed), is_a(Block)):
        with pytest.raises(ValueError, match="has choices already"):
            apply(searched, choices=CHOICES, where=where)
    with pytest.raises(ValueError, match="changed already.*before"):
        apply(scalar_quant.apply(model), choices=CHOICES)
    model.blocks.layers[0].mix.inner.mask = itself
    with pytest.raises(ValueError, match="seams.*changed already"):
        apply(model, choices=[original], where=is_a(Block))


# --- the teacher's probes


def test_the_knowledge_loss_is_its_equation():
    """Both sides at one temperature, logits of softmax taken once, and layers ceil(i N / K)."""
    teacher, targets = Probes(layers=4, dim=8, classes=5), torch.tensor([1, 4, -100, 0])
    knowledge = KnowledgeLoss(teacher, layers=2, dim=6, temperature=3.0)
    theirs, ours = [torch.randn(4, 8) for _ in range(4)], [torch.randn(4, 6) for _ in range(2)]
    real, total = [0, 1, 3], 0.0
    for row in real:
        t = [teacher.layers[i](theirs[i][row]) for i in (1, 3)]
        s = [knowledge.student.layers[i](ours[i][row]) for i in (0, 1)]
        share = torch.stack([x.log_softmax(0)[targets[row]] for x in t]).softmax(0)
        for w, x, y in zip(share, t, s, strict=True):
            p, q = (x / 3).softmax(0), (y / 3).softmax(0)
            total = total + 9 * w * (p * (p / q).log()).sum() / len(real)
    torch.testing.assert_close(knowledge(theirs, ours, targets), total)
    assert knowledge(theirs, ours, torch.full_like(targets, -100)) == 0  # and not 0 / 0
    assert knowledge.matched == [1, 3]


def test_knowing_the_same_costs_nothing_and_the_teacher_stays_as_it_is():
    teacher, targets = Probes(layers=2, dim=8, classes=5), torch.randint(5, (2, 3))
    knowledge = KnowledgeLoss(teacher, layers=2, dim=8, temperature=2.0)
    knowledge.student.load_state_dict(teacher.state_dict())
    hidden = [torch.randn(2, 3, 8, requires_grad=True) for _ in range(2)]
    assert knowledge(hidden, hidden, targets).abs() < 1e-6
    knowledge(hidden, [x.detach() + 1 for x in hidden], targets).backward()
    assert all(x.grad is None for x in hidden)  # nothing flows into the teacher
    trained = {name for name, p in knowledge.named_parameters() if p.grad is not None}
    assert trained == {f"student.layers.{i}.{kind}" for i in (0, 1) for kind in ("weight", "bias")}
    assert teacher.layers[0].weight.requires_grad


def test_probes_read_hidden_states_of_recorded_layers(model, ids):
    probes = Probes(layers=3, dim=32, classes=50)
    with torch.no_grad(), record(model, is_a(Block)) as calls:
        model(ids)
    hidden = [call.output for call in calls]
    losses = probes.loss(hidden, ids)
    for i in range(3):
        wanted = F.cross_entropy(probes.layers[i](hidden[i]).flatten(0, 1), ids.flatten(), reduction="none")
        torch.testing.assert_close(losses[i].flatten(), wanted)
    with pytest.raises(ValueError, match="outputs of 2 layers for 3 probes"):
        probes(hidden[:2])
    with pytest.raises(ValueError, match="temperature=0.0"):
        KnowledgeLoss(probes, layers=2, dim=32, temperature=0.0)


def test_the_price_of_a_large_model_in_fp16_is_a_number():
    model = Transformer(Config(vocab=50, context=16, layers=2, heads=2, dim=128, ffn=512)).half()
    searched = architecture_search.apply(model, choices=[original, zero], price=1.0, costs=[cost.macs])
    assert architecture_search.penalty(searched) == 0.5


def test_an_encoder_runs_what_was_found_with_and_without_gradients():
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2).eval()
    low_rank = lambda linear: nn.Sequential(nn.Linear(8, 2), nn.Linear(2, 16))  # noqa: E731
    searched = architecture_search.apply(encoder, choices=[original, low_rank], where=named("linear1")).eval()
    for place in architecture_search.places(searched):
        nn.init.constant_(place.alpha[1:], 1.0)
    x = torch.randn(2, 5, 8)
    for model in (searched, architecture_search.finalize(searched)):
        with torch.no_grad():
            torch.testing.assert_close(model(x), searched(x.requires_grad_()))
        assert not torch.allclose(model(x), encoder(x))
