"""The trained models that ship with the course: a recipe (TOML), weights in half precision, and a card.

A card says what came out of a recipe: tokens seen, quality, the log, and the checksum of the weights, which
`load` checks. Quality is measured on the model that `load` returns, whose weights were rounded to half
precision.
"""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import torch
from torch import nn

from minieff import compose
from minieff.core import cost
from minieff.core.checkpoint import pack, read_tensors, unpack, write_tensors
from minieff.core.files import ROOT, cache, environment, read_json, sha256, write_json
from minieff.core.recipe import Recipe, parse, read, read_all
from minieff.core.run import Run
from minieff.core.train import train
from minieff.core.transformer import Transformer

FOLDER = ROOT / "zoo"


def make(path: str | Path, run: str | None = None, *, resume: bool = False) -> dict | None:
    """Trains the recipe at `path`, or its run `run`, and writes weights and card beside it.

    Returns the card (None in all processes but the first). With `resume`, a finished run is not trained again
    and a stopped one continues.

    >>> from tempfile import TemporaryDirectory
    >>> from unittest.mock import patch
    >>> recipe = (
    ...     f"data = {{corpus = 'files', vocab = 256, paths = ['{__file__}']}}\\n"
    ...     "model = {layers = 1, heads = 1, dim = 8, context = 4}\\n"
    ...     "train = {tokens = 64}"
    ... )
    >>> with TemporaryDirectory() as folder, patch.dict(os.environ, XDG_CACHE_HOME=folder, TQDM_DISABLE="1"):
    ...     path = Path(folder) / "tiny.toml"
    ...     _ = path.write_text(recipe)
    ...     sorted(make(path))[:3], names(path.parent)
    (['bytes', 'environment', 'log'], ['tiny'])
    """
    recipe = read(path, run)
    if resume and finished(recipe):
        return card(recipe.name, recipe.folder)
    trained = train(recipe, resume=resume, teacher=teacher(recipe), start=start(recipe))
    if trained.rank > 0:
        return None
    made = _publish(trained)
    write_json(recipe.folder / f"{recipe.name}.json", made)
    return made


def teacher(recipe: Recipe) -> nn.Module | None:
    """The model that [distill] names, of the recipe's folder or else of the zoo. None without the table.

    >>> teacher(read(FOLDER / "speeches-depth-1.toml")) is None
    True
    """
    return _other(recipe, recipe.distill.teacher) if recipe.distill else None


def start(recipe: Recipe) -> nn.Module | None:
    """The model with whose weights a recipe begins, found as for `teacher`. None for random weights.

    >>> start(read(FOLDER / "speeches-depth-1.toml")) is None
    True
    """
    return _other(recipe, recipe.train.start) if recipe.train.start else None


def _other(recipe: Recipe, name: str) -> nn.Module:
    return load(name, recipe.folder if (recipe.folder / f"{name}.json").exists() else FOLDER)


def _publish(run: Run) -> dict:
    """Writes the weights of a finished run in half precision, reads them back, measures, returns the card."""
    recipe = run.recipe
    weights = write_tensors(
        (recipe.folder if recipe.train.weights else run.folder) / f"{recipe.name}.safetensors",
        {name: t.half() if t.is_floating_point() else t for name, t in pack(run.model).items()},
    )
    model = _fill(recipe, run.model.config.vocab, weights)
    return {
        "recipe": recipe.as_dict(),
        "vocab": model.config.vocab,
        "sha256": sha256(weights),
        "tokens": run.step * recipe.train.batch * recipe.model["context"],
        "quality": asdict(cost.quality(model, recipe.data.load())),
        "parameters": cost.parameters(model),
        "bytes": weights.stat().st_size,
        "macs": cost.macs(model),
        "seconds": round(run.seconds, 1),
        "environment": environment(),
        "log": run.log(),
    }


def finished(recipe: Recipe) -> bool:
    """Whether there is a card of exactly this recipe, with undamaged weights.

    >>> finished(read(FOLDER / "speeches-depth-1.toml"))
    True
    """
    try:
        made = card(recipe.name, recipe.folder)
        if recipe.train.weights:
            _check_weights(recipe.name, recipe.folder, made)
        return recipe.same_as(made["recipe"])
    except (FileNotFoundError, ValueError):
        return False


def _remake(name: str, folder: Path) -> str:
    """The commands that restore a model."""
    path = folder / name
    place = path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
    files = [file for file, run in recipes(path.parent) if run.name == path.name != file.stem]
    recipe = f"{files[0]} --run {path.name}" if files else f"{path}.toml"
    return (
        f"`git checkout {place}.*` restores the shipped files, "
        f"`python -m minieff train {recipe} --resume` trains again"
    )


def recipes(folder: Path = FOLDER) -> list[tuple[Path, Recipe]]:
    """Every run of a folder, with the file that defines it.

    >>> (FOLDER / "speeches-depth-1.toml", read(FOLDER / "speeches-depth-1.toml")) in recipes()
    True
    """
    return [(file, run) for file in sorted(folder.glob("*.toml")) for run in read_all(file)]


def card(name: str, folder: Path = FOLDER) -> dict:
    """What came out of a recipe such as "layerdrop/masked-6": sizes, quality, log, checksum.

    FileNotFoundError or ValueError with the commands that restore the model.

    >>> card("speeches-depth-1")["vocab"]
    2048
    """
    path = folder / f"{name}.json"
    if not path.exists():
        raise FileNotFoundError(
            f"{path} is missing; the zoo has {', '.join(names(folder))}; {_remake(name, folder)}"
        )
    made = read_json(path)
    if not isinstance(made, dict) or not {"recipe", "vocab", "sha256", "quality"} <= made.keys():
        raise ValueError(f"{path} is not a model card; {_remake(name, folder)}")
    return made


def _check_weights(name: str, folder: Path, made: dict) -> Path:
    """The file of a model's weights, if its checksum is that of the card `made`; errors as for `card`.

    Weights that do not ship are looked for where training on this machine leaves them.
    """
    ships = parse(name, folder, made["recipe"]).train.weights
    path = folder / name if ships else cache() / "train" / Path(name).name / Path(name).name
    path = path.with_name(f"{path.name}.safetensors")
    if not path.exists():
        why = "is missing" if ships else "does not ship, only its card and log do"
        raise FileNotFoundError(f"{path} {why}; {_remake(name, folder)}")
    if sha256(path) != made["sha256"]:
        raise ValueError(f"{path} is not the file that its card describes; {_remake(name, folder)}")
    return path


def folders() -> list[Path]:
    """The zoo, and the folders in it, with runs that a lesson compares and whose weights do not ship.

    >>> [folder.name for folder in folders() if folder.name in ("zoo", "distill", "layerdrop")]
    ['zoo', 'distill', 'layerdrop']
    """
    return [FOLDER, *sorted(path for path in FOLDER.iterdir() if path.is_dir())]


def names(folder: Path = FOLDER) -> list[str]:
    """The models with a card, in alphabetical order.

    >>> names()[0]
    'speeches-base'
    """
    return sorted(path.stem for path in folder.glob("*.json"))


def load(name: str, folder: Path = FOLDER) -> nn.Module:
    """The trained model in fp32 and eval mode, its techniques applied; errors as for `card`.

    >>> model = load("speeches-depth-1")
    >>> model(torch.zeros(1, 5, dtype=torch.long)).shape
    torch.Size([1, 5, 2048])
    """
    made = card(name, folder)
    weights = _check_weights(name, folder, made)
    return _fill(parse(name, folder, made["recipe"]), made["vocab"], weights)


def _fill(recipe: Recipe, vocab: int, weights: Path) -> nn.Module:
    """The recipe's model with weights from a file. The global random state is left as it was."""
    with torch.random.fork_rng():
        model = compose.apply(
            Transformer(recipe.config(vocab)), compose.parse(recipe.techniques), torch.Generator()
        )
    tensors, _ = read_tensors(weights)
    return unpack(
        model, {name: t.float() if t.is_floating_point() else t for name, t in tensors.items()}
    ).eval()


def table(folder: Path = FOLDER) -> str:
    """One line per model: sizes, tokens seen and quality, from the cards.

    >>> table().splitlines()[0].split()[:4]
    ['model', 'layers', 'dim', 'params']
    """
    lines = [
        f"{'model':<20} {'layers':>6} {'dim':>5} {'params':>10} {'bytes':>10} "
        f"{'MACs/token':>11} {'tokens':>11} "
        f"{'nats':>6} {'perplexity':>10} {'bits/byte':>9}"
    ]
    for name in names(folder):
        made = card(name, folder)
        model, quality = made["recipe"]["model"], made["quality"]
        bits = "-" if quality["bits_per_byte"] is None else f"{quality['bits_per_byte']:.3f}"
        lines.append(
            f"{name:<20} {model['layers']:>6} {model['dim']:>5} {made['parameters']:>10,} "
            f"{made['bytes']:>10,} "
            f"{made['macs']:>11,.0f} {made['tokens']:>11,} {quality['nats']:>6.3f} "
            f"{quality['perplexity']:>10.1f} {bits:>9}"
        )
    return "\n".join(lines)


def queue(paths: list[str | Path], workers: int = 2) -> int:
    """Makes several models, `workers` at a time with one thread each; returns how many failed.

    Finished ones are skipped and stopped ones resumed. The largest start first; after all others come those
    that need another model, as a teacher or as a start.

    >>> queue([])
    0
    """
    runs = [(path, run) for path in paths for run in read_all(path)]
    runs.sort(key=lambda pair: -pair[1].model["layers"] * pair[1].model["dim"] ** 2)

    def work(pair: tuple[str | Path, Recipe]) -> int:
        command = [
            sys.executable,
            "-m",
            "minieff",
            "train",
            str(pair[0]),
            "--run",
            pair[1].name,
            "--resume",
        ]
        return subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}).returncode

    second = [pair for pair in runs if pair[1].distill or pair[1].train.start]
    waves = [[pair for pair in runs if pair not in second], second]
    with ThreadPoolExecutor(workers) as pool:
        return sum(code != 0 for wave in waves for code in pool.map(work, wave))
