"""Distillation from the teacher's logits, and from text that it writes."""

from itertools import product
from types import SimpleNamespace

import jaxtyping
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from minieff import distill
from minieff.core.attention import causal
from minieff.core.surgery import is_a
from minieff.core.transformer import Config, Transformer
from minieff.fast_decoding import generate

C = 7  # words of the vocabulary


def logits(*shape: int, scale: float = 1.0) -> torch.Tensor:
    return (scale * torch.randn(*shape, C, dtype=torch.float64)).requires_grad_()


@pytest.mark.parametrize("shape", [(6,), (2, 3)])
def test_the_loss_is_the_papers(shape):
    student, teacher, targets = logits(*shape), logits(*shape), torch.randint(C, shape)
    p = [(z / 3).softmax(-1) for z in (student, teacher)]
    divergence = (p[1] * (p[1] / p[0]).log()).sum(-1)
    hard = -student.log_softmax(-1).gather(-1, targets[..., None])
    found = distill.loss(student, teacher, targets, temperature=3.0, weight=0.3)
    torch.testing.assert_close(found, 0.3 * 9 * divergence.mean() + 0.7 * hard.mean())
    found.backward()
    assert teacher.grad is None


def test_a_student_that_equals_its_teacher_has_no_loss_and_no_gradient():
    student = logits(5)
    found = distill.loss(student, student.detach() + 3, temperature=4.0, weight=1.0)
    found.backward()
    assert found.abs() < 1e-14 and student.grad.abs().max() < 1e-14


def test_at_a_high_temperature_it_is_the_distance_of_the_logits():
    student, teacher = logits(5), logits(5)
    found = distill.soft_loss(student, teacher, temperature=1000.0)
    found.backward()
    apart = (student - student.mean(-1, keepdim=True)) - (teacher - teacher.mean(-1, keepdim=True))
    assert found.item() == pytest.approx(apart.square().sum(-1).mean().item() / (2 * C), rel=1e-2)
    torch.testing.assert_close(student.grad, (apart / C / 5).detach(), rtol=1e-2, atol=1e-4)


def test_the_mean_is_per_token_and_not_per_word_of_the_vocabulary():
    """The mistake: KLDivLoss(reduction="mean"), with which a weight's meaning depends on C."""
    student, teacher = logits(5), logits(5)
    with pytest.warns(UserWarning, match="support size"):
        wrong = nn.KLDivLoss(reduction="mean")(student.log_softmax(-1), teacher.softmax(-1))
    assert distill.soft_loss(student, teacher).item() == pytest.approx(C * wrong.item())


def test_the_gradient_keeps_its_size_at_other_temperatures():
    norms = []
    for temperature in (1.0, 20.0):
        torch.manual_seed(0)
        student, teacher = logits(50), logits(50)
        distill.soft_loss(student, teacher, temperature=temperature).backward()
        norms.append(student.grad.norm())
    assert 0.5 < norms[0] / norms[1] < 2  # without the factor T^2 it were 400


def test_tokens_without_a_label_have_the_soft_part_alone():
    student, teacher, targets = logits(2, 3), logits(2, 3), torch.randint(C, (2, 3))
    targets[0] = -100
    soft = distill.soft_loss(student, teacher, temperature=2.0)
    hard = F.cross_entropy(student[1], targets[1])
    torch.testing.assert_close(distill.loss(student, teacher, targets), (soft + hard) / 2)
    nothing = torch.full_like(targets, -100)
    for none in (nothing, None):
        assert distill.loss(student, teacher, none) == soft / 2
    assert distill.soft_loss(student[:0], teacher[:0]) == 0  # and not 0 / 0


def test_half_precision_is_computed_in_single():
    student, teacher = logits(50).detach().bfloat16(), logits(50).detach().bfloat16()
    found = distill.soft_loss(student, teacher, temperature=100.0)
    assert found.dtype == torch.float32
    wanted = distill.soft_loss(student.double(), teacher.double(), temperature=100.0)
    assert found.item() == pytest.approx(wanted.item(), rel=1e-2)
    labelled = distill.loss(student, teacher, torch.zeros(50, dtype=torch.long))
    assert labelled.dtype == torch.float32


def test_words_that_both_exclude_count_nothing():
    student, teacher = logits(2, 3), logits(2, 3)
    excluded = torch.arange(C) < 2
    hidden, targets = (z.masked_fill(excluded, -torch.inf) for z in (student, teacher)), torch.full((2, 3), 4)
    found = distill.loss(*hidden, targets)
    torch.testing.assert_close(found, distill.loss(student[..., 2:], teacher[..., 2:], targets - 2))
    found.backward()
    assert student.grad.isfinite().all() and student.grad[..., 2:].any()
    assert distill.soft_loss(student, teacher.masked_fill(excluded, -torch.inf)).isfinite()


def test_augmented_rows_are_for_the_teacher_to_label():
    ids, coins = torch.arange(100, 4100).view(40, 100), torch.Generator().manual_seed(0)
    changed, targets = distill.augment(ids, ids, rows=0.5, p=0.2, generator=coins)
    unlabelled = (targets == -100).all(1)
    assert 10 < unlabelled.sum() < 30
    for kept, original in ((changed, ids), (targets, ids)):
        assert torch.equal(kept[~unlabelled], original[~unlabelled])
    others = changed[changed != ids]
    assert others.min() >= 100 and len(others.unique()) > len(others) / 2  # of the whole batch
    assert 0.15 < (changed != ids)[unlabelled].float().mean() < 0.25


# --- text that the teacher writes


def likelihood(teacher: nn.Module, whole: torch.Tensor, start: int) -> torch.Tensor:
    """Of each row's tokens after the first `start`."""
    log_p = teacher(whole)[:, start - 1 : -1].log_softmax(-1)
    return log_p.gather(-1, whole[:, start:, None]).sum((1, 2))


@pytest.fixture
def teacher() -> Transformer:
    model = Transformer(Config(vocab=C, context=16, layers=2, heads=2, dim=8)).eval()
    for p in model.parameters():
        nn.init.normal_(p, std=0.5)
    return model


def test_one_beam_is_greedy_and_all_beams_find_the_most_likely(teacher):
    prompts = torch.randint(C, (3, 4))
    assert torch.equal(distill.write(teacher, prompts, 6), generate(teacher, prompts, 6))
    every = torch.tensor(list(product(range(C), repeat=3)))
    best = distill.write(teacher, prompts, 3, beams=C**2)
    for prompt, found in zip(prompts, best, strict=True):
        whole = torch.cat([prompt.expand(len(every), -1), every], 1)
        assert torch.equal(found, whole[likelihood(teacher, whole, 4).argmax()])


@pytest.mark.parametrize("stops", [False, True])
def test_beams_equal_those_of_transformers(stops):
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(vocab_size=C, n_positions=16, n_embd=8, n_layer=2, n_head=2)
    theirs = transformers.GPT2LMHeadModel(config).eval()
    for p in theirs.parameters():
        nn.init.normal_(p, std=0.5)
    teacher, prompts = distill.Logits(theirs), torch.randint(C, (8, 4))
    stop = distill.write(teacher, prompts, 3)[:, 6].mode().values.item() if stops else None
    knobs = {"num_beams": 3, "length_penalty": 0.0, "do_sample": False, "early_stopping": "never"}
    wanted = theirs.generate(
        prompts,
        attention_mask=torch.ones_like(prompts),
        max_new_tokens=6,
        eos_token_id=stop,
        pad_token_id=stop or 0,
        **knobs,
    )
    found = distill.write(teacher, prompts, 6, beams=3, stop=stop)
    assert torch.equal(teacher(prompts, causal), theirs(prompts).logits)
    length = wanted.shape[1]  # theirs ends with the longest
    assert torch.equal(found[:, :length], wanted)
    assert not stops or found[:, length:].eq(stop).all() and found[:, 4:].eq(stop).any()


def test_what_is_sampled_has_the_teachers_distribution(teacher):
    prompts, coins = torch.tensor([[2, 5]]).expand(4000, -1), torch.Generator().manual_seed(0)
    drawn = distill.write(teacher, prompts, 1, temperature=1.5, generator=coins)[:, 2]
    p = (teacher(prompts[:1])[0, -1] / 1.5).softmax(-1)
    assert (drawn.bincount(minlength=C) / 4000 - p).abs().max() < 0.03
    stopped = distill.write(teacher, prompts, 9, temperature=1.0, stop=1, generator=coins)[:, 2:]
    assert stopped.eq(1).cummax(1).values.eq(stopped.eq(1)).all()  # after `stop`, nothing else


# --- a start from the teacher's layers


def test_a_student_starts_from_the_chosen_layers(model, ids):
    own = Config(vocab=50, context=24, layers=2, heads=4, dim=32)
    student = Transformer(own)
    before = {name: t.clone() for name, t in student.state_dict().items()}
    started = distill.from_layers(student, model, layers=[0, 2])
    del model.blocks.layers[1]
    torch.testing.assert_close(started(ids), model(ids))
    assert all(torch.equal(t, before[name]) for name, t in student.state_dict().items())


def test_models_of_transformers_start_from_layers_too():
    transformers = pytest.importorskip("transformers")
    sizes = {"vocab_size": 50, "hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 16}
    large, small = (
        transformers.BertModel(transformers.BertConfig(num_hidden_layers=layers, **sizes), pooler)
        for layers, pooler in ((12, True), (6, False))
    )
    layer = is_a(type(large.encoder.layer[0]))
    started = distill.from_layers(small, large, layers=[0, 2, 4, 7, 9, 11], where=layer).eval()
    large.encoder.layer = nn.ModuleList(large.encoder.layer[i] for i in (0, 2, 4, 7, 9, 11))
    ids = torch.randint(50, (2, 5))
    torch.testing.assert_close(started(ids)[0], large.eval()(ids)[0])


def test_a_teacher_with_a_head_of_its_own_gives_its_body():
    transformers = pytest.importorskip("transformers")
    sizes = {"vocab_size": 50, "hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 16}
    config = transformers.BertConfig(num_hidden_layers=2, **sizes)
    teacher, student = transformers.BertForMaskedLM(config), transformers.BertModel(config, False)
    layer = is_a(type(student.encoder.layer[0]))
    with pytest.raises(ValueError, match=r"only the layers match.*teacher\.bert$"):
        distill.from_layers(student, teacher, layers=[0, 1], where=layer)
    started = distill.from_layers(student, teacher.bert, layers=[0, 1], where=layer)
    words = (m.embeddings.word_embeddings.weight for m in (started, teacher.bert))
    assert torch.equal(*words)


def test_layers_of_other_names_are_no_matter_of_widths(model):
    other = nn.Sequential(nn.Linear(32, 32))
    with pytest.raises(ValueError, match="the teacher has no .*built otherwise") as refused:
        distill.from_layers(other, model, layers=[0], where=lambda name, m: name in ("0", "blocks.layers.0"))
    assert "width" not in str(refused.value)


# --- what goes wrong

Z, PROMPT = torch.zeros(2, 5), torch.zeros(2, 3, dtype=torch.long)
ENCODER = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2)


def gpt2() -> nn.Module:
    """One of transformers, with 8 positions."""
    transformers = pytest.importorskip("transformers")
    sizes = {"vocab_size": 50, "n_positions": 8, "n_embd": 8, "n_layer": 1, "n_head": 2}
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes)).eval()


WRONG = {
    "no temperature": (lambda m: distill.loss(Z, Z, temperature=0.0), "temperature=0.0: give a finite"),
    "nan": (lambda m: distill.soft_loss(Z, Z, temperature=float("nan")), "temperature=nan"),
    "weight": (lambda m: distill.loss(Z, Z, weight=2.0), "weight=2.0"),
    "vocabularies": (lambda m: distill.loss(Z, Z[:, 1:]), r"\(2, 5\).*\(2, 4\).*one vocabulary"),
    "no tensor": (lambda m: distill.loss(Z, SimpleNamespace(logits=Z)), r"SimpleNamespace.*\.logits"),
    "temperature text": (lambda m: distill.loss(Z, Z, temperature="2"), "temperature='2'"),
    "weight text": (lambda m: distill.loss(Z, Z, weight="0.5"), "weight='0.5'"),
    "ids as logits": (lambda m: distill.loss(PROMPT, PROMPT), "int64.*give floats"),
    "turned targets": (lambda m: distill.loss(Z[None], Z[None], PROMPT[:, :1]), r"\(2, 1\).*\(1, 2\)"),
    "targets float": (lambda m: distill.loss(Z, Z, Z[:, 0]), "targets of torch.float32.*integers"),
    "targets list": (lambda m: distill.loss(Z, Z, [0, 1]), "list.*integers"),
    "no such word": (lambda m: distill.loss(Z, Z, PROMPT[:, 0] + 7), "7 to 7.*below 5"),
    "one prompt": (lambda m: distill.write(m, PROMPT[0], 3), r"shape \(3,\).*ids\[None\]"),
    "shares": (lambda m: distill.augment(PROMPT, PROMPT, rows=1.5), "rows=1.5"),
    "shares text": (lambda m: distill.augment(PROMPT, PROMPT, p="0.1"), "p='0.1'"),
    "one row": (lambda m: distill.augment(PROMPT[0], PROMPT[0]), r"\(3,\).*ids\[None\]"),
    "no rows": (lambda m: distill.augment(PROMPT[:0], PROMPT[:0]), r"\(0, 3\)"),
    "other targets": (lambda m: distill.augment(PROMPT, PROMPT[:1]), r"\(2, 3\), \(1, 3\)"),
    "empty prompt": (lambda m: distill.write(m, PROMPT[:, :0], 2), r"\(2, 0\)"),
    "no prompts": (lambda m: distill.write(m, PROMPT[:0], 2), r"\(0, 3\)"),
    "prompts list": (lambda m: distill.write(m, [[1, 2]], 2), r"give a batch \(B, T\)"),
    "tokens float": (lambda m: distill.write(m, PROMPT, 2.0), "tokens=2.0"),
    "beams float": (lambda m: distill.write(m, PROMPT, 2, beams=2.0), "beams=2.0"),
    "stop list": (lambda m: distill.write(m, PROMPT, 2, stop=[5]), r"stop=\[5\]"),
    "degrees text": (lambda m: distill.write(m, PROMPT, 2, temperature="1"), "temperature='1'"),
    "beyond": (lambda m: distill.write(m, PROMPT, 30), "context=24"),
    "no logits": (lambda m: distill.write(gpt2(), PROMPT, 2), r"distill\.Logits"),
    "beyond theirs": (lambda m: distill.write(distill.Logits(gpt2()), PROMPT, 9), "at token 9.*context"),
    "an encoder": (lambda m: distill.write(ENCODER, PROMPT, 2), "'past'.*distill\\.Logits"),
    "ours in Logits": (lambda m: distill.write(distill.Logits(m), PROMPT, 2), "no attribute 'logits'"),
    "layers number": (lambda m: distill.from_layers(m, m, layers=2), "layers=2: give one"),
    "layers text": (lambda m: distill.from_layers(m, m, layers="012"), "layers='012'"),
    "layers float": (lambda m: distill.from_layers(m, m, layers=[0.0, 1.0, 2.0]), "0 to 2"),
    "layers of others": (lambda m: distill.from_layers(ENCODER, ENCODER, layers=[0]), "where="),
    "a type as where": (lambda m: distill.from_layers(m, m, layers=[0], where=nn.Linear), "where=<class"),
    "beams drawn": (lambda m: distill.write(m, PROMPT, 2, beams=2, temperature=1.0), "not both"),
    "few layers": (lambda m: distill.from_layers(m, m, layers=[0, 2]), r"layers=\[0, 2\].*student's 3"),
    "no such layer": (lambda m: distill.from_layers(m, m, layers=[0, 1, 3]), "0 to 2"),
    "narrow": (
        lambda m: distill.from_layers(Transformer(Config(50, 24, 1, 2, 16)), m, layers=[0]),
        r"has the shape \(50, 16\), the teacher's tok.weight \(50, 32\)",
    ),
}


@pytest.mark.parametrize("call, message", WRONG.values(), ids=WRONG)
def test_bad_input_is_refused(model, monkeypatch, call, message):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users call it
    with pytest.raises(ValueError, match=message):
        call(model)
