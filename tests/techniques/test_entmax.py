"""Entmax and its loss. General laws are in test_laws.py."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minieff import entmax as technique
from minieff.core.attention import Attention
from minieff.core.data import SILENT
from minieff.core.surgery import is_a
from minieff.entmax import entmax, entmax15, loss, sparsemax

INF = float("inf")
ALPHAS = (1.05, 1.25, 1.5, 1.75, 2.0)


def random(*shape: int, scale: float = 2.0) -> Tensor:
    return scale * torch.randn(*shape, dtype=torch.float64)


# --- references in the words of the papers: sorted, and by bisection


def sorted_sparsemax(z: Tensor) -> Tensor:
    ordered = z.sort(-1, descending=True).values
    k = torch.arange(1, z.shape[-1] + 1)
    total = ordered.cumsum(-1)
    last = (1 + k * ordered > total).sum(-1, keepdim=True)
    return (z - (total.gather(-1, last - 1) - 1) / last).relu()


def sorted_entmax15(z: Tensor) -> Tensor:
    x = (z - z.amax(-1, keepdim=True)) / 2
    ordered = x.sort(-1, descending=True).values
    k = torch.arange(1, z.shape[-1] + 1)
    mean = ordered.cumsum(-1) / k
    spread = (ordered**2).cumsum(-1) - k * mean**2
    tau = mean - ((1 - spread) / k).relu().sqrt()
    last = (tau <= ordered).sum(-1, keepdim=True)
    return (x - tau.gather(-1, last - 1)).relu() ** 2


def bisected(z: Tensor, alpha: float) -> Tensor:
    x = (alpha - 1) * z
    low = x.amax(-1, keepdim=True) - 1
    high = low + 1
    for _ in range(60):
        middle = (low + high) / 2
        enough = ((x - middle).relu() ** (1 / (alpha - 1))).sum(-1, keepdim=True) >= 1
        low, high = torch.where(enough, middle, low), torch.where(enough, high, middle)
    return (x - low).relu() ** (1 / (alpha - 1))


@pytest.mark.parametrize("width", [1, 2, 7, 128])
def test_equals_the_sorted_solutions(width):
    z = random(50, width)
    torch.testing.assert_close(sparsemax(z), sorted_sparsemax(z), atol=1e-14, rtol=0)
    torch.testing.assert_close(entmax15(z), sorted_entmax15(z), atol=1e-14, rtol=0)


@pytest.mark.parametrize("scale", [0.01, 1.0, 30.0])
@pytest.mark.parametrize("alpha", ALPHAS)
def test_equals_bisection(alpha, scale):
    z = random(50, 64, scale=scale)
    wanted = bisected(z, alpha)
    torch.testing.assert_close(entmax(z, alpha), wanted, atol=1e-13, rtol=0)
    assert (entmax(z.float(), alpha) - bisected(z.float().double(), alpha)).abs().max() < 1e-6
    assert torch.equal(entmax(z, torch.tensor(alpha)) > 1e-9, wanted > 1e-9)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_equals_the_entmax_package(alpha):
    package = pytest.importorskip("entmax")
    z, upstream = random(20, 40).requires_grad_(), random(20, 40)
    ours, theirs = entmax(z, alpha), package.entmax_bisect(z, alpha, n_iter=60)
    torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=0)
    (grad,), (wanted,) = (torch.autograd.grad(p, z, upstream) for p in (ours, theirs))
    torch.testing.assert_close(grad, wanted, atol=1e-9, rtol=0)
    if alpha == 1.5:
        targets = torch.randint(40, (20,))
        torch.testing.assert_close(loss(z, targets, alpha=1.5), package.entmax15_loss(z, targets).mean())


def test_known_values():
    z = torch.tensor([[-1.0, 0.0, 0.5]], dtype=torch.float64)
    alpha = torch.tensor([[1.33]], dtype=torch.float64, requires_grad=True)
    (grad,) = torch.autograd.grad(entmax(z, alpha)[0, 0], alpha)
    assert round(grad.item(), 4) == -0.2562  # by the package's authors
    t = random(100)
    pairs = torch.stack([t, torch.zeros(100)], -1)
    torch.testing.assert_close(sparsemax(pairs)[:, 0], ((t + 1) / 2).clamp(0, 1))


@pytest.mark.parametrize("alpha", [1.0, *ALPHAS])
def test_a_point_of_the_simplex(alpha):
    z = random(50, 32)
    p = entmax(z, alpha)
    torch.testing.assert_close(p.sum(-1), torch.ones(50, dtype=torch.float64))
    assert (p >= 0).all()
    torch.testing.assert_close(entmax(z - 1000, alpha), p, atol=1e-11, rtol=0)
    assert (p.gather(-1, z.argsort(-1)).diff() >= 0).all()  # in the order of the scores


def test_a_larger_alpha_has_a_smaller_support():
    z = random(50, 64)
    sizes = torch.stack([(entmax(z, alpha) > 0).sum(-1) for alpha in ALPHAS])
    assert (sizes.diff(dim=0) <= 0).all() and sizes[-1].float().mean() < sizes[0].float().mean() / 4


@pytest.mark.parametrize("alpha", ALPHAS)
def test_one_weight_is_left_where_the_best_score_leads_far_enough(alpha):
    lead = 1 / (alpha - 1)
    z = torch.tensor([[lead * 1.001, 0.0, -0.1], [lead * 0.999, 0.0, -0.1]], dtype=torch.float64)
    assert [(row > 0).sum().item() > 1 for row in entmax(z, alpha)] == [False, True]
    assert loss(z[:1], torch.tensor([0]), alpha=alpha).abs() < 1e-12


def test_at_one_it_is_softmax_and_not_uniform():
    z = torch.randn(50, 64)
    for alpha in (1.0, torch.tensor(1.0), torch.ones(50, 1)):
        torch.testing.assert_close(entmax(z, alpha), z.softmax(-1))
    torch.testing.assert_close(entmax(z.double(), 1.0), z.double().softmax(-1), atol=1e-14, rtol=0)
    near = torch.tensor(1 + 1e-6, dtype=torch.float64)
    torch.testing.assert_close(entmax(z.double(), near), z.double().softmax(-1), atol=1e-5, rtol=0)


# --- gradients


def test_gradients():
    z = random(3, 4, 2, 6).requires_grad_()
    alpha = torch.tensor([1.0001, 1.2, 1.5, 1.95], dtype=torch.float64)[:, None, None].requires_grad_()
    assert torch.autograd.gradcheck(entmax, (z, alpha))
    assert all(torch.autograd.gradcheck(lambda z, a=a: entmax(z, a), (z,)) for a in (1.0, *ALPHAS))
    alphas = random(2, 1, 1).sigmoid() + 1  # two for the same scores
    assert torch.autograd.gradcheck(entmax, (z[0, 0].detach().requires_grad_(), alphas.requires_grad_()))
    targets = torch.tensor([2, 0, 5])
    for a in (1.0, *ALPHAS):
        rows = z[:, 0, 0].detach().requires_grad_()
        assert torch.autograd.gradcheck(lambda z, a=a: loss(z, targets, alpha=a), (rows,))


def test_gradients_keep_the_total():
    z, alpha = random(5, 8).requires_grad_(), torch.full((5, 1), 1.4, dtype=torch.float64, requires_grad=True)
    grads = torch.autograd.grad(entmax(z, alpha).sum(), (z, alpha))
    assert all(grad.abs().max() < 1e-13 for grad in grads)


def test_the_gradient_of_alpha_has_its_limit_at_softmax():
    """1 / (alpha - 1)^2 cancels: in float32, too, nothing of it is left."""
    z, upstream = torch.randn(20, 16), torch.randn(20, 16)
    p = z.double().softmax(-1)
    h = -p * p.log()
    limit = (upstream * (h * p.log() - p * (h * p.log()).sum(-1, keepdim=True)) / 2).sum(-1, keepdim=True)
    for near in (0.0, 1e-6, 1e-4):
        alpha = torch.full((20, 1), 1 + near, requires_grad=True)
        (grad,) = torch.autograd.grad(entmax(z, alpha), alpha, upstream)
        torch.testing.assert_close(grad.double(), limit, atol=1e-3, rtol=1e-3)


# --- what breaks others


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("alpha", [1.0, 1.3, 1.5, 2.0])
def test_masked_rows_and_large_negative_logits(alpha, dtype):
    low = -6e4
    z = torch.tensor([[-INF, -INF, -INF], [low, low, -INF], [low, 0.0, low]], dtype=dtype, requires_grad=True)
    p = entmax(z, alpha)
    assert p.dtype == dtype
    torch.testing.assert_close(p, torch.tensor([[0, 0, 0], [0.5, 0.5, 0], [0, 1, 0]], dtype=dtype))
    (grad,) = torch.autograd.grad(p.square().sum(), z)
    assert grad.dtype == dtype and grad.isfinite().all()


def test_a_nan_stays_in_its_row():
    z = torch.randn(3, 5)
    z[1, 2] = float("nan")
    assert entmax15(z).isnan().all(-1).tolist() == [False, True, False]


def test_a_vocabulary_of_near_ties():
    z = 1e-3 * torch.rand(2, 50_000)
    for alpha in (1.1, 1.5, 2.0):
        assert (entmax(z, alpha) - bisected(z.double(), alpha)).abs().max() < 1e-6


# --- loss and verbs


def test_the_loss():
    z, targets = random(2, 5, 9).requires_grad_(), torch.randint(9, (2, 5))
    targets[0, 3] = SILENT
    torch.testing.assert_close(loss(z, targets, alpha=1.0), F.cross_entropy(z.mT, targets))
    for alpha in ALPHAS:
        value = loss(z, targets, alpha=alpha)
        (grad,) = torch.autograd.grad(value, z)
        wanted = (entmax(z, alpha) - F.one_hot(targets.clamp(0), 9)) / 9
        torch.testing.assert_close(grad, wanted * (targets != SILENT)[..., None])
        assert value > 0


def test_heads_learn_their_alpha(model, ids):
    learned = technique.apply(model, alpha="learned").train()
    seam = learned.blocks.layers[0].mix.inner.normalize
    half = technique.apply(model, alpha=1.5)
    torch.testing.assert_close(learned(ids), half(ids))
    F.cross_entropy(learned(ids).mT, ids).backward()
    assert seam.a.grad.unique().numel() == 4
    with torch.no_grad():
        seam.a.copy_(torch.tensor([-9.0, 0.0, 1.0, 9.0]))
    assert "alpha=[1.0, 1.5, 1.73, 2.0]" in str(learned)
    assert not torch.equal(learned(ids), half(ids)) and "Entmax(alpha=1.5)" in str(half)


@pytest.mark.parametrize(
    "alpha", [0.99, 2.01, -1.0, float("nan"), "1.5", "lerned", [1.5, 1.5], np.ones(2), None]
)
def test_an_impossible_alpha_is_refused(model, alpha, unchecked):
    with pytest.raises(ValueError, match=r"alpha=.*from 1, softmax, to 2, sparsemax"):
        technique.apply(model, alpha=alpha)


Z, WORDS = torch.tensor([[0.0, 1.0, 2.0, 3.0], [3.0, 1.0, 2.0, 0.0]]), torch.tensor([0, 1])


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda m: entmax(Z, torch.tensor([[1.5], [2.5]])), r"alpha=\[\[1.5\], \[2.5\]\]: it lies from 1"),
        (lambda m: entmax(Z, float("nan")), "alpha=nan: it lies from 1"),
        (lambda m: entmax(Z, "learned"), "alpha='learned': a number"),
        (lambda m: entmax(Z, None), "alpha=None: a number"),
        (lambda m: entmax(Z, [1.5, 1.2]), r"alpha=\[1.5, 1.2\]: .* or a tensor"),
        (lambda m: entmax(Z, torch.full((4,), 1.5)), r"shape \(4,\) differs along a row"),
        (lambda m: entmax(torch.tensor([[1, 2]]), 1.5), "scores of torch.int64: give floats"),
        (lambda m: technique.entmax15(torch.tensor([True])), "scores of torch.bool: give floats"),
        (lambda m: technique.sparsemax([1.0, 2.0]), "scores of <class 'list'>: give floats"),
        (lambda m: entmax(torch.tensor(1.0), 1.5), r"scores of shape \(\): give rows"),
        (lambda m: entmax(torch.zeros(2, 0), 1.5), r"scores of shape \(2, 0\): give rows"),
        (lambda m: loss(Z, WORDS, alpha=3.0), "alpha=3.0"),
        (lambda m: loss(Z, WORDS, alpha="learned"), "alpha='learned': the loss takes one number"),
        (lambda m: loss(Z, WORDS, alpha=torch.full((2, 1), 1.5)), "the loss takes one number"),
        (lambda m: loss(Z, WORDS.float(), alpha=1.5), r"targets=.*give \(2,\) integers below 4"),
        (lambda m: loss(Z, torch.tensor([0, 9]), alpha=1.5), "targets=.*9.*integers below 4"),
        (lambda m: loss(Z, torch.tensor([0, 1, 2]), alpha=1.5), r"give \(2,\) integers"),
        (lambda m: loss(Z, torch.eye(4)[:2], alpha=1.5), r"give \(2,\) integers"),
        (lambda m: loss(Z, [0, 1], alpha=1.5), r"targets=\[0, 1\]: give"),
        (lambda m: technique.apply(technique.apply(m), alpha=2.0), "normalize=Entmax.*the seam is taken"),
        (lambda m: technique.apply(m, where=is_a(nn.Linear)), "use minieff.core.adopt first"),
        (lambda m: technique.apply(m, where=Attention), "where=.*give a function"),
        (lambda m: technique.apply(nn.TransformerEncoderLayer(8, 2)), "or core.adopt torch's attention"),
    ],
)
def test_mistakes_are_refused(model, call, said, unchecked):
    with pytest.raises(ValueError, match=said):
        call(model)


def test_without_targets_the_loss_is_zero():
    assert loss(Z, torch.tensor([-100, -100]), alpha=1.5) == 0


def test_modules_without_the_seam_are_sent_to_adopt():
    with pytest.raises(ValueError, match="use minieff.core.adopt first"):
        technique.apply(nn.MultiheadAttention(8, 2), where=is_a(nn.MultiheadAttention))
