"""Hidden states and attention of a teacher; MobileBERT's layers are in test_mobilebert.py."""

from functools import partial

import jaxtyping
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from minieff import distill_inside as inner
from minieff.core.adopt import adopt
from minieff.core.attention import causal
from minieff.core.surgery import is_a, named
from minieff.core.transformer import Config, Transformer
from minieff.distill_inside.mobilebert import TrigramEmbedding

LAYERS = [0, 1, 2]


def seen(model: nn.Module, *args, **where) -> tuple[inner.Calls, inner.Calls]:
    with inner.inside(model, **where) as (hidden, qk):
        model(*args)
    return hidden, qk


@pytest.fixture
def small() -> Transformer:
    return Transformer(Config(vocab=50, context=24, layers=2, heads=4, dim=16))


# (loss, whether it compares scores) of a model of three layers with its equal
EQUAL = {
    "patient": (partial(inner.patient_loss, layers=LAYERS), False),
    "hidden": (inner.HiddenLoss(layers=LAYERS, dim=32, teacher_dim=32), False),
    "cosine": (inner.cosine_loss, False),
    "features": (partial(inner.feature_loss, layers=LAYERS), False),
    "scores": (partial(inner.score_loss, layers=LAYERS, heads=4), True),
    "attention": (partial(inner.attention_loss, layers=LAYERS, heads=4), True),
}


@pytest.mark.parametrize("loss, attention", EQUAL.values(), ids=EQUAL)
def test_a_student_that_equals_its_teacher_has_no_loss_and_no_gradient(model, ids, loss, attention):
    model.double()
    own, theirs = (seen(model, ids)[attention] for _ in range(2))
    found = loss(own, theirs)
    found.backward()
    assert found.abs() < 1e-12
    assert all(p.grad is None or p.grad.abs().max() < 1e-9 for p in model.parameters())
    other = Transformer(model.config).double()
    assert loss(seen(other, ids)[attention], theirs) > 1e-3


def test_layers_are_those_of_the_papers():
    assert inner.skip(12, 6) == [1, 3, 5, 7, 9] and inner.last(12, 6) == [6, 7, 8, 9, 10]
    assert inner.uniform(12, 4) == [2, 5, 8, 11] and inner.uniform(12, 6)[-1] == 11
    assert inner.evenly(12, 6) == [0, 2, 4, 7, 9, 11] != list(range(0, 12, 2))
    assert inner.evenly(6, 6) == inner.uniform(6, 6) == list(range(6)) and inner.evenly(6, 1) == [0]


def test_a_forward_is_only_watched(model, ids):
    before = model(ids)
    with inner.inside(model) as (hidden, qk):
        assert torch.equal(model(ids), before)
    model(ids)
    assert len(hidden) == 3 and len(qk) == 6  # nothing is recorded afterwards
    model.blocks.layers[2] = model.blocks.layers[0]
    assert [len(calls) for calls in seen(model, ids)] == [3, 6]  # one for each application


def test_vectors_count_by_their_direction(small, ids):
    own, theirs = (seen(m, ids)[0] for m in (small, small))
    theirs = [call._replace(output=torch.randn_like(call.output)) for call in theirs]
    scaled = [call._replace(output=7 * call.output) for call in theirs]
    loss = inner.patient_loss(own, theirs, layers=[0, 1])
    torch.testing.assert_close(inner.patient_loss(own, scaled, layers=[0, 1]), loss)
    units = [[F.normalize(c.output[:, 0], dim=-1) for c in calls] for calls in (own, theirs)]
    torch.testing.assert_close(loss, 16 * sum(map(F.mse_loss, *units)))  # that mean is C times too small


def test_tinybert_sums_over_layers_and_learns_two_projections(model, small, ids):
    loss = inner.HiddenLoss(layers=[0, 2], dim=16, teacher_dim=32)
    (own, _), (theirs, _) = seen(small, ids), seen(model, ids)
    w, w_e = loss.parameters()
    wanted = F.mse_loss(own[0].inputs[0] @ w_e.T, theirs[0].inputs[0])
    for m, g in enumerate([0, 2]):
        wanted = wanted + F.mse_loss(own[m].output @ w.T, theirs[g].output)
    found = loss(own, theirs)
    torch.testing.assert_close(found, wanted)
    found.backward()
    assert w.grad.any() and w_e.grad.any() and small.tok.weight.grad.any() and model.tok.weight.grad is None
    order = torch.tensor([1, 0])
    (own, _), (theirs, _) = seen(small, ids[order]), seen(model, ids[order])
    torch.testing.assert_close(loss(own, theirs), found)


def test_padding_counts_only_where_nobody_says_what_is_real(model, small, ids):
    """The mistake: hidden keys set to zero stay in the denominator, and padded queries in the error."""
    real = torch.arange(16) < torch.tensor([[16], [9]])
    visible = real[:, None, :, None] & real[:, None, None]
    other = ids.where(real, (ids + 1) % 50)
    hidden = inner.HiddenLoss(layers=[0, 2], dim=16, teacher_dim=32)
    for given in (True, False):
        found = []
        for tokens in (ids, other):
            (h, qk), (h_t, qk_t) = seen(small, tokens), seen(model, tokens)
            shown, layers = (visible if given else None), {"layers": [0, 2], "heads": 4}
            found.append([inner.score_loss(qk, qk_t, visible=shown, **layers)])
            found[-1].append(inner.attention_loss(qk, qk_t, visible=shown, **layers))
            found[-1].append(hidden(h, h_t, real if given else None))
        for one, two in zip(*found, strict=True):
            assert torch.isclose(one, two) == given
            assert torch.isfinite(one)


def test_attention_is_a_divergence_and_not_a_cross_entropy(model, small, ids):
    visible = causal.visible(1, 1, torch.arange(16)[:, None], torch.arange(16))
    own, theirs = (inner.attention_scores(seen(m.double(), ids)[1], 4)[0] for m in (small, model))
    p = theirs.masked_fill(~visible, -torch.inf).softmax(-1).detach()
    log_q = own.masked_fill(~visible, -1e30).log_softmax(-1)
    cross, entropy = -(p * log_q).sum(-1), torch.special.entr(p).sum(-1)
    found = inner.attention_divergence(own, theirs.detach(), visible)
    torch.testing.assert_close(found, cross - entropy)
    gradients = [torch.autograd.grad(x.sum(), own, retain_graph=True)[0] for x in (found, cross)]
    torch.testing.assert_close(*gradients)


def test_each_layer_is_compared_with_its_own_mean_and_variance(model, ids):
    """The released code takes those of all the teacher's layers at once."""
    (theirs, _) = seen(model, ids)
    shifted = [call._replace(output=call.output + 0.1) for call in theirs]
    found = inner.feature_loss(shifted, theirs, layers=LAYERS)
    assert found.item() == pytest.approx(5000 * 0.1**2, rel=1e-3)
    wider = [call._replace(output=2 * (h := call.output) - h.mean(-1, keepdim=True)) for call in theirs]
    spread = sum(3 * 5 * call.output.var(-1, correction=0).mean() for call in theirs) / 3
    assert inner.feature_loss(wider, theirs, layers=LAYERS).item() == pytest.approx(spread.item(), rel=1e-2)


def test_distilberts_loss_is_that_of_its_trainer(model, small, ids):
    real, targets = torch.arange(16) < torch.tensor([[16], [9]]), torch.randint(50, (2, 16))
    targets[:, ::2] = -100
    targets = targets.where(real, -100)
    (theirs, _), own = seen(model, ids), seen(Transformer(model.config), ids)[0]
    z, z_t = torch.randn(2, 2, 16, 50)
    kl = 4 * nn.KLDivLoss(reduction="batchmean")((z[real] / 2).log_softmax(-1), (z_t[real] / 2).softmax(-1))
    mlm = nn.CrossEntropyLoss()(z.view(-1, 50), targets.view(-1))
    h, h_t = own[-1].output[real], theirs[-1].output[real]
    cos = nn.CosineEmbeddingLoss()(h, h_t, torch.ones(len(h)))
    found = inner.triple_loss(z, z_t, targets, own, theirs, real=real)
    torch.testing.assert_close(found, 5 * kl + 2 * mlm + cos)


def test_distilberts_loss_holds_at_any_temperature_without_labels_and_in_half_precision(model, ids):
    (theirs, _), nothing = seen(model, ids), torch.full((2, 16), -100)
    z, z_t = torch.randn(2, 2, 16, 50)
    loss = partial(
        inner.triple_loss, student=theirs, teacher=theirs, temperature=3.0, weights=(1.0, 1.0, 0.0)
    )
    kl = nn.KLDivLoss(reduction="batchmean")(
        (z / 3).log_softmax(-1).flatten(0, 1), (z_t / 3).softmax(-1).flatten(0, 1)
    )
    torch.testing.assert_close(loss(z, z_t, nothing), 9 * kl)
    half = z.bfloat16(), z_t.bfloat16()
    torch.testing.assert_close(loss(*half, nothing), loss(*(t.float() for t in half), nothing))
    excluded = torch.arange(50) < 9
    assert loss(*(t.masked_fill(excluded, -torch.inf) for t in (z, z_t)), nothing).isfinite()


def test_half_precision_is_computed_in_single():
    """Sums of squares and scores of a large model pass 65504, the largest half."""
    h, other = (40 * torch.randn(2, 5, 64)).half(), (40 * torch.randn(2, 5, 64)).half()
    wide = [(300 * torch.randn(2, 5, 64)).half() for _ in range(4)]
    wide = [inner.Call(f"0.{name}", (), x) for name, x in zip("qkqk", wide, strict=True)]
    scores = [torch.randn(1, 1, 3, 4).half() for _ in range(2)]
    visible = torch.arange(4) < 2
    tiny = torch.full((2, 8), 1e-7).half(), torch.full((2, 8), -1e-7).half()
    for found, wanted in (
        (inner.unit_distance(*tiny), inner.unit_distance(*(t.float() for t in tiny))),
        (inner.feature_distance(h, other), inner.feature_distance(h.float(), other.float())),
        (
            inner.attention_divergence(*scores, visible),
            inner.attention_divergence(*(s.float() for s in scores), visible),
        ),
    ):
        assert found.dtype == torch.float32 and found.isfinite().all()
        torch.testing.assert_close(found, wanted)
    assert inner.score_loss(wide[:2], wide[2:], layers=[0], heads=2).isfinite()
    own, theirs = ([inner.Call("", (x,), x)] for x in (300 * h, 300 * other))
    for precise in (torch.float16, torch.float32):
        loss = inner.HiddenLoss(layers=[0], dim=64, teacher_dim=64, embedding=False)
        assert loss.to(precise)(own, theirs).isfinite()
        mixed = inner.HiddenLoss(layers=[0], dim=64, teacher_dim=32).to(precise)
        assert mixed([inner.Call("", (h,), h)], [inner.Call("", (h[..., :32],), h[..., :32])]).isfinite()


def test_patient_distillation_reads_one_position(model, ids):
    (own, _), (theirs, _) = seen(model, ids), seen(model, ids.flip(0))
    found = inner.patient_loss(own, theirs, layers=[0], position=-1)
    torch.testing.assert_close(found, inner.unit_distance(own[0].output, theirs[0].output)[:, -1].mean())


def test_attention_has_the_mean_of_layers_and_of_queries_that_see(model, ids):
    (_, own), (_, theirs) = seen(model, ids), seen(model, ids.flip(0))
    real = torch.arange(16) < torch.tensor([[16], [9]])
    visible = real[:, None, :, None] & real[:, None, None]
    found = inner.attention_loss(own, theirs, layers=[0, 1], heads=4, visible=visible)
    each = [
        inner.attention_divergence(*pair, visible)[real[:, None].expand(-1, 4, -1)].mean()
        for pair in zip(*(inner.attention_scores(qk[:4], 4) for qk in (own, theirs)), strict=True)
    ]
    torch.testing.assert_close(found, sum(each) / 2)


def test_other_text_has_likely_tokens_in_some_positions():
    ids, wanted = torch.arange(10), {i: {(i + 1) % 12, (i + 2) % 12} for i in range(10)}

    def model(hidden):  # where 11 is, the two tokens after the one that should be there
        assert ((hidden == 11).sum(1) == 1).all() and len(hidden) <= 16
        return sum(F.one_hot((torch.arange(10) + i) % 12, 12) * (9.0 - i) for i in (1, 2)).expand(
            len(hidden), -1, -1
        )

    keep, coins = torch.arange(10) < 2, torch.Generator().manual_seed(0)
    found = inner.augment(model, ids, mask_id=11, copies=500, top=2, keep=keep, generator=coins)
    changed = found != ids
    assert torch.equal(ids, torch.arange(10)) and not changed[:, :2].any()
    assert 0.37 < changed[:, 2:].float().mean() < 0.43
    assert all(set(found[:, i].tolist()) == wanted[i] | {i} for i in range(2, 10))


# --- models that are not ours


def test_scores_and_hidden_states_are_those_of_bert(ids):
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=64
    )
    bert = transformers.BertModel(config).eval()
    bert.set_attn_implementation("sdpa")
    layer = is_a(type(bert.encoder.layer[0]))
    hidden, qk = seen(bert, ids, layers=layer, attention=named("query", "key"))
    bert.set_attn_implementation("eager")
    theirs = bert(ids, output_attentions=True, output_hidden_states=True)
    for own, wanted in zip(inner.attention_scores(qk, 4), theirs.attentions, strict=True):
        torch.testing.assert_close(own.softmax(-1), wanted)
    torch.testing.assert_close(hidden[0].inputs[0], theirs.hidden_states[0])
    for own, wanted in zip(inner.hidden_states(hidden), theirs.hidden_states[1:], strict=True):
        torch.testing.assert_close(own, wanted)


@pytest.mark.parametrize("grad", [True, False])
def test_an_encoder_of_torch_teaches_after_adopt(grad):
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, dropout=0.0)
    encoder, x = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval(), torch.randn(2, 5, 32)
    padding = torch.arange(5) >= torch.tensor([[5], [3]])
    adopted = adopt(encoder)
    adopted.forward = partial(adopted.forward, src_key_padding_mask=padding)
    with torch.set_grad_enabled(grad):
        hidden, qk = seen(adopted, x, layers=is_a(type(layer)))
        wanted = encoder(x, src_key_padding_mask=padding)[~padding]
    torch.testing.assert_close(hidden[-1].output[~padding], wanted, rtol=1e-4, atol=1e-4)
    assert [scores.shape for scores in inner.attention_scores(qk, 4)] == [(2, 4, 5, 5)] * 2


# --- what goes wrong

Z, NUMBERS = torch.zeros(2, 16, 9), torch.ones(2, 16, dtype=torch.long)
HIDDEN = EQUAL["hidden"][0]
ENCODER = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2)


def triple(hidden: inner.Calls, *logits_and_targets: torch.Tensor, **knobs) -> torch.Tensor:
    return inner.triple_loss(*logits_and_targets, hidden, hidden, **knobs)


def augmented(**knobs):
    own = {"model": nn.Embedding(9, 9), "ids": torch.arange(5), "mask_id": 8, "copies": 2, "top": 3}
    return lambda h, qk: inner.augment(**(own | knobs))


WRONG = {
    "larger student": (lambda h, qk: inner.uniform(4, 6), "a student of 6 layers"),
    "no such layer": (lambda h, qk: inner.patient_loss(h, h, layers=[0, 3]), r"layers=\[0, 3\].*0 to 2"),
    "too many layers": (lambda h, qk: inner.patient_loss(h[:1], h, layers=[0, 1]), "there are 1"),
    "no layers": (lambda h, qk: inner.feature_loss(h, h, layers=[]), r"layers=\[\]"),
    "not q and k": (lambda h, qk: inner.score_loss(h, h, layers=[0], heads=4), 'named\\("q", "k"\\)'),
    "q alone": (lambda h, qk: inner.attention_scores(qk[::2], heads=4), 'named\\("q", "k"\\)'),
    "nothing": (lambda h, qk: inner.attention_scores([], heads=4), r"calls=\[\].*while the model ran"),
    "layers text": (lambda h, qk: inner.uniform("12", 4), "'12'"),
    "layers float": (lambda h, qk: inner.evenly(12, 6.0), "6.0 layers"),
    "layers number": (lambda h, qk: inner.patient_loss(h, h, layers=1), "layers=1: name one"),
    "position": (lambda h, qk: inner.patient_loss(h, h, layers=[0], position=99), "position=99 of 16"),
    "position text": (lambda h, qk: inner.patient_loss(h, h, layers=[0], position="CLS"), "position='CLS'"),
    "broadcast": (lambda h, qk: inner.unit_distance(Z, Z[:1]), r"\(2, 16, 9\).*\(1, 16, 9\)"),
    "other scores": (lambda h, qk: inner.attention_divergence(Z[None], Z[None, :1]), r"\(1, 1, 16, 9\)"),
    "tensors": (lambda h, qk: inner.patient_loss([Z], [Z], layers=[0]), r"calls=\[tensor"),
    "tensors of q and k": (lambda h, qk: inner.attention_scores([Z, Z], heads=3), r"calls=\[tensor"),
    "a model": (lambda h, qk: inner.cosine_loss(nn.ReLU(), h), r"calls=ReLU\(\)"),
    "heads": (lambda h, qk: inner.score_loss(qk, qk, layers=[0], heads=3), "heads=3 does not divide.*32"),
    "heads text": (lambda h, qk: inner.attention_scores(qk, heads="4"), "heads='4'"),
    "an encoder": (lambda h, qk: inner.inside(ENCODER).__enter__(), "core.adopt"),
    "a type as where": (lambda h, qk: inner.inside(ENCODER, layers=nn.Linear).__enter__(), "where=<class"),
    "width": (
        lambda h, qk: inner.HiddenLoss(layers=[0], dim=8, teacher_dim=16)(h, h),
        "states of width 32, dim=8",
    ),
    "all padding": (lambda h, qk: inner.cosine_loss(h, h, NUMBERS > 1), "mask is False everywhere"),
    "all hidden": (lambda h, qk: HIDDEN(h, h, NUMBERS > 1), "mask is False everywhere"),
    "nothing seen": (
        lambda h, qk: inner.attention_loss(qk, qk, layers=[0], heads=4, visible=NUMBERS[:, None, None] > 1),
        "mask is False everywhere",
    ),
    "mask list": (lambda h, qk: inner.cosine_loss(h, h, [[True]]), "list.*give Booleans"),
    "mask turned": (lambda h, qk: inner.cosine_loss(h, h, NUMBERS.T > 0), r"\(16, 2\).*\(2, 16\)"),
    "temperature text": (lambda h, qk: triple(h, Z, Z, NUMBERS, temperature="2"), "temperature='2'"),
    "no such word": (lambda h, qk: triple(h, Z, Z, 9 * NUMBERS), "9 to 9.*below 9"),
    "length": (
        lambda h, qk: inner.cosine_loss([h[0]._replace(output=h[0].output[:, 1:])], h),
        r"\(2, 15, 32\) of the student and \(2, 16, 32\)",
    ),
    "numbers as mask": (lambda h, qk: inner.cosine_loss(h, h, NUMBERS), r"int64.*\.bool\(\)"),
    "numbers as hidden": (lambda h, qk: HIDDEN(h, h, NUMBERS), r"int64.*\.bool\(\)"),
    "numbers seen": (
        lambda h, qk: inner.attention_loss(qk, qk, layers=[0], heads=4, visible=NUMBERS[:, None, None]),
        r"int64.*\.bool\(\)",
    ),
    "temperature": (lambda h, qk: triple(h, Z, Z, NUMBERS, temperature=0.0), "temperature=0.0"),
    "one row of logits": (lambda h, qk: triple(h, Z, Z[:1], NUMBERS), r"\(2, 16, 9\).*\(1, 16, 9\)"),
    "turned targets": (lambda h, qk: triple(h, Z, Z, NUMBERS.T), r"targets \(16, 2\).*\(2, 16\)"),
    "no probability": (augmented(p=1.5), "p=1.5"),
    "probability text": (augmented(p="0.5"), "p='0.5'"),
    "no top": (augmented(top=0), "top=0"),
    "top beyond": (augmented(top=10), "out of range.*top=10"),
    "copies": (augmented(copies=-1), "copies=-1"),
    "mask beyond": (augmented(mask_id=9), "out of range.*mask_id=9"),
    "keep numbers": (augmented(keep=NUMBERS[0, :5]), r"int64.*\.bool\(\)"),
    "keep list": (augmented(keep=[True] * 5), "list.*Booleans"),
    "a batch": (augmented(ids=NUMBERS), "one sequence"),
    "no tokens": (augmented(ids=NUMBERS[0, :0]), "one sequence"),
    "no tensor": (augmented(model=lambda ids: (ids,)), "give logits.*logits is"),
    "trigrams": (lambda h, qk: TrigramEmbedding(9, 8, 8, 16)(NUMBERS), "up to context=8"),
}


@pytest.mark.parametrize("call, message", WRONG.values(), ids=WRONG)
def test_bad_input_is_refused(model, ids, monkeypatch, call, message):
    hidden, qk = seen(model, ids)
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users call it
    with pytest.raises(ValueError, match=message):
        call(hidden, qk)
