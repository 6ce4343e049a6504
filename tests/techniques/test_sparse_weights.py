"""Masks, prices and stored layouts of sparse weights. General laws are in test_laws.py."""

import warnings

import pytest
import torch
from safetensors.torch import load, save
from torch import nn
from torch.nn.utils import prune as torch_prune

from minieff import scalar_quant, sparse_weights
from minieff.core import cost
from minieff.core.checkpoint import pack, unpack
from minieff.core.storage import halve
from minieff.core.surgery import is_a, named, record
from minieff.sparse_weights import keep_largest, masks, penalties
from minieff.sparse_weights.layouts import CSR, TwoOfFour

linears = is_a(nn.Linear)
CASES = {"csr": ("any", 0.9), "bsr": (4, 0.75), "bitmask": ("any", 0.3), "2:4": ("2:4", 0.5)}
each_layout = pytest.mark.parametrize("layout", CASES)


def pruned(layout: str, inputs: int = 16, outputs: int = 8) -> nn.Module:
    pattern, sparsity = CASES[layout]
    return sparse_weights.apply(nn.Linear(inputs, outputs), sparsity=sparsity, pattern=pattern)


# --- masks


@pytest.mark.parametrize("pattern, size", [("any", 1), ("row", 12), ("column", 20), (4, 16)])
@pytest.mark.parametrize("tied", [True, False])
def test_exactly_a_share_is_zero_and_masks_nest(pattern, size, tied):
    layer, before = nn.Linear(12, 20), torch.zeros(20, 12, dtype=torch.bool)
    if tied:
        nn.init.constant_(layer.weight, 0.1)
    for sparsity in (0.0, 0.13, 0.5, 0.77, 0.9):
        zero = sparse_weights.apply(layer, sparsity=sparsity, pattern=pattern).weight == 0
        assert zero.sum() == round(sparsity * 240 / size) * size
        assert (zero | ~before).all()
        before = zero


def test_masks_are_those_of_torch():
    ours, layer = nn.Linear(12, 20), nn.Linear(12, 20)
    for pattern, theirs in (
        ("any", lambda: torch_prune.l1_unstructured(layer, "weight", 0.3)),
        ("row", lambda: torch_prune.ln_structured(layer, "weight", 0.3, n=2, dim=0)),
        ("column", lambda: torch_prune.ln_structured(layer, "weight", 0.25, n=2, dim=1)),
    ):
        layer.load_state_dict(ours.state_dict())
        mask = theirs().weight_mask.bool()
        torch_prune.remove(layer, "weight")
        share = 0.25 if pattern == "column" else 0.3
        assert torch.equal(sparse_weights.apply(ours, sparsity=share, pattern=pattern).weight != 0, mask)


def test_a_global_threshold_is_that_of_torch_and_empties_no_layer():
    model, scope = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)), {"scope": "global"}
    found = sparse_weights.apply(model, sparsity=0.6, **scope)
    assert found[0].parametrizations.weight[0].schedule is found[1].parametrizations.weight[0].schedule
    wanted = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    wanted.load_state_dict(model.state_dict())
    torch_prune.global_unstructured([(m, "weight") for m in wanted], torch_prune.L1Unstructured, amount=0.6)
    assert all(torch.equal(ours.weight, theirs.weight) for ours, theirs in zip(found, wanted, strict=True))
    with torch.no_grad():
        model[1].weight *= 1e-3
    small = sparse_weights.apply(model, sparsity=0.9, **scope)
    assert [m.weight.count_nonzero() for m in small] == [12, 1]  # 13 of 128


def test_two_of_four_keeps_the_two_largest_and_is_idempotent():
    w = torch.randn(10, 24)
    projected = w * masks.two_of_four(w)
    groups, sizes = projected.view(-1, 4).abs(), w.view(-1, 4).abs()
    assert torch.equal(groups.topk(2).values, sizes.topk(2).values) and groups.count_nonzero() == 2 * 60
    assert torch.equal(projected * masks.two_of_four(projected), projected)


def test_a_schedule_grows_as_a_cube_and_goes_on_where_it_stopped():
    def begin() -> nn.Module:
        torch.manual_seed(0)
        return sparse_weights.apply(nn.Sequential(nn.Linear(40, 50)), sparsity=0.8, steps=150)

    model, zeros = begin(), []
    for step in range(1, 200):
        sparse_weights.project(model)
        zeros.append(int((model[0].weight == 0).sum()))
        if step == 60:
            again = unpack(begin(), load(save(pack(model))))
    due = {t for t in range(1, 151) if 100 * t // 150 > 100 * (t - 1) // 150}
    assert len(due) == 100 and {t for t in range(1, 199) if zeros[t] > zeros[t - 1]} <= {t - 1 for t in due}
    assert all(zeros[t - 1] == round(0.8 * (1 - (1 - t / 150) ** 3) * 2000) for t in due)
    assert zeros[149:] == [1600] * 50
    for _ in range(60, 199):
        sparse_weights.project(again)
    assert torch.equal(again[0].weight, model[0].weight)


def test_neither_momentum_nor_weight_decay_brings_a_weight_back(model, ids):
    sparse = sparse_weights.apply(model.train(), sparsity=0.9)
    zero = {name: m.weight == 0 for name, m in sparse.named_modules() if linears(name, m)}
    optimizer = torch.optim.AdamW(sparse.parameters(), lr=0.1, weight_decay=0.1)
    for _ in range(3):
        sparse(ids).square().sum().backward()
        optimizer.step()
        sparse_weights.project(sparse)
    assert all((sparse.get_submodule(name).weight[where] == 0).all() for name, where in zero.items())


def test_half_a_tie_is_refused_and_norms_and_embeddings_are_left_alone(model):
    sparse = sparse_weights.apply(model, sparsity=0.9)
    dense = [n for n, m in sparse.named_modules() if isinstance(m, nn.Embedding | nn.LayerNorm)]
    assert all((sparse.get_submodule(name).weight != 0).all() for name in dense) and len(dense) == 9
    tied = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 9))
    tied[1].weight = tied[0].weight
    with pytest.raises(ValueError, match="share one weight"):
        sparse_weights.apply(tied, sparsity=0.5)


def test_pruned_weights_can_be_quantized(model, ids):
    sparse = sparse_weights.apply(model, sparsity=0.5)
    rounded = scalar_quant.finalize(scalar_quant.apply(sparse, activations="none", where=linears))
    assert (rounded.blocks.layers[0].feed.inner.up.weight == 0).float().mean() >= 0.5


# --- prices


def test_the_proximal_step_is_the_soft_threshold_and_ends_at_zero():
    w, t = torch.randn(6, 8), 0.4
    torch.testing.assert_close(sparse_weights.soft_threshold(w, t), nn.functional.softshrink(w, t))
    size = w.norm(dim=1, keepdim=True)
    torch.testing.assert_close(
        sparse_weights.soft_threshold(w, 2.0, (1, 8)), w * (1 - 2.0 / size).clamp(min=0)
    )
    assert torch.equal(sparse_weights.soft_threshold(w, 0.0), w)
    # zero is a fixed point of step and threshold if and only if the gradient there is at most the price
    for gradient, price in ((0.9, 1.0), (1.0, 1.0), (1.1, 1.0)):
        moved = sparse_weights.soft_threshold(torch.full((1, 1), -0.125 * gradient), 0.125 * price)
        assert (moved == 0) == (gradient <= price)


def test_a_gradient_of_l1_leaves_no_zero_and_the_proximal_step_does():
    x, target, zeros = torch.randn(64, 20), torch.randn(64, 4), []
    for price in (0.0, 0.1):
        model = sparse_weights.shrink(nn.Linear(20, 4, bias=False), price=0.1 - price)
        for _ in range(200):
            loss = (model(x) - target).square().mean() + price * model.weight.abs().sum()
            (gradient,) = torch.autograd.grad(loss, list(model.parameters()))
            with torch.no_grad():
                model.parametrizations.weight.original -= 0.1 * gradient
            sparse_weights.project(model, rate=0.1)
        zeros.append(int((model.weight == 0).sum()))
    assert zeros[0] > 20 and zeros[1] == 0


@pytest.mark.parametrize("log_alpha", [-2.0, 0.0, 1.5])
def test_gates_are_closed_as_often_as_the_closed_form_says(log_alpha):
    u = torch.rand(100_000, generator=torch.Generator().manual_seed(0))
    z = penalties.hard_concrete(torch.tensor(log_alpha).expand(100_000), u)
    closed = 1 - penalties.open_probability(torch.tensor(log_alpha))
    assert ((z == 0).float().mean() - closed).abs() < 3 * (closed * (1 - closed) / 100_000) ** 0.5
    assert 0 <= z.min() and z.max() == 1


def test_gates_learn_to_close_and_their_weights_are_not_stored():
    torch.manual_seed(0)
    x = torch.randn(256, 8)
    target = x[:, :2] @ torch.tensor([[2.0, -1.0], [1.0, 3.0]])  # six inputs do not matter
    model = sparse_weights.gate(nn.Linear(8, 2), price=0.05, pattern="column", generator=torch.Generator())
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(300):
        loss = (model(x) - target).square().mean() + sparse_weights.penalty(model)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        sparse_weights.project(model)
    assert model.parametrizations.weight[0].log_alpha.abs().max() <= penalties.FURTHEST
    small = sparse_weights.finalize(model)
    torch.testing.assert_close(small(x), model.eval()(x))
    assert sparse_weights.stored(small) == {"": 4} and (small(x) - target).square().mean() < 0.05
    gated = sparse_weights.gate(nn.Linear(10, 10), price=2.0, start=0.25, pattern=5)
    assert abs(sparse_weights.penalty(gated).item() - 2.0 * 25) < 1e-4


# --- layouts


@each_layout
def test_products_gradients_and_the_dense_weight_are_those_of_the_pruned_layer(layout):
    layer = pruned(layout)
    small, x = sparse_weights.finalize(layer, layout=layout), torch.randn(2, 5, 16, requires_grad=True)
    assert torch.equal(small.weight, layer.weight)
    (gradient,) = torch.autograd.grad(layer(x).square().sum(), x)
    small(x).square().sum().backward()
    torch.testing.assert_close(small(x), layer(x))
    torch.testing.assert_close(x.grad, gradient)
    (own,) = torch.autograd.grad(layer(x).square().sum(), layer.parametrizations.weight.original)
    assert abs(small.code.entries.grad.sum() - own.sum()) < 1e-3 * own.abs().sum()  # what is stored can train
    assert small(x[:, :0]).shape == (2, 0, 8)
    with torch.no_grad():
        layer.parametrizations.weight.original.zero_()
    empty = sparse_weights.finalize(layer, layout=layout)
    torch.testing.assert_close(empty(x), layer.bias.expand(2, 5, 8))


@pytest.mark.parametrize("half", [True, False])
def test_files_are_as_large_as_the_formulas_say(half):
    R, C, vb = 24, 64, 2 if half else 4
    for layout, wanted in (
        ("csr", round(0.1 * R * C) * (vb + 4) + 4 * (R + 1)),
        ("bsr", 24 * (16 * vb + 4) + 4 * (C // 4 + 1)),
        ("bitmask", round(0.7 * R * C) * vb + R * C // 8),
        ("2:4", R * C * vb * 9 // 16 if half else R * C // 2 * vb + R * C // 8),
    ):
        layer = pruned(layout, C, R)
        del layer.bias
        layer.register_parameter("bias", None)
        small = sparse_weights.finalize(layer, layout=layout)
        small = halve(small) if half else small
        assert cost.stored_bytes(small) == wanted == sum(t.nbytes for t in load(save(pack(small))).values())
    codes = torch.randint(-127, 128, (8, 16), dtype=torch.int8)
    codes *= masks.two_of_four(codes)
    stored = TwoOfFour(codes, codes != 0)
    assert torch.equal(stored.dense(), codes) and cost.stored_bytes(stored) == 8 * 16 * 10 // 16


def test_csr_breaks_even_at_half_the_weights_and_torchs_own_pruning_makes_files_larger():
    sizes = {
        s: cost.stored_bytes(sparse_weights.finalize(sparse_weights.apply(nn.Linear(64, 64), sparsity=s)))
        for s in (0.45, 0.55)
    }
    dense, theirs = nn.Linear(64, 64), torch_prune.l1_unstructured(nn.Linear(64, 64), "weight", 0.9)
    assert sizes[0.55] < cost.stored_bytes(dense) < sizes[0.45] and cost.stored_bytes(theirs) == 4 * (
        8192 + 64
    )


def test_indices_are_those_of_torchs_sparse_tensors():
    w = pruned("csr").weight.detach()
    ours = CSR(w, w != 0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        csr, bsc = w.to_sparse_csr(), pruned("bsr").weight.detach()
        theirs = bsc.to_sparse_bsc((4, 4))
    for mine, other in ((ours.starts, csr.crow_indices()), (ours.columns, csr.col_indices())):
        assert mine.dtype == torch.int32 and torch.equal(mine.long(), other)
    code = sparse_weights.finalize(nn.Linear(16, 8), layout="bsr", block=4, where=linears).code
    code = type(code)(bsc, masks.norms(bsc, (4, 4)) > 0)
    assert torch.equal(code.starts.long(), theirs.ccol_indices()) and torch.equal(
        code.entries, theirs.values()
    )


@each_layout
@pytest.mark.parametrize("grad", [True, False])
def test_an_encoder_runs_the_sparse_products(layout, grad):
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(32, 4, 64, batch_first=True), 2).eval()
    pattern, sparsity = CASES[layout]
    wanted = sparse_weights.apply(encoder, sparsity=sparsity, pattern=pattern)  # out_proj, too
    small, x = sparse_weights.finalize(wanted, layout=layout), torch.randn(2, 7, 32)
    with torch.set_grad_enabled(grad), record(small, named("linear1", "linear2")) as calls:
        torch.testing.assert_close(small(x), wanted(x), atol=1e-5, rtol=1e-5)
    assert len(calls) == 4


def test_a_small_file_is_rebuilt_from_the_counts(model, ids):
    trained = sparse_weights.shrink(model, price=0.3)
    sparse_weights.project(trained)
    small = sparse_weights.finalize(trained)
    counts = sparse_weights.stored(small)
    assert len(set(counts.values())) > 2  # it follows from the values
    blank = sparse_weights.finalize(model, keep=counts, where=linears)
    assert torch.equal(unpack(blank, load(save(pack(small))))(ids), small(ids))
    assert cost.macs(sparse_weights.gate(model, price=0.1), 16) == cost.macs(model, 16)
    multiplied = sum(p.count_nonzero() for n, p in small.named_parameters() if n.endswith("entries"))
    assert cost.macs(small, 16) == cost.macs(model, 16) - 3 * 12 * 32 * 32 + multiplied


# --- what is refused

QUERY = "blocks.layers.0.mix.inner.q"


@pytest.mark.parametrize(
    "knobs, said",
    [
        ({"sparsity": 1.0}, "less than 1"),
        ({"sparsity": float("nan")}, "less than 1"),
        ({"sparsity": "0.5"}, "sparsity='0.5'.* less than 1"),
        ({"sparsity": 0.5, "steps": 10.0}, "steps=10.0"),
        ({"sparsity": 90}, "sparsity=90.*from 0 to less than 1"),
        ({"sparsity": 0.5, "pattern": 2.0}, "pattern=2.0: give one of"),
        ({"sparsity": 0.5, "pattern": [2, 2]}, r"pattern=\[2, 2\]: give one of"),
        ({"sparsity": 0.5, "pattern": 0}, "pattern=0: give one of"),
        ({"sparsity": 0.5, "scope": ["matrix"]}, r"scope=\['matrix'\]"),
        ({"sparsity": 0.5, "where": nn.Linear}, "where=.*give a function"),
        ({"sparsity": 0.5, "where": "q"}, "where='q': give a function"),
        ({"sparsity": 0.5, "scope": "layer"}, "matrix"),
        ({"sparsity": 0.5, "steps": -1}, "training steps"),
        ({"sparsity": 0.5, "pattern": "4:8"}, "size of a square block"),
        ({"sparsity": 0.5, "pattern": 5}, "inner.q: .* blocks of 5; pick a divisor"),
        ({"sparsity": 0.9, "pattern": 32}, "of 1 units is all of them"),
        ({"sparsity": 0.7, "pattern": "2:4"}, "give 0.5"),
        ({"sparsity": 0.5, "where": is_a(nn.Conv2d)}, "matched no module"),
        ({"sparsity": 0.5, "where": is_a(nn.LayerNorm)}, "only matrices"),
    ],
)
def test_masks_that_cannot_be_are_refused(model, knobs, said, unchecked):
    with pytest.raises(ValueError, match=said):
        sparse_weights.apply(model, **knobs)


def test_other_bad_input_is_refused(model, unchecked):
    sparse = sparse_weights.apply(model, sparsity=0.9)
    broken = nn.Linear(4, 4)
    nn.init.constant_(broken.weight, float("nan"))
    for call, said in (
        (lambda: sparse_weights.apply(broken, sparsity=0.5), "NaN"),
        (lambda: sparse_weights.shrink(sparse, price=0.1), "a Pruned already"),
        (lambda: sparse_weights.shrink(model, price=-1.0), "price=-1.0"),
        (lambda: sparse_weights.shrink(model, price="0.1"), "price='0.1'"),
        (lambda: sparse_weights.finalize(sparse, layout=["csr"]), "give one of"),
        (lambda: sparse_weights.project(sparse, rate="0.1"), "rate='0.1'"),
        (lambda: sparse_weights.shrink(model, price=0.1, pattern=["row"]), r"pattern=\['row'\]"),
        (lambda: sparse_weights.gate(model, price=0.1, pattern="2:4"), "two of four"),
        (lambda: sparse_weights.gate(model, price=0.1, start=1.0), "start=1.0"),
        (lambda: sparse_weights.gate(model, price=0.1, start=None), "start=None"),
        (lambda: sparse_weights.finalize(model), "matched no module"),
        (lambda: sparse_weights.finalize(sparse, layout="coo"), "layout='coo'"),
        (lambda: sparse_weights.finalize(sparse, layout="bsr"), "block=32"),
        (lambda: sparse_weights.finalize(sparse, layout="2:4"), "more than two of four"),
        (lambda: sparse_weights.finalize(sparse, layout="bsr", block="8"), "was not pruned in blocks"),
        (lambda: sparse_weights.finalize(sparse, layout="bsr", block=5), "blocks of 5; pick a divisor"),
        (lambda: sparse_weights.finalize(sparse, block=8), 'block=8.*only "bsr" has blocks'),
        (lambda: sparse_weights.finalize(sparse, keep={"tok": 3}), "keep has"),
        (lambda: sparse_weights.finalize(sparse, keep=5), "keep=5: give whole numbers by the names"),
        (lambda: sparse_weights.finalize(sparse, keep={QUERY: 2.5}), "keep=.*2.5.*whole numbers"),
        (lambda: sparse_weights.finalize(sparse, keep={QUERY: "12"}), "keep=.*'12'.*whole numbers"),
        (lambda: sparse_weights.finalize(sparse, keep={QUERY: 9999}), "keep=9999: .* 0 to 1024"),
        (lambda: sparse_weights.finalize(sparse, keep={QUERY: -1}), "keep=-1: .* 0 to 1024"),
        (lambda: sparse_weights.finalize(model, where=is_a(nn.Embedding)), "only nn.Linear"),
        (lambda: sparse_weights.finalize(sparse.half()), "no CSR product"),
        (lambda: keep_largest(torch.ones(3), 4), "zeros=4: .* 0 to 3"),
        (lambda: keep_largest(torch.ones(4), 0.5), "zeros=0.5: give a whole number"),
    ):
        with pytest.raises(ValueError, match=said):
            call()


def test_the_proximal_step_takes_the_rate_and_the_pattern():
    layer = nn.Linear(8, 6)
    shrunk = sparse_weights.shrink(layer, price=1.0, pattern="row")
    sparse_weights.project(shrunk, rate=0.1)
    torch.testing.assert_close(shrunk.weight, penalties.soft_threshold(layer.weight.detach(), 0.1, (1, 8)))
    for wrong in (-1.0, float("nan")):
        with pytest.raises(ValueError, match="rate="):
            sparse_weights.project(shrunk, rate=wrong)


def test_gates_are_drawn_from_their_generator():
    def weight(seed: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        torch.manual_seed(0)
        return sparse_weights.gate(nn.Linear(8, 6), price=0.0, start=0.5, generator=generator).weight

    assert torch.equal(weight(1), weight(1)) and not torch.equal(weight(1), weight(2))


@pytest.mark.parametrize("layout", ["csr", "bsr"])
def test_sparse_products_run_under_autocast_and_refuse_16_bits(layout):
    small = sparse_weights.finalize(
        sparse_weights.apply(nn.Linear(16, 8), sparsity=0.5, pattern=4), layout=layout
    )
    x = torch.randn(2, 16)
    wanted = small(x)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(small(x).float(), wanted, atol=0.05, rtol=0.05)
    if layout == "csr":
        with pytest.raises(ValueError, match="no CSR product in 16 bits"):
            small.bfloat16()(x.bfloat16())


def test_two_of_four_is_rebuilt_from_what_it_stores():
    small = sparse_weights.finalize(
        sparse_weights.apply(nn.Linear(8, 64), sparsity=0.5, pattern="2:4"), layout="2:4"
    )
    assert sparse_weights.stored(small) == {"": 256}
    blank = sparse_weights.finalize(nn.Linear(8, 64), layout="2:4", keep={"": 256}, where=is_a(nn.Linear))
    assert blank.code.entries.shape == small.code.entries.shape
