"""A training run as a TOML file: data, model, training, techniques, a teacher.

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
    start = "speeches-base"        # a trained model of the same shapes; without this key, random weights
    [[techniques]]                 # any number, in any order
    name = "layerdrop"
    p = 0.2
    [[techniques]]
    name = "weight_sharing"
    verb = "factorize"             # another function of the technique than `apply`
    rank = 32
    [distill]                      # for a student
    teacher = "speeches-base"

`start` and `teacher` are models of the recipe's own folder or of the zoo. Of a start only the weights are
taken; the recipe's techniques are applied on top of them.

A file may hold several runs that differ in a few keys, such as seeds: [runs] names them and what differs.

    [runs]
    plain = {}
    plain-seed-1 = { train.seed = 1 }
    plain-wide = { model.dim = 256, train.rate = 1e-3 }

Everything that can be wrong with a recipe is reported before any work: an unknown key, a wrong type, a text
that is too short.
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
    """Which corpus; `paths` for corpus = "files" only; `every` n-th document or word is trained on."""

    corpus: str
    vocab: int = 2048
    paths: list = field(default_factory=list)
    every: int = 1

    def __post_init__(self) -> None:
        if self.corpus not in ("speeches", "masked", "pronunciations", "files"):
            raise ValueError(
                f"corpus={self.corpus!r}: give speeches, masked (the speeches for an encoder), "
                "pronunciations or files"
            )
        if (self.corpus == "files") != bool(self.paths) or not all(isinstance(p, str) for p in self.paths):
            raise ValueError(
                f"corpus={self.corpus!r}, paths={self.paths!r}: paths is a list of file names, for "
                "corpus = 'files' only"
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
    """AdamW with linear warm-up, then a cosine to zero. `batch` sequences per step, over all processes."""

    tokens: int
    batch: int = 16
    accumulate: int = 1  # micro-batches into which a process splits its share of a step
    rate: float = 2e-3  # the highest learning rate
    warmup: int = 100  # steps
    decay: float = 0.1  # weight decay of matrices and embeddings; norms and biases have none
    clip: float = 1.0  # the gradient is clipped to this norm
    seed: int = 0
    save: int = 100  # steps between checkpoints
    dtype: str = "float32"
    start: str = ""  # a trained model whose weights it begins with
    weights: bool = True  # whether the zoo ships the weights, or only the card with its log

    def __post_init__(self) -> None:
        for name in ("tokens", "batch", "accumulate", "rate", "clip", "save"):
            if not 0 < getattr(self, name) < inf:
                raise ValueError(f"{name}={getattr(self, name)}: must be more than 0, and finite")
        for name, end in (("warmup", inf), ("decay", inf), ("seed", 2**32)):
            if not 0 <= getattr(self, name) < end:
                raise ValueError(f"{name}={getattr(self, name)}: must be at least 0 and less than {end}")
        if self.dtype not in ("float32", "float64"):
            raise ValueError(f"dtype={self.dtype!r}: give float32 or float64")


@dataclass(frozen=True)
class Distill:
    """A teacher, and what minieff.distill makes of it. It is asked where the corpus has a target."""

    teacher: str
    temperature: float = 2.0
    weight: float = 0.5  # of the teacher; the rest is that of the targets
    augment: float = 0.0  # share of the sequences with replaced tokens, which only the teacher labels
    layers: list = field(default_factory=list)  # of the teacher, with which the student starts

    def __post_init__(self) -> None:
        if not 0 < self.temperature < inf:
            raise ValueError(f"temperature={self.temperature}: must be more than 0, and finite")
        for name in ("weight", "augment"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)}: a share is a number from 0 to 1")


@dataclass(frozen=True)
class Recipe:
    """A training run: its name, the folder of its file, and the tables of the file."""

    name: str
    folder: Path
    data: Data
    model: dict[str, Any]
    train: Training
    techniques: list[dict]
    distill: Distill | None = None

    def __post_init__(self) -> None:
        if self.train.start and self.distill and self.distill.layers:
            raise ValueError(
                f"start={self.train.start!r} and layers={self.distill.layers} both say with which weights to "
                "begin; leave one out"
            )

    @property
    def steps(self) -> int:
        return ceil(self.train.tokens / (self.train.batch * self.model["context"]))

    def config(self, vocab: int) -> Config:
        return Config(vocab=vocab, **self.model)

    def as_dict(self) -> dict[str, Any]:
        """What cards and checkpoints store: the recipe without its name and folder."""
        return {
            "data": asdict(self.data),
            "model": self.model,
            "train": asdict(self.train),
            "techniques": self.techniques,
        } | ({"distill": asdict(self.distill)} if self.distill else {})

    def same_as(self, tables: dict[str, Any]) -> bool:
        """Whether the tables of a card or a checkpoint are this recipe's; a missing key has its default."""
        return parse(self.name, self.folder, tables) == self

    def trains_like(self, tables: dict[str, Any]) -> bool:
        """As `same_as`, but `weights` may differ: it only says what ships after training."""
        other = parse(self.name, self.folder, tables)
        return replace(other, train=replace(other.train, weights=self.train.weights)) == self

    def check(self, world: int = 1) -> Trainable:
        """The corpus. ValueError unless everything fits together. `world` is the number of processes."""
        shares = world * self.train.accumulate
        if self.train.batch % shares:
            raise ValueError(
                f"batch={self.train.batch} cannot be shared by {world} processes with "
                f"{self.train.accumulate} micro-batches each; pick a multiple of {shares}"
            )
        corpus = self.data.load()
        self.config(corpus.vocab)
        corpus.check(self.model["context"])
        return corpus


def parse(name: str, folder: Path, tables: dict[str, Any]) -> Recipe:
    """A recipe from the tables of a TOML file or a card. ValueError naming the recipe and the key.

    >>> model = {"layers": 8, "heads": 4, "dim": 128, "context": 128}
    >>> tables = {"data": {"corpus": "speeches"}, "model": model, "train": {"tokens": 12_000_000}}
    >>> parse("mine", Path("."), tables).steps  # of 16 sequences of 128 tokens
    5860
    """
    try:
        _check_tables(tables)
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
            _fit(Distill, tables["distill"]) if "distill" in tables else None,
        )
    except ValueError as error:
        raise ValueError(f"recipe {name}: {error}") from None


def _check_tables(tables: dict[str, Any]) -> None:
    """ValueError unless these are the tables of a recipe, each of the right type."""
    unknown = sorted(tables.keys() - {"data", "model", "train", "techniques", "distill"})
    missing = sorted({"data", "model", "train"} - tables.keys())
    if unknown or missing:
        raise ValueError(
            f"unknown tables {unknown}, missing tables {missing}; "
            "a recipe has data, model and train, and may have techniques and distill"
        )
    techniques = tables.get("techniques", [])
    known = [name for name in ("data", "model", "train", "distill") if name in tables]
    plain = [name for name in known if not isinstance(tables[name], dict)]
    if plain or not isinstance(techniques, list) or not all(isinstance(t, dict) for t in techniques):
        raise ValueError(
            "data, model and train are tables, as in [data]; techniques is a list of them, [[techniques]]"
        )
    if "vocab" in tables["model"]:
        raise ValueError(f"vocab={tables['model']['vocab']} in [model]: vocab is a key of [data]")


def read(path: str | Path, run: str | None = None) -> Recipe:
    """The recipe in a TOML file, or its run of that name. FileNotFoundError or ValueError.

    >>> from minieff.core.files import ROOT
    >>> read(ROOT / "zoo" / "speeches-depth-1.toml").model["layers"]
    1
    """
    recipes = {recipe.name: recipe for recipe in read_all(path)}
    if run is None and len(recipes) == 1:
        return next(iter(recipes.values()))
    if run not in recipes:
        raise ValueError(f"{path} has the runs {', '.join(recipes)}; name one of them with --run, not {run}")
    return recipes[run]


def read_all(path: str | Path) -> list[Recipe]:
    """All runs of a TOML file; without [runs], one with the file's name.

    >>> from minieff.core.files import ROOT
    >>> [recipe.name for recipe in read_all(ROOT / "zoo" / "speeches-depth-1.toml")]
    ['speeches-depth-1']
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such recipe; the course's recipes are in zoo/*.toml")
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
    return [parse(name, path.parent, _changed(tables, change)) for name, change in runs.items()]


def _changed(tables: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    """`tables` with the keys in `change` replaced, table by table; lists are replaced as one."""
    both = {key: _changed(tables[key], change[key]) for key in change if isinstance(tables.get(key), dict)}
    return tables | change | both


def _fit(kind: type, table: dict[str, Any]) -> Any:
    """The dataclass `kind` from a table. ValueError for unknown, missing and wrongly typed keys."""
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
