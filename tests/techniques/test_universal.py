"""One block in a loop, for a number of steps or as long as each position wants."""

from copy import deepcopy

import jaxtyping
import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.models.gpt2.modeling_gpt2 import GPT2Block

from minieff import feedback, headdrop, layerdrop, weight_sharing
from minieff.core import cost
from minieff.core.attention import Mask, causal, itself
from minieff.core.past import Past
from minieff.core.surgery import is_a
from minieff.weight_sharing import Ponder


def pondering(model: nn.Module, *, bias: float, steps: int = 4, halt: float = 0.01) -> nn.Module:
    """A model whose positions halt by `bias`, and a little by what they hold."""
    looped = weight_sharing.universal(model, steps=steps, halt=halt, price=1.0)
    nn.init.normal_(ponder(looped).time, std=0.3)
    nn.init.normal_(ponder(looped).share.weight, std=0.1)
    nn.init.constant_(ponder(looped).share.bias, bias)
    return looped


def ponder(model: nn.Module) -> Ponder:
    return next(module for module in model.modules() if isinstance(module, Ponder))


def test_one_step_is_the_block_and_each_step_has_its_vector(model, ids):
    x, block = torch.randn(2, 5, 32), model.blocks.layers[0]
    assert torch.equal(weight_sharing.universal(model, steps=1).blocks(x), block(x))
    looped = weight_sharing.universal(model, steps=2)
    assert torch.equal(looped.blocks(x), block(block(x)))
    one, two = nn.init.normal_(looped.blocks.layers[0].time)
    assert torch.equal(looped.blocks(x), looped.blocks.layers[0].inner(block(x + one) + two))
    sizes = [cost.parameters(weight_sharing.universal(model, steps=n)) for n in (1, 2, 6)]
    assert [size - sizes[0] for size in sizes] == [0, 32, 5 * 32]  # one vector a step, and nothing else
    assert cost.macs(weight_sharing.universal(model, steps=3)) == cost.macs(model)


@pytest.mark.parametrize(("bias", "wanted"), [(-1e9, 5.0), (1e9, 2.0)])
def test_those_who_never_halt_take_all_steps_and_those_who_halt_at_once_take_one(model, ids, bias, wanted):
    looped = pondering(model, bias=bias)
    plain = weight_sharing.universal(model, steps=4 if bias < 0 else 1)
    plain.blocks.layers[0].time = nn.Parameter(ponder(looped).time[: 4 if bias < 0 else 1].detach())
    torch.testing.assert_close(looped(ids), plain(ids))  # its last state has all of the weight
    assert (ponder(looped).cost == wanted).all()
    assert weight_sharing.penalty(looped) == wanted


def test_shares_sum_to_one(model, ids):
    """Also of those that are stopped by the last step: a block that gives ones is averaged to ones."""

    class Ones(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.ones_like(x)

    for bias in (-3.0, -0.85, 0.0, 1.0):  # sigmoid(-0.85) is about 0.3
        alone = Ponder(Ones(), 3, 8, halt=0.01, price=1.0)
        nn.init.constant_(alone.share.bias, bias)
        torch.testing.assert_close(alone(torch.randn(2, 5, 8)), torch.ones(2, 5, 8), atol=1e-6, rtol=0)
        assert ((alone.cost >= 2) & (alone.cost <= 4)).all()
    looped = pondering(model, bias=0.0)
    looped(ids)
    assert len(ponder(looped).cost.floor().unique()) > 1  # positions differ


def test_a_position_that_has_halted_keeps_its_state():
    seen = []

    class Counts(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(x.detach().clone())
            return x + 1

    alone = Ponder(Counts(), 4, 1, halt=0.01, price=1.0)
    with torch.no_grad():
        alone.share.weight.fill_(-100)
        alone.share.bias.fill_(150)  # stops at 1 and below, goes on at 2 and above
        y = alone(torch.tensor([[[0.0], [5.0]]]))
    assert [x.flatten().tolist() for x in seen] == [[0, 5], [1, 6], [1, 7], [1, 8]]
    assert y.flatten().tolist() == [1, 9] and alone.cost.tolist() == [[2, 5]]


@torch.no_grad()
def test_pondering_decodes_and_hides_padding(model, ids):
    """While tokens are remembered no step is left out, whoever has halted."""
    for bias in (1.0, 1e9):
        looped, past = pondering(model, bias=bias), Past()
        chunks = [looped(chunk, past=past) for chunk in ids.split([5, 1, 7, 3], dim=1)]
        torch.testing.assert_close(torch.cat(chunks, 1), looped(ids), atol=1e-4, rtol=1e-4)
    for other in (layerdrop.apply(looped, p=0.5), headdrop.apply(looped, p=0.5)):
        torch.testing.assert_close(other.eval()(ids, past=Past()), looped(ids))
    real = torch.arange(16) >= torch.tensor([[0], [3]])
    mask = causal & (Mask(lambda b, h, q, k: real[b, k], "real") | itself)
    other = torch.where(real, ids, (ids + 1) % 50)
    looped = pondering(model, bias=0.0)
    torch.testing.assert_close(looped(ids, mask)[real], looped(other, mask)[real])


def test_the_penalty_trains_and_leaves_padding_out(model, ids):
    looped, real = pondering(model, bias=-1.0).train(), torch.arange(16) < torch.tensor([[16], [9]])
    with pytest.raises(ValueError, match="call the model first"):
        weight_sharing.penalty(looped)
    looped(ids)
    torch.testing.assert_close(weight_sharing.penalty(looped, real=real), ponder(looped).cost[real].mean())
    weight_sharing.penalty(looped).backward()
    assert ponder(looped).share.bias.grad < 0  # more is paid for a position that halts later
    again = weight_sharing.finalize(looped)  # what the forward left behind is no obstacle
    assert torch.equal(again(ids), looped.eval()(ids)) and "steps=4, halt=0.01" in str(again)
    assert weight_sharing.penalty(model) == 0


@torch.no_grad()
def test_transformers_layers_are_looped_without_their_cache(ids):
    theirs = GPT2LMHeadModel(GPT2Config(vocab_size=50, n_positions=16, n_embd=16, n_layer=3, n_head=2)).eval()
    looped = weight_sharing.universal(theirs, steps=3, halt=0.01, where=is_a(GPT2Block))
    assert looped(ids, use_cache=False).logits.shape == (2, 16, 50)
    with pytest.raises(ValueError, match="use_cache=False"):
        looped(ids)


@pytest.mark.parametrize(
    ("knobs", "said"),
    [
        ({"steps": 0}, "steps=0"),
        ({"steps": 2, "dim": 0}, "dim=0"),
        ({"steps": 2, "halt": 1.0}, "halt=1.0"),
        ({"steps": 2, "halt": 0.0}, "halt=0.0"),
        ({"steps": 2, "price": float("nan")}, "price=nan"),
        ({"steps": 2, "where": is_a(nn.Linear)}, "needs a list"),
        ({"steps": "2"}, "steps='2'"),
        ({"steps": 2, "dim": 32.0}, "dim=32.0"),
        ({"steps": 2, "dim": 1}, "x has width 32.*dim=1; give dim=32"),
        ({"steps": 2, "dim": 7, "halt": 0.1}, "x has width 32.*dim=7"),
        ({"steps": 2, "halt": "0.1"}, "halt='0.1'"),
        ({"steps": 2, "price": None}, "price=None"),
        ({"steps": 2, "where": is_a(nn.Conv1d)}, "where="),
    ],
)
def test_bad_input_is_refused(model, ids, monkeypatch, knobs, said):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users call it
    with pytest.raises(ValueError, match=said):
        weight_sharing.universal(model, **knobs)(ids)
    with pytest.raises(ValueError, match="already"):
        weight_sharing.universal(weight_sharing.universal(model, steps=2), steps=2)


def test_the_ponder_cost_is_that_of_real_tokens_alone(model, ids):
    looped = pondering(model, bias=0.0)
    looped(ids)
    cost_of, real = ponder(looped).cost, torch.arange(16) < torch.tensor([[16], [5]])
    assert weight_sharing.penalty(looped, real=real) == cost_of[real].mean()
    nothing, plain = torch.zeros_like(real), real.tolist()
    for wrong in (real.long(), real[:, :3], real.T, nothing, plain):  # whole numbers would pick rows
        with pytest.raises(ValueError, match="give booleans"):
            weight_sharing.penalty.__wrapped__(looped, real=wrong)


def test_a_loop_that_has_run_can_be_copied_and_meets_no_feedback(model, ids):
    looped = pondering(model, bias=0.0).train()
    looped(ids).sum().backward()
    assert ponder(deepcopy(looped)).cost is None
    with pytest.raises(ValueError, match="use universal without halt"):
        feedback.apply(looped)


def test_layers_that_return_a_tuple_are_refused(model):
    class Pair(nn.Linear):
        def forward(self, x):
            return super().forward(x), None

    layers = nn.ModuleDict({"layers": nn.ModuleList(Pair(8, 8) for _ in range(3))})
    for knobs in ({"steps": 1}, {"steps": 2, "halt": 0.1}):
        (looped,) = weight_sharing.universal(layers, where=is_a(Pair), **knobs)["layers"]
        with pytest.raises(ValueError, match="a Pair returns a tuple; wrap it"):
            looped(torch.randn(2, 5, 8))


@pytest.mark.filterwarnings("ignore:.*nested tensors is in prototype")
def test_an_encoder_with_nested_tensors_is_refused():
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 3).eval()
    for knobs in ({}, {"halt": 0.1}):
        looped = weight_sharing.universal(encoder, steps=2, where=is_a(nn.TransformerEncoderLayer), **knobs)
        hidden = torch.arange(4) >= torch.tensor([[4], [2]])
        with torch.no_grad(), pytest.raises(ValueError, match="nested"):
            looped(torch.randn(2, 4, 8), src_key_padding_mask=hidden)


def test_the_block_keeps_its_dtypes(model):
    half = model.bfloat16()
    for norm in (m for m in half.modules() if isinstance(m, nn.LayerNorm)):
        norm.float()
    block = weight_sharing.universal(half, steps=2).blocks.layers[0].inner
    assert [p.dtype for p in block.parameters()] == [p.dtype for p in half.blocks.layers[0].parameters()]
