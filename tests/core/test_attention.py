"""Masks, asked in every way there is, and attention: its kernels and its seams."""

import copy
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention.flex_attention import create_block_mask, create_mask, flex_attention

from minieff.core.attention import (
    Attention,
    Mask,
    causal,
    everything,
    explicit,
    fused,
    itself,
    prefix,
    softmax,
)

B, H, S, D = 2, 4, 9, 8
LENGTHS = [3, 7]
TAGS = [[True, False, False, True, False, True, True, False, False], [False, True, False, False] * 2 + [True]]

near = Mask(lambda b, h, q, k: q - k < 3, "near")
even = Mask(lambda b, h, q, k: h % 2 == 0, "even heads")
tagged = Mask(lambda b, h, q, k: torch.tensor(TAGS)[b, k], "tagged")
strided = Mask(lambda b, h, q, k: (q - k) % 4 == 0, "strided")

# each mask beside the same said in plain Python, on whole numbers
MASKS = [
    (everything, lambda b, h, q, k: True),
    (causal, lambda b, h, q, k: q >= k),
    (itself, lambda b, h, q, k: q == k),
    (prefix(torch.tensor(LENGTHS)), lambda b, h, q, k: q >= k or k < LENGTHS[b]),
    (causal & near, lambda b, h, q, k: 0 <= q - k < 3),
    (near | strided, lambda b, h, q, k: q - k < 3 or (q - k) % 4 == 0),
    (~causal | itself, lambda b, h, q, k: q <= k),
    (even & near | ~even & strided, lambda b, h, q, k: q - k < 3 if h % 2 == 0 else (q - k) % 4 == 0),
    (causal & tagged | itself, lambda b, h, q, k: (q >= k and TAGS[b][k]) or q == k),
    (
        causal & (even & near | ~even & tagged) | itself,
        lambda b, h, q, k: (q >= k and (q - k < 3 if h % 2 == 0 else TAGS[b][k])) or q == k,
    ),
]
each_mask = pytest.mark.parametrize("mask", [mask for mask, _ in MASKS], ids=repr)
no_compile = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")


def qkv(T: int = S) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return torch.randn(B, H, T, D), torch.randn(B, H, S, D), torch.randn(B, H, S, D)


def dense(mask: Mask) -> torch.Tensor:
    """The whole mask (B, H, S, S)."""
    return mask.visible(B, H, torch.arange(S)[:, None], torch.arange(S)).expand(B, H, S, S)


@pytest.mark.parametrize("mask, plain", MASKS, ids=[repr(mask) for mask, _ in MASKS])
def test_a_mask_says_for_all_pairs_what_a_python_loop_says_for_each(mask, plain):
    wanted = torch.tensor([plain(*at) for at in product(range(B), range(H), range(S), range(S))])
    assert torch.equal(dense(mask), wanted.view(B, H, S, S))


@each_mask
def test_a_mask_says_the_same_on_a_table_of_keys(mask):
    table = torch.stack([torch.randperm(S)[:4] for _ in range(S)])  # (T, W)
    seen = mask.visible(B, H, torch.arange(S)[:, None], table).expand(B, H, S, 4)
    assert torch.equal(seen, dense(mask).gather(-1, table.expand(B, H, S, 4)))


@each_mask
def test_a_mask_says_the_same_about_a_chunk_of_queries(mask):
    seen = mask.visible(B, H, torch.arange(5, 8)[:, None], torch.arange(8)).expand(B, H, 3, 8)
    assert torch.equal(seen, dense(mask)[:, :, 5:8, :8])


@each_mask
def test_a_mask_is_a_mask_of_flexattention(mask):
    assert torch.equal(create_mask(mask, B, H, S, S, device="cpu"), dense(mask))


@no_compile
@torch.no_grad()
@each_mask
def test_attention_equals_flexattention(mask):
    """It is given `mask.see`, for it traces what it is given and the tests' shape checks cannot be traced."""
    q, k, v = qkv()
    wanted = flex_attention(q, k, v, block_mask=create_block_mask(mask.see, B, H, S, S, device="cpu"))
    attn = Attention(H * D, H)
    torch.testing.assert_close(attn.kernel(attn, q, k, v, mask, 0), wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize("T", [1, 4, S])
@torch.no_grad()
@each_mask
def test_the_last_queries_equal_those_rows_of_plain_attention(mask, T):
    """Fused and explicit, with start > 0, against softmax(scores) v with the rows of the whole mask."""
    q, k, v = qkv(T)
    scores = torch.einsum("bhtd,bhsd->bhts", q, k) / D**0.5
    wanted = torch.where(dense(mask)[:, :, S - T :], scores, -torch.inf).softmax(-1) @ v
    attn = Attention(H * D, H)
    for kernel in fused, explicit:
        torch.testing.assert_close(kernel(attn, q, k, v, mask, S - T), wanted, atol=1e-5, rtol=0)


@torch.no_grad()
@each_mask
def test_keys_that_were_trimmed_keep_their_positions(mask):
    """Of 6 + 3 keys only the last 3 + 3 are given: as if the mask hid the first three."""
    q, k, v = qkv(3)
    attn, late = Attention(H * D, H), Mask(lambda b, h, q, k: k >= 3, "late")
    wanted = explicit(attn, q, k, v, mask & late | itself, 6)
    for kernel in fused, explicit:
        found = kernel(attn, q, k[:, :, 3:], v[:, :, 3:], mask | itself, 6)
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)


def test_the_causal_mask_is_never_stored(monkeypatch):
    """Where torch has a flag for the mask, its kernel gets the flag."""
    calls = []
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda q, k, v, **how: calls.append(how) or q)
    attn = Attention(H * D, H)
    fused(attn, *qkv(), causal & everything, 0)
    fused(attn, *qkv(1), causal, S - 1)
    fused(attn, *qkv(2), causal, S - 2)
    assert [("attn_mask" in how, how.get("is_causal", False)) for how in calls] == [
        (False, True),
        (False, False),
        (True, False),
    ]


def test_combining_with_everything_or_with_oneself_changes_no_identity():
    assert causal & everything is causal and everything & causal is causal and causal & causal is causal
    assert causal | everything is everything and everything | causal is everything
    assert causal | causal is causal


def test_a_copied_mask_is_the_same_mask():
    assert copy.deepcopy(causal) is causal
    attn = Attention(8, 2)
    attn.mask = causal & near
    assert copy.deepcopy(attn).mask is attn.mask


def test_a_mask_is_named_after_its_parts():
    assert repr(causal & ~near | itself) == "((causal & ~near) | itself)"


def test_a_layers_mask_can_only_restrict_the_calls():
    """The layer's mask allows the future, the call's does not: what is left is oneself, so y = out(v)."""
    attn, x = Attention(H * D, H), torch.randn(B, S, H * D)
    attn.mask = ~causal | itself
    torch.testing.assert_close(attn(x, causal), attn.out(attn.v(x)))


@pytest.mark.parametrize("seam", ["normalize", "reweight"])
def test_a_replaced_seam_runs_and_torchs_kernel_does_not(seam, monkeypatch):
    attn, x, ran = Attention(H * D, H), torch.randn(B, S, H * D), []
    wanted = attn(x)
    default = getattr(attn, seam)
    setattr(attn, seam, lambda *args: ran.append(seam) or default(*args))
    monkeypatch.delattr(F, "scaled_dot_product_attention")
    torch.testing.assert_close(attn(x), wanted, atol=1e-5, rtol=0)
    assert ran == [seam]


def test_normalize_gets_scores_that_are_minus_infinity_where_hidden():
    attn, (q, k, v), given = Attention(H * D, H), qkv(3), []
    attn.normalize = lambda scores: given.append(scores) or softmax(scores)
    attn.kernel(attn, q, k, v, causal, S - 3)
    (scores,) = given
    assert scores.shape == (B, H, 3, S)
    assert torch.equal(scores.isneginf(), ~dense(causal)[:, :, S - 3 :])


def test_reweight_gets_weights_and_the_distance_of_each_query_to_each_key():
    attn, (q, k, v), given = Attention(H * D, H), qkv(3), []
    attn.reweight = lambda weights, distance: given.append((weights, distance)) or weights
    attn.kernel(attn, q, k[:, :, 2:], v[:, :, 2:], causal, S - 3)
    ((weights, distance),) = given
    torch.testing.assert_close(weights.sum(-1), torch.ones(B, H, 3))
    wanted = [[q_idx - kv_idx for kv_idx in range(2, S)] for q_idx in range(S - 3, S)]
    assert distance.expand(weights.shape)[1, 2].tolist() == wanted


@pytest.mark.parametrize("kernel", [fused, explicit])
def test_attention_drops_weights_in_training_only(kernel):
    attn, x = Attention(H * D, H, dropout=0.5), torch.randn(B, S, H * D)
    plain = Attention(H * D, H)
    plain.load_state_dict(attn.state_dict())
    attn.kernel = kernel
    assert not torch.allclose(attn(x), attn(x))
    torch.testing.assert_close(attn.eval()(x), plain(x), atol=1e-5, rtol=0)


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(ValueError, match="dim=48 is not a multiple of heads=5"):
        Attention(48, 5)


def test_a_changed_seam_shows_in_print():
    attn = Attention(8, 2)
    assert repr(attn).startswith("Attention(\n  heads=2\n")
    attn.mask = causal & near
    assert "heads=2, mask=(causal & near)" in repr(attn)
