"""What a decoder remembers: what is in the slots, and what undoing, reordering and refusing do to them."""

import pytest
import torch

from minieff.core.past import Fresh, Past, Slot, fresh
from minieff.core.transformer import Config, Stack, Transformer


def steps(*numbers: float) -> torch.Tensor:
    """(1, T, 1): one number a step."""
    return torch.tensor(numbers).view(1, -1, 1)


def other(ids: torch.Tensor) -> torch.Tensor:
    """Tokens that differ everywhere."""
    return (ids + 1) % 50


def close(found: torch.Tensor, wanted: torch.Tensor) -> None:
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


def contents(past: Past) -> tuple:
    """All that a Past knows, as plain values."""
    ids = past.ids.tolist() if past.ids is not None else None
    return ids, [[t.tolist() for t in slot.kept] for slot in past.slots]


def test_a_slot_appends_along_time():
    slot = Slot()
    slot.extend(steps(1, 2), steps(10, 20))
    k, v = slot.extend(steps(3), steps(30))
    assert k.flatten().tolist() == [1, 2, 3] and v.flatten().tolist() == [10, 20, 30]


@pytest.mark.parametrize("keep, read", [(0, [4, 5]), (2, [2, 3, 4, 5]), (9, [1, 2, 3, 4, 5])])
def test_keep_limits_how_many_old_steps_are_read(keep, read):
    slot = Slot()
    slot.extend(steps(1, 2, 3), keep=keep)
    (found,) = slot.extend(steps(4, 5), keep=keep)
    assert found.flatten().tolist() == read


def test_what_keep_hid_is_there_again_after_a_rewind():
    past = Past()
    for t in range(4):
        past.begin(torch.tensor([[t]]))
        past.slot().extend(steps(t), keep=1)
    past.rewind(2)
    past.begin(torch.tensor([[7]]))
    (found,) = past.slot().extend(steps(7), keep=1)
    assert found.flatten().tolist() == [1, 7]


def test_a_slot_refuses_another_number_of_tensors():
    slot = Slot()
    slot.extend(steps(1), steps(2))
    with pytest.raises(ValueError):
        slot.extend(steps(3))


@torch.no_grad()
def test_a_block_used_three_times_has_three_slots_and_decodes_right(model, ids):
    model.blocks = Stack([model.blocks.layers[0]] * 3)
    past = Past()
    found = torch.cat([model(chunk, past=past) for chunk in ids.split([6, 1, 9], dim=1)], dim=1)
    close(found, model(ids))
    assert len(past.slots) == 3
    assert not torch.equal(past.slots[0].kept[0], past.slots[1].kept[0])


@torch.no_grad()
def test_a_pruned_stack_has_fewer_slots(model, ids):
    model.blocks = Stack(model.blocks.layers[:2])
    past = Past()
    model(ids, past=past)
    assert len(past.slots) == 2


@torch.no_grad()
@pytest.mark.parametrize("B, T", [(1, 1), (2, 16), (3, 7)])
def test_bytes_equal_the_closed_form(B, T):
    L, C = 3, 32
    model = Transformer(Config(vocab=50, context=24, layers=L, heads=4, dim=C))
    past = Past()
    for chunk in torch.randint(50, (B, T)).split(5, dim=1):
        model(chunk, past=past)
    assert past.nbytes() == 2 * L * B * T * C * 4
    past.rewind(T - 1)
    assert past.nbytes() == 2 * L * B * (T - 1) * C * 4


def test_an_empty_past_holds_nothing():
    past = Past()
    past.rewind(0)
    past.pick(torch.tensor([0, 0]))
    assert past.nbytes() == 0 and past.so_far(torch.ones(5, 2).long()).shape == (5, 2)


@torch.no_grad()
@pytest.mark.parametrize("length", [0, 1, 7, 16])
def test_after_a_rewind_another_ending_equals_a_fresh_pass(model, ids, length):
    past = Past()
    for chunk in ids.split(5, dim=1):
        model(chunk, past=past)
    past.rewind(length)
    ending = torch.randint(50, (2, 4))
    close(model(ending, past=past), model(torch.cat([ids[:, :length], ending], 1))[:, length:])


@torch.no_grad()
def test_picked_rows_go_on_as_if_they_had_been_read_in_that_order(model, ids):
    past, rows = Past(), torch.tensor([1, 1, 0])
    model(ids[:, :9], past=past)
    past.pick(rows)
    assert torch.equal(past.ids, ids[rows, :9])
    close(model(ids[rows, 9:], past=past), model(ids[rows])[:, 9:])


@torch.no_grad()
def test_rows_picked_from_one_sequence_can_end_differently(model, ids):
    past = Past()
    model(ids[:1, :9], past=past)
    past.pick(torch.tensor([0, 0]))
    ends = torch.cat([ids[:1, 9:], other(ids[:1, 9:])])
    close(model(ends, past=past), model(torch.cat([ids[[0, 0], :9], ends], 1))[:, 9:])


@torch.no_grad()
def test_so_far_is_all_tokens_before_the_forward_has_begun(model, ids):
    past = Past()
    model(ids[:, :9], past=past)
    assert torch.equal(past.so_far(ids[:, 9:]), ids)
    assert torch.equal(past.ids, ids[:, :9])


def test_begin_returns_the_position_of_the_first_new_token(ids):
    past = Past()
    starts = []
    for chunk in ids.split([5, 1, 10], dim=1):
        past.begin(chunk)
        starts.append(past.start)
    assert starts == [0, 5, 6]
    assert past.start == 6


@torch.no_grad()
def test_fresh_stores_nothing(model, ids):
    first = model(ids)
    assert torch.equal(model(ids), first)
    assert vars(fresh) == {} and fresh.start == 0
    fresh.begin(ids)
    assert torch.equal(fresh.so_far(ids), ids) and fresh.start == fresh.length == 0
    assert fresh.slot() is not fresh.slot()


def test_a_slot_of_fresh_returns_what_it_is_given():
    k = steps(1, 2)
    for _ in range(2):
        (found,) = Fresh().slot().extend(k)
        assert found is k


@pytest.mark.parametrize("length", [-1, 10])
@torch.no_grad()
def test_a_rewind_to_where_nothing_was_read_is_refused(model, ids, length):
    past = Past()
    model(ids[:, :9], past=past)
    before = contents(past)
    with pytest.raises(ValueError, match="holds 9 tokens; pick a length from 0 to 9"):
        past.rewind(length)
    assert contents(past) == before


REFUSED = {
    "beyond the context": (torch.zeros(2, 16, dtype=torch.long), "25 tokens are more than"),
    "another batch": (torch.zeros(3, 2, dtype=torch.long), "holds 2 sequences and was given 3"),
    "unknown ids": (torch.full((2, 3), 50), "the vocabulary is 0 to 49"),
}


@pytest.mark.parametrize("bad, text", REFUSED.values(), ids=REFUSED)
@torch.no_grad()
def test_a_refused_forward_leaves_the_past_as_it_was(model, ids, bad, text):
    past = Past()
    model(ids[:, :9], past=past)
    before = contents(past)
    with pytest.raises(ValueError, match=text):
        model(bad, past=past)
    assert contents(past) == before
    close(model(ids[:, 9:], past=past), model(ids)[:, 9:])


@torch.no_grad()
def test_a_refused_first_forward_leaves_the_past_empty(model, ids):
    past = Past()
    with pytest.raises(ValueError, match="context=24"):
        model(torch.zeros(5, 25, dtype=torch.long), past=past)
    assert contents(past) == (None, [])
    close(model(ids, past=past), model(ids))
