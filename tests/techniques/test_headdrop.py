"""Heads that are skipped in training. General laws are in test_laws.py."""

import pytest
import torch
from torch import nn

from minieff import headdrop
from minieff.core.adopt import adopt
from minieff.core.checkpoint import generators


@pytest.mark.parametrize("training", [True, False])
def test_heads_are_skipped_in_training_alone(model, training):
    """With every head off, attention leaves the bias of its output projection."""
    attention = headdrop.apply(model, p=1.0).train(training).blocks.layers[0].mix.inner
    x = torch.randn(2, 5, 32)
    if training:
        assert torch.equal(attention(x), attention.out.bias.expand(2, 5, 32))
    else:
        torch.testing.assert_close(attention(x), model.blocks.layers[0].mix.inner(x))


def test_each_head_has_its_coin():
    skip = headdrop.HeadSkip(0.3, torch.Generator().manual_seed(0)).train()
    attn = torch.full((2, 64, 3, 3), 0.5)
    seen = torch.stack([skip(attn, torch.zeros(1)) for _ in range(100)])
    assert torch.equal(seen, seen[:, :1, :, :1, :1].expand_as(seen))  # a head is on or off as a whole
    assert set(seen.unique().tolist()) == {0.0, 0.5}  # and not rescaled
    off = (seen[:, 0, :, 0, 0] == 0).float()
    assert abs(off.mean() - 0.3) < 3 * (0.3 * 0.7 / off.numel()) ** 0.5
    assert off.sum(1).unique().numel() > 5  # they do not go together


def test_finalize_takes_the_heads_coins_away(model, ids):
    dropped = headdrop.apply(model, p=0.5, generator=torch.Generator())
    assert len(generators(dropped)) == 1  # a checkpoint keeps the stream
    final = headdrop.finalize(dropped)
    assert torch.equal(final(ids), model(ids))  # the fused path again
    assert str(final) == str(model)
    assert "p=0.5" in str(dropped.blocks.layers[0].mix.inner)


def test_heads_of_an_adopted_encoder_are_skipped():
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, dropout=0.0)
    theirs = adopt(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False))
    dropped, x = headdrop.apply(theirs, p=0.5).train(), torch.randn(2, 5, 32)
    assert any((dropped(x) - theirs(x)).abs().max() > 1e-3 for _ in range(10))
    torch.testing.assert_close(dropped.eval()(x), theirs.eval()(x))


def test_a_seam_that_is_taken_is_refused(model):
    with pytest.raises(ValueError, match="reweight=.*taken"):
        headdrop.apply(headdrop.apply(model, p=0.1), p=0.1)


@pytest.mark.parametrize("p", [-0.1, 1.1, float("nan")])
def test_an_impossible_p_is_refused(model, p):
    with pytest.raises(ValueError, match="probability"):
        headdrop.apply(model, p=p)


def test_the_coin_of_a_model_in_eval_mode_is_in_eval_mode(model, ids):
    dropped = headdrop.apply(model.eval(), p=1.0)
    assert not any(module.training for module in dropped.modules())
    torch.testing.assert_close(dropped(ids), model(ids))
