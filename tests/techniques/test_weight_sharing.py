"""Layers that share weights, small embeddings, projections. General laws are in test_laws.py."""

import jaxtyping
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers import AlbertConfig, AlbertModel, BertConfig, BertModel, GPT2Config, GPT2LMHeadModel
from transformers.models.albert.modeling_albert import AlbertLayerGroup
from transformers.models.gpt2.modeling_gpt2 import GPT2Block

from minieff import product_quant, scalar_quant, weight_sharing
from minieff.core import cost
from minieff.core.past import Past
from minieff.core.surgery import clone, is_a, named
from minieff.core.transformer import Block, Config, Transformer
from minieff.weight_sharing.projections import Projections, mixed

# --- layers


def test_shared_layers_equal_layers_with_the_same_weights(model, ids):
    """And the gradient of the shared weight is the sum of theirs."""
    shared, copied = weight_sharing.apply(model, every=3), clone(model)
    for block in copied.blocks.layers[1:]:
        block.load_state_dict(copied.blocks.layers[0].state_dict())
    assert torch.equal(shared(ids), copied(ids))
    for one in (shared, copied):
        one(ids).square().mean().backward()
    for p, *others in zip(*(m.parameters() for m in (shared.blocks, *copied.blocks.layers)), strict=True):
        torch.testing.assert_close(p.grad, sum(other.grad for other in others), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("every", "blocks"), [(1, 3), (2, 2), (3, 1)])
def test_parameters_do_not_depend_on_depth(model, every, blocks):
    shared = weight_sharing.apply(model, every=every)
    block = cost.parameters(model.blocks.layers[0])
    assert cost.parameters(model) - cost.parameters(shared) == (3 - blocks) * block
    assert cost.stored_bytes(model) - cost.stored_bytes(shared) == (3 - blocks) * 4 * block
    assert cost.macs(shared) == cost.macs(model)  # every layer still runs
    assert len(set(shared.blocks.layers)) == blocks and len(shared.blocks.layers) == 3


@pytest.mark.parametrize(
    ("size", "layers", "count"),
    [(768, 12, 11_683_584), (1024, 24, 17_683_968), (2048, 24, 58_724_864), (4096, 12, 222_595_584)],
)
def test_transformers_unshared_albert_becomes_albert(size, layers, count):
    """The published sizes, from its formula and from its modules."""
    config = AlbertConfig(hidden_size=size, num_hidden_layers=layers, num_hidden_groups=layers)
    config.intermediate_size, config.num_attention_heads = 4 * size, size // 64
    with torch.device("meta"):
        unshared = AlbertModel(config)
    albert = weight_sharing.apply(unshared, every=layers, where=is_a(AlbertLayerGroup))
    V, P, E, H = 30_000, 512, 128, size
    layer = 4 * (H * H + H) + 2 * 4 * H * H + 5 * H + 4 * H
    assert cost.parameters(albert) == V * E + P * E + 4 * E + (E * H + H) + layer + (H * H + H) == count
    assert cost.parameters(unshared) == count + (layers - 1) * layer
    if layers == 12 and size == 768:
        assert cost.parameters(unshared) == 89_650_176


def test_bert_and_its_embedding():
    with torch.device("meta"):
        bert = BertModel(BertConfig())
    small = weight_sharing.factorize(bert, rank=128, where=named("word_embeddings"))
    assert cost.parameters(bert) == 109_482_240
    assert cost.parameters(bert) - cost.parameters(small) == 30_522 * 768 - 128 * (30_522 + 768)


def test_a_cache_of_transformers_has_a_place_for_each_use():
    """A shared block has one number: its uses would write into one place of the cache."""
    theirs = GPT2LMHeadModel(GPT2Config(vocab_size=50, n_positions=16, n_embd=16, n_layer=4, n_head=2)).eval()
    for p in theirs.parameters():
        nn.init.normal_(p, std=0.3)
    shared, ids = weight_sharing.apply(theirs, every=2, where=is_a(GPT2Block)), torch.randint(50, (2, 6))
    first, *_ = shared.transformer.h
    assert [block.attn.layer_idx for block in shared.transformer.h] == [0, 1, 2, 3]
    assert first.mlp.c_fc.weight is shared.transformer.h[1].mlp.c_fc.weight
    assert cost.parameters(theirs) - cost.parameters(shared) == 2 * cost.parameters(first)
    with torch.no_grad():
        start = shared(ids[:, :4], use_cache=True)
        end = shared(ids[:, 4:], past_key_values=start.past_key_values)
        torch.testing.assert_close(end.logits, shared(ids, use_cache=False).logits[:, 4:])


# --- embeddings


def test_a_factorized_embedding_is_exact_at_full_rank_and_the_best_below(model, ids):
    torch.testing.assert_close(
        weight_sharing.factorize(model, rank=32)(ids), model(ids), rtol=1e-4, atol=1e-4
    )
    small = weight_sharing.factorize(model.train(), rank=8)
    dropped = torch.linalg.svdvals(model.tok.weight)[8:].square().sum()
    torch.testing.assert_close((small.tok.weight - model.tok.weight).square().sum(), dropped)
    assert all(module.training for module in small.modules())
    assert cost.parameters(model) - cost.parameters(small) == 50 * 32 - 8 * (50 + 32)
    assert cost.macs(small) - cost.macs(model) == 8 * 32 + 8 * (50 + 32) - 50 * 32
    small(ids).square().mean().backward()
    assert all(p.grad.abs().sum() > 0 for p in small.tok.parameters())
    past = Past()
    chunks = [small.eval()(chunk, past=past) for chunk in ids.split([9, 7], dim=1)]
    torch.testing.assert_close(torch.cat(chunks, 1), small(ids), rtol=1e-4, atol=1e-4)
    trained = scalar_quant.apply(small, activations="none")  # the factors are an Embedding and a Linear
    torch.testing.assert_close(scalar_quant.finalize(trained)(ids), trained(ids), rtol=0.01, atol=0.1)
    coded = product_quant.finalize(small, block=4, codewords=100, where=named("tokens"))
    torch.testing.assert_close(coded(ids), small(ids), rtol=1e-4, atol=1e-4)  # a codeword for each block


class Mine(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tok, self.head = nn.Embedding(50, 8, padding_idx=0), nn.Linear(8, 50)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.tok(ids))


BOTH = named("tok", "head")


def test_a_tied_head_shares_weight_gradient_and_factors(ids):
    mine = Mine()
    tied = weight_sharing.tie(mine, where=BOTH)
    assert cost.parameters(mine) - cost.parameters(tied) == 50 * 8
    tied(ids).square().mean().backward()
    rows, matrix = (tied.tok.weight.detach().clone().requires_grad_() for _ in range(2))
    F.linear(F.embedding(ids, rows, 0), matrix, tied.head.bias).square().mean().backward()
    torch.testing.assert_close(tied.tok.weight.grad, rows.grad + matrix.grad)
    small = weight_sharing.factorize(tied, rank=8, where=BOTH)
    torch.testing.assert_close(small(ids), tied(ids), rtol=1e-4, atol=1e-4)
    assert cost.parameters(small) == 8 * (50 + 8) + 50 and small.head.embedding is small.tok
    assert small.tok(torch.tensor([0])).abs().max() < 1e-6  # padding


# --- projections


def test_projections_are_exact_where_the_teacher_is_a_projected_student(model):
    student = Transformer(model.config.__class__(50, 24, layers=3, heads=4, dim=16))
    for up in (True, False):
        projections, teacher = Projections(model, student, up=up), weight_sharing.finalize(model)
        before = projections(model, student)
        before.backward()
        assert all(p.grad.abs().sum() > 0 for p in projections.parameters()) and before > 1e-3
        with torch.no_grad():
            for name in projections.names:
                w_t, w_s = (m.get_submodule(name).weight for m in (teacher, student))
                w_t.zero_()[: w_s.shape[0], : w_s.shape[1]] = w_s  # U and V start as cut identities
        assert projections(teacher, student) == 0
    assert cost.parameters(projections) == 2 * (32 * 16 + 128 * 64)  # for all layers together


def test_projections_of_half_precision_are_computed_in_single(model):
    student = Transformer(Config(50, 24, layers=3, heads=4, dim=16))
    half, single = (
        Projections(model.to(dtype), student.to(dtype)) for dtype in (torch.bfloat16, torch.float32)
    )
    assert half(model.bfloat16(), student.bfloat16()) == single(model.float(), student.float())


def test_words_are_cut_by_either_tokenizer():
    words = [[i] for i in range(2000)], [[i, i] for i in range(2000)]
    ids = mixed(*words, offset=5000, generator=torch.Generator().manual_seed(0))
    assert [i % 5000 for i in dict.fromkeys(ids)] == list(range(2000))
    assert abs(sum(i >= 5000 for i in ids) / 2 - 1000) < 70


# --- bad input

ENCODER = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2)
RELUS = nn.Sequential(nn.ReLU(), nn.ReLU())


def small() -> Transformer:
    return Transformer(Config(50, 24, layers=3, heads=4, dim=16))


def nan() -> nn.Embedding:
    return nn.Embedding.from_pretrained(torch.full((9, 4), torch.nan))


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda m: weight_sharing.apply(m, every=0), "every=0"),
        (lambda m: weight_sharing.apply(m, every=4), "every=4.*3 layers"),
        (lambda m: weight_sharing.apply(m, every=2, where=is_a(nn.Linear)), "needs a list"),
        (lambda m: weight_sharing.apply(m, every="2"), "every='2'"),
        (lambda m: weight_sharing.apply(m, every=2.0), "every=2.0"),
        (lambda m: weight_sharing.apply(m, every=2, where=Block), r"where=<class .*is_a\("),
        (lambda m: weight_sharing.apply(m, every=2, where="blocks"), "where='blocks'"),
        (lambda m: weight_sharing.apply(m, every=2, where=nn.ReLU()), r"where=ReLU\(\)"),
        (lambda m: weight_sharing.apply(ENCODER, every=2), "TransformerEncoderLayer.*where="),
        (lambda m: weight_sharing.factorize(m, rank="8"), "rank='8'"),
        (lambda m: weight_sharing.factorize(nn.Embedding(9, 4), rank=2), "where="),
        (lambda m: weight_sharing.factorize(nan(), rank=2, where=is_a(nn.Embedding)), "NaN"),
        (lambda m: weight_sharing.tie(RELUS, where=is_a(nn.ReLU)), "two or more.*None"),
        (lambda m: weight_sharing.tie(RELUS, where=nn.ReLU), "where=<class"),
        (lambda m: Projections(m, small(), where=is_a(nn.LayerNorm)), "norm has no matrix"),
        (lambda m: Projections(RELUS, RELUS, where=is_a(nn.ReLU)), "0 has no matrix"),
        (lambda m: Projections(m, small())(small(), m), "the two models it is of"),
        (lambda m: mixed([[1]], [[1]], offset=3, p="0.5"), "p='0.5'"),
        (lambda m: mixed([1, 2], [3, 4], offset=3), "each a list of ids"),
        (lambda m: mixed([[1]], [[1]], offset=-3), "offset=-3"),
        (lambda m: weight_sharing.apply(weight_sharing.apply(m, every=2), every=3), "already"),
        (lambda m: weight_sharing.factorize(m, rank=33), "rank=33.* 1 to 32"),
        (lambda m: weight_sharing.factorize(scalar_quant.apply(m), rank=8), "FakeQuant already"),
        (lambda m: weight_sharing.factorize(scalar_quant.finalize(m), rank=8), "matched no module"),
        (
            lambda m: weight_sharing.factorize(
                weight_sharing.tie(Mine(), where=BOTH), rank=4, where=named("tok")
            ),
            "share one weight; pick both",
        ),
        (lambda m: weight_sharing.tie(m, where=is_a(nn.Embedding)), "one shape.*24, 32"),
        (lambda m: weight_sharing.tie(Mine(), where=named("tok")), "two or more"),
        (lambda m: Projections(m, m.blocks), "blocks.*in one model alone"),
        (lambda m: mixed([[1]], [], offset=3), "1 words of the teacher, 0"),
        (lambda m: mixed([[1]], [[1]], offset=3, p=2.0), "p=2.0"),
    ],
)
def test_bad_input_is_refused(model, monkeypatch, call, said):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users call it
    with pytest.raises(ValueError, match=said):
        call(model)


def test_a_row_for_padding_stays_one_wherever_the_head_stands():
    model = nn.Module()
    model.head, model.emb = nn.Linear(8, 50, bias=False), nn.Embedding(50, 8, padding_idx=0)
    model.head.weight = model.emb.weight
    small = weight_sharing.factorize(model, rank=8, where=is_a(nn.Linear, nn.Embedding))
    small.emb(torch.zeros(1, 3, dtype=torch.long)).sum().backward()
    assert small.emb.tokens.weight.grad.abs().sum() == 0
