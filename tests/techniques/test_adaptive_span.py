"""Adaptive attention span. General laws are in test_laws.py."""

import pytest
import torch
from torch import nn

from minieff import adaptive_span, entmax, headdrop
from minieff.adaptive_span import Near, Span
from minieff.core import cost
from minieff.core.adopt import adopt
from minieff.core.attention import Attention, Mask, causal, everything, explicit, itself
from minieff.core.past import Past
from minieff.core.surgery import is_a

KNOBS = {"max_span": 24, "ramp": 4, "start": 0.1}


def spanned(model, lengths=(0.0, 0.1, 0.2, 0.3), **knobs):
    """A model whose heads have spans of their own, the same in all layers."""
    model = adaptive_span.apply(model, **{**KNOBS, **knobs})
    for module in model.modules():
        if isinstance(module, Span):
            module.z = nn.Parameter(torch.tensor(lengths))
    return model.eval()


def test_the_soft_mask():
    span, x = Span(2, max_span=16, ramp=8, start=0.5), torch.arange(40)
    m = span.soft_mask(x[None])[0, 0]
    assert (m[:9] == 1).all() and (m[16:] == 0).all()  # up to z = 8, and from z + R on
    torch.testing.assert_close(m[8:17].diff(), torch.full((8,), -1 / 8))
    assert torch.equal(span.soft_mask(-x[None]), span.soft_mask(x[None]))  # the future, where it is seen


def test_distances_count_from_zero():
    """At z = 0 a head keeps R keys and not R - 1: the paper's text and its code differ by one."""
    span = Span(1, max_span=16, ramp=4)
    assert span.soft_mask(torch.arange(6)[None])[0, 0].tolist() == [1, 0.75, 0.5, 0.25, 0, 0]
    assert span.reach == 4


def test_weights_are_those_of_the_paper_and_sum_to_one():
    """m(x) e^s / sum m(x) e^s. A well-known port leaves the division out."""
    span, scores = Span(4, **KNOBS), torch.randn(2, 4, 9, 9)
    distance = torch.arange(9)[:, None] - torch.arange(9)
    scores = scores.masked_fill(distance < 0, float("-inf"))
    attn = span(scores.softmax(-1), distance)
    weighted = ((4 + 2.4 - distance) / 4).clamp(0, 1) * scores.exp()
    torch.testing.assert_close(attn, weighted / weighted.sum(-1, keepdim=True))
    torch.testing.assert_close(attn.sum(-1), torch.ones(2, 4, 9))
    assert (attn[:, :, 8, 0] == 0).all()


def test_a_full_span_is_attention(model, ids):
    full = adaptive_span.apply(model, max_span=24, start=1.0).eval()
    torch.testing.assert_close(full(ids), model(ids), atol=1e-5, rtol=1e-5)


def test_the_price_shrinks_a_span_by_the_same_step_until_it_is_clamped(model):
    priced = adaptive_span.apply(model, max_span=32, price=0.5, start=0.5)
    assert adaptive_span.penalty(priced) == 3 * 0.5 * 16  # a mean over heads, a sum over layers
    assert adaptive_span.penalty(model) == 0
    spans = [module for module in priced.modules() if isinstance(module, Span)]
    optimizer = torch.optim.SGD([span.z for span in spans], lr=0.05)
    seen = []
    for _ in range(4):
        optimizer.zero_grad()
        adaptive_span.penalty(priced).backward()
        optimizer.step()
        adaptive_span.project(priced)
        seen.append(spans[0].z[0].item())
    assert seen == pytest.approx([0.3, 0.1, 0, 0])  # lr * price * max_span / heads = 0.2


def test_a_span_far_below_zero_is_lost_without_project(model, ids):
    drifted = spanned(model, (-0.5,) * 4)
    z = drifted.blocks.layers[0].mix.inner.reweight.z
    assert torch.autograd.grad(drifted(ids).sum(), z)[0].abs().max() == 0
    adaptive_span.project(drifted)
    assert z.tolist() == [0.0] * 4 and torch.autograd.grad(drifted(ids).sum(), z)[0].abs().min() > 0


# --- what is left out


@pytest.mark.parametrize("lengths", [(0.0, 0.1, 0.2, 0.3), (0.0,) * 4, (0.5,) * 4])
@pytest.mark.parametrize("T", [1, 7, 16, 24])
def test_the_kernel_equals_the_explicit_path(model, lengths, T):
    final = adaptive_span.finalize(spanned(model, lengths))
    attention = final.blocks.layers[0].mix.inner
    real = torch.rand(2, 24) < 0.7
    padded = Mask(lambda b, h, q, k: real[b, k], "real") | itself
    heads = Mask(lambda b, h, q, k: (h + q + k) % 2 == 0, "heads") | itself
    for S, start in ((T, 0), (24, 24 - T)):
        q, k, v = torch.randn(2, 4, T, 8), *torch.randn(2, 2, 4, S, 8)
        for mask in (causal, everything, causal & padded, padded, causal & heads):
            wanted = explicit(attention, q, k, v, mask, start)
            assert (attention.kernel(attention, q, k, v, mask, start) - wanted).abs().max() < 1e-5


def test_only_near_keys_are_read_from_the_past(model, ids):
    final = adaptive_span.finalize(spanned(model))
    kernel, seen = final.blocks.layers[0].mix.inner.kernel, []
    kernel.register_forward_pre_hook(lambda _, args: seen.append(args[2].shape[2]))
    past = Past()
    with torch.no_grad():
        parts = [final(part, past=past) for part in ids.split([12, 3, 1], dim=1)]
        assert (torch.cat(parts, 1) - final(ids)).abs().max() < 1e-4
    assert kernel.reach == 12  # 4 + 0.3 * 24, rounded up: the longest head decides
    assert seen == [12, 14, 12, 16]


def test_macs_rise_with_the_span(model):
    spans = [adaptive_span.finalize(spanned(model, (length, 0.0, 0.0, 0.0))) for length in (0, 0.2, 0.4, 1)]
    counts = [cost.macs(final) for final in spans]
    assert counts == sorted(counts) and len(set(counts)) == 4
    assert counts[0] < cost.macs(model) == cost.macs(spanned(model))
    # queries in blocks of 4, each but the first with 3 more keys: 4 * 4 + 5 * 4 * 7 pairs
    assert cost.macs(model) - counts[0] == 3 * 2 * 32 * (24 * 24 - 156) / 24


def test_reach_rebuilds_a_file(model, ids):
    """Spans of another value would be silently wrong: the choice is a keyword, too."""
    final = adaptive_span.finalize(spanned(model))
    blank = adaptive_span.apply(model, max_span=24, ramp=4)
    built = adaptive_span.finalize(blank, reach=[12, 12, 12])
    built.load_state_dict(final.state_dict())
    assert torch.equal(built(ids), final(ids)) and "kernel=Near(reach=12)" in str(built)


def test_an_adopted_encoder():
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, dropout=0.0)
    near = spanned(adopt(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)))
    x, hidden = torch.randn(2, 20, 32), torch.arange(20) >= torch.tensor([[20], [15]])
    final = adaptive_span.finalize(near)
    wanted = near(x, src_key_padding_mask=hidden)
    torch.testing.assert_close(final(x, src_key_padding_mask=hidden), wanted, atol=1e-5, rtol=1e-5)


# --- with others, and mistakes


def test_under_entmax_it_trains_and_cannot_be_finalized(model, ids):
    both = entmax.apply(adaptive_span.apply(model, **KNOBS), alpha=1.5)
    both(ids).sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in both.parameters())
    with pytest.raises(ValueError, match=r"normalize=Entmax\(alpha=1.5\): only before softmax"):
        adaptive_span.finalize(both)
    later = entmax.apply(adaptive_span.finalize(adaptive_span.apply(model, **KNOBS)))
    with pytest.raises(ValueError, match="only before softmax"):
        later(ids)


@pytest.mark.parametrize(
    ("knobs", "said"),
    [
        ({"max_span": 0}, "max_span=0, ramp=32: each is a number of tokens"),
        ({"max_span": 8, "ramp": 0}, "ramp=0"),
        ({"max_span": "64"}, "max_span='64'"),
        ({"max_span": 8, "ramp": 2.5}, "ramp=2.5"),
        ({"max_span": 8, "price": "2e-6"}, "price='2e-6'"),
        ({"max_span": [8, 8, 8]}, r"max_span=\[8, 8, 8\]"),
        ({"max_span": 8, "start": None}, "start=None"),
        ({"max_span": 8, "where": Attention}, "where=.*give a function"),
        ({"max_span": 8, "where": is_a(nn.Linear)}, "a Linear has no seam `reweight`"),
        ({"max_span": 8, "price": -1.0}, "price=-1.0"),
        ({"max_span": 8, "price": float("nan")}, "price=nan"),
        ({"max_span": 8, "start": 1.5}, "start=1.5"),
    ],
)
def test_impossible_knobs_are_refused(model, knobs, said, unchecked):
    with pytest.raises(ValueError, match=said):
        adaptive_span.apply(model, **knobs)


def test_mistakes_are_refused(model, unchecked):
    near = adaptive_span.apply(model, **KNOBS)
    for taken in (near, headdrop.apply(model, p=0.1)):
        with pytest.raises(ValueError, match="reweight=.*taken"):
            adaptive_span.apply(taken, **KNOBS)
    with pytest.raises(ValueError, match=r"kernel=Near\(reach=7\): the seam is taken"):
        adaptive_span.finalize(adaptive_span.finalize(near))
    for reach in ([4, 4], [4, 4, 0], 4, "444", [], [4.0, 4.0, 4.0]):
        with pytest.raises(ValueError, match="3 numbers of keys, one a layer, of at least 1"):
            adaptive_span.finalize(near, reach=reach)
    with pytest.raises(ValueError, match="or core.adopt torch's attention first"):
        adaptive_span.apply(nn.TransformerEncoderLayer(8, 2), **KNOBS)
    with pytest.raises(ValueError, match="no attention has a span"):
        adaptive_span.finalize(model)
    assert isinstance(adaptive_span.finalize(adaptive_span.apply(Attention(8, 2), max_span=4)).kernel, Near)


def test_a_whole_number_may_be_the_start_and_no_token_gives_no_output(unchecked):
    near = adaptive_span.finalize(adaptive_span.apply(Attention(8, 2), max_span=4, start=1))
    assert near.reweight.length.tolist() == [4.0, 4.0] and near(torch.zeros(2, 0, 8)).shape == (2, 0, 8)


def test_a_span_in_16_bits_keeps_its_ramp():
    span = adaptive_span.Span(1, max_span=1000, ramp=4, start=0.6).bfloat16()
    mask = span.soft_mask(torch.arange(602, 606)[None]).flatten()
    assert mask.diff().max() < 0 and len(mask.unique()) == 4


def test_a_forgotten_projection_is_named():
    model = adaptive_span.apply(Attention(8, 2), max_span=64, ramp=16)
    for z in (-0.5, float("nan")):
        nn.init.constant_(model.reweight.z, z)
        with pytest.raises(ValueError, match="call project"):
            adaptive_span.finalize(model)
