"""Decoding: what `generate` writes, the fused model, and memories of keys and values."""

from functools import partial

import jaxtyping
import pytest
import torch
from torch import nn

from minieff import headdrop, layerdrop, scalar_quant
from minieff.core.attention import Mask, causal, itself, prefix
from minieff.core.past import Past
from minieff.core.surgery import clone, is_a, swap
from minieff.core.transformer import Config, FeedForward, Stack, Transformer
from minieff.fast_decoding import (
    Int8Past,
    StaticPast,
    exits,
    fuse,
    generate,
    group,
    probabilities,
    speculate,
    tokens_per_pass,
    verify,
)
from minieff.fast_decoding.cache import decode, encode

NEAR = {"atol": 1e-4, "rtol": 1e-4}  # the logits of the test model are of the order of 10


def coins() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def plain_greedy(model: nn.Module, ids: torch.Tensor, tokens: int) -> torch.Tensor:
    """Without a cache: each token from a pass over all of them."""
    for _ in range(tokens):
        ids = torch.cat([ids, model(ids)[:, -1:].argmax(-1)], dim=1)
    return ids


@pytest.mark.parametrize("lay_out", [clone, fuse, lambda model: fuse(group(model, heads=4))])
def test_cached_greedy_tokens_are_those_of_full_passes(model, ids, lay_out):
    assert torch.equal(generate(lay_out(model), ids[:, :6], 18), plain_greedy(model, ids[:, :6], 18))


def test_greedy_tokens_are_those_of_transformers():
    pytest.importorskip("transformers")
    from benchmarks.peers import from_gpt2, gpt2

    theirs = gpt2(Config(50, 32, layers=2, heads=4, dim=32), activation_function="gelu_pytorch_tanh")
    for p in theirs.parameters():
        nn.init.normal_(p, std=0.3)
    ids, stop = torch.randint(1, 50, (3, 6)), 7
    knobs = {"do_sample": False, "pad_token_id": stop, "attention_mask": torch.ones_like(ids)}
    for eos, own in ((None, ()), (stop, (stop,))):
        wanted = theirs.generate(ids, max_new_tokens=20, eos_token_id=eos, **knobs)
        for model in (from_gpt2(theirs), fuse(from_gpt2(theirs))):
            assert torch.equal(generate(model, ids, 20, stop=own), wanted)


def test_generated_ids_can_be_trained_on(model, ids):
    for stop in ((), range(50)):  # to the end, and at the first token
        model(generate(model, ids, 4, stop=stop)).sum().backward()
    assert model.tok.weight.grad.isfinite().all()


@pytest.mark.parametrize("lay_out", [clone, fuse])
def test_prompts_of_unequal_length_go_on_as_each_alone(model, ids, lay_out):
    model, lengths = lay_out(model), torch.tensor([3, 8, 5])
    ids = torch.cat([ids, ids.roll(1, 0)[:1]])[:, :8]
    found = generate(model, ids, 10, lengths=lengths)
    for row, length in enumerate(lengths.tolist()):
        alone = generate(model, ids[row : row + 1, :length], 18 - length)
        assert torch.equal(found[row], alone[0])
    stop = int(found[0, 4])  # the second new token of the shortest; the others may stop elsewhere
    stopped = generate(model, ids, 10, lengths=lengths, stop=[stop])
    assert torch.equal(stopped[0], torch.cat([found[0, :5], found.new_full((13,), stop)])[: len(stopped[0])])


def test_generation_ends_once_every_row_has_stopped(model, ids):
    found = generate(model, ids[:1, :4], 10)
    assert generate(model, ids[:1, :4], 10, stop=found[0, 6:7].tolist()).shape[1] <= 7
    assert torch.equal(generate(model, ids, 0), ids)


def test_probabilities_are_those_of_transformers():
    processors = pytest.importorskip("transformers.generation.logits_process")
    logits = 3 * torch.randn(20, 50)
    for temperature, k, p in ((0.7, 5, 0.8), (1.3, 50, 0.5), (1.0, 1, 1.0), (2.0, 9, 1e-6)):
        wanted = processors.TemperatureLogitsWarper(temperature)(None, logits)
        wanted = processors.TopKLogitsWarper(k)(None, wanted)
        wanted = processors.TopPLogitsWarper(p)(None, wanted) if p < 1 else wanted
        torch.testing.assert_close(probabilities(logits, temperature, k, p), wanted.softmax(-1))
    assert torch.equal(probabilities(logits, 0).argmax(-1), logits.argmax(-1))
    assert probabilities(logits, 1e-30).isfinite().all()


def test_sampled_tokens_follow_the_distribution(model, ids):
    prompt = ids[:1, :5].expand(4000, -1)
    with torch.no_grad():
        p = probabilities(model(ids[:1, :5])[0, -1], 8.0, top_k=6)
    found = generate(model, prompt, 1, temperature=8.0, top_k=6, generator=coins())[:, -1]
    counts, wanted = found.bincount(minlength=50)[p > 0], 4000 * p[p > 0]
    assert len(found.unique()) == 6 and float(((counts - wanted) ** 2 / wanted).sum()) < 20.5  # 5 free: 0.1 %
    again = generate(model, prompt, 1, temperature=8.0, top_k=6, generator=coins())[:, -1]
    assert torch.equal(found, again)


# --- fuse

REAL = torch.arange(16) >= torch.tensor([[0], [4]])
MASKS = {
    "causal": causal,
    "prefix": prefix(torch.tensor([5, 9])),
    "padding": causal & (Mask(lambda b, h, q, k: REAL[b, k], "real") | itself),
}
OTHERS = {
    "plain": clone,
    "pruned": lambda model: layerdrop.finalize(layerdrop.apply(model, p=0.2), keep=[0, 2]),
    "shared": lambda model: swap(model, is_a(Stack), lambda stack: Stack([stack.layers[1]] * 3)),
    "grouped": lambda model: group(model, heads=2),
    "double": lambda model: clone(model).double(),
}


@torch.no_grad()
@pytest.mark.parametrize("change", OTHERS.values(), ids=OTHERS)
@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_fused_logits_are_the_models(model, ids, change, mask):
    changed = change(model)
    wanted = changed(ids, mask)
    torch.testing.assert_close(fuse(changed)(ids, mask), wanted, atol=1e-5 * wanted.abs().max(), rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("memory", [Past, lambda: StaticPast(24)])
def test_a_fused_model_decodes_rewinds_and_reorders(model, ids, memory):
    fused, past = fuse(model), memory()
    chunks = [fused(chunk, past=past) for chunk in ids.split([5, 1, 7, 3], dim=1)]
    torch.testing.assert_close(torch.cat(chunks, 1), model(ids), **NEAR)
    past.rewind(4)
    past.pick(torch.tensor([1, 1, 0]))
    other = torch.randint(50, (3, 6))
    whole = torch.cat([ids[[1, 1, 0], :4], other], 1)
    torch.testing.assert_close(fused(other, past=past), model(whole)[:, 4:], **NEAR)


@torch.no_grad()
def test_a_fused_model_is_a_copy_and_a_kept_part_is_not(model, ids):
    fused, before = fuse(model), model(ids)
    nn.init.zeros_(model.blocks.layers[0].mix.inner.q.weight)
    torch.testing.assert_close(fused(ids), before, **NEAR)
    assert all(own is whole for own, whole in zip(fused.keep([0, 2]).layers, fused.layers[::2], strict=True))


NOT_PLAIN = {
    "layerdrop": (lambda m: layerdrop.apply(m, p=0.1), "blocks.layers.0 is a Skip"),
    "headdrop": (lambda m: headdrop.apply(m, p=0.1), "blocks.layers.0.mix.inner has reweight"),
    "noise": (lambda m: scalar_quant.apply(m, p=0.1), "tok is a|mix.inner.q is a"),
    "exits": (lambda m: exits(m, threshold=0.5), "blocks is a Exit"),
    "feed": (lambda m: swap(m, is_a(FeedForward), nn.Sequential), "feed.inner is a Sequential"),
    "mask": (lambda m: masked(m), "mask=itself"),
}


def masked(model: Transformer) -> Transformer:
    model = clone(model)
    model.blocks.layers[1].mix.inner.mask = itself
    return model


@pytest.mark.parametrize("change, text", NOT_PLAIN.values(), ids=NOT_PLAIN)
def test_fuse_refuses_what_it_does_not_know(model, change, text):
    with pytest.raises(ValueError, match=text):
        fuse(change(model))


# --- memories


@torch.no_grad()
def test_a_static_past_is_allocated_once(model, ids):
    past = StaticPast(20)
    model(ids[:, :5], past=past)
    before = [t.data_ptr() for slot in past.slots for t in slot.room]
    for chunk in ids[:, 5:].split(2, dim=1):
        model(chunk, past=past)
    assert [t.data_ptr() for slot in past.slots for t in slot.room] == before
    assert past.nbytes() == 2 * 3 * 2 * 20 * 32 * 4
    with pytest.raises(ValueError, match="room for 20"):
        model(ids[:, :5], past=past)


def test_a_static_past_limits_what_is_read():
    past = StaticPast(9)
    for t in range(5):
        past.begin(torch.tensor([[t]]))
        (found,) = past.slot().extend(torch.full((1, 1, 1), float(t)), keep=2)
    assert found.flatten().tolist() == [2, 3, 4]


@torch.no_grad()
def test_int8_keys_and_values(model, ids):
    x = torch.randn(3, 4, 7, 16)
    codes, scale = encode(x)
    assert ((decode(codes, scale) - x).abs() <= scale / 2 * 1.001).all()
    assert decode(*encode(torch.zeros(2, 4))).eq(0).all()  # no 0 / 0
    past, once = Int8Past(16), Int8Past(16)
    chunks = torch.cat([model(chunk, past=past) for chunk in ids.split([5, 1, 7, 3], dim=1)], 1)
    torch.testing.assert_close(chunks, model(ids, past=once), **NEAR)
    assert past.nbytes() == 2 * 3 * 2 * 16 * (32 + 4 * 4)  # codes, and a scale for each of 4 heads
    error = (chunks - model(ids)).abs().max() / model(ids).abs().max()
    assert 0 < error < 0.1
    past.rewind(4)
    past.pick(torch.tensor([1, 0]))
    torch.testing.assert_close(model(ids.flip(0)[:, 4:], past=past), chunks.flip(0)[:, 4:], **NEAR)


IDS, ENCODER = (
    torch.zeros(2, 16, dtype=torch.long),
    nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2),
)
NAN = float("nan")


def written(**knobs):
    """generate with these."""
    return lambda model: generate(model, **({"ids": IDS, "tokens": 4} | knobs))


def speculated(**knobs):
    """speculate with these; a model is its own draft."""
    return lambda model: speculate(model, **({"draft": model, "ids": IDS[:1], "tokens": 4} | knobs))


def verified(p, q):
    return lambda model: verify(torch.tensor([2, 3]), torch.rand(p), torch.rand(q))


BAD = {
    "temperature": (written(temperature=-1.0), "temperature=-1.0"),
    "nan": (written(temperature=NAN), "temperature=nan"),
    "temperature text": (written(temperature="1"), "temperature='1'"),
    "top_k": (written(top_k=0), "top_k=0"),
    "top_k float": (written(top_k=2.5, temperature=1.0), "top_k=2.5"),
    "top_k unused": (written(top_k=5), "top_k=5, .*temperature=0.*such as 1.0"),
    "top_p": (written(top_p=1.5), "top_p=1.5"),
    "top_p text": (written(top_p="0.9", temperature=1.0), "top_p='0.9'"),
    "by hand": (lambda m: probabilities(torch.zeros(5), temperature=-1.0), "temperature=-1.0"),
    "context": (written(tokens=9), "context=24"),
    "tokens float": (written(tokens=2.0), "tokens=2.0"),
    "lengths": (written(lengths=torch.tensor([0, 3])), "from 1 to 16"),
    "lengths list": (written(lengths=[3, 8]), r"lengths=\[3, 8\].*give a tensor"),
    "lengths float": (written(lengths=torch.tensor([3.0, 8.0])), "integers"),
    "rows": (written(lengths=torch.tensor([3])), "one a row"),
    "stop number": (written(stop=5), "stop=5: give .* in a list"),
    "stop tensor": (written(stop=torch.tensor([5, 6])), "in a list"),
    "stop text": (written(stop="end"), "stop='end'"),
    "sequence": (written(ids=torch.zeros(3).long()), "ids\\[None\\]"),
    "ids list": (written(ids=[[1, 2]]), "list.*give a tensor"),
    "ids float": (written(ids=torch.zeros(1, 3)), "float32"),
    "no memory": (written(past=[]), "past is a list"),
    "other model": (
        lambda m: generate(ENCODER, IDS, 3),
        r"TransformerEncoder without config.*model\(ids, past",
    ),
    "length": (lambda m: StaticPast(0), "length=0"),
    "length text": (lambda m: StaticPast("8"), "length='8'"),
    "threshold text": (partial(exits, threshold="0.5"), "threshold='0.5'"),
    "threshold none": (partial(exits, threshold=None), "threshold=None"),
    "exits of others": (lambda m: exits(ENCODER, threshold=0.5), "TransformerEncoder holds no minieff"),
    "heads float": (partial(group, heads=2.0), "heads=2.0 does not divide"),
    "group of others": (lambda m: group(ENCODER, heads=1), "core.adopt"),
    "a type as where": (partial(group, heads=2, where=nn.Linear), r"where=<class .*is_a\(nn.Linear\)"),
    "a name as where": (partial(group, heads=2, where="q"), "where='q'"),
    "keep a number": (lambda m: fuse(m).keep(2), r"keep\(2\): give a list"),
    "keep text": (lambda m: fuse(m).keep("02"), "from 0 to 2"),
    "fused ids": (lambda m: fuse(m)(IDS[0]), r"ids\[None\]"),
    "draft": (speculated(draft=nn.Linear(3, 2)), "Linear without config.context"),
    "ahead": (speculated(ahead=2.5), "ahead=2.5"),
    "too few of p": (verified((2, 4), (2, 4)), "2 rows of q, and one more of p"),
    "vocabularies": (verified((3, 5), (2, 4)), r"p \(3, 5\), q \(2, 4\)"),
    "acceptance": (lambda m: tokens_per_pass(1.5, 4), "acceptance=1.5"),
}


@pytest.mark.parametrize("call, text", BAD.values(), ids=BAD)
def test_bad_input_is_refused(model, monkeypatch, call, text):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users call it
    with pytest.raises(ValueError, match=text):
        call(model)


def test_a_past_that_is_not_empty_and_no_prompt_are_refused(model, ids):
    past = Past()
    generate(model, ids, 2, past=past)
    with pytest.raises(ValueError, match="past holds 17 tokens"):
        generate(model, ids, 2, past=past)
    with pytest.raises(ValueError, match="prompt needs a token"):
        generate(model, ids[:, :0], 2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_int8_codes_do_not_wrap_in_16_bits(dtype):
    for size in (1.0, 3e-4):  # in fp16 the second one's scale is subnormal
        x = size * torch.randn(5000, 32).to(dtype)
        codes, scale = encode(x)
        assert codes.min() >= -127 and (codes * x >= 0).all()
        if size == 1.0:
            assert ((decode(codes, scale.float()) - x).abs() <= scale.float()).all()


def test_a_model_without_a_context_is_refused(ids):
    with pytest.raises(ValueError, match="without config.context"):
        generate(nn.Embedding(50, 50), ids, 3)


def test_top_p_is_as_exact_in_bf16():
    logits = 2 * torch.randn(1, 50_000).bfloat16()
    kept = [(probabilities(x, top_p=0.99) > 0).sum() for x in (logits, logits.float())]
    assert kept[0] == kept[1]
