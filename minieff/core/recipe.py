"""A training run as a TOML file: data, model, training, techniques.

    [data]
    corpus = "speeches"            # or "masked", "pronunciations", "files" with paths = [...]
    vocab = 2048
    [model]
    layers = 8
    heads = 4
    dim = 128
    context = 128
    [train]
    tokens = 12_000_000
    [[techniques]]                 # any number, in any order
    name = "layerdrop"
    p = 0.2

A file may hold several runs that differ in a few keys, such as seeds: [runs] names them, with what differs.

    [runs]
    plain = {}
    plain-seed-1 = { train.seed = 1 }
    plain-wide = { model.dim = 256, train.rate = 1e-3 }

Everything that could be wrong with a recipe is found before any work: an unknown key, a wrong type, a corpus
too short.
"""

import tomllib
from dataclasses import asdict, dataclass, field, fields, replace
from math import ceil, inf
from pathlib import Path
from typing import Any

from minieff import compose
from minieff.core.data import Trainable, pronunciations, speeches, text_files
from minieff.core.masked import Masked
from minieff.core.transformer import Config


@dataclass(frozen=True)
class Data:
    """Which corpus; `paths` for corpus = "files" only; `every` n-th document or word alone is trained on."""

    corpus: str
    vocab: int = 2048
    paths: list = field(default_factory=list)
    every: int = 1

    def __post_init__(self) -> None:
        if self.corpus not in ("speeches", "masked", "pronunciations", "files"):
            raise ValueError(
                f"corpus={self.corpus!r}: there are speeches, masked (the speeches for an encoder), "
                "pronunciations and files"
            )
        if (self.corpus == "files") != bool(self.paths) or not all(isinstance(p, str) for p in self.paths):
            raise ValueError(
                f"corpus={self.corpus!r}, paths={self.paths!r}: paths is a list of file names, for "
                "corpus = 'files' and for no other"
            )
        if self.every < 1:
            raise ValueError(f"every={self.every}: 1 trains on all documents, 10 on every tenth")

    def load(self) -> Trainable:
        if self.corpus == "pronunciations":
            return pronunciations().thinned(self.every)
        files = self.corpus == "files"
        corpus = (text_files(self.paths, self.vocab) if files else speeches(self.vocab)).thinned(self.every)
        return Masked(corpus) if self.corpus == "masked" else corpus


@dataclass(frozen=True)
class Training:
    """AdamW with linear warm-up and a cosine to zero. `batch` sequences make a step, over all processes
    together.
    """

    tokens: int
    batch: int = 16
    accumulate: int = 1  # pieces in which a process computes its share of a step
    rate: float = 2e-3  # the highest learning rate
    warmup: int = 100  # steps
    decay: float = 0.1  # weight decay of matrices and embeddings; norms and biases have none
    clip: float = 1.0  # largest norm of the gradient
    seed: int = 0
    save: int = 100  # steps between checkpoints
    dtype: str = "float32"
    weights: bool = True  # whether the zoo ships the weights, or the card with its log alone

    def __post_init__(self) -> None:
        for name in ("tokens", "batch", "accumulate", "rate", "clip", "save"):
            if not 0 < getattr(self, name) < inf:
                raise ValueError(f"{name}={getattr(self, name)}: must be more than 0, and finite")
        for name, end in (("warmup", inf), ("decay", inf), ("seed", 2**32)):
            if not 0 <= getattr(self, name) < end:
                raise ValueError(f"{name}={getattr(self, name)}: must be from 0 up to, not including, {end}")
        if self.dtype not in ("float32", "float64"):
            raise ValueError(f"dtype={self.dtype!r}: float32 or float64")


@dataclass(frozen=True)
class Recipe:
    """A training run: its name, its parts, and what follows from them."""

    name: str
    folder: Path
    data: Data
    model: dict[str, Any]
    train: Training
    techniques: list[dict]

    @property
    def steps(self) -> int:
        return ceil(self.train.tokens / (self.train.batch * self.model["context"]))

    def config(self, vocab: int) -> Config:
        return Config(vocab=vocab, **self.model)

    def as_dict(self) -> dict[str, Any]:
        """What a card and a checkpoint remember: the recipe without its place on the disk."""
        return {
            "data": asdict(self.data),
            "model": self.model,
            "train": asdict(self.train),
            "techniques": self.techniques,
        }

    def same_as(self, tables: dict[str, Any]) -> bool:
        """Whether the tables of a card or a checkpoint are this recipe's, keys left out at their defaults."""
        return parse(self.name, self.folder, tables) == self

    def trains_like(self, tables: dict[str, Any]) -> bool:
        """The same, whatever the two say about `weights`: what ships is decided after the training."""
        other = parse(self.name, self.folder, tables)
        return replace(other, train=replace(other.train, weights=self.train.weights)) == self

    def check(self, world: int = 1) -> Trainable:
        """The corpus, once everything fits together; ValueError otherwise. `world` is the number of
        processes.
        """
        shares = world * self.train.accumulate
        if self.train.batch % shares:
            raise ValueError(
                f"batch={self.train.batch} cannot be shared by {world} processes in {self.train.accumulate} "
                f"pieces each; pick a multiple of {shares}"
            )
        corpus = self.data.load()
        self.config(corpus.vocab)
        corpus.check(self.model["context"])
        return corpus


def parse(name: str, folder: Path, tables: dict[str, Any]) -> Recipe:
    """A recipe from the tables of a TOML file or of a card. ValueError naming the recipe and the key."""
    try:
        check_tables(tables)
        techniques = tables.get("techniques", [])
        _fit(Config, {"vocab": 256, **tables["model"]})
        compose.parse(techniques)
        return Recipe(
            name,
            folder,
            _fit(Data, tables["data"]),
            tables["model"],
            _fit(Training, tables["train"]),
            techniques,
        )
    except ValueError as error:
        raise ValueError(f"recipe {name}: {error}") from None


def check_tables(tables: dict[str, Any]) -> None:
    """ValueError unless these are the tables of a recipe, each of its kind."""
    unknown = sorted(tables.keys() - {"data", "model", "train", "techniques"})
    missing = sorted({"data", "model", "train"} - tables.keys())
    if unknown or missing:
        raise ValueError(
            f"unknown tables {unknown}, missing tables {missing}; "
            "a recipe has data, model, train and perhaps techniques"
        )
    techniques = tables.get("techniques", [])
    plain = [name for name in ("data", "model", "train") if not isinstance(tables[name], dict)]
    if plain or not isinstance(techniques, list) or not all(isinstance(t, dict) for t in techniques):
        raise ValueError(
            "data, model and train are tables, [data]; techniques are a list of tables, [[techniques]]"
        )
    if "vocab" in tables["model"]:
        raise ValueError(f"vocab={tables['model']['vocab']} of the model: vocab is a key of [data]")


def read(path: str | Path, run: str | None = None) -> Recipe:
    """The recipe in a TOML file, of several the run of that name. FileNotFoundError or ValueError."""
    recipes = {recipe.name: recipe for recipe in read_all(path)}
    if run is None and len(recipes) == 1:
        return next(iter(recipes.values()))
    if run not in recipes:
        raise ValueError(f"{path} has the runs {', '.join(recipes)}; name one of them with --run, not {run}")
    return recipes[run]


def read_all(path: str | Path) -> list[Recipe]:
    """All runs of a TOML file; without [runs] one, which has the file's name."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such recipe; those of the course lie in zoo/*.toml")
    try:
        tables = tomllib.loads(path.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"recipe {path} is not TOML: {error}") from None
    runs = tables.pop("runs", {path.stem: {}})
    if (
        not isinstance(runs, dict)
        or not runs
        or not all(isinstance(change, dict) for change in runs.values())
    ):
        raise ValueError(f"recipe {path}: [runs] names at least one run, each with a table of what differs")
    return [parse(name, path.parent, changed(tables, change)) for name, change in runs.items()]


def changed(tables: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    """`tables` with the keys of `change`, table by table; lists are replaced."""
    both = {key: changed(tables[key], change[key]) for key in change if isinstance(tables.get(key), dict)}
    return tables | change | both


def _fit(kind: type, table: dict[str, Any]) -> Any:
    """The dataclass `kind` from a table; ValueError for unknown, missing and wrongly typed keys."""
    known = {f.name: f for f in fields(kind)}
    required = {name for name, f in known.items() if f.default is f.default_factory}  # both MISSING
    if table.keys() - known or required - table.keys():
        raise ValueError(
            f"unknown keys {sorted(table.keys() - known)}, missing keys {sorted(required - table.keys())}; "
            f"this table knows {sorted(known)}"
        )
    for name, value in table.items():
        wanted = {int: int, float: (int, float), str: str, list: list, bool: bool, int | None: int}[
            known[name].type
        ]
        if not isinstance(value, wanted) or isinstance(value, bool) != (wanted is bool):
            raise ValueError(f"{name}={value!r} is not of type {known[name].type}")
    return kind(**table)
