"""`python -m minieff doctor`: whether everything the course needs is there, one line each, with the fix."""

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, requires, version

from packaging.requirements import Requirement

from minieff.core.files import ROOT, cache

Check = tuple[str, Callable[[], bool], str]


def installed(requirement: Requirement) -> bool:
    """Whether a version that fits is installed.

    >>> installed(Requirement("torch>=2.6")), installed(Requirement("torch>=99"))
    (True, False)
    """
    try:
        return requirement.specifier.contains(version(requirement.name), prereleases=True)
    except PackageNotFoundError:
        return False


def _packages() -> Iterator[Check]:
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


def _loads(name: str) -> bool:
    """Whether a trained model's files exist and are undamaged."""
    try:
        from minieff.core import zoo  # not at the top: it needs packages that may be missing

        shipped = zoo.card(name)["recipe"]["train"].get("weights", True)
        return bool(zoo.load(name)) if shipped else True
    except (ImportError, ValueError, FileNotFoundError):
        return False


def _writable() -> bool:
    """Whether there is space for a checkpoint, and permission to write it."""
    folder = cache()
    while not folder.exists():
        folder = folder.parent
    return os.access(folder, os.W_OK) and shutil.disk_usage(folder).free > 1e9


def _models() -> Iterator[Check]:
    """Each trained model that the course loads."""
    for recipe in sorted((ROOT / "zoo").glob("*.toml")):  # those in its folders have only cards
        yield (
            f"trained model {recipe.stem}",
            lambda name=recipe.stem: _loads(name),
            f"git checkout zoo/{recipe.stem}.*, or python -m minieff train zoo/{recipe.name}",
        )


def _checks() -> Iterator[Check]:
    """(what is needed, whether it is there, how to fix it)."""
    yield (
        "Python 3.11 to 3.14",
        lambda: (3, 11) <= sys.version_info < (3, 15),
        "install one, then `make setup`",
    )
    yield "minieff itself", lambda: installed(Requirement("minieff")), "run `make setup` in the checkout"
    yield from _packages()
    yield (
        "a checkout of the course",
        lambda: (ROOT / "zoo").is_dir() and (ROOT / "notebooks").is_dir(),
        "clone the repository and run `make setup` in it: notebooks and trained models are in it",
    )
    tokenizer = ROOT / "data" / "speeches-2048.json"
    yield "the tokenizer of the speeches", tokenizer.exists, "git checkout data"
    yield from _models()
    yield (
        f"1 GB free and writable for checkpoints in {cache()}",
        _writable,
        "make room, or set XDG_CACHE_HOME to another folder",
    )


def examine() -> int:
    """Prints every check; returns 1 when one failed, else 0.

    >>> from contextlib import redirect_stdout
    >>> from io import StringIO
    >>> with redirect_stdout(StringIO()) as printed:
    ...     failed = examine()
    >>> printed.getvalue().splitlines()[0]
    'OK    Python 3.11 to 3.14'
    """
    failed = 0
    for what, holds, fix in _checks():
        good = holds()
        failed += not good
        print(f"OK    {what}" if good else f"FAIL  {what}: {fix}")
    return int(failed > 0)
