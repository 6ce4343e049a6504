"""Masks, asked in every way there is, and attention: its kernels, its seams, and in the place of torch's."""

import copy
import warnings
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention.flex_attention import create_block_mask, create_mask, flex_attention

from minieff.core.attention import (
    Adopted,
    Attention,
    Mask,
    adopt,
    causal,
    everything,
    explicit,
    fused,
    itself,
    prefix,
    softmax,
    unchanged,
)
from minieff.core.surgery import named, swap

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


# --- adopt: our Attention in the place of nn.MultiheadAttention


def encoder(layers: int = 2, dropout: float = 0.0, **how) -> nn.TransformerEncoder:
    """torch's own, which warns of layouts that its fused path does not take. Biases are made to matter."""
    with warnings.catch_warnings(action="ignore"):
        layer = nn.TransformerEncoderLayer(16, 4, 32, dropout, **how)
        theirs = nn.TransformerEncoder(layer, layers)
    for p in theirs.parameters():
        nn.init.normal_(p, std=0.3)
    return theirs


def count_kernel_runs(model: nn.Module) -> list:
    """Filled as our attentions run. By a seam: a hook would itself switch torch's fused path off."""
    ran: list = []
    for attn in (m for m in model.modules() if isinstance(m, Attention)):
        attn.kernel = lambda *args: ran.append(1) or fused(*args)
    return ran


T = 6
PADDING = torch.tensor([[False] * 6, [False] * 4 + [True] * 2])
FUTURE = torch.ones(T, T).triu(1).bool()
MINUS_INF = nn.Transformer.generate_square_subsequent_mask(T)
CALLS = {
    "plain": {},
    "padding": {"src_key_padding_mask": PADDING},
    "left padding": {"src_key_padding_mask": PADDING.flip(1)},
    "float padding": {"src_key_padding_mask": torch.zeros(2, T).masked_fill(PADDING, -torch.inf)},
    "causal": {"mask": FUTURE},
    "float causal": {"mask": MINUS_INF},
    "hinted causal": {"mask": MINUS_INF, "is_causal": True},
    "causal, padding": {"mask": FUTURE, "src_key_padding_mask": PADDING},
    "causal, left padding": {"mask": FUTURE, "src_key_padding_mask": PADDING.flip(1)},
}
EMPTY_ROWS = CALLS["causal, left padding"]


def real_positions(y: torch.Tensor, call: dict, batch_first: bool) -> torch.Tensor:
    hidden = call.get("src_key_padding_mask", torch.zeros(2, T)) != 0
    return (y if batch_first else y.transpose(0, 1))[~hidden]


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("batch_first", [True, False], ids=["batch first", "time first"])
@pytest.mark.parametrize("norm_first", [True, False], ids=["pre-norm", "post-norm"])
@pytest.mark.parametrize("grad", [True, False], ids=["grad", "no grad"])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_an_adopted_encoder_equals_the_original_and_runs_our_attention(
    call, batch_first, norm_first, grad, training
):
    theirs = encoder(batch_first=batch_first, norm_first=norm_first).train(training)
    ours = adopt(theirs)
    ran = count_kernel_runs(ours)
    x = torch.randn((2, T, 16) if batch_first else (T, 2, 16))
    with torch.set_grad_enabled(grad):
        found = real_positions(ours(x, **call), call, batch_first)
    # torch warns of its own nested tensors, and its fused path gives NaN where rows of padding are empty
    with warnings.catch_warnings(action="ignore"), torch.set_grad_enabled(grad or call is EMPTY_ROWS):
        wanted = real_positions(theirs(x, **call), call, batch_first)
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)
    assert len(ran) == 2


def test_an_adopted_encoder_without_biases_equals_the_original():
    theirs, x = encoder(batch_first=True, bias=False).eval(), torch.randn(2, T, 16)
    ours = adopt(theirs)
    assert not any(name.endswith("bias") for name, _ in ours.named_parameters())
    torch.testing.assert_close(ours(x), theirs(x), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["bool", "float"])
@pytest.mark.parametrize("padded", ["plain", "padding"])
@pytest.mark.parametrize("batch_first", [True, False])
def test_a_mask_for_each_head_and_row_is_taken_over(kind, padded, batch_first):
    theirs = nn.MultiheadAttention(16, 4, batch_first=batch_first)
    x = torch.randn((2, T, 16) if batch_first else (T, 2, 16))
    hidden = (torch.rand(2 * 4, T, T) < 0.5) & ~torch.eye(T).bool()
    hidden[:, :, 0] = False  # no row is empty
    call = {"attn_mask": hidden, "key_padding_mask": CALLS[padded].get("src_key_padding_mask")}
    if kind == "float":
        call = {
            name: m if m is None else torch.zeros(m.shape).masked_fill(m, -torch.inf)
            for name, m in call.items()
        }
    found, wanted = (
        real_positions(m(x, x, x, need_weights=False, **call)[0], CALLS[padded], batch_first)
        for m in (adopt(theirs), theirs)
    )
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


def test_gradients_reach_the_input_through_an_adopted_encoder_as_through_the_original():
    theirs, x = encoder(batch_first=True), torch.randn(2, T, 16, requires_grad=True)
    (wanted,) = torch.autograd.grad(theirs(x).pow(3).sum(), x)
    (found,) = torch.autograd.grad(adopt(theirs)(x).pow(3).sum(), x)
    torch.testing.assert_close(found, wanted, atol=1e-3, rtol=1e-4)


def test_dropout_of_the_original_is_taken_over():
    adopted, x = adopt(nn.MultiheadAttention(16, 4, dropout=0.5, batch_first=True)), torch.randn(2, T, 16)

    def run() -> torch.Tensor:
        return adopted(x, x, x, need_weights=False)[0]

    assert not torch.allclose(run(), run())
    adopted.eval()
    assert torch.equal(run(), run())


def test_left_padding_under_a_causal_mask_leaves_no_empty_row_for_a_seam():
    """Explicit softmax of an empty row is NaN, and one NaN key would reach every real position."""
    theirs, x = encoder(batch_first=True).eval(), torch.randn(2, T, 16)
    ours = adopt(theirs)
    for attn in (m for m in ours.modules() if isinstance(m, Attention)):
        attn.kernel = explicit
    found, wanted = (real_positions(m(x, **EMPTY_ROWS), EMPTY_ROWS, True) for m in (ours, theirs))
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


def test_an_attention_shared_by_two_layers_is_adopted_once():
    theirs = encoder()
    theirs.layers[1].self_attn = theirs.layers[0].self_attn
    ours = adopt(nn.ModuleList([theirs, nn.Sequential(theirs.layers[0])]))
    assert ours[0].layers[1].self_attn is ours[0].layers[0].self_attn is ours[1][0].self_attn
    assert sum(isinstance(m, Attention) for m in ours.modules()) == 1


def test_adopting_leaves_the_original_as_it_was():
    theirs = encoder().eval()
    before, text = copy.deepcopy(theirs.state_dict()), repr(theirs)
    ours = adopt(theirs)
    with torch.no_grad():
        for p in ours.parameters():
            p.zero_()
    assert repr(theirs) == text and theirs.use_nested_tensor == encoder().use_nested_tensor
    assert all(torch.equal(before[name], p) for name, p in theirs.state_dict().items())


@pytest.mark.parametrize("grad", [True, False])
def test_what_was_frozen_stays_frozen_and_nothing_else(grad):
    theirs = nn.MultiheadAttention(16, 4)
    theirs.in_proj_weight.requires_grad = theirs.out_proj.bias.requires_grad = False
    with torch.set_grad_enabled(grad):
        ours = adopt(theirs).attention
    frozen = {name for name, p in ours.named_parameters() if not p.requires_grad}
    assert frozen == {"q.weight", "k.weight", "v.weight", "out.bias"}


def test_where_says_which_attentions_are_adopted():
    """In a decoder the attention to the memory is not self-attention, and can be left to torch."""
    theirs = nn.TransformerDecoderLayer(16, 4, 32, 0.0, batch_first=True)
    x, memory = torch.randn(2, T, 16), torch.randn(2, 3, 16)
    ours = adopt(theirs, where=named("self_attn"))
    assert isinstance(ours.self_attn, Adopted) and type(ours.multihead_attn) is nn.MultiheadAttention
    found, wanted = (m(x, memory, tgt_mask=FUTURE) for m in (ours, theirs))
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


def test_a_replaced_attention_inside_an_adopted_encoder_runs():
    """The fused path of torch's encoder would read its weights and ignore the replacement."""
    adopted = adopt(encoder(batch_first=True)).eval()
    silent = swap(adopted, named("attention.out"), lambda linear: nn.Identity())
    x = torch.randn(2, T, 16)
    with torch.no_grad():
        assert not torch.allclose(silent(x), adopted(x))


@pytest.mark.parametrize("how", [{"kdim": 8}, {"vdim": 8}, {"add_bias_kv": True}, {"add_zero_attn": True}])
def test_attentions_of_another_kind_are_refused(how):
    with pytest.raises(ValueError, match="adopt takes"):
        adopt(nn.MultiheadAttention(16, 4, **how))


def test_a_model_without_attention_is_refused():
    with pytest.raises(ValueError, match="matched no module"):
        adopt(nn.Linear(2, 2))


REFUSED = {
    "attention to something else": ({"key": torch.ones(2, T, 16)}, "self-attention"),
    "other values": ({"value": torch.ones(2, T, 16)}, "self-attention"),
    "weights": ({"need_weights": True}, "need_weights=False"),
    "a bias as mask": ({"attn_mask": torch.full((T, T), -1.0)}, "0 and -inf only"),
    "a bias as padding": ({"key_padding_mask": torch.full((2, T), -1.0)}, "0 and -inf only"),
    "causal by hint alone": ({"is_causal": True}, "is_causal"),
    "a mask of other length": ({"attn_mask": torch.zeros(2 * T, 2 * T).bool()}, "of shape"),
    "a mask of another batch": ({"attn_mask": torch.zeros(4, T, T).bool()}, "of shape"),
    "padding of other length": ({"key_padding_mask": torch.zeros(2, T + 1).bool()}, "of shape"),
}


@pytest.mark.parametrize("wrong, text", REFUSED.values(), ids=REFUSED)
def test_an_adopted_attention_refuses_what_it_would_get_wrong(wrong, text):
    adopted, x = adopt(nn.MultiheadAttention(16, 4, batch_first=True)), torch.randn(2, T, 16)
    call = {"query": x, "key": x, "value": x, "need_weights": False} | wrong
    with pytest.raises(ValueError, match=text):
        adopted(**call)


@pytest.mark.parametrize("batch_first", [True, False])
def test_an_adopted_encoder_refuses_a_sequence_without_a_batch(batch_first):
    with pytest.raises(ValueError, match="batches"):
        adopt(encoder(batch_first=batch_first))(torch.randn(T, 16))


def test_the_defaults_of_the_seams_change_nothing():
    attn = torch.rand(B, H, T, T)
    assert unchanged(attn, torch.arange(T)) is attn
    torch.testing.assert_close(softmax(attn), attn.exp() / attn.exp().sum(-1, keepdim=True))
