"""Feedback memory. General laws, such as exact decoding through Past and padding, are in test_laws.py."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from minieff import feedback, layerdrop, scalar_quant
from minieff.core import cost
from minieff.core.adopt import adopt
from minieff.core.attention import Mask, causal, itself
from minieff.core.past import Past
from minieff.core.surgery import is_a, record, swap
from minieff.core.transformer import Attention, Block, FeedForward, Stack

ENCODER = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, batch_first=True), 1)


@pytest.fixture
def looped(model):
    """With a memory whose weights and `now` are not at their start."""
    looped = feedback.apply(model)
    for p in (looped.blocks.mix.weight, looped.blocks.now):
        nn.init.normal_(p)
    return looped


def written_out(model, ids):
    """The equations of the paper, token by token and head by head, without anything of the package's."""
    runner, heads = model.blocks, model.config.heads
    x = model.tok.weight[ids] + model.pos.weight[: ids.shape[1]]
    memories, outputs = [], []
    for t in range(ids.shape[1]):
        read = torch.stack([*(runner.norm(m) for m in memories), runner.now[0].expand(len(ids), -1)], 1)
        K, V = (F.linear(read, p.weight, p.bias).chunk(heads, -1) for p in (runner.k, runner.v))
        states = [x[:, t]]
        for block in runner.layers:
            h = states[-1]
            q = block.mix.inner.q(block.mix.norm(h)).chunk(heads, -1)
            attn = [
                torch.einsum("bd,bsd->bs", q[i], K[i]).div(q[i].shape[-1] ** 0.5).softmax(-1)
                for i in range(heads)
            ]
            read_out = torch.cat([torch.einsum("bs,bsd->bd", attn[i], V[i]) for i in range(heads)], -1)
            h = h + block.mix.inner.out(read_out)
            states.append(h + block.feed.inner(block.feed.norm(h)[:, None])[:, 0])
        shares = runner.mix.weight.exp() / runner.mix.weight.exp().sum()
        memories.append(sum(share * state for share, state in zip(shares, states, strict=True)))
        outputs.append(states[-1])
    return model.norm(torch.stack(outputs, 1)) @ model.tok.weight.T


def test_it_equals_the_equations_written_out(looped, ids):
    torch.testing.assert_close(looped(ids), written_out(looped, ids), atol=1e-4, rtol=1e-4)


def test_a_memory_is_the_mean_at_first_and_one_layer_at_the_extreme():
    mix, states = feedback.MemoryVector(layers=2), [torch.full((1, 1, 4), value) for value in (1.0, 2.0, 6.0)]
    assert torch.equal(mix(states), torch.full((1, 1, 4), 3.0))
    mix.weight = nn.Parameter(torch.tensor([0.0, 0.0, 1e4]))
    assert torch.equal(mix(states), states[-1])


def test_a_memory_knows_no_later_token_and_the_first_layer_reads_the_last(looped, ids):
    def seen(model, ids):
        """Memories (B, T, C) and what the first layer makes of each token."""
        with record(model, is_a(feedback.MemoryVector, Block)) as calls:
            model(ids)
        first = [call.output for call in calls if call.name == "blocks.layers.0"]
        return torch.cat([c.output for c in calls if c.name == "blocks.mix"], 1), torch.cat(first, 1)

    other = ids.clone()
    other[:, 9] = (other[:, 9] + 1) % 50
    (memory, first), (memory2, _) = seen(looped, ids), seen(looped, other)
    assert torch.equal(memory[:, :9], memory2[:, :9]) and not torch.equal(memory[:, 9], memory2[:, 9])
    nn.init.normal_(looped.blocks.layers[-1].feed.inner.down.bias)  # changes the last layer alone
    changed = seen(looped, ids)[1]
    assert torch.equal(changed[:, 0], first[:, 0]) and not torch.equal(changed[:, 1], first[:, 1])


def test_a_plain_stack_has_no_such_path(model, ids):
    with record(model, is_a(Block)) as calls:
        model(ids)
        nn.init.normal_(model.blocks.layers[-1].feed.inner.down.bias)
        model(ids)
    assert torch.equal(calls[0].output, calls[3].output)


def test_the_cache_is_one_layers_and_can_be_rewound_and_picked(model, looped, ids):
    plain, past = Past(), Past()
    model(ids, past=plain)
    looped(ids[:, :10], past=past)
    looped((ids[:, 10:] + 1) % 50, past=past)
    past.rewind(10)
    past.pick(torch.tensor([1, 1]))
    again = looped(ids[[1, 1], 10:], past=past)
    torch.testing.assert_close(again, looped(ids[[1, 1]])[:, 10:], atol=1e-4, rtol=1e-4)
    assert len(past.slots) == 1 and past.nbytes() * model.config.layers == plain.nbytes()


def test_parameters_of_all_layers_but_one_are_saved_exactly(model, looped):
    C, L = model.config.dim, model.config.layers
    added = (L + 1) + C + 2 * C  # the mixture, `now`, and the norm of memories
    assert cost.parameters(model) - cost.parameters(looped) == (L - 1) * 2 * (C * C + C) - added


def test_macs_count_the_keys_that_each_token_sees(looped):
    C, L, T = 32, 3, 16
    linears = L * (2 * C * C + 8 * C * C) + 2 * C * C + 50 * C
    pairs = L * 2 * C * (T + 1) / 2
    now = 2 * C * C / T
    assert cost.macs(looped, context=T) == pytest.approx(linears + pairs + now + (L + 1) * C)


def test_the_first_token_reads_now_and_nothing_that_is_absent(looped, ids):
    """The released code starts with unmasked zeros, which take part in the softmax."""
    with record(looped, is_a(Attention)) as calls:
        looped(ids[:, :1])
    inner = looped.blocks.layers[0].mix.inner
    only = inner.out(looped.blocks.v(looped.blocks.now))
    torch.testing.assert_close(calls[0].output, only.expand(2, -1, -1))


def test_masks_mean_what_they_say(looped, ids):
    """Seen by nobody but itself, a token changes no later output; with only itself, it reads only `now`."""
    hidden = causal & (Mask(lambda b, h, q, k: k != 5, "not 5") | itself)
    other = ids.clone()
    other[:, 5] = (other[:, 5] + 1) % 50
    changed = (looped(ids, hidden) != looped(other, hidden)).any(-1).any(0)
    assert changed.nonzero().flatten().tolist() == [5]
    alone = looped(ids[:, :4], itself)[:, 2] - looped(ids[:, :3], causal & itself)[:, 2]
    assert alone.abs().max() < 1e-5


def test_layers_trained_with_layerdrop_are_pruned_before_it(model, ids):
    dropped = feedback.apply(layerdrop.finalize(model, keep=[0, 2]))
    assert dropped(ids).shape == (2, 16, 50)
    late = layerdrop.finalize(feedback.apply(model), keep=[0, 2])
    with pytest.raises(ValueError, match="3 states for 4 weights.*before"):
        late(ids)


def feed_forward_in_one_layer(model: nn.Module) -> nn.Module:
    return swap(model, lambda name, _: name == "blocks.layers.1.mix.inner", lambda old: FeedForward(32, 8))


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda m: feedback.apply(feedback.apply(m)), "feedback memory already"),
        (lambda m: feedback.apply(ENCODER), "matched no module of TransformerEncoder"),
        (lambda m: feedback.apply(Attention(8, 2)), "matched no module of Attention"),
        (lambda m: feedback.apply(adopt(ENCODER), where=is_a(nn.TransformerEncoder)), "pick is_a.Stack"),
        (lambda m: feedback.apply(m, where=is_a(Block)), "where picks a Block, which holds no layers"),
        (lambda m: feedback.apply(m, where=is_a(nn.ModuleList)), "picks a ModuleList, which holds no layers"),
        (lambda m: feedback.apply(m, where=Stack), "where=.*give a function"),
        (lambda m: feedback.apply(Stack([])), "where picks a Stack, which holds no layers"),
        (lambda m: feedback.apply(m, attention=is_a(nn.Linear)), "picks a Linear, which has no linears"),
        (lambda m: feedback.apply(m, attention=is_a(Block)), "picks a Block, which has no linears"),
        (lambda m: feedback.apply(m, attention=Attention), "attention=<class.*give a function"),
        (lambda m: feedback.apply(m, attention="mix.inner"), "attention='mix.inner': give a function"),
        (lambda m: feedback.apply(m, attention=None), "attention=None: give a function"),
        (lambda m: feedback.apply(m, attention=is_a(nn.Conv1d)), "layer 0 has no attention"),
        (lambda m: feedback.apply(feed_forward_in_one_layer(m)), "layer 1 has no attention.*FeedForward"),
        (lambda m: feedback.apply(scalar_quant.finalize(scalar_quant.apply(m))), "before weights are stored"),
        (lambda m: feedback.MemoryVector(layers=3)([torch.zeros(1, 1, 8)] * 2), "2 states for 4 weights"),
    ],
)
def test_what_cannot_read_a_memory_is_refused(model, call, said, unchecked):
    with pytest.raises(ValueError, match=said):
        call(model)


def test_a_mixer_without_keys_and_values_is_refused():
    memory = feedback.Memory(torch.zeros(1, 3, 8), torch.zeros(1, 3, 8), start=2)
    with pytest.raises(ValueError, match="stores 1 tensors.*keep Attention"):
        memory.slot().extend(torch.zeros(1, 2, 1, 4), keep=2)


def test_old_memories_are_cut_off_where_a_layer_asks_for_few():
    k = torch.arange(5.0).view(1, 5, 1).expand(1, 5, 8)
    own = torch.zeros(1, 2, 1, 4)
    keys, _ = feedback.Memory(k, k, start=4).slot().extend(own, own, keep=2)
    assert keys[0, 0, :, 0].tolist() == [2.0, 3.0, 4.0]  # two memories and `now`


def test_its_parts_have_the_type_and_mode_of_the_model(model):
    half = feedback.apply(model.eval().to(torch.bfloat16))
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
    assert not any(m.training for m in half.modules())
    assert "one memory per token for 3 layers" in str(half)


def test_noise_on_weights_is_drawn_once_per_pass(model, ids):
    """And a computed weight is computed once per pass, not once per token."""
    noisy = scalar_quant.apply(feedback.apply(model), p=0.5).train()
    noise = noisy.blocks.layers[0].mix.inner.q.parametrizations.weight[0]
    with record(noisy, lambda name, module: module is noise) as calls:
        noisy(ids)
    assert len(calls) == 1
