"""Which checks a learner has passed: a small file that git ignores and that may be deleted at any time."""

import importlib
from datetime import date
from pathlib import Path

from minieff.files import ROOT, read_json, write_json

FILE: Path | None = (
    ROOT / ".progress.json"
)  # None remembers nothing: solutions set it, for they are no progress


def passed() -> dict[str, dict[str, str]]:
    """Topic to task to the day it was passed; empty where the file is missing or damaged."""
    try:
        found = read_json(FILE) if FILE else {}
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) and all(isinstance(days, dict) for days in found.values()) else {}


def remember(topic: str, name: str) -> None:
    """Note a pass. A file that cannot be written costs the learner the note, not the verdict."""
    known = passed()
    if FILE is None or name in known.get(topic, {}):
        return
    known.setdefault(topic, {})[name] = date.today().isoformat()
    try:
        write_json(FILE, known)
    except OSError:
        pass


def table() -> str:
    """A line a task: topic, name, the day it was passed or a dash; then how many are."""
    from exercises import graders  # here, because it imports this file

    known, lines = passed(), []
    for source in sorted((ROOT / "exercises" / "source").glob("*.py")):
        topic = source.stem[3:]
        for name in graders.tasks(importlib.import_module(f"exercises.graders.{topic}")):
            lines.append(f"{topic:20} {name:20} {known.get(topic, {}).get(name, '-')}")
    return "\n".join([*lines, f"{sum(not line.endswith('-') for line in lines)} of {len(lines)} passed"])
