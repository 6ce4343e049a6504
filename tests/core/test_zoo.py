"""The zoo: a recipe becomes weights and a card; what is damaged is refused with the command that fixes it."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from minieff import layerdrop
from minieff.core import cost, zoo
from minieff.core.checkpoint import read_tensors
from minieff.core.files import ROOT, sha256
from minieff.core.recipe import read, read_all
from minieff.core.train import train
from minieff.core.transformer import Config, Transformer

RECIPE = """
[data]
corpus = "files"
vocab = 256
paths = ["{text}"]
[model]
layers = {layers}
heads = 2
dim = 32
context = 16
dropout = 0.1
[train]
tokens = 1_000
batch = 4
[[techniques]]
name = "layerdrop"
p = 0.2
"""


@pytest.fixture(scope="session")
def made(tmp_path_factory) -> Path:
    """A folder with two models, "tiny" and "other", and their checkpoints."""
    folder = tmp_path_factory.mktemp("zoo")
    (folder / "own.txt").write_text("the quick brown fox jumps over the lazy dog. " * 200)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        for name, layers in (("tiny", 2), ("other", 3)):
            (folder / f"{name}.toml").write_text(RECIPE.format(text=folder / "own.txt", layers=layers))
            zoo.make(folder / f"{name}.toml")
    return folder


@pytest.fixture
def folder(made, tmp_path, monkeypatch) -> Path:
    """A copy to be damaged."""
    shutil.copytree(made, tmp_path / "zoo")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "zoo" / "cache"))
    return tmp_path / "zoo"


def change(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


# a card and its weights


def test_a_card_says_what_came_out_of_its_recipe(made):
    card, tiny = zoo.card("tiny", made), read(made / "tiny.toml")
    assert tiny.same_as(card["recipe"])
    assert card["vocab"] == 256
    assert card["tokens"] == 16 * 4 * 16  # 16 steps of 4 windows of 16: the tokens, rounded up
    assert card["sha256"] == sha256(made / "tiny.safetensors")
    assert card["bytes"] == (made / "tiny.safetensors").stat().st_size
    assert card["log"][-1]["step"] == 16 and card["log"][-1]["tokens"] == card["tokens"]
    assert card["environment"]["torch"] == torch.__version__ and card["seconds"] > 0
    model = zoo.load("tiny", made)
    assert (card["parameters"], card["macs"]) == (cost.parameters(model), cost.macs(model))


def test_the_quality_of_a_card_is_that_of_the_loaded_model(made):
    measured = cost.quality(zoo.load("tiny", made), read(made / "tiny.toml").data.load())
    stated = zoo.card("tiny", made)["quality"]
    assert stated["tokens"] == measured.tokens
    assert stated["nats"] == pytest.approx(measured.nats, abs=1e-6)
    assert stated["perplexity"] == pytest.approx(measured.perplexity, rel=1e-5)
    assert stated["bits_per_byte"] == pytest.approx(measured.bits_per_byte, abs=1e-6)


def test_load_gives_the_half_precision_weights_in_fp32_and_eval_mode(made):
    model, (stored, _) = zoo.load("tiny", made), read_tensors(made / "tiny.safetensors")
    trained, _ = read_tensors(made / "cache" / "minieff" / "train" / "tiny" / "checkpoint.safetensors")
    assert not any(m.training for m in model.modules())
    assert model.state_dict().keys() == stored.keys()
    for name, tensor in model.state_dict().items():
        assert tensor.dtype == torch.float32 and stored[name].dtype == torch.float16
        assert torch.equal(tensor, stored[name].float())
        assert torch.equal(stored[name], trained[f"model.{name}"].half())


def test_load_applies_the_techniques_of_the_recipe(made):
    model = zoo.load("tiny", made)
    assert [type(layer) for layer in model.blocks.layers] == [layerdrop.Skip] * 2
    assert model.train().blocks.layers[0].p == 0.2


def test_load_leaves_torchs_random_stream_as_it_was(made):
    before = torch.get_rng_state()
    zoo.load("tiny", made)
    assert torch.equal(torch.get_rng_state(), before)


def test_names_lists_models_with_a_card(folder):
    assert zoo.names(folder) == ["other", "tiny"]
    (folder / "other.json").unlink()
    assert zoo.names(folder) == ["tiny"]


def test_the_table_has_a_line_for_each_model(made):
    header, *lines = zoo.table(made).splitlines()
    assert [line.split()[:4] for line in lines] == [
        [name, str(layers), "32", f"{zoo.card(name, made)['parameters']:,}"]
        for name, layers in (("other", 3), ("tiny", 2))
    ]
    assert header.split()[0] == "model" and len(header.split()) == len(lines[0].split())


# damage

REMAKE = r"`git checkout .*zoo/tiny\.\*`.*`python -m minieff train .*/tiny\.toml --resume` trains again"


def truncate(folder: Path) -> None:
    file = folder / "tiny.safetensors"
    file.write_bytes(file.read_bytes()[:-1])


def flip_a_bit(folder: Path) -> None:
    content = bytearray((folder / "tiny.safetensors").read_bytes())
    content[-7] ^= 1
    (folder / "tiny.safetensors").write_bytes(content)


def exchange(folder: Path) -> None:
    shutil.copy(folder / "other.safetensors", folder / "tiny.safetensors")


@pytest.mark.parametrize("damage", [truncate, flip_a_bit, exchange])
def test_weights_that_are_not_those_of_the_card_are_refused(folder, damage):
    assert isinstance(zoo.load("tiny", folder), nn.Module)
    damage(folder)
    with pytest.raises(ValueError, match=f"tiny.safetensors is not the file .*; {REMAKE}"):
        zoo.load("tiny", folder)
    assert not zoo.finished(read(folder / "tiny.toml"))


def test_missing_weights_are_refused(folder):
    (folder / "tiny.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=f"tiny.safetensors is missing; {REMAKE}"):
        zoo.load("tiny", folder)
    assert not zoo.finished(read(folder / "tiny.toml"))


@pytest.mark.parametrize("content", [b"", b'{"recipe": ', b"\xff\xfe", b"[]", b"{}", b'{"sha256": "0"}'])
def test_a_damaged_card_is_refused(folder, content):
    (folder / "tiny.json").write_bytes(content)
    with pytest.raises(ValueError, match="tiny.json is (damaged|not a model card)"):
        zoo.load("tiny", folder)
    assert not zoo.finished(read(folder / "tiny.toml"))


def test_an_unknown_name_is_refused_with_those_that_exist(made):
    with pytest.raises(FileNotFoundError, match="huge.json is missing; the zoo has other, tiny"):
        zoo.load("huge", made)


def test_weights_of_another_shape_than_the_recipe_says_are_refused(folder):
    change(folder / "tiny.json", '"layers": 2', '"layers": 3')
    with pytest.raises(ValueError, match="these are not the weights of this Transformer: .* is missing"):
        zoo.load("tiny", folder)


@pytest.mark.parametrize(
    "damage", [truncate, flip_a_bit, exchange, lambda f: (f / "tiny.json").write_text("")]
)
def test_the_command_in_the_error_fixes_the_model(folder, damage):
    before = {name: (folder / f"tiny.{name}").read_bytes() for name in ("safetensors", "toml")}
    damage(folder)
    zoo.make(folder / "tiny.toml", resume=True)
    assert isinstance(zoo.load("tiny", folder), nn.Module)
    assert {name: (folder / f"tiny.{name}").read_bytes() for name in before} == before


# finished or not


def touched(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_a_finished_recipe_is_not_trained_again(folder):
    before = touched(folder)
    assert zoo.make(folder / "tiny.toml", resume=True) == zoo.card("tiny", folder)
    assert touched(folder) == before


def test_a_finished_recipe_needs_no_checkpoint(folder):
    shutil.rmtree(folder / "cache")
    zoo.make(folder / "tiny.toml", resume=True)
    assert not (folder / "cache").exists()


def test_a_changed_recipe_is_not_finished(folder):
    assert zoo.finished(read(folder / "tiny.toml"))
    change(folder / "tiny.toml", "p = 0.2", "p = 0.3")
    assert not zoo.finished(read(folder / "tiny.toml"))
    with pytest.raises(ValueError, match="made by another recipe of this name"):
        zoo.make(folder / "tiny.toml", resume=True)
    shutil.rmtree(folder / "cache")
    assert zoo.make(folder / "tiny.toml", resume=True)["recipe"]["techniques"] == [
        {"name": "layerdrop", "p": 0.3}
    ]
    assert zoo.finished(read(folder / "tiny.toml"))


def test_weights_can_be_shipped_after_a_training_that_shipped_none(folder):
    weights, before = folder / "tiny.safetensors", zoo.card("tiny", folder)
    change(folder / "tiny.toml", "batch = 4", "batch = 4\nweights = false")
    weights.unlink()
    zoo.make(folder / "tiny.toml", resume=True)
    assert not weights.exists()
    change(folder / "tiny.toml", "weights = false", "weights = true")
    after = zoo.make(folder / "tiny.toml", resume=True)
    assert after["sha256"] == before["sha256"] == sha256(weights) and after["log"] == before["log"]


def test_a_card_of_keys_that_no_recipe_knows_is_not_finished(folder):
    change(folder / "tiny.json", '"warmup"', '"warm_up"')
    assert not zoo.finished(read(folder / "tiny.toml"))


def test_without_resume_a_finished_run_is_not_overwritten(folder):
    before = touched(folder)
    with pytest.raises(FileExistsError, match="--resume"):
        zoo.make(folder / "tiny.toml")
    assert touched(folder) == before


def test_weights_that_do_not_ship_stay_in_the_cache(folder):
    change(folder / "tiny.toml", "batch = 4", "batch = 4\nweights = false")
    for file in (folder / "tiny.safetensors", folder / "tiny.json"):
        file.unlink()
    shutil.rmtree(folder / "cache")
    card = zoo.make(folder / "tiny.toml")
    kept = folder / "cache" / "minieff" / "train" / "tiny" / "tiny.safetensors"
    assert card == zoo.card("tiny", folder) and card["sha256"] == sha256(kept)
    assert zoo.finished(read(folder / "tiny.toml"))
    assert isinstance(zoo.load("tiny", folder), nn.Module)  # where they were trained, they are there
    kept.unlink()
    with pytest.raises(FileNotFoundError, match="tiny.safetensors does not ship, only its card and log do"):
        zoo.load("tiny", folder)


def test_a_queue_counts_those_that_failed(folder):
    change(folder / "other.toml", "p = 0.2", "p = 2.0")
    assert zoo.queue([folder / "tiny.toml", folder / "other.toml"]) == 1


# the models that ship

RECIPES = {(run.folder, run.name): run for folder in zoo.folders() for _, run in zoo.recipes(folder)}


@pytest.mark.parametrize("folder", zoo.folders(), ids=lambda folder: folder.name)
def test_shipped_models_are_what_their_recipes_and_cards_say(folder):
    for name in zoo.names(folder):
        card, recipe = zoo.card(name, folder), RECIPES[folder, name]
        assert recipe.same_as(card["recipe"])
        assert card["tokens"] >= recipe.train.tokens and card["log"][-1]["step"] == recipe.steps
        if recipe.train.weights:
            model = zoo.load(name, folder)
            assert cost.parameters(model) == card["parameters"] and cost.macs(model) == card["macs"]
            size = (folder / f"{name}.safetensors").stat().st_size
            assert card["bytes"] == size <= (16e6 if name == "speeches-large" else 5e6)
        else:
            assert not (folder / f"{name}.safetensors").exists()


def test_the_weights_that_ship_are_at_most_60_megabytes_and_each_has_a_recipe():
    weights = list((ROOT / "zoo").rglob("*.safetensors"))
    assert sum(path.stat().st_size for path in weights) <= 60e6
    assert {(path.parent, path.stem) for path in weights} <= RECIPES.keys()


def test_what_a_recipe_starts_from_and_is_taught_by_is_in_the_zoo():
    for run in RECIPES.values():
        for name in filter(None, (run.train.start, run.distill and run.distill.teacher)):
            other = RECIPES.get((run.folder, name)) or RECIPES[(zoo.FOLDER / name).parent, Path(name).name]
            assert other.data.vocab == run.data.vocab
            if name == run.train.start:
                assert other.model == run.model and not other.techniques


def test_no_two_runs_have_one_name():
    names = [run.name for folder in zoo.folders() for _, run in zoo.recipes(folder)]
    assert len(set(names)) == len(names) > 50  # checkpoints of one name would be mixed up
    assert json.dumps([run.as_dict() for run in RECIPES.values()])


def test_a_recipe_with_several_runs_is_trained_by_name(folder):
    tables = (folder / "tiny.toml").read_text()
    (folder / "both.toml").write_text(
        tables + "[runs]\nslow = {}\nfast = { train.rate = 4e-3, techniques = [] }\n"
    )
    slow, fast = read_all(folder / "both.toml")
    assert slow == replace(read(folder / "tiny.toml"), name="slow") and slow == read(
        folder / "both.toml", "slow"
    )
    assert fast.train == replace(slow.train, rate=4e-3) and fast.techniques == [] and fast.data == slow.data
    with pytest.raises(ValueError, match="has the runs slow, fast; name one of them with --run, not None"):
        zoo.make(folder / "both.toml")
    zoo.make(folder / "both.toml", "fast")
    assert isinstance(zoo.load("fast", folder), nn.Module)
    (folder / "fast.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"train .*/both\.toml --run fast --resume` trains again"):
        zoo.load("fast", folder)
    for runs in ("", "slow = 3", "slow = { train.rat = 1 }"):
        (folder / "both.toml").write_text(f"{tables}[runs]\n{runs}\n")
        with pytest.raises(ValueError, match="at least one run|unknown keys"):
            read_all(folder / "both.toml")


# recipes whose runs take hours


TOPICS = ("sparse_weights", "sparse_attention", "entmax", "adaptive_span", "weight_sharing", "dynamic_conv")


@pytest.mark.parametrize("topic", [*TOPICS, "feedback", "distill"])
def test_the_runs_of_a_topic_train(topic, made, tmp_path, monkeypatch):
    """Two steps of one sequence, on a small text."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    text = read(made / "tiny.toml").data
    for path in (zoo.FOLDER / topic).glob("*.toml"):
        for recipe in read_all(path):
            context = recipe.model["context"]
            plan = replace(recipe.train, tokens=2 * context, batch=1, accumulate=1)
            small = replace(recipe, data=text, train=plan)
            teacher = recipe.distill and Transformer(Config(256, context, layers=8, heads=4, dim=128))
            start = Transformer(recipe.config(256)) if recipe.train.start else None
            assert train(small, teacher=teacher, start=start).step == 2
