"""LayerDrop: the coins, the pruned stack, the wrong inputs. Its general laws are in test_laws.py."""

import pytest
import torch
from torch import nn

from minieff import cost, layerdrop
from minieff.surgery import is_a, record
from minieff.transformer import Block, FeedForward, Residual


def test_eval_with_any_p_is_the_plain_stack(model, ids):
    """A well-known slip keeps the training flag inside the condition, and eval then skips every layer."""
    for p in (0.0, 0.3, 1.0):
        assert torch.equal(layerdrop.apply(model, p=p)(ids), model(ids))


def test_p_1_is_the_identity_on_hidden_states(model):
    x = torch.randn(2, 5, 32)
    assert torch.equal(layerdrop.apply(model.train(), p=1.0).blocks(x), x)


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


def test_sub_layers_can_be_skipped_whole(model, ids):
    dropped = layerdrop.apply(model.train(), p=1.0, where=is_a(Residual))
    x = torch.randn(2, 5, 32)
    assert torch.equal(dropped.blocks(x), x)
    assert torch.equal(layerdrop.finalize(dropped)(ids), model.eval()(ids))


@pytest.mark.parametrize("p", [-0.1, 1.1, float("nan")])
def test_an_impossible_p_is_refused(model, p):
    with pytest.raises(ValueError, match="probability"):
        layerdrop.apply(model, p=p)


@pytest.mark.parametrize("keep", [[], [2, 0], [0, 0], [3], [-1, 2]])
def test_an_impossible_keep_is_refused(model, keep):
    with pytest.raises(ValueError, match=r"keep=.*from 0 to 2"):
        layerdrop.finalize(layerdrop.apply(model, p=0.2), keep=keep)


def test_no_layer_to_skip_is_refused(model):
    with pytest.raises(ValueError, match="matched no module"):
        layerdrop.apply(model.blocks.layers[0].feed.inner, p=0.2, where=is_a(Block))
    assert isinstance(model.blocks.layers[0].feed.inner, FeedForward)


def test_layers_that_are_in_no_list_cannot_be_pruned(model):
    chain = nn.Sequential(*model.blocks.layers)
    with pytest.raises(ValueError, match="no nn.ModuleList holds only layers"):
        layerdrop.finalize(chain, keep=[0])
