"""Blocks, codebooks, noise, finetuning of codewords, wrong inputs. General laws are in test_laws.py."""

from math import sqrt

import pytest
import torch
from safetensors.torch import save
from torch import nn

from minieff import product_quant, scalar_quant
from minieff.core import cost
from minieff.core.checkpoint import pack
from minieff.core.data import loss
from minieff.core.storage import format_of
from minieff.core.surgery import clone, is_a, named, parametrize
from minieff.core.transformer import Config, Transformer
from minieff.product_quant import BlockNoise, PQEmbedding, PQLinear
from minieff.product_quant.codebook import Codebook, IntCodebook, blocks

FFN, ATTENTION = named("up", "down"), named("q", "k", "v", "out")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def layers(*widths: int) -> nn.Sequential:
    return nn.Sequential(*(nn.Linear(a, b) for a, b in zip(widths, widths[1:], strict=False)))


def at(path: str):
    return lambda name, module: name == path


# --- coding


def test_a_block_is_a_piece_of_a_row():
    w = torch.arange(24.0).view(3, 8)
    assert blocks(w, 4)[1].tolist() == [4, 5, 6, 7] and blocks(w, 4)[2].tolist() == [8, 9, 10, 11]


@pytest.mark.parametrize("shape", [(7, 12), (33, 20)], ids=str)
def test_enough_codewords_lose_nothing_and_fewer_lose_more(shape):
    layer = nn.Sequential(nn.Linear(shape[1], shape[0]))
    errors = []
    for codewords in (256, 64, 16, 4, 1):
        coded = product_quant.finalize(layer, block=4, codewords=codewords, generator=seeded())
        errors.append((coded[0].weight - layer[0].weight).square().sum().item())
        code = coded[0].code
        assert code.codes.dtype == torch.uint8
        assert code.codebook.codewords.shape == (min(codewords, shape[0] * shape[1] // 4), 4)
        x = torch.randn(2, 3, shape[1])
        torch.testing.assert_close(coded(x), x @ coded[0].weight.T + layer[0].bias)
    assert errors[0] == 0 and errors == sorted(errors)


def test_coding_twice_is_coding_once():
    layer = nn.Sequential(nn.Linear(24, 40))
    once = product_quant.finalize(layer, block=4, codewords=16, generator=seeded())
    again = nn.Sequential(nn.Linear(24, 40))
    with torch.no_grad():
        again[0].weight.copy_(once[0].weight)
    twice = product_quant.finalize(again, block=4, codewords=16, generator=seeded(1))
    torch.testing.assert_close(twice[0].weight, once[0].weight, rtol=1e-6, atol=0)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("block, codewords", [(4, 16), (8, 7), (12, 256)])
def test_bytes_are_those_of_the_formula_and_of_the_file(block, codewords, shared, bits):
    model = Transformer(Config(vocab=50, context=24, layers=3, heads=4, dim=48, ffn=72))
    coded = product_quant.finalize(model, block=block, codewords=codewords, shared=shared, iterations=2)
    small = product_quant.store(coded, bits=bits)
    weights = [m.weight.numel() for m in model.modules() if isinstance(m, nn.Linear)] + [50 * 48]
    books = [sum(weights)] if shared else weights
    codebooks = sum(min(codewords, n // block) * block * bits // 8 + (2 if bits == 8 else 0) for n in books)
    rest = 2 * sum(p.numel() for n, p in model.named_parameters() if n == "pos.weight" or p.dim() == 1)
    assert cost.stored_bytes(small) == sum(weights) // block + codebooks + rest
    content = save({name: t.contiguous() for name, t in pack(small).items()})
    assert len(content) - 8 - int.from_bytes(content[:8], "little") == cost.stored_bytes(small)


def test_a_byte_for_eight_numbers_is_32_times_less_than_fp32():
    code = product_quant.finalize(nn.Sequential(nn.Linear(512, 512)), block=8, iterations=1)[0].code
    assert code.codes.numel() * code.codes.element_size() * 32 == 512 * 512 * 4


def test_stored_codewords_change_little(model, ids):
    coded = product_quant.finalize(model, block=8, generator=seeded())
    with torch.no_grad():
        whole, half, eighth = (
            m(ids) for m in (coded, *(product_quant.store(coded, bits=b) for b in (16, 8)))
        )
    assert (half - whole).abs().max() < 1e-2 * whole.std()
    assert (half - whole).abs().max() < (eighth - whole).abs().max() < 0.2 * whole.std()
    assert any(isinstance(m, IntCodebook) for m in product_quant.store(coded, bits=8).modules())


def test_blocks_of_attention_are_smaller_unless_a_size_is_given(model):
    coded = product_quant.finalize(model, codewords=8)
    layer = coded.blocks.layers[0]
    assert layer.mix.inner.out.code.codes.shape == (32, 8) and layer.feed.inner.up.code.codes.shape == (
        128,
        4,
    )
    assert coded.tok.code.codes.shape == (50, 4) and isinstance(coded.tok, PQEmbedding)
    assert isinstance(coded.pos, nn.Embedding)


def test_a_tied_weight_is_stored_once():
    tied = nn.ModuleDict({"tok": nn.Embedding(20, 8), "head": nn.Linear(8, 20, bias=False)})
    tied["head"].weight = tied["tok"].weight
    small = product_quant.store(product_quant.finalize(tied, block=4, codewords=8))
    assert small["tok"].code is small["head"].code and cost.stored_bytes(small) == 20 * 2 + 8 * 4 * 2
    assert torch.equal(small["tok"](torch.arange(20)), small["head"].weight)
    with pytest.raises(ValueError, match="share one weight"):
        product_quant.finalize(tied, where=is_a(nn.Linear))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_model_of_another_type_is_stored_in_16_bits_and_computes_in_32(dtype):
    model = layers(12, 5).to(dtype)
    coded = product_quant.finalize(model, block=4)
    assert coded[0].code.codebook.codewords.dtype == torch.float32
    small, x = product_quant.store(coded), torch.randn(3, 12)
    assert all(t.element_size() <= 2 for t in small.state_dict().values())
    torch.testing.assert_close(small(x), model.float()(x), rtol=1e-2, atol=1e-2)


def test_no_ids_have_no_vectors():
    coded = product_quant.finalize(nn.Sequential(nn.Embedding(11, 8)), block=4)
    for shape in ((0,), (2, 0)):
        assert coded(torch.zeros(shape, dtype=torch.long)).shape == (*shape, 8)


# --- noise


@pytest.mark.parametrize("proxy", ["zero", "mean", "exact"])
def test_a_share_p_of_the_blocks_is_replaced(proxy):
    w, p = torch.randn(300, 40), 0.2
    noise = BlockNoise(8, p, proxy, seeded()).train()
    if proxy == "exact":
        noise.codebook = torch.randn(5, 8)
    got = noise(w)
    hit = (blocks(got, 8) != blocks(w, 8)).any(1)
    assert abs(hit.float().mean() - p) < 3 * sqrt(p * (1 - p) / len(hit))
    there, here = blocks(got, 8)[hit], blocks(w, 8)[hit]
    if proxy == "zero":
        assert (there == 0).all()
    elif proxy == "mean":
        torch.testing.assert_close(there, here.mean(1, keepdim=True).expand_as(here))
    else:
        assert torch.equal(there, noise.codebook[torch.cdist(here, noise.codebook).argmin(1)])
    assert not torch.equal(noise(w), got)
    assert proxy == "exact" or noise.eval()(w) is w


@pytest.mark.parametrize("proxy", ["zero", "mean", "exact"])
def test_noise_passes_gradients_and_writes_nothing(proxy, model, ids):
    noisy = product_quant.apply(model, p=0.5, proxy=proxy, codewords=8).train()
    kept = {name: t.clone() for name, t in noisy.state_dict().items()}
    for _ in range(20):
        noisy(ids)
    assert all(torch.equal(t, kept[name]) for name, t in noisy.state_dict().items())
    w = torch.randn(6, 8, requires_grad=True)
    made = BlockNoise(4, 0.5, proxy, seeded()).train()
    made.codebook = torch.zeros(1, 4)
    made(w).mul(torch.arange(48.0).view(6, 8)).sum().backward()
    assert torch.equal(w.grad, torch.arange(48.0).view(6, 8))


def test_the_codebook_follows_the_weight(model):
    noisy = product_quant.apply(model, p=0.1, proxy="exact", block=4, codewords=8, where=FFN).train()
    layer = noisy.blocks.layers[0].feed.inner.up
    noise, weight = layer.parametrizations.weight[0], layer.parametrizations.weight.original
    before = noise.codebook.clone()
    with torch.no_grad():
        weight.mul_(3)
    for step in range(10):
        assert torch.equal(noise.codebook, before) and noise.steps == step
        product_quant.project(noisy)
    assert noise.codebook.norm() > 1.5 * before.norm()
    fresh = product_quant.apply(model, p=0.1, proxy="exact", block=4, codewords=8, where=FFN)
    fresh.load_state_dict(noisy.state_dict())
    assert torch.equal(
        fresh.blocks.layers[0].feed.inner.up.parametrizations.weight[0].codebook, noise.codebook
    )


def test_finalize_keeps_the_codebook_of_exact_noise(model, ids):
    noisy = product_quant.apply(model, p=0.3, proxy="exact", block=4, codewords=8).eval()
    small = product_quant.finalize(noisy, block=4, codewords=8)
    torch.testing.assert_close(small(ids), noisy(ids))
    assert (small(ids) - model(ids)).abs().max() > 0.01
    noise = format_of(noisy.tok)
    kept = {tuple(row) for row in small.tok.code.codebook.codewords.tolist()}
    assert kept <= {tuple(row) for row in noise.codebook.tolist()}


def test_exact_noise_may_choose_no_block():
    noise = BlockNoise(4, 1e-9, "exact", seeded()).train()
    noise.codebook, w = torch.randn(3, 4), torch.randn(2, 8)
    assert torch.equal(noise(w), w)


def test_the_codebook_of_exact_noise_is_of_the_masked_weight():
    class Upper(nn.Module):
        def forward(self, w):
            return w.triu()

    def error(m: nn.Module) -> float:
        return (m[0].weight - masked[0].weight).norm().item()

    knobs = {"block": 4, "codewords": 16, "generator": seeded()}
    masked = parametrize(layers(32, 32), is_a(nn.Linear), lambda w: Upper())
    noisy = product_quant.apply(masked, proxy="exact", **knobs)
    for _ in range(10):
        product_quant.project(noisy)
    assert error(product_quant.finalize(noisy, **knobs)) < 1.1 * error(
        product_quant.finalize(masked, **knobs)
    )


# --- iPQ


def test_a_codewords_gradient_is_the_mean_over_its_blocks():
    codebook = Codebook(torch.zeros(3, 2), torch.tensor([2, 1, 0]))
    got = codebook(torch.tensor([[0], [0], [1]]))
    got.backward(torch.tensor([[[1.0, 2.0]], [[3.0, 4.0]], [[5.0, 6.0]]]))
    assert codebook.codewords.grad.tolist() == [[2, 3], [5, 6], [0, 0]]


def test_the_mean_is_over_all_blocks_that_share_a_codebook(model, ids):
    coded = product_quant.finalize(
        model, block=8, codewords=16, shared=True, where=FFN, generator=seeded()
    ).train()
    books = {m for m in coded.modules() if isinstance(m, Codebook)}
    assert len(books) == 1
    (book,) = books
    assert book.counts.sum() == 3 * 2 * 32 * 128 // 8
    dense = clone(model).train()
    with torch.no_grad():
        for name, module in dense.named_modules():
            if isinstance(module, nn.Linear) and FFN(name, module):
                module.weight.copy_(coded.get_submodule(name).weight)
    for m in (coded, dense):
        loss(m(ids), ids.roll(-1, 1)).backward()
    total = torch.zeros(16, 8)
    for name, module in coded.named_modules():
        if isinstance(module, PQLinear):
            total.index_add_(
                0, module.code.codes.flatten().long(), dense.get_submodule(name).weight.grad.view(-1, 8)
            )
    torch.testing.assert_close(book.codewords.grad, total / book.counts[:, None], rtol=1e-4, atol=1e-7)


def test_kind_by_kind_with_training_between(model, ids):
    teacher = model(ids).detach()

    def distance(m):
        return (m(ids) - teacher).square().mean().item()

    def trained(m):
        optimizer = torch.optim.Adam(m.parameters(), lr=3e-3)
        for _ in range(30):
            optimizer.zero_grad()
            (m.train()(ids) - teacher).square().mean().backward()
            optimizer.step()
        return m.eval()

    coded, all_at_once = model, product_quant.finalize(model, block=8, codewords=16, generator=seeded())
    for where in (FFN, named("tok"), ATTENTION):
        coded = product_quant.finalize(coded, block=8, codewords=16, where=where, generator=seeded())
        before = distance(coded)
        coded = trained(coded)
        assert distance(coded) < before
    assert not any(isinstance(m, nn.Linear) for m in coded.modules())
    assert distance(product_quant.store(coded)) < 0.5 * distance(all_at_once)


def test_the_codes_of_a_finetuned_model_load_into_a_fresh_one(model, ids):
    coded = product_quant.store(
        product_quant.finalize(model, block=8, codewords=16, generator=seeded()), bits=8
    )
    blank = Transformer(model.config).eval()
    fresh = product_quant.store(product_quant.finalize(blank, block=8, codewords=16), bits=8)
    fresh.load_state_dict(coded.state_dict())
    assert torch.equal(fresh(ids), coded(ids))


@pytest.mark.parametrize("technique", ["scalar_quant", "product_quant"])
def test_finalize_leaves_a_model_of_two_formats_as_it_was(technique):
    """A copy of a parametrized module is of the same class: a property of the copy is one of the original."""
    x = torch.randn(3, 12)
    both = product_quant.apply(layers(12, 8, 12), where=at("0"), block=4)
    both = scalar_quant.apply(both, where=at("1"), activations="none").eval()
    before = both(x)
    if technique == "scalar_quant":
        scalar_quant.finalize(both)
    else:
        product_quant.store(product_quant.finalize(both, where=at("0"), block=4))
    assert torch.equal(both(x), before)


# --- wrong inputs

WRONG = {
    "a block that does not divide": ({"block": 5}, "block=5"),
    "no block": ({"block": -1}, "block=-1"),
    "too many codewords": ({"codewords": 257}, "codewords=257"),
    "no codewords": ({"codewords": 0}, "codewords=0"),
    "nothing matches": ({"where": is_a(nn.Conv1d)}, "matched no module"),
    "no weight": ({"where": is_a(nn.ModuleList)}, "weight"),
}


@pytest.mark.parametrize("verb", ["apply", "finalize"])
@pytest.mark.parametrize("case", WRONG)
def test_wrong_knobs_are_refused(case, verb, model):
    knobs, message = WRONG[case]
    with pytest.raises(ValueError, match=message):
        getattr(product_quant, verb)(model, **knobs)


def test_more_wrong_knobs(model):
    for knobs, message in (
        ({"p": 1.2}, "p=1.2"),
        ({"p": float("nan")}, "p=nan"),
        ({"proxy": "one"}, "proxy='one'"),
    ):
        with pytest.raises(ValueError, match=message):
            product_quant.apply(model, **knobs)
    with pytest.raises(ValueError, match="bits=4"):
        product_quant.store(product_quant.finalize(model, codewords=2), bits=4)
    with pytest.raises(ValueError, match="matched no module"):
        product_quant.store(model)
    with torch.no_grad():
        model.blocks.layers[1].feed.inner.up.weight[0, 0] = float("nan")
    with pytest.raises(ValueError, match="NaN"):
        product_quant.finalize(model)


def test_codes_of_the_other_kind_are_left_alone(model, ids):
    """int8 for what is sensitive, codebooks for the rest: each weight has one format."""
    coded = product_quant.finalize(model, block=8, where=FFN, generator=seeded())
    both = scalar_quant.finalize(scalar_quant.apply(coded, activations="none"))
    assert isinstance(both.blocks.layers[0].feed.inner.up, PQLinear)
    assert isinstance(both.tok, scalar_quant.IntEmbedding)
    with torch.no_grad():
        assert (both(ids) - coded(ids)).abs().max() < 0.2 * coded(ids).std()
