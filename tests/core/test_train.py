"""The training loop: killed and resumed, shared by two processes, and given recipes that are wrong."""

import io
import json
import os
import random
import re
import subprocess
import sys
import time
from math import log
from pathlib import Path

import pytest
import torch
from torch import Tensor

from minieff import compose, distill, layerdrop, sparse_weights
from minieff.__main__ import main
from minieff.core import data, zoo
from minieff.core.checkpoint import pack, pack_optimizer, read_tensors, unpack_optimizer
from minieff.core.optimizer import adamw, rate_at
from minieff.core.recipe import parse, read
from minieff.core.run import Run
from minieff.core.train import take_step, train

TINY = {
    "data": {"corpus": "files", "vocab": 256},
    "model": {"layers": 2, "heads": 2, "dim": 32, "context": 16},
    "train": {"tokens": 640, "batch": 4, "rate": 1e-2, "warmup": 3},
}
LAYERDROP = [{"name": "layerdrop", "p": 0.2}]


def toml(tables: dict) -> str:
    """Tables of plain values, and lists of tables; JSON's way to write plain values is TOML's, too."""
    lines = []
    for name, table in tables.items():
        for part in table if isinstance(table, list) else [table]:
            lines.append(f"[[{name}]]" if isinstance(table, list) else f"[{name}]")
            lines += [f"{key} = {json.dumps(value).replace('NaN', 'nan')}" for key, value in part.items()]
    return "\n".join(lines)


def recipe(folder: Path, techniques: list[dict] = (), **changes: dict) -> Path:
    """A tiny recipe, changed key by key (`...` leaves one out), with its text beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    words = random.Random(0).choices("the quick brown fox jumps over a lazy dog".split(), k=4000)
    (folder / "own.txt").write_text(" ".join(words))
    tables = {name: {**table, **changes.get(name, {})} for name, table in TINY.items()}
    tables["train"] = {key: value for key, value in tables["train"].items() if value is not ...}
    if tables["data"]["corpus"] == "files":
        tables["data"].setdefault("paths", [str(folder / "own.txt")])
    tables |= {"techniques": list(techniques)} if techniques else {}
    tables |= {"distill": changes["distill"]} if "distill" in changes else {}
    (folder / "tiny.toml").write_text(toml(tables))
    return folder / "tiny.toml"


def start(*command: str | Path, cache: Path) -> subprocess.Popen:
    env = {**os.environ, "XDG_CACHE_HOME": str(cache), "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", *map(str, command)], env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def finish(process: subprocess.Popen) -> str:
    output = process.communicate(timeout=120)[0].decode()
    assert process.returncode == 0, output
    return output


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    """Checkpoints lie in the test's own folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def checkpoint(cache: Path) -> Path:
    return cache / "minieff" / "train" / "tiny" / "checkpoint.safetensors"


def weights(cache: Path) -> dict[str, Tensor]:
    tensors, _ = read_tensors(checkpoint(cache))
    return {name: t for name, t in tensors.items() if name.startswith("model.")}


def distance(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    assert one.keys() == other.keys()
    return max((one[name].double() - other[name].double()).abs().max().item() for name in one)


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# killed and resumed


def test_a_run_killed_at_random_moments_ends_bit_identically(tmp_path):
    steps, coins, landed = 200, random.Random(0), []
    plan = {"train": {"tokens": steps * 64, "save": 7}, "model": {"dropout": 0.1}}
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    undisturbed = start("minieff", "train", recipe(whole, LAYERDROP, **plan), "--resume", cache=whole)
    command = ("minieff", "train", recipe(killed, LAYERDROP, **plan), "--resume")

    def logged() -> int:
        log = checkpoint(killed).parent / "log.jsonl"
        return json.loads(log.read_text().splitlines()[-1])["step"] if log.exists() else 0

    for _ in range(2):
        process, goal, patience = start(*command, cache=killed), logged() + coins.randint(8, 60), 60.0
        while logged() < goal:
            time.sleep(0.005)
            patience -= 0.005
            assert process.poll() is None and patience > 0, "it ended before it was killed"
        time.sleep(coins.uniform(0, 0.03))
        process.kill()
        process.communicate()
        landed.append(read_tensors(checkpoint(killed))[1]["step"])
    assert 0 < landed[0] and landed[-1] < steps and landed == sorted(set(landed))  # each in mid-training

    finish(start(*command, cache=killed))
    finish(undisturbed)
    (one, state), (other, other_state) = (read_tensors(checkpoint(c)) for c in (whole, killed))
    assert state["step"] == other_state["step"] == steps
    assert one.keys() == other.keys()
    for name, tensor in one.items():  # weights, optimizer, and every random state
        assert torch.equal(tensor, other[name]), name
    assert (whole / "tiny.safetensors").read_bytes() == (killed / "tiny.safetensors").read_bytes()


def test_the_log_of_a_resumed_run_goes_on_where_the_checkpoint_stands(tmp_path, cache, monkeypatch):
    file = recipe(tmp_path, train={"save": 3})

    class Stop(Exception):
        pass

    def stop_at_8(run, *rest):
        if run.step == 8:
            raise Stop
        return take_step(run, *rest)

    with monkeypatch.context() as patch, pytest.raises(Stop):
        patch.setattr("minieff.core.train.take_step", stop_at_8)
        train(read(file))
    assert read_tensors(checkpoint(cache))[1]["step"] == 6
    rows = train(read(file), resume=True).log()
    assert [row["step"] for row in rows] == list(range(1, 11))
    assert [row["tokens"] for row in rows] == [64 * step for step in range(1, 11)]
    assert [row["step"] for row in rows if "valid" in row] == [5, 10]


def test_an_existing_checkpoint_is_never_overwritten_silently(tmp_path, cache):
    file = recipe(tmp_path)
    train(read(file))
    before = contents(tmp_path)
    with pytest.raises(FileExistsError, match="--resume, or delete it"):
        train(read(file))
    assert contents(tmp_path) == before


def test_a_finished_run_is_resumed_without_a_step(tmp_path, cache):
    file = recipe(tmp_path)
    train(read(file))
    before = contents(cache)
    assert train(read(file), resume=True).step == 10
    assert contents(cache) == before


@pytest.mark.parametrize(
    "change", [{"train": {"rate": 2e-2}}, {"model": {"layers": 3}}, {"train": {"seed": 1}}]
)
def test_a_checkpoint_of_another_recipe_is_refused(tmp_path, cache, change):
    train(read(recipe(tmp_path)))
    before = contents(cache)
    with pytest.raises(ValueError, match="checkpoint.safetensors was made by another recipe of this name"):
        train(read(recipe(tmp_path, **change)), resume=True)
    assert contents(cache) == before


@pytest.mark.parametrize("length", [0, 4, 100, -1])
def test_a_truncated_checkpoint_is_refused(tmp_path, cache, length):
    file = recipe(tmp_path)
    train(read(file))
    checkpoint(cache).write_bytes(checkpoint(cache).read_bytes()[:length])
    with pytest.raises(ValueError, match="checkpoint.safetensors is damaged.*delete it"):
        train(read(file), resume=True)


def test_the_optimizer_of_a_weight_that_is_not_contiguous_is_restored_in_its_layout():
    weights = [torch.nn.Parameter(torch.arange(6.0).view(3, 2).mT) for _ in range(2)]
    one, other = (adamw(torch.nn.ParameterList([weight]), decay=0.1) for weight in weights)
    for step in range(4):
        for weight in weights:
            weight.grad = torch.empty_like(weight).copy_(torch.randn(2, 3, generator=torch.manual_seed(step)))
        one.step()
        other.step()
        saved = pack_optimizer(one).items()
        unpack_optimizer(other, {name: t.clone(memory_format=torch.contiguous_format) for name, t in saved})
    assert torch.equal(*weights)


# with a teacher


def student(folder: Path, teacher: dict = (), **changes: dict) -> Path:
    """A recipe whose teacher lies beside it."""
    changes.setdefault("model", {"layers": 1})
    distill = {"teacher": "sage", "augment": 0.5, **dict(teacher)}
    file = recipe(folder, distill=distill, **changes)
    if not (folder / "sage.json").exists():
        zoo.make(recipe(folder).rename(folder / "sage.toml"))
        file = recipe(folder, distill=distill, **changes)
    return file


def stop_at_8(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trains a recipe until something stops it in its eighth step."""

    def stopped(run, *rest):
        if run.step == 8:
            raise InterruptedError
        return take_step(run, *rest)

    with monkeypatch.context() as patch, pytest.raises(InterruptedError):
        patch.setattr("minieff.core.train.take_step", stopped)
        zoo.make(file)


def test_a_student_stopped_and_resumed_ends_bit_identically(tmp_path, cache, monkeypatch):
    file = student(tmp_path, train={"save": 3}, model={"layers": 1, "dropout": 0.1})
    stop_at_8(file, monkeypatch)
    assert zoo.make(file, resume=True)["recipe"]["distill"]["teacher"] == "sage"
    resumed = weights(cache)
    checkpoint(cache).unlink()
    zoo.make(file)
    assert distance(resumed, weights(cache)) == 0
    assert zoo.finished(read(file)) and zoo.load("tiny", tmp_path).config.layers == 1


def test_with_all_weight_on_the_teacher_it_comes_closer_and_labels_do_not_matter(tmp_path, monkeypatch):
    """The loss that is logged is its distance; a start from the teacher's own layers has none."""
    plan = {"train": {"tokens": 6400}, "model": {}}
    taught = train(read(student(tmp_path, {"weight": 1.0}, **plan)), teacher=zoo.load("sage", tmp_path))
    rows = [row["train"] for row in taught.log()]
    assert rows[-1] < 0.1 * rows[0]
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    teach = {"weight": 1.0, "layers": [0, 1]}
    file = read(student(tmp_path, teach, model={}, train={"tokens": 64}))
    assert train(file, teacher=zoo.load("sage", tmp_path)).log()[0]["train"] < 1e-6


def test_pieces_of_a_batch_add_up_to_its_distillation_loss(tmp_path):
    """Also when the pieces have different numbers of targets, and the teacher is asked where there is one."""
    ids, targets = torch.randint(256, (8, 16)), torch.randint(256, (8, 16))
    targets[:3, 5:] = data.SILENT
    found = []
    for n in (1, 4):
        plan = {"batch": 8, "dtype": "float64", "clip": 1e9, "accumulate": n}
        tiny = read(student(tmp_path, {"augment": 0.0, "weight": 0.3}, train=plan))
        teacher = zoo.load("sage", tmp_path)
        found.append(gradients(tiny, ids, targets, teacher))
    run, asked = Run(tiny, tiny.data.load(), 0, 1, torch.device("cpu"), teacher), targets != data.SILENT
    wanted = distill.loss(run.model(ids)[asked], teacher(ids)[asked], targets[asked], weight=0.3)
    assert found[0][0] == pytest.approx(wanted.item(), abs=1e-12)
    assert found[1][0] == pytest.approx(wanted.item(), abs=1e-12)
    assert distance(found[0][1], found[1][1]) <= 1e-12


def test_a_teacher_that_is_missing_or_of_no_use_is_refused(tmp_path):
    taught, alone = read(student(tmp_path)), read(recipe(tmp_path))
    for tiny, teacher in ((taught, None), (alone, torch.nn.Identity())):
        with pytest.raises(ValueError, match="needs teacher="):
            train(tiny, teacher=teacher)


# from a trained model, and with other verbs than `apply`

OTHERS = {
    "plain": [],
    "apply": [{"name": "sparse_weights", "sparsity": 0.75, "scope": "global", "steps": 7}],
    "gate": [{"name": "sparse_weights", "verb": "gate", "price": 1e-4, "pattern": 16, "start": 0.99}],
    "shrink": [{"name": "sparse_weights", "verb": "shrink", "price": 0.1}],
    "universal": [{"name": "weight_sharing", "verb": "universal", "steps": 3, "halt": 0.01}],
    "factorize": [{"name": "weight_sharing", "verb": "factorize", "rank": 8}],
    "group": [{"name": "fast_decoding", "verb": "group", "heads": 1}],
    "two": [  # given in the wrong order
        {"name": "scalar_quant", "bits": 4, "p": 0.5, "activations": "none", "where": ["tok.tokens"]},
        {"name": "fast_decoding", "verb": "group", "heads": 1},
        {"name": "weight_sharing", "verb": "factorize", "rank": 8},
        {"name": "weight_sharing", "every": 2},
        {"name": "sparse_weights", "verb": "gate", "price": 1e-4, "where": ["layers.0.feed.inner.up"]},
    ],
}


def continued(folder: Path, techniques: list[dict] = (), **changes: dict) -> Path:
    """A recipe that starts with the weights of a model that lies beside it."""
    changes["train"] = {"start": "sage", **changes.get("train", {})}
    if not (folder / "sage.json").exists():
        zoo.make(recipe(folder).rename(folder / "sage.toml"))
    return recipe(folder, techniques, **changes)


@pytest.mark.parametrize("techniques", OTHERS.values(), ids=OTHERS)
def test_a_continued_run_stopped_and_resumed_ends_bit_identically(tmp_path, cache, monkeypatch, techniques):
    file = continued(tmp_path, techniques, train={"save": 3}, model={"dropout": 0.1})
    stop_at_8(file, monkeypatch)
    assert zoo.make(file, resume=True)["recipe"]["train"]["start"] == "sage"
    resumed = weights(cache)
    checkpoint(cache).unlink()
    run = train(read(file), start=zoo.start(read(file)))
    assert distance(resumed, weights(cache)) == 0
    assert zoo.finished(read(file))
    with torch.no_grad():  # as in the file, which has half precision
        for tensor in run.model.state_dict().values():
            tensor.copy_(tensor.half() if tensor.is_floating_point() else tensor)
    ids, loaded = torch.randint(256, (2, 16)), zoo.load("tiny", tmp_path)
    assert torch.equal(loaded(ids), run.model.eval()(ids))
    assert str(loaded) == str(run.model)


def test_techniques_are_applied_on_top_of_a_start(tmp_path):
    tiny, sage = read(continued(tmp_path, LAYERDROP)), zoo.load("sage", tmp_path)
    run = Run(tiny, tiny.data.load(), 0, 1, torch.device("cpu"), start=zoo.start(tiny))
    assert [type(layer) for layer in run.model.blocks.layers] == [layerdrop.Skip] * 2
    for mine, theirs in zip(pack(run.model).values(), pack(sage).values(), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("change", [{"layers": 3}, {"dim": 16}, {"context": 8}], ids=str)
def test_a_start_of_another_shape_is_refused(tmp_path, capsys, change):
    file = continued(tmp_path, model=change)
    refused(file, capsys, "tiny: start='sage': these are not the weights of this .* sizes in .model.")


def test_a_start_with_techniques_is_refused(tmp_path, capsys):
    zoo.make(recipe(tmp_path, LAYERDROP).rename(tmp_path / "sage.toml"))
    refused(continued(tmp_path), capsys, "start='sage': .* start from a model without techniques")


def test_a_start_that_is_missing_or_of_no_use_is_refused(tmp_path):
    for tiny, start in ((read(continued(tmp_path)), None), (read(recipe(tmp_path)), torch.nn.Identity())):
        with pytest.raises(ValueError, match="needs start="):
            train(tiny, start=start)


def test_what_shrink_takes_off_follows_the_learning_rate(tmp_path):
    tiny = read(recipe(tmp_path, [{"name": "sparse_weights", "verb": "shrink", "price": 10.0}]))
    run = Run(tiny, tiny.data.load(), 0, 1, torch.device("cpu"))
    run.optimizer = torch.optim.SGD(run.model.parameters(), lr=0.0)  # its steps are small
    up, ids = run.model.blocks.layers[0].feed.inner.up, torch.randint(256, (4, 16))
    before = up.weight.detach().clone()
    take_step(run, run.model, ids, ids)
    assert (before - up.weight).abs().max().item() == pytest.approx(rate_at(0, 10, 3, 1e-2) * 10.0, rel=0.1)


def test_a_technique_with_two_entries_is_paid_and_projected_once(tmp_path):
    entry = {"name": "sparse_weights", "sparsity": 0.5, "steps": 10}
    entries = [{**entry, "where": [f"layers.{i}.feed.inner.up"]} for i in (0, 1)]
    gate = {"name": "sparse_weights", "verb": "gate", "price": 1.0, "where": ["down"]}
    tiny = read(recipe(tmp_path, [*entries, gate]))
    run = Run(tiny, tiny.data.load(), 0, 1, torch.device("cpu"))
    assert torch.equal(compose.penalty(run.model, run.techniques), sparse_weights.penalty(run.model))
    compose.project(run.model, run.techniques)
    schedules = [m for m in run.model.modules() if isinstance(m, sparse_weights.Schedule)]
    assert [int(schedule.step) for schedule in schedules] == [1, 1]


# several processes


@pytest.mark.parametrize("techniques", [[], [{"name": "layerdrop", "p": 0.4}]], ids=["plain", "layerdrop"])
def test_two_processes_equal_one_on_the_same_global_batch(tmp_path, cache, techniques):
    plan = {"tokens": 20 * 8 * 16, "batch": 8, "accumulate": 2, "dtype": "float64"}
    plan |= {"clip": 1e3}  # so high that the size of a gradient counts: Adam alone hardly sees it
    file = recipe(tmp_path / "two", techniques, train=plan, model={"layers": 3})
    torchrun = ("torch.distributed.run", "--nproc-per-node", "2", "--standalone", "-m", "minieff")
    two = start(*torchrun, "train", file, cache=tmp_path / "two")
    train(read(recipe(tmp_path / "one", techniques, train=plan, model={"layers": 3})))
    finish(two)
    assert read_tensors(checkpoint(tmp_path / "two"))[1]["step"] == 20
    assert distance(weights(tmp_path / "two"), weights(cache)) <= 1e-10


def test_a_batch_that_processes_cannot_share_is_refused(tmp_path):
    tiny = read(recipe(tmp_path, train={"batch": 6, "accumulate": 3}))
    tiny.check(2)
    with pytest.raises(ValueError, match="batch=6 cannot be shared by 4 processes.*multiple of 12"):
        tiny.check(4)


# the step


def gradients(
    tiny, ids: Tensor, targets: Tensor, teacher: torch.nn.Module | None = None
) -> tuple[float, dict[str, Tensor]]:
    """Loss and gradients of a first step, as the optimizer is given them."""
    run, seen = Run(tiny, tiny.data.load(), 0, 1, torch.device("cpu"), teacher), {}
    run.optimizer.register_step_pre_hook(
        lambda *_: seen.update((name, p.grad.clone()) for name, p in run.model.named_parameters())
    )
    return take_step(run, run.model, ids, targets).item(), seen


def test_accumulated_gradients_equal_those_of_the_whole_batch(tmp_path):
    """Also when the pieces have different numbers of targets."""
    ids, targets = torch.randint(256, (8, 16)), torch.randint(256, (8, 16))
    targets[:3, 5:] = data.SILENT
    plan = {"batch": 8, "dtype": "float64", "clip": 1e9}
    whole, pieces = (read(recipe(tmp_path, train={**plan, "accumulate": n})) for n in (1, 4))
    (loss, wanted), (other, got) = (gradients(tiny, ids, targets) for tiny in (whole, pieces))
    assert other == pytest.approx(loss, abs=1e-12)
    assert distance(wanted, got) <= 1e-12


def test_a_run_in_four_pieces_ends_with_the_weights_of_one_in_whole_batches(tmp_path, monkeypatch):
    for n in (1, 4):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / f"{n}"))
        train(read(recipe(tmp_path, train={"accumulate": n, "dtype": "float64", "clip": 1e3})))
    assert distance(weights(tmp_path / "1"), weights(tmp_path / "4")) <= 1e-10


def test_the_gradient_is_that_of_the_mean_over_the_targets_that_carry_loss(tmp_path):
    tiny = read(recipe(tmp_path, train={"dtype": "float64", "clip": 1e9}))
    ids, targets = torch.randint(256, (4, 9)), torch.randint(256, (4, 9))
    targets[:, :4] = data.SILENT
    loss, got = gradients(tiny, ids, targets)
    model = Run(tiny, tiny.data.load(), 0, 1, torch.device("cpu")).model
    log_p = model(ids).log_softmax(-1)[:, 4:]
    mean = -log_p.gather(-1, targets[:, 4:, None]).mean()
    mean.backward()
    assert loss == pytest.approx(mean.item(), abs=1e-12)
    assert distance(got, {name: p.grad for name, p in model.named_parameters()}) <= 1e-12


def test_padding_changes_neither_the_loss_nor_the_gradient(tmp_path):
    tiny = read(recipe(tmp_path, train={"dtype": "float64", "clip": 1e9}))
    entries = [("ab", ["A"]), ("abba", ["A", "B", "A"]), ("b", ["B"]), ("a", ["A", "B"])]
    lines = [f"{word}={' '.join(sounds)}\n" for word, sounds in entries]
    pairs = data.Pairs("few", data.Sounds(entries), {"train": lines, "valid": lines})
    [(ids, targets)] = pairs.windows(16)
    padded = torch.nn.functional.pad(ids, (0, 6)), torch.nn.functional.pad(targets, (0, 6), value=data.SILENT)
    (loss, wanted), (other, got) = gradients(tiny, ids, targets), gradients(tiny, *padded)
    assert other == pytest.approx(loss, abs=1e-12)
    assert distance(wanted, got) <= 1e-12


def test_the_gradient_is_clipped_to_its_largest_norm(tmp_path):
    ids = torch.randint(256, (4, 16))
    _, seen = gradients(read(recipe(tmp_path, train={"clip": 0.01})), ids, ids)
    assert torch.stack([g.norm() for g in seen.values()]).norm().item() == pytest.approx(0.01, rel=1e-4)


def test_weight_decay_shrinks_matrices_and_nothing_else(model):
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = adamw(model, decay=0.5)
    for group in optimizer.param_groups:
        group["lr"] = 0.1
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.detach(), before[name] * (0.95 if p.dim() >= 2 else 1.0))


# the plan


def test_the_rate_warms_up_to_its_peak_and_falls_to_zero():
    rates = [rate_at(step, 100, 10, 2e-3) for step in range(101)]
    assert rates[:10] == pytest.approx([2e-4 * (i + 1) for i in range(10)])
    assert max(rates) == rates[9] == rates[10] == 2e-3
    assert all(a > b for a, b in zip(rates[10:], rates[11:], strict=False))
    assert rates[55] == pytest.approx(1e-3)  # half of the way
    assert rates[100] == pytest.approx(0, abs=1e-18)
    assert rate_at(0, 100, 0, 2e-3) == 2e-3


def test_each_step_is_taken_at_the_planned_rate(tmp_path, monkeypatch):
    taken = []

    def watch(run, *rest):
        loss = take_step(run, *rest)
        taken.append({group["lr"] for group in run.optimizer.param_groups})
        return loss

    monkeypatch.setattr("minieff.core.train.take_step", watch)
    train(read(recipe(tmp_path)))
    assert taken == [{rate_at(step, 10, 3, 1e-2)} for step in range(10)]


@pytest.mark.parametrize("tokens, steps", [(1, 1), (64, 1), (65, 2), (640, 10), (641, 11)])
def test_steps_are_the_tokens_rounded_up_to_whole_batches(tmp_path, tokens, steps):
    assert read(recipe(tmp_path, train={"tokens": tokens})).steps == steps


def test_training_lowers_the_loss_below_that_of_the_letters_alone(tmp_path):
    file = recipe(tmp_path, train={"tokens": 200 * 64})
    rows, text = train(read(file)).log(), (tmp_path / "own.txt").read_text()
    chances = [text.count(letter) / len(text) for letter in set(text)]
    assert rows[0]["train"] == pytest.approx(5.55, abs=0.2)  # the logarithm of 256: it knows little yet
    assert rows[-1]["valid"] < 0.5 * -sum(p * log(p) for p in chances)


def test_the_same_recipe_gives_the_same_weights_and_another_seed_others(tmp_path, monkeypatch):
    for before, (name, seed) in enumerate((("a", 0), ("b", 0), ("c", 1))):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / name))
        torch.manual_seed(before)  # what came before does not matter
        train(read(recipe(tmp_path, LAYERDROP, train={"seed": seed}, model={"dropout": 0.1})))
    assert distance(weights(tmp_path / "a"), weights(tmp_path / "b")) == 0
    assert distance(weights(tmp_path / "a"), weights(tmp_path / "c")) > 1e-3


def test_a_loss_that_is_no_number_stops_the_run(tmp_path, cache):
    with pytest.raises(ValueError, match="tiny: the loss of step 1 is nan; try less than rate=1e[+]30"):
        train(read(recipe(tmp_path, train={"rate": 1e30})))
    assert not checkpoint(cache).exists()


@pytest.mark.parametrize("disabled", [True, False])
def test_the_progress_bar_obeys_the_environment(tmp_path, monkeypatch, disabled):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("TQDM_DISABLE", "1") if disabled else monkeypatch.delenv("TQDM_DISABLE", False)
    train(read(recipe(tmp_path)))
    assert ("10/10" in sys.stderr.getvalue()) is not disabled


# recipes that are wrong: (techniques, changes, what the message names)

WRONG = {
    "unknown key": ([], {"train": {"speed": 1}}, r"recipe tiny: unknown keys \['speed'\]"),
    "missing key": ([], {"train": {"tokens": ...}}, r"missing keys \['tokens'\]"),
    "misplaced vocabulary": ([], {"model": {"vocab": 300}}, r"vocab=300 in \[model\]"),
    "unknown technique": ([{"name": "magic"}], {}, "technique 'magic'"),
    "core is no technique": ([{"name": "surgery"}], {}, "technique 'surgery'"),
    "nameless technique": ([{"p": 0.1}], {}, "technique ''"),
    "unknown knob": (
        [{"name": "layerdrop", "q": 1}],
        {},
        r"layerdrop has no knob \['q'\].*\['p', 'where'\]",
    ),
    "missing knob": ([{"name": "layerdrop"}], {}, r"layerdrop needs a value for \['p'\]"),
    "a loss": ([{"name": "distill"}], {}, "technique 'distill' changes no model"),
    "unknown verb": (
        [{"name": "weight_sharing", "verb": "factorise", "rank": 8}],
        {},
        r"weight_sharing has no verb 'factorise'.*\['apply', 'universal', 'factorize'\]",
    ),
    "verb for inference": ([{"name": "layerdrop", "verb": "finalize"}], {}, "no verb 'finalize'"),
    "verb that has to be named": (
        [{"name": "fast_decoding", "heads": 1}],
        {},
        r"no verb 'apply'.*\['group'\]",
    ),
    "verb of another type": ([{"name": "layerdrop", "verb": 3}], {}, "no verb 3"),
    "unknown knob of a verb": (
        [{"name": "weight_sharing", "verb": "factorize", "every": 2}],
        {},
        r"weight_sharing.factorize has no knob \['every'\]; it has \['rank', 'where'\]",
    ),
    "missing knob of a verb": (
        [{"name": "sparse_weights", "verb": "gate"}],
        {},
        r"sparse_weights.gate needs a value for \['price'\]",
    ),
    "knob of a verb of another type": (
        [{"name": "weight_sharing", "verb": "universal", "steps": 2.0}],
        {},
        "weight_sharing.universal: steps=2.0 is not of type",
    ),
    "where of no module": ([{"name": "layerdrop", "p": 0.1, "where": ["layers.9"]}], {}, "matched no module"),
    "start unknown": ([], {"train": {"start": "sage"}}, "sage.json is missing"),
    "start of another type": ([], {"train": {"start": 1}}, "start=1 is not of type"),
    "two starts": (
        [],
        {"train": {"start": "x"}, "distill": {"teacher": "x", "layers": [0, 1]}},
        r"start='x' and layers=\[0, 1\] both",
    ),
    "knob of another type": ([{"name": "layerdrop", "p": "x"}], {}, "layerdrop: p='x'"),
    "truth as a number": ([{"name": "layerdrop", "p": True}], {}, "layerdrop: p=True"),
    "unknown where": ([{"name": "layerdrop", "p": 0.1, "where": "Blok"}], {}, "where='Blok': name a module"),
    "where a function": ([{"name": "layerdrop", "p": 0.1, "where": "sqrt"}], {}, "where='sqrt': name a mod"),
    "rates too few": ([{"name": "layerdrop", "p": [0.1]}], {}, "p has 1 values for 2 layers"),
    "knob out of range": ([{"name": "layerdrop", "p": 2.0}], {}, "p=2.0: the probability"),
    "text for a number": ([], {"train": {"rate": "fast"}}, "rate='fast' is not of type"),
    "fraction for a number": ([], {"train": {"batch": 4.0}}, "batch=4.0 is not of type"),
    "truth for a number": ([], {"train": {"seed": True}}, "seed=True is not of type"),
    "number for a truth": ([], {"train": {"weights": 1}}, "weights=1 is not of type"),
    "number for a path": ([], {"data": {"paths": [1]}}, r"paths=\[1\]"),
    "no paths": ([], {"data": {"paths": []}}, r"paths=\[\]"),
    "paths of no use": ([], {"data": {"corpus": "speeches", "paths": ["x"]}}, r"paths=\['x'\]"),
    "unknown corpus": ([], {"data": {"corpus": "books"}}, "corpus='books'"),
    "no such text": ([], {"data": {"paths": ["/no/such.txt"]}}, "/no/such.txt: no such file"),
    "tiny vocabulary": ([], {"data": {"vocab": 100}}, "vocab=100"),
    "no document": ([], {"data": {"every": 0}}, "every=0"),
    "text too short": ([], {"model": {"context": 5000}}, "valid part of text_files has .* context=5000"),
    "heads": ([], {"model": {"heads": 3}}, "dim=32 is not a multiple of heads=3"),
    "no layers": ([], {"model": {"layers": 0}}, "layers=0"),
    "certain dropout": ([], {"model": {"dropout": 1.0}}, "dropout=1.0"),
    "indivisible batch": ([], {"train": {"accumulate": 3}}, "batch=4 cannot be shared.*multiple of 3"),
    "zero tokens": ([], {"train": {"tokens": 0}}, "tokens=0"),
    "zero save": ([], {"train": {"save": 0}}, "save=0"),
    "negative rate": ([], {"train": {"rate": -1e-3}}, "rate=-0.001"),
    "no rate": ([], {"train": {"rate": float("nan")}}, "rate=nan"),
    "no decay": ([], {"train": {"decay": float("nan")}}, "decay=nan"),
    "negative warmup": ([], {"train": {"warmup": -1}}, "warmup=-1"),
    "negative seed": ([], {"train": {"seed": -1}}, "seed=-1"),
    "endless seed": ([], {"train": {"seed": 10**30}}, "seed=1000000"),
    "no teacher": ([], {"distill": {}}, r"missing keys \['teacher'\]"),
    "unknown teacher": ([], {"distill": {"teacher": "sage"}}, "sage.json is missing"),
    "weight": ([], {"distill": {"teacher": "x", "weight": 2.0}}, "weight=2.0: a share"),
    "temperature": ([], {"distill": {"teacher": "x", "temperature": 0.0}}, "temperature=0.0: must"),
    "vocabulary": ([], {"distill": {"teacher": "speeches-depth-1"}}, "one vocabulary"),
    "layers": ([], {"distill": {"teacher": "speeches-depth-1", "layers": [0]}}, r"layers=\[0\]"),
    "precision": ([], {"train": {"dtype": "float16"}}, "dtype='float16'"),
    "short pronunciations": ([], {"data": {"corpus": "pronunciations"}}, "needs context=57, not 16"),
}


def refused(file: Path, capsys, message: str) -> None:
    """One line of error, exit code 2, and nothing written: neither in the cache nor beside the recipe."""
    before = contents(file.parent)
    assert main(["train", str(file)]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert re.fullmatch(f"error: .*{message}.*\n", printed.err), printed.err
    assert contents(file.parent) == before


@pytest.mark.parametrize("techniques, changes, message", WRONG.values(), ids=WRONG)
def test_a_wrong_recipe_is_refused_before_any_work(tmp_path, capsys, techniques, changes, message):
    refused(recipe(tmp_path, techniques, **changes), capsys, message)


BROKEN = {
    "not TOML": (b"[data\ncorpus", "tiny.toml is not TOML"),
    "not text": (b"\xff\xfe", "tiny.toml is not TOML"),
    "empty": (b"", r"missing tables \['data', 'model', 'train'\]"),
    "unknown table": (b"[data]\n[model]\n[train]\n[trian]", r"unknown tables \['trian'\]"),
    "no table": (b"data = 1\n[model]\n[train]", r"data, model and train are tables, as in \[data\]"),
    "single brackets": (b"[data]\n[model]\n[train]\n[techniques]\nname = 'x'", r"\[\[techniques\]\]"),
}


@pytest.mark.parametrize("content, message", BROKEN.values(), ids=BROKEN)
def test_a_file_that_is_no_recipe_is_refused(tmp_path, capsys, content, message):
    (tmp_path / "tiny.toml").write_bytes(content)
    refused(tmp_path / "tiny.toml", capsys, message)


def test_a_recipe_that_is_not_there_is_refused(tmp_path, capsys):
    refused(tmp_path / "tiny.toml", capsys, "tiny.toml: no such recipe; the course's recipes are in zoo")


def test_several_recipes_without_resume_are_refused(tmp_path, capsys):
    file = recipe(tmp_path)
    assert main(["train", str(file), str(file)]) == 2
    assert "add --resume" in capsys.readouterr().err


def test_an_error_on_the_command_line_is_one_line_without_a_stack_trace(tmp_path, cache):
    process = start("minieff", "train", recipe(tmp_path, model={"heads": 3}), cache=cache)
    output = process.communicate(timeout=120)[0].decode()
    assert process.returncode == 2
    assert output.startswith("error: recipe tiny: dim=32") and output.count("\n") == 1


def test_a_card_and_a_checkpoint_remember_the_recipe(tmp_path):
    tiny = read(recipe(tmp_path, LAYERDROP, model={"dropout": 0.1}))
    tables = json.loads(json.dumps(tiny.as_dict()))
    assert parse(tiny.name, tiny.folder, tables) == tiny
    assert tiny.same_as(tables) and tables["train"].pop("decay") == 0.1
    assert tiny.same_as(tables)  # left out is at its default
    tables["train"]["decay"] = 0.2
    assert not tiny.same_as(tables)


def test_a_checkpoint_of_another_text_is_refused(tmp_path, cache):
    """The text may change between a stop and a resume; the tokenizer would change with it."""
    tiny = read(recipe(tmp_path))
    train(tiny)
    text = Path(tiny.data.paths[0])
    text.write_text(text.read_text().replace("e", "a"))
    with pytest.raises(ValueError, match="from another text"):
        train(read(tmp_path / "tiny.toml"), resume=True)
