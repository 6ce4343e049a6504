"""Lightweight and dynamic convolutions. General laws are in test_laws.py."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from minieff import dynamic_conv, headdrop, scalar_quant
from minieff.core import cost
from minieff.core.attention import Attention, Mask, causal, everything, itself, prefix
from minieff.core.past import Past
from minieff.core.surgery import is_a
from minieff.dynamic_conv import DynamicTaps, LightConv, LightTaps, convolve

SIZES = [(1, 1), (1, 7), (5, 3), (32, 4), (33, 4), (70, 31), (3, 9)]  # positions, width


@pytest.mark.parametrize(("T", "W"), SIZES)
def test_convolve_is_the_sum_over_taps_and_has_its_gradient(T, W):
    x = torch.randn(2, T + W - 1, 6, dtype=torch.float64, requires_grad=True)
    taps = torch.randn(2, 3, T, W, dtype=torch.float64, requires_grad=True)
    spread = taps.repeat_interleave(2, 1).permute(0, 2, 1, 3)  # channels 0 and 1 are the first head's
    wanted = sum(spread[..., j] * x[:, j : j + T] for j in range(W))
    ours = convolve(x, taps)
    torch.testing.assert_close(ours, wanted)
    upstream = torch.randn_like(wanted)
    grads = (torch.autograd.grad(y, (x, taps), upstream) for y in (ours, wanted))
    for mine, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(mine, theirs)


def conv(width: int, ahead: int = 0, dynamic: bool = True, **knobs) -> LightConv:
    """A convolution of 4 heads of 8 channels that passes on its input, after the first linear and GLU."""
    made = dynamic_conv.apply(Attention(32, 4), width=width, ahead=ahead, dynamic=dynamic, **knobs).eval()
    for p in made.taps.parameters():
        nn.init.normal_(p)
    with torch.no_grad():
        made.out.weight.copy_(torch.eye(32))
        made.out.bias.zero_()
    return made


@pytest.mark.parametrize("ahead", [0, 3])
@pytest.mark.parametrize("T", [3, 20, 45])
def test_the_lightweight_one_is_torchs_grouped_convolution(T, ahead):
    """With contiguous heads, and a softmax before the zeros around the input, also where T < W."""
    made, x = conv(7, ahead, dynamic=False), torch.randn(2, T, 32)
    kernel = made.taps.weight.softmax(-1).repeat_interleave(8, 0)[:, None]  # (C, 1, W)
    inside = F.glu(made.into(x), dim=-1).mT
    wanted = F.conv1d(F.pad(inside, (6 - ahead, ahead)), kernel, groups=32).mT
    torch.testing.assert_close(made(x, everything), wanted, atol=1e-6, rtol=1e-5)


def test_constant_inputs_stay_and_interior_shifts_go_through():
    made, x = conv(5, 2), torch.randn(1, 1, 32).expand(1, 12, 32)
    torch.testing.assert_close(made(x, everything)[:, 2:-2], F.glu(made.into(x), dim=-1)[:, 2:-2])
    y = torch.randn(1, 20, 32)
    torch.testing.assert_close(made(y, everything)[:, 3:-3], made(y[:, 1:], everything)[:, 2:-3])
    one = conv(1)
    torch.testing.assert_close(one(y), F.glu(one.into(y), dim=-1))


def test_without_a_query_it_is_the_mean_of_the_last_inputs():
    made, x = conv(4), torch.randn(2, 9, 32)
    nn.init.zeros_(made.taps.query.weight)
    inside = F.pad(F.glu(made.into(x), dim=-1), (0, 0, 3, 0))
    torch.testing.assert_close(made(x), inside.unfold(1, 4, 1).mean(-1))


@torch.no_grad()
@pytest.mark.parametrize("ahead", [0, 2, 4])
def test_the_calls_mask_says_what_is_seen(ahead):
    """Taps ahead see nothing under a causal mask, nor does one see padding; a prefix is seen by all of it."""
    made, x = conv(5, ahead), torch.randn(2, 10, 32)
    later = x.clone()
    later[:, 6:] += 1
    torch.testing.assert_close(made(x, causal)[:, :6], made(later, causal)[:, :6])
    shown = made(x, prefix(torch.tensor([0, 9])))
    torch.testing.assert_close(shown[0], made(x, causal)[0])
    torch.testing.assert_close(shown[1, : 9 - ahead], made(x, everything)[1, : 9 - ahead])
    head = made(x, Mask(lambda b, h, q, k: (h == 1) | (q == k), "one head")) - made(x, itself)
    assert head.abs().sum((0, 1)).nonzero().flatten().tolist() == list(range(8, 16))


@torch.no_grad()
@pytest.mark.parametrize(("width", "ahead"), [(4, 0), (5, 2), (30, 0), (1, 0)])
def test_chunks_equal_one_pass_and_a_past_can_be_rewound(model, ids, width, ahead):
    model, past, wrong = dynamic_conv.apply(model, width=width, ahead=ahead), Past(), (ids + 1) % 50
    wanted = model(ids)
    for first, last in ((0, 3), (3, 4), (4, 11), (11, 16)):
        model(wrong[:, first:last], past=past)
        past.rewind(first)
        part = model(ids[:, first:last], past=past)
        torch.testing.assert_close(part, wanted[:, first:last], atol=1e-4, rtol=1e-4)


def test_drop_connect_drops_whole_taps_in_training_alone():
    made, x = conv(4, dynamic=False, p=0.5, generator=torch.Generator().manual_seed(0)), torch.randn(2, 6, 32)
    assert torch.equal(made(x), made(x))
    taps = torch.stack([made.train().dropped(made.taps(x)) for _ in range(300)])  # (300, 1, H, 1, W)
    assert 0.4 < (taps == 0).float().mean() < 0.6
    torch.testing.assert_close(taps.mean(0), made.taps(x), atol=0.1, rtol=0)
    assert conv(4, p=0.5).train().dropped(torch.ones(2, 4, 6, 4)).unique().tolist() == [0, 2]
    assert not dynamic_conv.finalize(made).training and "p=0.5" in str(made)


def test_sizes_and_macs(model):
    """The three sizes of the paper: a full, a depthwise and a shared kernel."""
    sizes = 1024 * 1024 * 7, 1024 * 7, cost.parameters(LightTaps(1024, 16, 7))
    assert sizes == (7_340_032, 7_168, 112)
    assert cost.parameters(DynamicTaps(1024, 16, 7)) == 1024 * 112
    C, H, W, L = 32, 4, 7, 3
    dynamic, light = (dynamic_conv.apply(model, width=7, dynamic=dynamic) for dynamic in (True, False))
    assert cost.macs(model) - cost.macs(dynamic) == L * (
        4 * C * C + 2 * 24 * C - 3 * C * C - C * H * W - W * C
    )
    assert cost.macs(dynamic) - cost.macs(light) == L * C * H * W
    assert cost.parameters(model) - cost.parameters(light) == L * (
        4 * C * C + 4 * C - 3 * C * C - 3 * C - H * W
    )
    assert dynamic.blocks.layers[0].mix.inner.out.weight.equal(model.blocks.layers[0].mix.inner.out.weight)


def hidden(model: nn.Module) -> nn.Module:
    for attention in (m for m in model.modules() if isinstance(m, Attention)):
        attention.mask = itself
    return model


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda m: dynamic_conv.apply(m, width=0), "width=0"),
        (lambda m: dynamic_conv.apply(m, width=3, ahead=3), "ahead=3"),
        (lambda m: dynamic_conv.apply(m, width=3, ahead=-1), "ahead=-1"),
        (lambda m: dynamic_conv.apply(m, width=3, p=1.0), "p=1.0"),
        (lambda m: dynamic_conv.apply(m, width=3, p=float("nan")), "p=nan"),
        (lambda m: dynamic_conv.apply(m, width=3, where=is_a(nn.LayerNorm)), "a LayerNorm; pick Attention"),
        (lambda m: dynamic_conv.apply(m, width="3"), "width='3'"),
        (lambda m: dynamic_conv.apply(m, width=3, p="0.1"), "p='0.1'"),
        (lambda m: dynamic_conv.apply(Attention(8, 2), width=3)(torch.zeros(1, 0, 8)), "no token"),
        (lambda m: dynamic_conv.apply(m, width=[3, 7, 15]), r"width=\[3, 7, 15\]"),
        (lambda m: dynamic_conv.apply(m, width=3, ahead=1.5), "ahead=1.5"),
        (lambda m: dynamic_conv.apply(m, width=3, dynamic="light"), "dynamic='light'.* a bool"),
        (lambda m: dynamic_conv.apply(m, width=3, where=nn.Linear), "where=.*give a function"),
        (lambda m: dynamic_conv.apply(nn.TransformerEncoderLayer(8, 2), width=3), "or core.adopt"),
        (lambda m: dynamic_conv.apply(dynamic_conv.apply(m, width=3), width=3), "matched no module"),
        (lambda m: dynamic_conv.convolve(torch.ones(1, 5, 8), torch.ones(1, 2, 5, 3)), "S = T . W - 1"),
        (lambda m: dynamic_conv.convolve(torch.ones(1, 7, 8), torch.ones(1, 3, 5, 3)), "H divides C"),
        (lambda m: dynamic_conv.convolve(torch.ones(1, 2, 8), torch.ones(1, 2, 0, 3)), "T >= 1"),
        (lambda m: dynamic_conv.apply(hidden(m), width=3), "'mask'.* drop"),
        (lambda m: dynamic_conv.apply(headdrop.apply(m, p=0.1), width=3), "'reweight'.* drop"),
        (lambda m: dynamic_conv.apply(scalar_quant.apply(m), width=3), "'q', 'k', 'v', 'out'.* drop"),
    ],
)
def test_what_cannot_be_is_refused(model, call, said, unchecked):
    with pytest.raises(ValueError, match=said):
        call(model)
