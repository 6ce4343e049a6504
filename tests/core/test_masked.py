"""Masked language modelling and eras: what is hidden, what is asked, who may see whom."""

import pytest
import torch

from minieff.core import cost
from minieff.core.attention import everything
from minieff.core.data import SILENT, loss, speeches
from minieff.core.masked import ERAS, Masked, eras
from minieff.core.recipe import Data
from minieff.core.transformer import Config, Transformer

MASK = 2048


@pytest.fixture(scope="module")
def masked() -> Masked:
    return Masked(speeches())


def test_of_the_tokens_asked_for_80_percent_are_hidden_10_random_10_as_they_were(masked):
    tokens = torch.randint(2048, (500, 127))
    ids, targets = masked.hide(tokens, torch.Generator().manual_seed(0))
    assert ids.shape == targets.shape == (500, 128)
    ids, targets, asked = ids[:, 1:], targets[:, 1:], targets[:, 1:] != SILENT
    count = asked.sum().item()

    def near(share: torch.Tensor, wanted: float, draws: int) -> bool:
        return abs(share.float().mean().item() - wanted) < 4 * (wanted * (1 - wanted) / draws) ** 0.5

    assert near(asked, 0.3, tokens.numel())
    assert torch.equal(targets[asked], tokens[asked]) and torch.equal(ids[~asked], tokens[~asked])
    assert near(ids[asked] == MASK, 0.8, count)
    assert near(ids[asked] == targets[asked], 0.1 + 0.1 / 2048, count)


def test_position_0_holds_mask_and_is_not_asked_for(masked):
    for ids, targets in (masked.batch(4, 32, torch.Generator()), next(masked.windows(32))):
        assert (ids[:, 0] == MASK).all() and (targets[:, 0] == SILENT).all()
        assert ids.shape[1] == targets.shape[1] == 32


def test_validation_hides_the_same_tokens_every_time(masked):
    first, second = (list(masked.windows(32, count=40)) for _ in range(2))
    assert all(
        torch.equal(a, b) for x, y in zip(first, second, strict=True) for a, b in zip(x, y, strict=True)
    )


def test_an_encoder_sees_both_sides_and_bits_a_byte_mean_nothing(masked):
    model = Transformer(Config(masked.vocab, 32, 1, 2, 16))
    quality = cost.quality(model, masked, windows=8)
    assert quality.bits_per_byte is None and quality.nats == pytest.approx(7.6, abs=0.2)
    ids, _ = next(masked.windows(32, rows=1, count=8))
    changed = ids.clone()
    changed[0, -1] = (changed[0, -1] + 1) % 2048
    assert not torch.equal(model(ids, masked.mask)[0, 0], model(changed, masked.mask)[0, 0])
    assert torch.equal(model(ids)[0, 0], model(changed)[0, 0])
    assert masked.mask is everything


def test_the_quality_of_an_encoder_is_that_of_its_own_mask(masked):
    model = Transformer(Config(masked.vocab, 32, 2, 2, 16))
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.3)
    windows = [(ids, targets) for ids, targets in masked.windows(32, count=8)]
    sums = [loss(model(ids, everything), targets, "sum").item() for ids, targets in windows]
    asked = sum(int((targets != SILENT).sum()) for _, targets in windows)
    assert cost.quality(model, masked, windows=8).nats == pytest.approx(sum(sums) / asked, rel=1e-5)


def test_a_recipe_can_ask_for_masked_speeches():
    corpus = Data("masked", every=10).load()
    assert isinstance(corpus, Masked) and corpus.vocab == 2048 + 1 + ERAS
    assert corpus.fingerprint() == Data("speeches", every=10).load().fingerprint()
    with pytest.raises(ValueError, match="too few"):
        corpus.check(10**7)


@pytest.mark.parametrize("share", [0.0, 1.5, float("nan")])
def test_an_impossible_share_is_refused(share):
    with pytest.raises(ValueError, match="0 < share <= 1"):
        Masked(speeches(), share)


def test_an_era_is_asked_for_at_position_0_alone():
    corpus = eras(context=64)
    for ids, targets in (corpus.train, corpus.valid):
        assert (ids[:, 0] == MASK).all() and (ids[:, 1:] < MASK).all()
        assert (targets[:, 1:] == SILENT).all()
        assert targets[:, 0].min() == MASK + 1 and targets[:, 0].max() == MASK + ERAS == corpus.vocab - 1
    text, year = corpus.text.texts["valid"][3], corpus.years["valid"][3]
    before = sum(len(corpus.text.tokenizer.encode(t)) // 63 for t in corpus.text.texts["valid"][:3])
    assert corpus.addresses("valid")[before - 1 : before + 1].tolist() == [2, 3]
    assert len(corpus.addresses("valid")) == len(corpus.valid[0])
    ids, targets = (t[before] for t in corpus.valid)
    assert ids[1:].tolist() == corpus.text.tokenizer.encode(text)[:63]
    assert targets[0] == MASK + 1 + (year - 1790) // 30
    with pytest.raises(ValueError, match="context=32: these passages have 64"):
        corpus.windows(32)
