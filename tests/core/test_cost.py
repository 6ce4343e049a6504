"""The five axes: each number against the thing itself, and what was modelled is never called measured."""

import json
import os
import random
from pathlib import Path

import pytest
import torch
from torch import nn

from minieff import layerdrop
from minieff.core import cost, data, energy, files
from minieff.core.checkpoint import pack, write_tensors
from minieff.core.transformer import Config, Transformer


@pytest.fixture
def corpus() -> data.Corpus:
    """Letters of a skewed alphabet, one byte each."""
    letters = "".join(random.Random(0).choices("abcdefgh ", range(1, 10), k=4000))
    return data.Corpus(
        "letters", data.Bytes(), data.split([letters[i : i + 100] for i in range(0, 4000, 100)])
    )


def small(**sizes: int | float) -> Transformer:
    """A model over bytes whose weights are large enough that its losses differ from text to text."""
    model = Transformer(Config(**{"vocab": 256, "context": 24, "layers": 3, "heads": 4, "dim": 16, **sizes}))
    for p in model.parameters():
        nn.init.normal_(p, std=0.3)
    return model


# bytes


def written(model: nn.Module, path: Path) -> int:
    """The size of the model's file without its header, which the first eight bytes measure."""
    write_tensors(path, pack(model))
    content = path.read_bytes()
    return len(content) - 8 - int.from_bytes(content[:8], "little")


def with_shared_blocks() -> nn.Module:
    model = small()
    model.blocks.layers = nn.ModuleList([model.blocks.layers[0]] * 3)
    return model


def with_tied_weights() -> nn.Module:
    model = small()
    first, *rest = model.blocks.layers
    for block in rest:
        block.mix.inner.q.weight = first.mix.inner.q.weight
    return model


@pytest.mark.parametrize("make", [small, with_shared_blocks, with_tied_weights])
def test_stored_bytes_are_those_of_the_written_file(make, tmp_path):
    model = make()
    full = cost.stored_bytes(model)
    assert full == written(model, tmp_path / "full.safetensors")
    assert cost.stored_bytes(model.half()) == written(model, tmp_path / "half.safetensors") == full / 2


def test_what_is_shared_is_stored_once():
    block = cost.stored_bytes(small().blocks.layers[0])
    assert cost.stored_bytes(small()) - cost.stored_bytes(with_shared_blocks()) == 2 * block
    assert cost.stored_bytes(small()) - cost.stored_bytes(with_tied_weights()) == 2 * 16 * 16 * 4


def test_buffers_are_stored_and_are_no_parameters():
    norm = nn.BatchNorm1d(8)
    assert cost.parameters(norm) == 16
    assert cost.stored_bytes(norm) == 4 * (16 + 16) + 8  # two averages, and a counter of 64 bits


def test_macs_and_quality_leave_each_part_in_its_mode(corpus):
    model = small().train()
    model.blocks.layers[1].eval()
    modes = [m.training for m in model.modules()]
    cost.macs(model)
    cost.quality(model, corpus, windows=1)
    assert [m.training for m in model.modules()] == modes
    with pytest.raises(ValueError, match="25 tokens are more"):
        cost.macs(model, 25)
    assert [m.training for m in model.modules()] == modes


# quality


class Equal(nn.Module):
    """Gives every byte the same chance."""

    def __init__(self) -> None:
        super().__init__()
        self.config, self.logit = Config(256, 24, 1, 1, 1), nn.Parameter(torch.tensor(0.3))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.logit.expand(*ids.shape, 256)


def test_equal_chances_of_256_bytes_are_8_bits_a_byte(corpus):
    measured = cost.quality(Equal(), corpus)
    assert measured.bits_per_byte == pytest.approx(8.0, abs=1e-5)
    assert measured.perplexity == pytest.approx(256, abs=1e-2)
    assert measured.tokens == (len(corpus.valid) - 1) // 24 * 24


def test_bits_a_byte_do_not_depend_on_the_tokenizer():
    """Tokens of 1, 2 or 4 bytes, each with the chance that equal chances of its bytes give it."""

    class Chunks(data.Bytes):
        sizes = torch.tensor([1, 2, 4] + [0] * 253)

    class Fair(Equal):
        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            chances = torch.tensor([256.0**-1, 256.0**-2, 256.0**-4])
            rest = (1 - chances.sum()).expand(253) / 253
            return torch.cat([chances, rest]).log().expand(*ids.shape, 256)

    text = "".join(random.Random(0).choices("\x00\x01\x02", k=500))
    measured = cost.quality(Fair(), data.Corpus("chunks", Chunks(), {"train": [text], "valid": [text]}))
    assert measured.bits_per_byte == pytest.approx(8.0, abs=1e-5)
    assert measured.nats > 10


@torch.no_grad()
def test_nats_are_the_mean_over_all_tokens_whatever_the_windows_are_batched_by(corpus):
    class Narrow(data.Corpus):
        def windows(self, context: int, rows: int = 32, count: int | None = None):
            return super().windows(context, 3, count)

    model = small().eval()
    narrow = Narrow(corpus.name, corpus.tokenizer, corpus.texts)
    wide, thin = cost.quality(model, corpus), cost.quality(model, narrow)
    assert len(list(narrow.windows(24))) > len(list(corpus.windows(24)))
    assert thin.tokens == wide.tokens
    assert thin.nats == pytest.approx(wide.nats, abs=1e-6)
    one_by_one = [data.loss(model(ids), targets).item() for ids, targets in corpus.windows(24, rows=1)]
    assert wide.nats == pytest.approx(sum(one_by_one) / len(one_by_one), abs=1e-5)


def test_a_number_of_windows_is_spread_over_the_whole_text(corpus):
    total = sum(len(ids) for ids, _ in corpus.windows(24))
    for count in (1, 2, total - 1, total, total + 5):
        firsts = [ids[0].item() for batch, _ in corpus.windows(24, count=count) for ids in batch]
        wanted = [i * total // count for i in range(count)] if count < total else range(total)
        assert firsts == [corpus.valid[24 * i].item() for i in wanted]
    with pytest.raises(ValueError, match="windows=0"):
        list(corpus.windows(24, count=0))


def test_macs_refuse_what_no_formula_counts():
    model = small()
    model.blocks.layers[0].mix.inner = nn.Conv1d(32, 32, 1)
    with pytest.raises(ValueError, match="no formula counts blocks.layers.0.mix.inner, a Conv1d"):
        cost.macs(model)


def test_quality_is_that_of_eval_mode_and_gives_train_mode_back(corpus):
    model = small(dropout=0.5)
    training = cost.quality(model.train(), corpus)
    assert model.training and all(m.training for m in model.modules())
    assert training == cost.quality(model.eval(), corpus)
    assert not model.training


def test_quality_over_no_window_is_refused(corpus):
    for none in (0, -1):
        with pytest.raises(ValueError, match=f"windows={none}"):
            cost.quality(small(), corpus, windows=none)
    with pytest.raises(ValueError, match="letters has no window of context=500"):
        cost.quality(small(context=500), corpus)


def test_silent_targets_count_neither_as_loss_nor_as_tokens():
    entries = [("ab", ["A"]), ("b", ["A", "B"])]
    lines = ["ab=A\n", "b=A B\n"]
    pairs = data.Pairs("few", data.Sounds(entries), {"train": lines, "valid": lines})
    model = small(vocab=pairs.vocab, context=8).eval()
    measured = cost.quality(model, pairs)
    assert measured.tokens == 2 + 3
    assert measured.bits_per_byte is None and "byte" not in str(measured)
    [(ids, targets)] = pairs.windows(8)
    assert measured.nats == pytest.approx(data.loss(model(ids), targets).item(), abs=1e-6)


# time


def test_quartiles_are_in_order_and_calls_take_turns():
    turns: list[str] = []
    timings = cost.interleaved({name: lambda n=name: turns.append(n) for name in "ab"}, runs=5, warmup=2)
    assert turns == ["a", "b"] * 7
    for timing in timings.values():
        assert 0 < timing.low <= timing.median <= timing.high
        assert (timing.runs, timing.threads) == (5, torch.get_num_threads())


def test_the_warm_up_is_not_timed_and_the_median_is_the_middle(monkeypatch):
    clock, now = iter([100.0, 100.0, 1.0, 2.0, 9.0, 4.0, 3.0]), [0.0]
    monkeypatch.setattr(cost, "perf_counter", lambda: now[0])

    def call() -> None:
        now[0] += next(clock)

    timing = cost.timed(call, runs=5, warmup=2)
    assert (timing.low, timing.median, timing.high) == (2.0, 3.0, 4.0)


@pytest.mark.parametrize("runs, warmup", [(2, 10), (0, 10), (30, -1)])
def test_too_few_runs_for_quartiles_are_refused(runs, warmup):
    with pytest.raises(ValueError, match=f"runs={runs}, warmup={warmup}: quartiles need at least 3"):
        cost.timed(lambda: None, runs, warmup)


# energy

LIMIT = 999_999


class Machine:
    """A folder of counters as Linux shows them: each joule counts in a package and in a part of it."""

    def __init__(self, folder: Path, packages: int) -> None:
        self.folder, self.counts = folder, {f"intel-rapl:{i}": 900_000 + i for i in range(packages)}
        for package in self.counts:
            for name, label in ((package, f"package-{package[-1]}"), (f"{package}:0", "core")):
                (folder / name).mkdir(parents=True)
                (folder / name / "name").write_text(label + "\n")
                (folder / name / "max_energy_range_uj").write_text(f"{LIMIT}\n")
        (folder / "intel-rapl").mkdir()  # the control type: no counter of its own
        (folder / "intel-rapl:9").mkdir()
        (folder / "intel-rapl:9" / "name").write_text("psys\n")
        (folder / "intel-rapl:9" / "max_energy_range_uj").write_text(f"{LIMIT}\n")
        self.use(0)

    def use(self, microjoules: int) -> None:
        for package in self.counts:
            self.counts[package] = (self.counts[package] + microjoules) % (LIMIT + 1)
            for name in (package, f"{package}:0", "intel-rapl:9"):
                (self.folder / name / "energy_uj").write_text(f"{self.counts[package]}\n")


def test_packages_are_summed_and_their_parts_not_counted_twice(tmp_path):
    machine = Machine(tmp_path, packages=2)
    assert [f.name for f in energy.counters(tmp_path)] == ["intel-rapl:0", "intel-rapl:1"]
    used = energy.measured(lambda: machine.use(5_000), tmp_path, at_least=0.0)
    assert used.measured == used.joules == pytest.approx(2 * 5_000e-6)
    assert used.method == "rapl" and "2 packages" in str(used)


def test_the_energy_of_many_calls_is_divided_by_their_number(tmp_path):
    machine, calls = Machine(tmp_path, packages=1), []
    used = energy.measured(lambda: calls.append(machine.use(20)), tmp_path, at_least=0.01)
    assert len(calls) > 1 and used.joules == pytest.approx(20e-6)


def test_energy_over_a_then_b_is_the_sum_across_the_counters_wrap(tmp_path):
    machine = Machine(tmp_path, packages=1)
    calls = [lambda uj=uj: machine.use(uj) for uj in (70_000, 60_000)]
    parts = [energy.measured(call, tmp_path, at_least=0.0).joules for call in calls]
    assert machine.counts["intel-rapl:0"] == 30_000  # it went over its end
    assert parts == pytest.approx([0.07, 0.06])
    machine.use(LIMIT + 1 - 130_000)
    both = energy.measured(lambda: (machine.use(70_000), machine.use(60_000)), tmp_path, at_least=0.0)
    assert both.joules == pytest.approx(sum(parts))


def test_without_a_counter_nothing_is_measured(tmp_path):
    assert energy.counters(tmp_path) == []
    with pytest.raises(ValueError, match="no readable energy counter.*modelled"):
        energy.measured(lambda: None, tmp_path)


def test_modelled_energy_refuses_to_be_called_measured():
    used = energy.modelled(1e12, 1e9)
    assert used.joules == pytest.approx(4.6 + 0.16)
    assert "modelled" in str(used) and "measured" not in str(used)
    with pytest.raises(ValueError, match="not measured but modelled"):
        used.measured  # noqa: B018
    with pytest.raises(ValueError, match="method='measured'"):
        energy.Energy(1.0, "measured", "a guess")


# the report


def test_a_report_holds_every_axis_and_leaves_the_weights_and_the_mode(corpus):
    model = layerdrop.apply(small(dropout=0.1), p=0.5, generator=torch.Generator()).train()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    report = cost.report("small", model, corpus, rows=2, runs=3, windows=2)
    assert report.parameters == cost.parameters(model)
    assert report.stored_bytes == cost.stored_bytes(model)
    assert report.macs == cost.macs(model)
    assert report.quality == cost.quality(model, corpus, windows=2)
    assert report.forward.runs == report.step.runs == 3
    assert json.loads(json.dumps(report.as_dict()))["energy"]["method"] in ("rapl", "modelled")
    assert all(word in str(report) for word in ("small", "forward", "training", "energy", "quality"))
    assert all(m.training for m in model.modules())
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_a_reports_forward_and_energy_are_those_of_eval_mode(corpus, monkeypatch):
    model, modes = small().train(), []
    watched = model.register_forward_hook(lambda *_: modes.append((model.training, torch.is_grad_enabled())))
    monkeypatch.setattr(energy, "counters", lambda: [Path("a counter")])
    monkeypatch.setattr(energy, "measured", lambda call: call() or energy.Energy(1.0, "rapl", "a mock"))
    report = cost.report("small", model, corpus, rows=2, runs=3, windows=1)
    watched.remove()
    assert report.energy.measured == 1.0
    assert modes.count((True, True)) == 10 + 3  # the training steps
    assert set(modes) == {(True, True), (False, False)}


# what was measured, on the disk


def test_results_of_a_learner_change_no_file_of_the_checkout(monkeypatch, tmp_path):
    monkeypatch.delenv("MINIEFF_RESULTS", raising=False)
    monkeypatch.setattr(files.tempfile, "gettempdir", lambda: str(tmp_path))
    path = files.save_results("probe", {"answer": 42})
    assert path.parent.parent == tmp_path and path.name == "probe.json"
    stored = files.read_json(path)
    assert stored["answer"] == 42
    assert stored["environment"]["torch"] == torch.__version__
    assert stored["environment"]["threads"] == torch.get_num_threads()
    assert stored["environment"]["cpu"] and "commit" in stored["environment"]
    assert not (files.ROOT / "results" / "probe.json").exists()


def test_results_of_a_builder_go_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("MINIEFF_RESULTS", str(tmp_path / "results"))
    assert files.measured("probe") == {}
    assert files.save_results("probe", {}) == tmp_path / "results" / "probe.json"
    assert files.measured("probe").keys() == {"environment"}
    with pytest.raises(ValueError, match="JSON"):
        files.save_results("probe", {"loss": float("nan")})
    assert "environment" in files.read_json(tmp_path / "results" / "probe.json")


def test_results_are_saved_where_there_is_no_git(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert files.environment()["commit"] is None


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(monkeypatch, tmp_path):
    files.write(tmp_path / "deep" / "file", "old")

    def fail(*_):
        raise OSError("the disk is full")

    for step in ("fsync", "replace"):
        with monkeypatch.context() as patch, pytest.raises(OSError, match="full"):
            patch.setattr(os, step, fail)
            files.write(tmp_path / "deep" / "file", "new")
        assert [p.name for p in (tmp_path / "deep").iterdir()] == ["file"]
        assert (tmp_path / "deep" / "file").read_text() == "old"
    files.write(tmp_path / "deep" / "file", b"new")
    assert (tmp_path / "deep" / "file").read_text() == "new"


@pytest.mark.parametrize("content", [b'{"loss": 1.', b"\xff\xfe", b""])
def test_a_damaged_json_file_is_named(tmp_path, content):
    (tmp_path / "card.json").write_bytes(content)
    with pytest.raises(ValueError, match="card.json is damaged"):
        files.read_json(tmp_path / "card.json")


def test_missing_results_name_the_command_that_measures_them():
    with pytest.raises(FileNotFoundError, match="no_such_results.json is missing; `make lessons`"):
        files.load_results("no_such_results")


def test_pareto_keeps_ties_and_drops_what_is_dominated():
    points = {"a": (1, 5), "b": (2, 3), "twin": (2, 3), "worse": (2, 4), "late": (3, 3), "c": (4, 1)}
    assert cost.pareto(points) == ["a", "b", "twin", "c"]
    assert cost.pareto({}) == [] and cost.pareto({"alone": (1, 2, 3)}) == ["alone"]
    assert cost.pareto({"small": (1, 9, 9), "fast": (9, 1, 9), "neither": (9, 9, 9)}) == ["small", "fast"]


def test_no_point_of_a_pareto_front_is_dominated_and_every_other_is():
    draw = random.Random(0)
    points = {str(i): (draw.randrange(20), draw.randrange(20)) for i in range(60)}
    front = cost.pareto(points)
    for name, (x, y) in points.items():
        better = [q for q in points.values() if q[0] <= x and q[1] <= y and q != (x, y)]
        assert (name in front) == (not better)


def test_pareto_refuses_what_does_not_compare():
    with pytest.raises(ValueError, match="different numbers of axes"):
        cost.pareto({"a": (1, 2), "b": (1, 2, 3)})
    with pytest.raises(ValueError, match="b has a NaN"):
        cost.pareto({"a": (1.0, 2.0), "b": (1.0, float("nan"))})
