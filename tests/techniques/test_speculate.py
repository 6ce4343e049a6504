"""Speculative decoding, grouped queries and early exits."""

import pytest
import torch
from torch import nn

from minieff import layerdrop, scalar_quant
from minieff.core import cost
from minieff.core.adopt import adopt
from minieff.core.attention import Attention, causal, widen
from minieff.core.past import Past
from minieff.core.surgery import clone, is_a, record, swap
from minieff.core.transformer import Block, Config, Stack, Transformer
from minieff.fast_decoding import (
    exits,
    fuse,
    generate,
    group,
    probabilities,
    residual,
    speculate,
    tokens_per_pass,
    verify,
)

CLOSE = {"atol": 1e-4, "rtol": 1e-4}


def coins() -> torch.Generator:
    return torch.Generator().manual_seed(0)


class Table:
    """The next token's logits depend on the last token alone: a model whose distribution is known."""

    def __init__(self, logits: torch.Tensor) -> None:
        self.logits, self.config = logits, Config(len(logits), 99, layers=1, heads=1, dim=1)

    def __call__(self, ids, mask=causal, past=None):
        past.begin(ids)
        return self.logits[ids]


def distributions(rows: int = 200, V: int = 7) -> torch.Tensor:
    """Two of them a row, peaked and flat."""
    return (3 * torch.randn(2, rows, V, dtype=torch.float64, generator=coins())).softmax(-1)


def chi_square(counts: torch.Tensor, p: torch.Tensor) -> tuple[float, float]:
    """The statistic over all rows, and what it exceeds with probability 0.001 (Wilson and Hilferty)."""
    wanted, free = p * counts.sum(-1, keepdim=True), p.count_nonzero().item() - len(p)
    assert counts[p == 0].sum() == 0
    statistic = ((counts - wanted) ** 2 / wanted)[p > 0].sum().item()
    return statistic, free * (1 - 2 / (9 * free) + 3.09 * (2 / (9 * free)) ** 0.5) ** 3


def test_accepted_and_redrawn_add_up_to_p():
    p, q = distributions()
    least = torch.minimum(p, q)
    total = least + (1 - least.sum(-1, keepdim=True)) * residual(p, q)
    torch.testing.assert_close(total, p, atol=1e-12, rtol=0)
    torch.testing.assert_close(residual(p, p), p)  # not NaN


def test_an_equal_draft_is_always_accepted():
    p, _ = distributions()
    for _ in range(20):
        drafted = torch.multinomial(p[:4], 1)[:, 0]
        assert torch.equal(verify(drafted, p[:5], p[:4])[:4], drafted)


def test_tokens_per_pass_is_the_expectation():
    for a, n in ((0.8, 4), (0.3, 1), (0.0, 5), (1.0, 3)):
        runs = [sum(a**i * (1 - a) * (i + 1) for i in range(n)), a**n * (n + 1)]
        assert tokens_per_pass(a, n) == pytest.approx(sum(runs))
    assert tokens_per_pass(0.8, 4) == pytest.approx((1 - 0.8**5) / (1 - 0.8))


KNOBS = [(1, {}), (2, {"temperature": 0.5}), (5, {}), (3, {"temperature": 2.0, "top_k": 2})]


@pytest.mark.parametrize("ahead, knobs", KNOBS)
def test_what_is_written_is_distributed_as_by_the_model_alone(ahead, knobs):
    """Of each token, what follows it against the exact probabilities; the draft has others."""
    knobs = {"temperature": 1.0} | knobs
    model, draft = (Table(1.5 * t) for t in torch.randn(2, 3, 3, generator=coins()))
    generator, start = coins(), torch.tensor([[0]])
    written = [
        speculate(model, draft, start, 98, ahead=ahead, generator=generator, **knobs) for _ in range(12)
    ]
    texts = torch.cat([w.ids for w in written])
    pairs = (3 * texts[:, :-1] + texts[:, 1:]).flatten()
    statistic, limit = chi_square(
        pairs.bincount(minlength=9).view(3, 3), probabilities(model.logits, **knobs)
    )
    assert statistic < limit
    assert 0 < sum(w.accepted for w in written) < sum(w.drafted for w in written)


def test_the_acceptance_rate_is_the_overlap_and_gives_the_tokens_per_pass():
    p, q = distributions(2, 5)[:, 0].float()
    model, draft = (Table(t.log().expand(5, 5)) for t in (p, q))
    start, knobs = torch.zeros(1, 1).long(), {"ahead": 3, "temperature": 1.0, "generator": coins()}
    passes = sum(speculate(model, draft, start, 98, **knobs).passes for _ in range(12))
    wanted = tokens_per_pass(float(torch.minimum(p, q).sum()), 3)
    assert 98 * 12 / passes == pytest.approx(wanted, rel=0.1)


DRAFTS = {
    "itself": clone,
    "pruned": lambda model: layerdrop.finalize(model, keep=[0, 2]),
    "fused, sharing": lambda model: fuse(model).keep([0]),
    "random": lambda model: Transformer(Config(50, 24, layers=1, heads=1, dim=8)).eval(),
    "exits": lambda model: exits(model, threshold=0.5),
}


@pytest.mark.parametrize("draft", DRAFTS.values(), ids=DRAFTS)
@pytest.mark.parametrize("lay_out", [clone, fuse])
@pytest.mark.parametrize("ahead", [1, 3, 30])
def test_greedy_tokens_are_the_models_with_any_draft(model, ids, draft, lay_out, ahead):
    wanted = generate(model, ids[:1, :4], 20)
    found = speculate(lay_out(model), draft(model), ids[:1, :4], 20, ahead=ahead)
    assert torch.equal(found.ids, wanted)
    assert found.passes + found.accepted == 20 and found.accepted <= found.drafted


def test_a_draft_that_is_always_right_is_accepted_whole(model, ids):
    found = speculate(model, model, ids[:1, :4], 20, ahead=4)
    assert (found.passes, found.drafted, found.acceptance) == (4, 16, 1.0)


BAD = {
    "rows": (dict(ids=torch.zeros(2, 3).long()), "2 rows"),
    "ahead": (dict(ahead=0), "ahead=0"),
    "vocabulary": (dict(draft=Table(torch.zeros(3, 3))), "vocab=3, the model 50"),
    "context": (dict(tokens=30), "context=24"),
    "temperature": (dict(temperature=-1.0), "temperature=-1.0"),
}


@pytest.mark.parametrize("knobs, text", BAD.values(), ids=BAD)
def test_what_cannot_be_speculated_is_refused(model, knobs, text):
    with pytest.raises(ValueError, match=text):
        speculate(model, **({"draft": model, "ids": torch.zeros(1, 3).long(), "tokens": 4} | knobs))


# --- group


@torch.no_grad()
@pytest.mark.parametrize("heads", [1, 2, 4])
def test_grouping_is_exact_where_the_heads_of_a_group_are_equal(model, ids, heads):
    def tie(attention: Attention) -> Attention:
        for p in (*attention.k.parameters(), *attention.v.parameters()):
            p.copy_(
                p.unflatten(0, (heads, -1, 8))[:, :1].expand(-1, 4 // heads, *[-1] * p.dim()).reshape(p.shape)
            )
        return attention

    tied = swap(model, is_a(Attention), tie)
    small, past = group(tied, heads=heads), Past()
    torch.testing.assert_close(small(ids), tied(ids), **CLOSE)
    assert heads == 4 or not torch.allclose(group(model, heads=heads)(ids), model(ids), atol=0.1)
    small(ids, past=past)
    assert past.nbytes() == 2 * 3 * 2 * 16 * 32 * 4 * heads // 4  # the cache is heads / H
    saved = 3 * 2 * (4 - heads) * 8 * 33  # L layers, keys and values, D (C + 1) numbers a head
    assert cost.parameters(model) - cost.parameters(small) == saved


def test_neighbours_form_a_group():
    assert widen(torch.arange(2.0).view(1, 2, 1, 1), 6).flatten().tolist() == [0, 0, 0, 1, 1, 1]  # not tiled


def test_an_adopted_encoder_can_be_grouped():
    theirs = nn.TransformerEncoder(nn.TransformerEncoderLayer(32, 4, 64, batch_first=True), 2).eval()
    x = torch.randn(2, 5, 32)
    torch.testing.assert_close(group(adopt(theirs), heads=4)(x), theirs(x), atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="adopt"):
        group(theirs, heads=2, where=is_a(nn.MultiheadAttention))


@pytest.mark.parametrize("heads", [0, 3, 8])
def test_impossible_groups_are_refused(model, heads):
    with pytest.raises(ValueError, match=f"heads={heads} does not divide the 4"):
        group(model, heads=heads)


def test_grouping_comes_before_what_decorates_the_weights(model):
    with pytest.raises(ValueError, match="already"):
        group(scalar_quant.apply(model, p=0.1), heads=2)


# --- exits


@pytest.fixture
def sure(model) -> Transformer:
    """A model whose likeliest token has a probability anywhere between 0 and 1."""
    with torch.no_grad():
        model.norm.weight.mul_(3)
    return model


@torch.no_grad()
def test_the_threshold_decides_the_depth(sure, ids):
    assert torch.equal(exits(sure, threshold=1.1)(ids), sure(ids))
    early = exits(sure, threshold=0.0)
    torch.testing.assert_close(early(ids), layerdrop.finalize(sure, keep=[0])(ids))
    assert early.blocks.depth.eq(1).all()
    assert torch.equal(early.train()(ids), sure(ids)) and early.blocks.depth.eq(3).all()
    depths = []
    for threshold in (0.0, 0.3, 0.4, 0.5, 0.6, 1.1):
        early = exits(sure, threshold=threshold)
        early(ids.reshape(-1, 1))
        depths.append(early.blocks.depth)
    assert all((a <= b).all() for a, b in zip(depths, depths[1:], strict=False))
    assert len(set(map(float, [d.float().mean() for d in depths]))) > 3


@torch.no_grad()
def test_a_position_that_has_left_keeps_its_state_and_fills_the_slots(sure, ids):
    """One pass over all positions, token by token, and by hand: the same, and skipped blocks do not run."""
    early = exits(sure, threshold=0.45)
    whole, past = early(ids[:1]), Past()
    depth = early.blocks.depth
    assert len(depth.unique()) > 1
    with record(early, is_a(Block)) as calls:
        steps = [early(token, past=past) for token in ids[:1].split(1, dim=1)]
    torch.testing.assert_close(torch.cat(steps, 1), whole, **CLOSE)
    assert len(calls) == depth.sum()
    assert len(past.slots) == 3 and all(slot.kept[0].shape[-2] == 16 for slot in past.slots)


@torch.no_grad()
def test_exits_look_through_wrappers(sure, ids):
    for kind in (Block, type(sure.blocks.layers[0].mix)):
        wrapped = layerdrop.apply(sure, p=0.5, where=is_a(kind))
        wanted = exits(sure, threshold=0.45)(ids)
        torch.testing.assert_close(exits(wrapped, threshold=0.45)(ids), wanted)


def test_exits_are_refused_where_they_cannot_be(sure):
    with pytest.raises(ValueError, match="by Exit already"):
        exits(exits(sure, threshold=0.5), threshold=0.5)
    with pytest.raises(ValueError, match="one is a ReLU"):
        exits(swap(sure, is_a(Stack), lambda stack: Stack([nn.ReLU()])), threshold=0.5)
    with pytest.raises(ValueError, match="threshold=nan"):
        exits(sure, threshold=float("nan"))
