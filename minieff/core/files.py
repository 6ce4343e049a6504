"""Where files lie, and how they are written: whole or not at all.

A file is written beside its place under a temporary name and then renamed, which the operating system does in
one step: whoever reads sees the old file or the new one, and a killed process leaves the old one.
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
    """`content` to `path`, whole or not at all; folders are made."""
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
    """`value` as indented JSON. ValueError for NaN and infinity, which JSON does not know."""
    return write(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """ValueError naming the file when it is not JSON."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:  # no JSON, or not even text
        raise ValueError(f"{path} is damaged ({error}); restore it with git, or make it again") from None


def sha256(path: Path) -> str:
    """The checksum of a file, in hexadecimal."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def cache() -> Path:
    """Where checkpoints of running trainings lie: `${XDG_CACHE_HOME:-~/.cache}/minieff`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "minieff"


def environment() -> dict[str, Any]:
    """What a measured number depends on: torch, processor, threads, commit."""
    import torch  # here, so that whoever lacks torch can still be told so

    try:
        git = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
        commit = subprocess.run(git, capture_output=True, text=True).stdout.strip()
    except FileNotFoundError:  # no git: no reason to lose what was measured
        commit = ""
    return {
        "torch": torch.__version__,
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "commit": commit or None,
    }


def cpu_name() -> str:
    """The processor as the operating system names it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def save_results(name: str, results: dict[str, Any]) -> Path:
    """`results/NAME.json`, NAME such as "layerdrop/depths", with the environment it was measured in.

    Only the builders set `MINIEFF_RESULTS` to the checkout's folder; for everybody else it is a temporary
    one, so that running a lesson changes no file of the checkout.
    """
    folder = os.environ.get("MINIEFF_RESULTS") or tempfile.mkdtemp(prefix="minieff-results-")
    return write_json(Path(folder) / f"{name}.json", {"environment": environment(), **results})


def measured(name: str) -> dict[str, Any]:
    """What an earlier run of a builder has stored under that name; empty if there is none."""
    folder = os.environ.get("MINIEFF_RESULTS")
    path = Path(folder or ".") / f"{name}.json"
    return read_json(path) if folder and path.exists() else {}


def load_results(name: str) -> dict[str, Any]:
    """What `save_results` stored in the checkout. FileNotFoundError names the command that measures it."""
    path = ROOT / "results" / f"{name}.json"
    if not path.exists():
        raise FileNotFoundError(
            f"{path} is missing; `make lessons`, `make bench` (bench/*) or `make evidence` measures it"
        )
    return read_json(path)
