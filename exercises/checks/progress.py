"""Which checks a learner has passed: a small file that git ignores and that may be deleted at any time.

`python -m minieff progress` prints `table()`: a line a lesson, and what comes next.
"""

import re
import sys
from datetime import date
from pathlib import Path

from minieff.core.files import ROOT, read_json, write_json

FILE: Path | None = ROOT / ".progress.json"  # None remembers nothing: running a solution is no progress


def passed() -> dict[str, dict[str, str]]:
    """Topic to task to the day it was passed; empty where the file is missing or damaged."""
    try:
        found = read_json(FILE) if FILE else {}
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) and all(isinstance(days, dict) for days in found.values()) else {}


def remember(task: object) -> None:
    """Note a pass under the topic and the name of the task, if a topic has it. A file that cannot be written costs the
    learner the note, not the verdict.
    """
    package = __package__ + "."
    topics = {
        name.removeprefix(package): vars(m) for name, m in sys.modules.items() if name.startswith(package)
    }
    places = [
        (topic, name) for topic, values in topics.items() for name, value in values.items() if value is task
    ]
    known = passed()
    if FILE is None or not places or places[0][1] in known.get(places[0][0], {}):
        return
    topic, name = places[0]
    known.setdefault(topic, {})[name] = date.today().isoformat()
    try:
        write_json(FILE, known)
    except OSError:
        pass


def lessons() -> dict[str, tuple[str, list[str]]]:
    """{"08_layerdrop": ("08 LayerDrop", names of the exercise's tasks)}, in the order of the course."""
    found = {}
    for source in sorted((ROOT / "exercises" / "source").glob("*.py")):
        heading = re.search(r"^# # (.+)$", (ROOT / "notebooks" / "source" / source.name).read_text(), re.M)
        names = re.findall(r"^check\.(\w+)\(", source.read_text(), re.M)
        found[source.stem] = (heading[1].partition(":")[0], names)
    return found


def table() -> str:
    """A line a lesson, such as "08 LayerDrop: 4 of 6", and the task to do next."""
    known, lines, following = passed(), [], ""
    for stem, (title, names) in lessons().items():
        left = [name for name in names if name not in known.get(stem[3:], {})]
        lines.append(f"{title}: {len(names) - len(left)} of {len(names)}")
        if left and not following:
            number = names.index(left[0]) + 1
            following = f"Next: task {number} ({left[0]}) in exercises/{stem}.ipynb"
    return "\n".join([*lines, following or "All tasks are passed."])
