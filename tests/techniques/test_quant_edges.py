"""Quantization at its edges: sizes, types, seeds and settings beside those of each file's own tests."""

from importlib import import_module

import pytest
import torch
from torch import nn

from minieff import product_quant, scalar_quant
from minieff.core import cost
from minieff.core.storage import format_of, halve
from minieff.core.surgery import named
from minieff.product_quant.codebook import Codebook, IntCodebook
from minieff.scalar_quant import FakeQuantInput, fake_quant, int8_kernel

kmeans = import_module("minieff.product_quant.kmeans")  # whose name in the package is the function's


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def layers(*widths: int) -> nn.Sequential:
    return nn.Sequential(*(nn.Linear(a, b) for a, b in zip(widths, widths[1:], strict=False)))


# --- rounded inputs


def test_small_inputs_have_small_steps():
    x = torch.randn(3, 8) * 1e-5
    codes, scale = fake_quant.input_codes(x, None)
    assert (codes.abs().amax(1) == 127).all() and ((scale * codes - x).abs() <= 0.5001 * scale).all()


def test_more_tokens_than_are_rounded_at_a_time(monkeypatch):
    x = torch.randn(11, 8)
    want = fake_quant.in_bytes(x, None)
    monkeypatch.setattr(fake_quant, "CACHED", 24)  # 3 tokens at a time, and 2 at the end
    got = fake_quant.in_bytes(x, None)
    assert torch.equal(got[0], want[0]) and torch.equal(got[1], want[1])


def test_in_eval_mode_all_inputs_are_rounded_whatever_p():
    layer = FakeQuantInput(nn.Linear(8, 3), 0.0, False, None).eval()
    x = torch.randn(2, 8)
    codes, scale = fake_quant.input_codes(x, None)
    assert torch.equal(layer.on_grid(x), scale * codes) and torch.equal(layer.train().on_grid(x), x)


def test_coins_come_from_the_generator_for_weights_and_inputs():
    x, model, seen = torch.randn(4, 24), layers(24, 7), []
    for seed in (1, 1, 2):
        noisy = scalar_quant.apply(model, bits=2, p=0.5, generator=seeded(seed)).train()
        torch.manual_seed(len(seen))  # not from the global one
        weight = noisy[0].inner.parametrizations.weight.original
        seen.append((noisy[0].inner.weight == weight, noisy[0].on_grid(x) == x))
    for one, two, other in zip(*seen, strict=True):
        assert torch.equal(one, two) and not torch.equal(one, other)


def test_calibrate_gives_eval_mode_and_rounds_afterwards():
    x = torch.randn(5, 12)
    static = scalar_quant.calibrate(scalar_quant.apply(layers(12, 5), activations="static").train(), [x])
    assert not any(m.training for m in static.modules())
    assert not torch.equal(static[0].on_grid(x), x)


def test_dropout_is_off_while_calibrating():
    model = nn.Sequential(nn.Dropout(0.5), nn.Linear(12, 5)).train()
    x = torch.randn(5, 12)
    static = scalar_quant.calibrate(scalar_quant.apply(model, activations="static"), [x])
    assert static[1].scale.item() == pytest.approx(x.abs().max().item() / 127, rel=1e-3)


def test_the_static_scale_reaches_the_largest_input():
    """Rounded up, as those of weights are: to the nearest would cut the largest input off."""
    for largest in torch.rand(50).tolist():
        x = torch.tensor([[largest, 0.0]])
        static = scalar_quant.calibrate(scalar_quant.apply(layers(2, 1), activations="static"), [x])
        assert static[0].scale.item() * 127 >= x.max()


@torch.no_grad()
def test_rounded_inputs_run_where_pytorch_has_a_fused_path():
    """Without a hook on any module: `record` would hook them, and so switch the fused path off."""
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, dropout=0.0)
    theirs = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
    applied = scalar_quant.apply(theirs, where=named("linear1", "linear2"))
    calls = []
    for module in applied.modules():
        if isinstance(module, FakeQuantInput):
            module.forward = lambda x, forward=module.forward: calls.append(1) or forward(x)
    applied(torch.randn(2, 7, 32))
    assert len(calls) == 4


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_nested_tensors_are_refused_with_a_mend():
    with pytest.raises(ValueError, match="enable_nested_tensor=False"):
        fake_quant.refuse_nested(torch.nested.nested_tensor([torch.randn(2, 4), torch.randn(3, 4)]))


# --- what is stored


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_finalized_model_of_another_type_computes_in_32_bits(dtype):
    model, x = layers(12, 5).to(dtype), torch.randn(3, 12)
    small = scalar_quant.finalize(scalar_quant.apply(model, activations="none"))
    assert all(t.element_size() <= 2 for t in small.state_dict().values())
    torch.testing.assert_close(small(x), model.float()(x), rtol=0.03, atol=0.03)


@pytest.mark.parametrize("name", ["avx512_vnni", "avx_vnni", "amx_int8"])
def test_each_of_three_features_is_enough(name, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {name: True}, raising=False)
    monkeypatch.setattr(int8_kernel, "_kernel", lambda *a: torch.tensor([[64.0 * 127**2]]))
    assert int8_kernel.bytes_multiply.__wrapped__() is True


def test_an_embedding_that_writes_into_its_weight_is_refused():
    for technique in (scalar_quant, product_quant):
        with pytest.raises(ValueError, match="max_norm=1"):
            technique.apply(nn.Sequential(nn.Embedding(9, 8, max_norm=1.0)))


def test_a_layer_with_a_forward_of_its_own_is_refused():
    class Doubled(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    for technique in (scalar_quant, product_quant):
        with pytest.raises(ValueError, match="of type Doubled"):
            technique.apply(nn.Sequential(Doubled(8, 8)))


def test_a_bias_that_two_layers_share_is_stored_once_and_stays_frozen():
    model = layers(8, 8, 8)
    model[1].bias = model[0].bias
    model[0].bias.requires_grad_(False)
    small = halve(model)
    assert cost.stored_bytes(small) == 2 * (64 + 64 + 8)
    assert {p.requires_grad for n, p in small.named_parameters() if "bias" in n} == {False}


def test_what_is_under_a_parametrization_stays_as_it_is():
    small = halve(product_quant.apply(layers(8, 4), block=4).eval())
    types = {name: t.dtype for name, t in small.state_dict().items()}
    assert types["0.parametrizations.weight.original"] == torch.float32
    assert types["0.parametrizations.bias.original"] == torch.float16
    assert torch.equal(halve(small)(torch.ones(1, 8)), small(torch.ones(1, 8)))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 65520.0])
def test_what_fp16_cannot_hold_is_refused_in_biases_and_codebooks(value):
    model = layers(8, 4)
    with torch.no_grad():
        model[0].bias[1] = value
    with pytest.raises(ValueError, match="fp16"):
        halve(model)
    coded = product_quant.finalize(layers(8, 4), block=4)
    with torch.no_grad():
        coded[0].code.codebook.codewords[0, 0] = value
    with pytest.raises(ValueError, match="fp16"):
        product_quant.store(coded)


# --- codebooks


def test_codewords_of_8_bits_have_255_levels():
    codebook = Codebook(torch.linspace(-1, 1, 256)[:, None], torch.ones(256, dtype=torch.int))
    stored = IntCodebook(codebook)
    assert stored.codewords.unique().numel() == 255
    error = stored.scale.float() * stored.codewords.float() - codebook.codewords
    assert error.abs().max() <= 0.501 * stored.scale


def test_more_blocks_than_16_bits_count_have_their_mean():
    codebook, N = Codebook(torch.zeros(1, 1), torch.tensor([70_000])), 70_000
    codebook(torch.zeros(N, 1, dtype=torch.long)).sum().backward()
    assert codebook.codewords.grad.item() == 1


@pytest.mark.parametrize("proxy", ["zero", "mean", "exact"])
def test_blocks_and_codebooks_come_from_the_generator(proxy):
    seen, model = [], layers(24, 70)
    for seed in (1, 1, 2):
        torch.manual_seed(len(seen))
        knobs = {"block": 4, "codewords": 5, "generator": seeded(seed)}
        noisy = product_quant.apply(model, p=0.5, proxy=proxy, **knobs).train()
        seen.append((noisy[0].weight, product_quant.finalize(model, **knobs)[0].weight))
    for one, two, other in zip(*seen, strict=True):
        assert torch.equal(one, two) and not torch.equal(one, other)


def test_the_codebook_of_a_tied_weight_follows_once_a_step():
    tied = nn.ModuleDict({"tok": nn.Embedding(20, 8), "head": nn.Linear(8, 20, bias=False)})
    tied["head"].weight = tied["tok"].weight
    noisy = product_quant.apply(tied, proxy="exact", block=4, codewords=3)
    product_quant.project(noisy)
    assert format_of(noisy["head"]) is format_of(noisy["tok"]) and format_of(noisy["tok"]).steps == 1


def test_finalize_codes_the_weight_and_not_its_noise():
    """Also of a model that comes from training, in train mode."""
    noisy = product_quant.apply(layers(24, 7), p=0.9, block=4).train()
    coded = product_quant.finalize(noisy, block=4)
    assert torch.equal(coded[0].weight, noisy[0].parametrizations.weight.original) and not coded.training


def test_more_iterations_lose_less():
    model, lost = layers(64, 64), []
    for iterations in (0, 1, 25):
        coded = product_quant.finalize(
            model, block=4, codewords=16, iterations=iterations, generator=seeded()
        )
        lost.append((coded[0].weight - model[0].weight).square().sum())
    assert lost[0] > lost[1] > lost[2]


# --- k-means


@pytest.mark.parametrize("K", [7, 80])
def test_points_in_several_chunks_have_the_codes_of_one(K, monkeypatch):
    draw = seeded()
    points, codebook = torch.randn(50, 3, generator=draw), torch.randn(K, 3, generator=draw)
    far = (points[:, None] - codebook).square().sum(-1)
    monkeypatch.setattr(kmeans, "AT_ONCE", 16 * K)  # 16 points at a time, and 2 at the end
    assert torch.equal(kmeans.nearest(points, codebook), far.argmin(1))


def test_codes_are_of_the_last_codebook_when_iterations_run_out():
    points = torch.randn(400, 4)
    codebook, codes = kmeans.kmeans(points, 16, iterations=1, generator=seeded())
    far = (points[:, None] - codebook).square().sum(-1)
    assert (far.gather(1, codes[:, None])[:, 0] <= far.amin(1) * 1.001 + 1e-6).all()


@pytest.mark.parametrize("shift, size", [(1000.0, 1.0), (0.0, 1e-25), (0.0, 1e25)])
def test_an_offset_and_a_size_change_no_codes(shift, size):
    points = torch.randn(300, 4, generator=seeded())
    plain = kmeans.kmeans(points, 12, generator=seeded(1))
    moved = kmeans.kmeans(points * size + shift, 12, generator=seeded(1))
    assert (plain[1] == moved[1]).float().mean() > 0.9
    error = (points - moved[0][moved[1]] / size + shift / size).square().sum()
    assert error < 1.1 * (points - plain[0][plain[1]]).square().sum()


def test_a_codeword_without_points_moves_far_from_its_own():
    points = torch.tensor([[0.0], [1.0], [9.0], [4.0]])
    codebook = torch.tensor([[0.5], [9.0], [-99.0]])  # 9 is far from the first, but has its own
    assert kmeans.means(points, kmeans.nearest(points, codebook), codebook)[2].item() == 4
