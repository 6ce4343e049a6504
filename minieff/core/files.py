"""Where files lie, and how they are written: atomically.

A file is written under a temporary name in the same folder and then renamed, which the operating system does
in one step: a reader sees the old file or the new one, and a killed process leaves the old one.
"""

import hashlib
import json
import os
import platform
import subprocess
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]  # the checkout


def write(path: Path, content: bytes | str) -> Path:
    """Writes `content` to `path`, completely or not at all; missing folders are created.

    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write(Path(folder) / "new" / "note.txt", "hello").read_text()
    'hello'
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = content.encode() if isinstance(content, str) else content
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
    return path


def write_json(path: Path, value: Any) -> Path:
    """Writes `value` as indented JSON. ValueError for NaN and infinity, which JSON does not have.

    >>> with tempfile.TemporaryDirectory() as folder:
    ...     print(write_json(Path(folder) / "card.json", {"layers": 8}).read_text(), end="")
    {
     "layers": 8
    }
    """
    return write(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """The value in a JSON file. ValueError naming the file when it is not JSON.

    >>> with tempfile.TemporaryDirectory() as folder:
    ...     read_json(write_json(Path(folder) / "card.json", {"layers": 8}))
    {'layers': 8}
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:  # not JSON, or not even text
        raise ValueError(f"{path} is damaged ({error}); restore it with git, or create it again") from None


def sha256(path: Path) -> str:
    """The checksum of a file, in hexadecimal.

    >>> with tempfile.TemporaryDirectory() as folder:
    ...     sha256(write(Path(folder) / "empty", ""))[:8]
    'e3b0c442'
    """
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def cache() -> Path:
    """Where training runs keep their checkpoints: `${XDG_CACHE_HOME:-~/.cache}/minieff`.

    >>> cache().name
    'minieff'
    """
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "minieff"


def environment() -> dict[str, Any]:
    """What a measured number depends on: torch, processor, threads, commit.

    >>> list(environment())
    ['torch', 'cpu', 'cores', 'threads', 'python', 'commit']
    """
    import torch  # here, so that `doctor` runs where torch is missing

    try:
        git = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
        commit = subprocess.run(git, capture_output=True, text=True).stdout.strip()
    except FileNotFoundError:  # git is not installed: keep the measurement all the same
        commit = ""
    return {
        "torch": torch.__version__,
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "commit": commit or None,
    }


def _cpu_name() -> str:
    """The processor as the operating system names it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def save_results(name: str, results: dict[str, Any]) -> Path:
    """Writes NAME.json, NAME such as "layerdrop/depths", with the environment it was measured in.

    Commands that build the course set `MINIEFF_RESULTS` to the checkout's `results`. Otherwise the folder
    is temporary, so that running a lesson changes no file of the checkout.

    >>> from unittest.mock import patch
    >>> with tempfile.TemporaryDirectory() as folder, patch.dict(os.environ, MINIEFF_RESULTS=folder):
    ...     read_json(save_results("layerdrop/depths", {"layers": 8}))["layers"]
    8
    """
    folder = os.environ.get("MINIEFF_RESULTS") or tempfile.mkdtemp(prefix="minieff-results-")
    return write_json(Path(folder) / f"{name}.json", {"environment": environment(), **results})


def measured(name: str) -> dict[str, Any]:
    """What an earlier `save_results` stored in `MINIEFF_RESULTS`; empty if there is nothing.

    >>> measured("never/measured")
    {}
    """
    folder = os.environ.get("MINIEFF_RESULTS")
    path = Path(folder or ".") / f"{name}.json"
    return read_json(path) if folder and path.exists() else {}


def load_results(name: str) -> dict[str, Any]:
    """What `save_results` stored in the checkout. FileNotFoundError names the command that measures it.

    >>> "environment" in load_results("layerdrop/depths")
    True
    """
    path = ROOT / "results" / f"{name}.json"
    if not path.exists():
        raise FileNotFoundError(
            f"{path} is missing; `make lessons`, `make bench` (bench/*) or `make evidence` measures it"
        )
    return read_json(path)
