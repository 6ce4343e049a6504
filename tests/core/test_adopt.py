"""Our Attention in the place of nn.MultiheadAttention."""

import copy
import warnings

import pytest
import torch
from torch import nn

from minieff.core.adopt import Adopted, adopt
from minieff.core.attention import Attention, explicit, fused, softmax, unchanged
from minieff.core.surgery import named, swap

B, H, S, D = 2, 4, 9, 8
LENGTHS = [3, 7]


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
