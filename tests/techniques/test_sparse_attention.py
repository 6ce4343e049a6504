"""Patterns, counted and walked; the kernel against the same masks computed densely; the verb head."""

import re

import pytest
import torch
from torch import Tensor, nn

from minieff import sparse_attention
from minieff.core import cost
from minieff.core.adopt import adopt
from minieff.core.attention import Attention, Mask, causal, everything, explicit, fused, itself, prefix
from minieff.core.past import Past, Slot
from minieff.core.surgery import is_a, named
from minieff.core.transformer import Config, Transformer
from minieff.fast_decoding import generate
from minieff.sparse_attention import (
    block,
    fixed,
    head,
    local,
    parse,
    strides,
    summaries,
    tagged,
    verb_tags,
    verbs,
)
from minieff.sparse_attention.gather import Gather
from minieff.sparse_attention.layout import grouped

PER_HEAD = head(0) & local(3) | head(1) & strides(4) | head(2) & fixed(8, 2) | head(3)
LOCAL = local(3)
PATTERNS = {
    "local": local(5),
    "strides": strides(7),
    "merged": local(8) | strides(8),
    "narrow": local(3) | strides(16),
    "fixed": fixed(8, 2),
    "summaries": summaries(8, 1) | itself,
    "per head": PER_HEAD,
    "dense": ~local(0) | itself,
    "any": Mask(lambda b, h, q, k: (q * 7 + k * k * 13) % 5 == 0, "any") | itself,
}


def pairs(mask: Mask, n: int = 16) -> Tensor:
    return (causal & mask).visible(1, 1, torch.arange(n)[:, None], torch.arange(n)).view(n, n)


def test_the_papers_patterns_have_these_sizes():
    counts = {everything: 136, local(4): 70, strides(4): 40, local(4) | strides(4): 82}
    counts |= {block(4): 40, summaries(4, 1): 28, fixed(4, 1): 64, block(4) | summaries(4, 1): 64}
    assert {mask.name: pairs(mask).sum().item() for mask in counts} == {m.name: n for m, n in counts.items()}
    assert (
        local(3).visible(1, 1, torch.tensor([[9]]), torch.arange(16)).sum() == 7
    )  # both sides, for encoders


def test_fairseq_s_errors_are_not_ours():
    """Its summaries have c + 1 positions, and a row at the start of a block sees the block before."""
    assert pairs(fixed(4, 1))[15].nonzero().flatten().tolist() == [3, 7, 11, 12, 13, 14, 15]
    assert pairs(fixed(4, 1))[4].nonzero().flatten().tolist() == [3, 4]


def test_two_layers_reach_everything():
    def reach(*masks: Mask, residual: bool = False) -> bool:
        way = torch.eye(16)
        for mask in masks:  # the last layer's rows on the left
            way = (pairs(mask).float() + residual * torch.eye(16)) @ way
        return torch.equal(way > 0, pairs(everything))

    assert reach(local(4), strides(4)) and reach(strides(4), local(4))
    assert reach(local(3), strides(4))  # OpenAI's width, with the token itself among the l
    for merged in (local(4) | strides(4), fixed(4, 1)):
        assert reach(merged, merged) and not reach(merged)
    assert reach(block(4), summaries(4, 1), residual=True)
    assert not reach(block(4), summaries(4, 1))  # the tokens before the first summary see nothing
    assert not reach(summaries(4, 1), block(4), residual=True)
    assert reach(summaries(4, 1), block(4), summaries(4, 1), residual=True)


@pytest.mark.parametrize("mask", [local(15), block(16), fixed(16, 3), local(99)], ids=repr)
def test_a_pattern_as_long_as_the_text_is_dense(mask):
    assert torch.equal(pairs(mask), pairs(everything))


def heads_and_call(mask: Mask, T: int, B: int = 2) -> tuple:
    attention = Attention(32, 4).eval()
    q, k, v = torch.randn(3, B, T, 4, 8).transpose(2, 3)
    return attention, q, k, v, mask


@pytest.mark.parametrize("name", PATTERNS)
@pytest.mark.parametrize("T", [75, 20, 1])
def test_the_kernel_equals_the_masked_dense_attention(name, T):
    mask = causal & PATTERNS[name]
    kernel = Gather(mask, heads=4, context=75)
    attention, q, k, v, _ = heads_and_call(mask, T)
    padded = torch.rand(2, T) < 0.3
    real = Mask(lambda b, h, q, k: ~padded[b, k] | (q == k), "real")
    for call in (mask, causal & real & PATTERNS[name]):
        wanted = fused(attention, q, k, v, call, 0)
        torch.testing.assert_close(kernel(attention, q, k, v, call, 0), wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", PATTERNS)
def test_the_kernel_of_an_encoder_takes_any_call(name):
    kernel = Gather(PATTERNS[name], heads=4, context=48)
    attention, q, k, v, _ = heads_and_call(everything, 41)
    for call in (everything, causal, prefix(torch.tensor([7, 0]))):
        mask = call & PATTERNS[name]
        wanted = fused(attention, q, k, v, mask, 0)
        torch.testing.assert_close(kernel(attention, q, k, v, mask, 0), wanted, atol=1e-5, rtol=1e-5)


class Sharp(nn.Module):
    """A `normalize` that gives exact zeros."""

    def forward(self, scores: Tensor) -> Tensor:
        kept = scores.softmax(-1).sub(0.05).clamp(min=0)
        return kept / kept.sum(-1, keepdim=True)


class Ramp(nn.Module):
    """A `reweight` by distance, another in each head."""

    def forward(self, attn: Tensor, distance: Tensor) -> Tensor:
        reach = torch.arange(4)[:, None, None] * 4
        return attn * ((reach + 8 - distance) / 8).clamp(0, 1)


@pytest.mark.parametrize("name", PATTERNS)
def test_other_seams_get_the_rows_that_they_would_get(name):
    mask = causal & PATTERNS[name]
    kernel = Gather(mask, heads=4, context=50)
    attention, q, k, v, _ = heads_and_call(mask, 40)
    attention.normalize, attention.reweight = Sharp(), Ramp()
    wanted = explicit(attention, q, k, v, mask, 0)
    torch.testing.assert_close(kernel(attention, q, k, v, mask, 0), wanted, atol=1e-5, rtol=1e-5)
    late = kernel(attention, q[:, :, 33:], k, v, mask, 33)
    torch.testing.assert_close(late, wanted[:, :, 33:], atol=1e-5, rtol=1e-5)


def test_gradients_and_other_dtypes():
    mask = causal & (local(8) | strides(8))
    kernel = Gather(mask, heads=4, context=64)
    attention, *qkv, _ = heads_and_call(mask, 60)
    found = []
    for how in (kernel, fused):
        leaves = [x.clone().requires_grad_() for x in qkv]
        how(attention, *leaves, mask, 0).square().sum().backward()
        found.append([x.grad for x in leaves])
    torch.testing.assert_close(*found, atol=1e-4, rtol=1e-4)
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.bfloat16, 0.02), (torch.float16, 0.002)):
        typed = [x.to(dtype) for x in qkv]
        ours, wanted = kernel(attention, *typed, mask, 0), fused(attention, *typed, mask, 0)
        torch.testing.assert_close(ours, wanted, atol=tolerance, rtol=tolerance)


def test_groups_follow_the_pattern():
    groups = grouped(pairs(strides(4)), 8, sort=True)
    assert [queries.tolist() for queries, _ in groups] == [list(range(i, 16, 4)) for i in range(4)]
    groups = grouped(pairs(local(2)), 4, sort=True)
    assert [queries.tolist() for queries, _ in groups] == torch.arange(16).view(4, 4).tolist()
    assert [keys.tolist() for _, keys in groups][2] == [6, 7, 8, 9, 10, 11]


def test_computed_pairs_grow_as_t_sqrt_t():
    def computed(mask: Mask, T: int) -> int:
        return sum(each.seen.numel() for each in Gather(causal & mask, 1, T).passes)

    for make in (local, strides, lambda s: local(s) | strides(s), lambda s: fixed(s, 1)):
        for side in (16, 32):
            assert computed(make(side), side * side) <= 4.5 * side**3  # 3 to 4 in each of T rows
    assert len(Gather(causal & (local(32) | strides(32)), 1, 1024).passes) == 2


# --- verbs on models


@pytest.fixture
def long() -> Transformer:
    model = Transformer(Config(vocab=50, context=64, layers=2, heads=4, dim=32))
    for p in model.parameters():
        nn.init.normal_(p, std=0.3)
    return model.eval()


@torch.no_grad()
@pytest.mark.parametrize("mask", [local(8) | strides(8), PER_HEAD, [block(8), "summaries(8, 1) | itself"]])
def test_finalized_models_equal_and_decode(long, mask):
    applied = sparse_attention.apply(long, mask=mask)
    final = sparse_attention.finalize(applied, context=64)
    ids = torch.randint(50, (2, 60))
    wanted = applied(ids)
    assert not torch.allclose(wanted, long(ids), atol=0.1)
    torch.testing.assert_close(final(ids), wanted, atol=1e-4, rtol=1e-4)
    past = Past()
    chunks = torch.cat([final(part, past=past) for part in ids.split([33, 1, 5, 21], 1)], 1)
    torch.testing.assert_close(chunks, wanted, atol=1e-4, rtol=1e-4)
    changed = ids.clone()
    changed[:, 40:] = 0
    assert torch.equal(final(changed)[:, :32], final(ids)[:, :32])  # causal
    assert torch.equal(generate(final, ids[:, :9], 20), generate(applied, ids[:, :9], 20))


def test_macs_fall_and_layers_share_tables(long):
    applied = sparse_attention.apply(long, mask="fixed(8, 1)")
    final = sparse_attention.finalize(applied, context=64)
    first, second = (layer.mix.inner.kernel for layer in final.blocks.layers)
    assert first is second and final.state_dict().keys() == long.state_dict().keys()
    pairs = sum(each.seen.numel() for each in first.passes)
    assert cost.macs(applied) == cost.macs(long)
    assert cost.macs(long) - cost.macs(final) == 2 * 32 * 2 * (64 * 64 - pairs) / 64


def test_masks_add_up_and_dense_layers_stay(long):
    twice = sparse_attention.apply(sparse_attention.apply(long, mask=local(8)), mask=strides(2))
    assert twice.blocks.layers[0].mix.inner.mask.name == "(local(8) & strides(2))"
    half = sparse_attention.finalize(sparse_attention.apply(long, mask=[everything, local(8)]), context=64)
    assert half.blocks.layers[0].mix.inner.kernel is fused
    second = sparse_attention.apply(long, mask=local(8), where=named("1.mix.inner"))
    assert [layer.mix.inner.mask.name for layer in second.blocks.layers] == ["everything", "local(8)"]


@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("grad", [True, False])
def test_an_encoder_that_is_not_ours(norm_first, grad):
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, norm_first=norm_first, dropout=0.0)
    theirs = adopt(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)).eval()
    applied = sparse_attention.apply(theirs, mask=local(3))
    final = sparse_attention.finalize(applied, context=32, mask=everything)
    x, hidden = torch.randn(2, 20, 32), torch.arange(20) >= torch.tensor([[20], [13]])
    near = (torch.arange(20)[:, None] - torch.arange(20)).abs() <= 3
    with torch.set_grad_enabled(grad):
        ours, dense = (model(x, src_key_padding_mask=hidden)[~hidden] for model in (final, applied))
        plain = theirs(x, ~near, src_key_padding_mask=hidden)[~hidden]
    torch.testing.assert_close(dense, plain)
    torch.testing.assert_close(ours, plain, atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="lacks causal; finalize with mask="):
        sparse_attention.finalize(applied, context=32)(x)


def test_an_expression_is_the_mask_that_prints_it():
    for mask in (PER_HEAD, ~(local(3) & strides(2)) | itself):
        assert parse(repr(mask)).name == mask.name
        assert torch.equal(pairs_of_heads(parse(repr(mask))), pairs_of_heads(mask))


def pairs_of_heads(mask: Mask) -> Tensor:
    return mask.visible(1, 4, torch.arange(9)[:, None], torch.arange(9))


ONES = Mask(lambda b, h, q, k: k * 0 + 1, "ones")
WRONG = {
    "width=-1": lambda m: local(-1),
    "width=True": lambda m: local(True),
    "stride=0": lambda m: strides(0),
    "summary=5": lambda m: fixed(4, 5),
    "number=-1": lambda m: head(-1),
    "mask=\"open('x')\"": lambda m: sparse_attention.apply(m, mask="open('x')"),
    "mask='local": lambda m: sparse_attention.apply(m, mask="local(8).name"),
    "mask=8: give a mask": lambda m: sparse_attention.apply(m, mask=8),
    "mask=tensor": lambda m: sparse_attention.apply(m, mask=torch.ones(8, 8).tril()),
    "mask=<function": lambda m: sparse_attention.apply(m, mask=lambda b, h, q, k: q >= k),
    "mask=None: give a mask": lambda m: final(m, mask=None),
    "mask=<built-in": lambda m: sparse_attention.apply(m, mask=local(2) & max),
    "mask=3: give a mask": lambda m: sparse_attention.apply(m, mask="local(8) & 3"),
    "mask=True: give a mask": lambda m: local(2) | True,
    "mask=tensor([[ True": lambda m: m(torch.zeros(1, 2).long(), torch.ones(2, 2).bool().tril()),
    "mask=mask returns <class 'bool'>": lambda m: sparse_attention.apply(m, mask=Mask(lambda *i: True)),
    "mask=ones returns torch.int64": lambda m: sparse_attention.apply(m, mask=ONES),
    "mask=~everything: the first token": lambda m: sparse_attention.apply(m, mask=~everything),
    "mask=''": lambda m: sparse_attention.apply(m, mask=""),
    "mask has 0 values": lambda m: sparse_attention.apply(m, mask=[]),
    "mask='all': combine": lambda m: final(m, mask="all"),
    "or core.adopt": lambda m: sparse_attention.apply(nn.TransformerEncoderLayer(8, 2), mask=local(2)),
    "give a function": lambda m: sparse_attention.apply(m, mask=local(2), where=Attention),
    "is_a('Attention',)": lambda m: sparse_attention.apply(m, mask=local(2), where=is_a("Attention")),
    "width='8'": lambda m: local("8"),
    "context='64'": lambda m: final(m, "64"),
    "3 values for 2 layers": lambda m: sparse_attention.apply(m, mask=[local(3)] * 3),
    "first token of head 2 sees nothing; add `| itself`": lambda m: sparse_attention.apply(
        m, mask=head(0) & local(3) | head(1)
    ),
    "first token sees nothing; add `| itself`": lambda m: sparse_attention.apply(m, mask=summaries(8)),
    "a Linear has no seam": lambda m: sparse_attention.apply(m, mask=local(3), where=is_a(nn.Linear)),
    "call apply first": lambda m: sparse_attention.finalize(m, context=64),
    "mask=(causal & verbs) differs": lambda m: final(m, mask=verbs(torch.ones(2, 64).bool())),
    "context=0": lambda m: final(m, 0),
    "taken": lambda m: sparse_attention.finalize(final(m), context=64),
    "apply all masks first": lambda m: sparse_attention.apply(final(m), mask=local(2)),
    "20 positions, but this kernel has context=16": lambda m: final(m, 16)(torch.zeros(1, 20).long()),
    "one bool per token": lambda m: tagged(m, tags=torch.ones(49).bool()),
    "is_verb=[[True]]": lambda m: verbs([[True]]),
    "is_verb=tensor([[1, 1]])": lambda m: verbs(torch.ones(1, 2).long()),
    "is_verb=tensor([True": lambda m: verbs(torch.ones(2).bool()),
    "texts='They flew": lambda m: verb_tags("They flew.", lambda word: [0], vocab=4),
    "tags of torch.int64": lambda m: tagged(m, tags=torch.ones(50).long()),
    "tags of type list": lambda m: tagged(m, tags=[True] * 50),
    "a Linear is no minieff": lambda m: tagged(nn.Linear(3, 3), tags=torch.ones(50).bool()),
    "head='0'": lambda m: tagged(m, tags=torch.ones(50).bool(), head="0"),
    "heads 0 to 3": lambda m: tagged(m, tags=torch.ones(50).bool(), head=4),
}


def final(model: nn.Module, context: int = 64, mask: Mask = LOCAL) -> nn.Module:
    return sparse_attention.finalize(sparse_attention.apply(model, mask=mask), context=context)


@pytest.mark.parametrize("said", WRONG)
def test_bad_input(said, long, unchecked):
    with pytest.raises(ValueError, match=re.escape(said)):
        WRONG[said](long)


# --- the verb head


def test_the_verb_head_sees_verbs_alone_or_itself():
    is_verb = torch.tensor([[0, 0, 1, 0, 1, 0], [0, 0, 0, 0, 0, 0], [1, 1, 0, 0, 0, 1]]).bool()
    seen = (causal & verbs(is_verb)).visible(3, 1, torch.arange(6)[:, None], torch.arange(6))[:, 0]
    assert seen[0].long().tolist()[1:] == [
        [0, 1, 0, 0, 0, 0], [0, 0, 1, 0, 0, 0], [0, 0, 1, 0, 0, 0], [0, 0, 1, 0, 1, 0], [0, 0, 1, 0, 1, 0]
    ]  # fmt: skip
    assert torch.equal(seen[1], torch.eye(6).bool())  # no row is empty: no NaN without verbs
    assert torch.equal(seen[2].sum(1), torch.tensor([1, 2, 2, 2, 2, 3]))


@torch.no_grad()
def test_a_tagged_model(long):
    ids, tags = torch.randint(50, (2, 30)), torch.arange(50) < 15
    torch.testing.assert_close(tagged(long, tags=torch.ones(50).bool())(ids), long(ids))
    model = tagged(long, tags=tags, head=2)
    past = Past()
    chunks = torch.cat([model(part, past=past) for part in ids.split([7, 1, 22], 1)], 1)
    torch.testing.assert_close(chunks, model(ids), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(model(ids), long(ids), atol=0.1)
    assert model(ids[:, :1]).isfinite().all() and "head=2, tagged=15 of 50" in str(model)
    sparse = tagged(final(long), tags=tags)  # the kernel asks the verb mask at the pairs that it has
    dense = tagged(sparse_attention.apply(long, mask=local(3)), tags=tags)
    some = ids.clone()
    some[:, ::3] = 3  # a verb within reach of each token: no row is empty
    torch.testing.assert_close(sparse(some), dense(some), atol=1e-4, rtol=1e-4)


def test_a_verb_head_weighs_no_other_token_and_may_forget_them():
    """Weights are 0 where there is no verb, and a cache of the verbs alone gives the same output."""
    is_verb = torch.rand(1, 12) < 0.4
    is_verb[0, 0] = True
    x, attention = torch.randn(1, 12, 8), Attention(8, 1)
    attention.mask = verbs(is_verb)
    wanted = attention(x)
    other = torch.where(is_verb[..., None], x, torch.randn_like(x))
    q = attention.split(attention.q(x))
    k, v = attention.split(attention.k(other)), attention.split(attention.v(other))
    y = fused(attention, q, k, v, causal & attention.mask, 0)
    torch.testing.assert_close(attention.out(y.transpose(1, 2).flatten(2)), wanted)
    slot, new = Slot(), []
    for t in range(12):
        keys, values = slot.extend(*(z[:, :, t : t + 1][:, :, is_verb[0, t : t + 1]] for z in (k, v)))
        new.append(fused(attention, q[:, :, t : t + 1], keys, values, everything, t))
        assert keys.shape[2] == is_verb[0, : t + 1].sum()
    torch.testing.assert_close(torch.cat(new, 2), y)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # it leaves its lexicon open
def test_tags_of_real_text():
    pytest.importorskip("textblob")
    texts = [
        "The dragon flew over the castle and was eating the king's gold.",
        "They flew home to the castle.",
    ]
    words = sorted({word for text in texts for word in text.replace(".", "").replace("'s", "").split()})
    encode = lambda text: [words.index(text.strip())] if text.strip() in words else [len(words)]  # noqa: E731
    tags = sparse_attention.verb_tags(texts, encode, len(words) + 1)
    assert [word for word, tag in zip(words, tags, strict=False) if tag] == ["eating", "flew", "was"]


@pytest.mark.parametrize("ids", [[9], []])
def test_tags_need_ids_of_the_vocabulary(ids):
    pytest.importorskip("textblob")
    with pytest.raises(ValueError, match="encode gives .* for 'They'.*vocab=4"):
        verb_tags(["They flew."], lambda word: ids, vocab=4)


def test_tags_need_textblob(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "textblob", None)
    monkeypatch.setitem(__import__("sys").modules, "textblob.taggers", None)
    with pytest.raises(ImportError, match="textblob"):
        sparse_attention.verb_tags(["A b."], lambda text: [0], 1)


@pytest.mark.parametrize("mask", [local(3), local(8) | strides(8)], ids=str)
@pytest.mark.parametrize("grad", [True, False])
def test_a_head_without_a_tag_in_reach_gives_zero_and_nothing_of_the_future(model, mask, grad):
    tags = torch.arange(50) < 5
    final = sparse_attention.finalize(sparse_attention.apply(model, mask=mask), context=24)
    ids = torch.randint(10, 50, (1, 24))
    ids[0, 2] = 3  # the only verb
    later = torch.cat([ids[:, :18], torch.full_like(ids[:, 18:], 11)], 1)
    with torch.set_grad_enabled(grad):
        found = tagged(final, tags=tags)(ids)
        dense = tagged(sparse_attention.apply(model, mask=mask), tags=tags)(ids)
        torch.testing.assert_close(found, dense, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(found[:, :18], tagged(final, tags=tags)(later)[:, :18])
