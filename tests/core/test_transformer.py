"""The one architecture, against an implementation that is not ours and against itself computed otherwise."""

import subprocess
import sys

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import peers
from benchmarks.peers import from_gpt2
from minieff.core import cost
from minieff.core.attention import causal, explicit, prefix
from minieff.core.past import Past
from minieff.core.transformer import Config, Transformer


def gpt2():
    """A random `transformers` GPT-2 with every weight large enough to matter."""
    pytest.importorskip("transformers")
    theirs = peers.gpt2(Config(vocab=50, context=24, layers=3, heads=4, dim=32))
    for p in theirs.parameters():
        torch.nn.init.normal_(p, std=0.2)
    return theirs


@torch.no_grad()
def test_logits_equal_those_of_transformers_gpt2():
    theirs = gpt2()
    ours = from_gpt2(theirs)
    ids = torch.randint(50, (2, 24))
    wanted = theirs(ids).logits
    assert (ours(ids) - wanted).abs().max() <= 1e-4 * wanted.std()


@torch.no_grad()
@pytest.mark.parametrize("mask", [causal, prefix(torch.tensor([3, 7]))], ids=repr)
def test_fast_and_explicit_attention_are_equal(model, ids, mask):
    fast = model(ids, mask)
    for block in model.blocks.layers:
        block.mix.inner.kernel = explicit
    torch.testing.assert_close(model(ids, mask), fast, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_a_later_token_changes_no_earlier_logit(model, ids):
    changed = ids.clone()
    changed[:, 9:] = (changed[:, 9:] + 1) % 50
    before, after = model(ids), model(changed)
    assert torch.equal(before[:, :9], after[:, :9])
    assert not torch.allclose(before[:, 9:], after[:, 9:])


@torch.no_grad()
@pytest.mark.parametrize("cuts", [[1] * 16, [5, 1, 7, 3], [16]])
def test_chunks_through_a_past_equal_one_pass(model, ids, cuts):
    past = Past()
    chunks = [model(chunk, past=past) for chunk in ids.split(cuts, dim=1)]
    torch.testing.assert_close(torch.cat(chunks, 1), model(ids), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_a_prefix_is_seen_from_both_sides(model, ids):
    """Row 0 has a prefix of 4: its position 0 sees token 3, and not token 4."""
    mask = prefix(torch.tensor([4, 1]))
    at_3, at_4 = ids.clone(), ids.clone()
    at_3[0, 3], at_4[0, 4] = (ids[0, 3] + 1) % 50, (ids[0, 4] + 1) % 50
    plain = model(ids, mask)[0, 0]
    assert not torch.allclose(model(at_3, mask)[0, 0], plain)
    assert torch.equal(model(at_4, mask)[0, 0], plain)


@pytest.mark.parametrize("shape", [(3, 4, 32, 16), (2, 2, 48, 24), (1, 1, 24, 7)])
def test_macs_equal_half_of_the_flop_counters_flops(shape):
    layers, heads, dim, context = shape
    model = Transformer(Config(vocab=50, context=24, layers=layers, heads=heads, dim=dim)).eval()
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, context, dtype=torch.long))
    assert cost.macs(model, context) * context == counter.get_total_flops() / 2
    closed_form = layers * (12 * dim**2 + 2 * context * dim) + 50 * dim
    assert cost.macs(model, context) == closed_form


def test_parameters_equal_the_closed_form():
    V, N, L, C = 50, 24, 3, 32
    model = Transformer(Config(vocab=V, context=N, layers=L, heads=4, dim=C))
    assert cost.parameters(model) == V * C + N * C + L * (12 * C**2 + 13 * C) + 2 * C
    wide = torch.nn.ModuleList(Transformer(Config(8, 8, 1, 16, 1024)).blocks.layers)
    assert cost.parameters(wide) == 12_596_224


def test_dropout_is_off_in_eval_and_on_in_training(ids):
    model = Transformer(Config(vocab=50, context=24, layers=2, heads=4, dim=32, dropout=0.5))
    assert not torch.equal(model(ids), model(ids))
    assert torch.equal(model.eval()(ids), model(ids))


@pytest.mark.parametrize("wrong", [50, -1])
def test_an_id_outside_the_vocabulary_is_refused(model, wrong):
    with pytest.raises(ValueError, match=f"ids from {min(wrong, 0)} to {max(wrong, 0)}.* 0 to 49; encode"):
        model(torch.tensor([[0, wrong, 0]]))


def test_wrong_types_and_shapes_are_refused_also_where_no_annotation_is_checked():
    """In the tests the annotations refuse these first, so they are tried in a process without that."""
    script = """
import torch
from minieff.core.transformer import Config, Transformer
model = Transformer(Config(50, 24, 1, 4, 32))
tries = [lambda: model(torch.zeros(3, dtype=torch.long)), lambda: model(torch.zeros(1, 3)),
         lambda: Config(2.5, 24, 1, 4, 32), lambda: Config(50, 24, True, 4, 32)]
for attempt in tries:
    try:
        attempt()
    except ValueError as error:
        print(error)
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    said = ["ids of shape (3,)", "type torch.float32", "vocab=2.5", "layers=True"]
    lines = run.stdout.splitlines()
    assert len(lines) == 4 and all(word in line for word, line in zip(said, lines, strict=True))


@pytest.mark.parametrize(
    "sizes, said",
    [
        ({"heads": 3}, "dim=32 is not a multiple of heads=3"),
        ({"layers": 0}, "layers=0: sizes are integers of at least 1"),
        ({"dropout": 1.0}, "dropout=1.0: a probability"),
    ],
)
def test_impossible_sizes_are_refused(sizes, said):
    plain = {"vocab": 50, "context": 24, "layers": 3, "heads": 4, "dim": 32}
    with pytest.raises(ValueError, match=said):
        Config(**plain | sizes)
