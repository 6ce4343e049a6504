"""MobileBERT's layers against those of transformers, and the sizes of what was distilled."""

import pytest
import torch
from torch import nn

from minieff.core import cost
from minieff.core.attention import everything
from minieff.core.past import Past
from minieff.core.surgery import is_a, swap
from minieff.core.transformer import Block
from minieff.distill_inside.mobilebert import BottleneckBlock, TrigramEmbedding

TINYBERT = {"hidden_size": 312, "num_hidden_layers": 4, "intermediate_size": 1200, "num_attention_heads": 12}
SIZES = {
    "distilbert": ({}, 66_362_880),
    "bert": (TINYBERT, 14_350_248),
    "mobilebert": ({"classifier_activation": False}, 24_581_888),
}


@pytest.mark.parametrize("name", SIZES)
def test_sizes_are_those_of_the_papers(name):
    transformers = pytest.importorskip("transformers")
    config, wanted = SIZES[name]
    with torch.device("meta"):
        theirs = transformers.AutoModel.from_config(transformers.AutoConfig.for_model(name, **config))
    assert cost.parameters(theirs) == wanted


def test_mobilebert_has_as_many_parameters_as_its_paper_says():
    with torch.device("meta"):
        layers = [TrigramEmbedding(30522, 512), *(BottleneckBlock() for _ in range(24))]
    assert cost.parameters(nn.ModuleList(layers)) == 24_581_888


def fill(own: BottleneckBlock, theirs: nn.Module) -> None:
    """Weights of a layer of transformers."""
    bottleneck, attention, out = theirs.bottleneck, theirs.attention, theirs.output
    parts = {
        own.narrow[0]: bottleneck.input.dense,
        own.narrow[1]: bottleneck.input.LayerNorm,
        own.shared[0]: bottleneck.attention.dense,
        own.shared[1]: bottleneck.attention.LayerNorm,
        own.attention.q: attention.self.query,
        own.attention.k: attention.self.key,
        own.attention.v: attention.self.value,
        own.attention.out: attention.output.dense,
        own.norm: attention.output.LayerNorm,
        own.wide: out.bottleneck.dense,
        own.wide_norm: out.bottleneck.LayerNorm,
    }
    feeds = [*((feed.intermediate, feed.output) for feed in theirs.ffn), (theirs.intermediate, out)]
    for feed, (up, down) in zip(own.feeds, feeds, strict=True):
        parts |= {feed.up: up.dense, feed.down: down.dense, feed.norm: down.LayerNorm}
    for module, other in parts.items():
        module.load_state_dict(other.state_dict())


def test_embedding_and_layers_are_those_of_transformers(ids):
    transformers = pytest.importorskip("transformers")
    sizes = {"vocab_size": 50, "hidden_size": 64, "intermediate_size": 32, "num_hidden_layers": 2}
    sizes |= {"embedding_size": 16, "intra_bottleneck_size": 16, "true_hidden_size": 16}
    config = transformers.MobileBertConfig(num_attention_heads=4, num_feedforward_networks=3, **sizes)
    theirs = transformers.MobileBertModel(config, add_pooling_layer=False).eval()
    for p in theirs.parameters():
        nn.init.normal_(p, std=0.2)
    embedding, before = TrigramEmbedding(50, 512, width=16, dim=64), theirs.embeddings
    for own, other in (
        (embedding.tok, before.word_embeddings),
        (embedding.pos, before.position_embeddings),
        (embedding.kind, before.token_type_embeddings),
        (embedding.widen, before.embedding_transformation),
        (embedding.norm, before.LayerNorm),
    ):
        own.load_state_dict(other.state_dict())
    x = embedding(ids)
    for layer in theirs.encoder.layer:
        block = BottleneckBlock(dim=64, inner=16, heads=4, ffn=32, feeds=3)
        fill(block, layer)
        x = block(x, everything)
    torch.testing.assert_close(x, theirs(ids).last_hidden_state, rtol=1e-4, atol=1e-4)


def test_a_model_of_its_layers_decodes(model, ids):
    narrow = swap(model, is_a(Block), lambda block: BottleneckBlock(32, inner=8, heads=2, ffn=16, feeds=2))
    past = Past()
    pieces = [narrow(part, past=past) for part in ids.split([5, 1, 10], 1)]
    torch.testing.assert_close(torch.cat(pieces, 1), narrow(ids), rtol=1e-4, atol=1e-4)
