"""`python -m minieff doctor`: whether everything the course needs is there, a line each, with the fix."""

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, requires, version

from packaging.requirements import Requirement

from minieff.core.files import ROOT, cache

Check = tuple[str, Callable[[], bool], str]


def installed(requirement: Requirement) -> bool:
    """Whether a version that fits is installed."""
    try:
        return requirement.specifier.contains(version(requirement.name), prereleases=True)
    except PackageNotFoundError:
        return False


def packages() -> Iterator[Check]:
    """Each package that the course needs, from pyproject's own list."""
    for line in (requires("minieff") or []) if installed(Requirement("minieff")) else []:
        requirement = Requirement(line)
        extra = next(
            (e for e in ("course", "pronunciations") if str(requirement.marker).endswith(f'"{e}"')), ""
        )
        if requirement.marker is None or extra:
            target = f"'.[{extra}]'" if extra else "."
            yield (
                f"package {requirement.name}{requirement.specifier}",
                lambda r=requirement: installed(r),
                f"pip install -c constraints.txt -e {target}",
            )


def loads(name: str) -> bool:
    """Whether a trained model's files are there and undamaged."""
    try:
        from minieff.core import zoo  # here: it needs packages that may be missing

        shipped = zoo.card(name)["recipe"]["train"].get("weights", True)
        return bool(zoo.load(name)) if shipped else True
    except (ImportError, ValueError, FileNotFoundError):
        return False


def writable() -> bool:
    """Whether a checkpoint could be written."""
    folder = cache()
    while not folder.exists():
        folder = folder.parent
    return os.access(folder, os.W_OK) and shutil.disk_usage(folder).free > 1e9


def models() -> Iterator[Check]:
    """Each trained model that the course loads."""
    for recipe in sorted((ROOT / "zoo").glob("*.toml")):  # those in folders of the zoo have cards alone
        yield (
            f"trained model {recipe.stem}",
            lambda name=recipe.stem: loads(name),
            f"git checkout zoo/{recipe.stem}.*, or python -m minieff train zoo/{recipe.name}",
        )


def checks() -> Iterator[Check]:
    """(what, whether it is so, how to fix it)."""
    yield (
        "Python 3.11 to 3.14",
        lambda: (3, 11) <= sys.version_info < (3, 15),
        "install one, then `make setup`",
    )
    yield "minieff itself", lambda: installed(Requirement("minieff")), "run `make setup` in the checkout"
    yield from packages()
    yield (
        "a checkout of the course",
        lambda: (ROOT / "zoo").is_dir() and (ROOT / "notebooks").is_dir(),
        "clone the repository and run `make setup` in it: notebooks and trained models lie there",
    )
    tokenizer = ROOT / "data" / "speeches-2048.json"
    yield "the tokenizer of the speeches", tokenizer.exists, "git checkout data"
    yield from models()
    yield (
        f"1 GB free and writable for checkpoints in {cache()}",
        writable,
        "make room, or set XDG_CACHE_HOME to another folder",
    )


def examine() -> int:
    """Print every check; 1 when one failed."""
    failed = 0
    for what, holds, fix in checks():
        good = holds()
        failed += not good
        print(f"OK    {what}" if good else f"FAIL  {what}: {fix}")
    return int(failed > 0)
