"""A technique as one file to take home: nothing of minieff is imported, what it uses is written into it.

The definitions that a technique takes from core are copied above it, with those that they use in turn. A
type of our own model that is only asked about, as in `is_a(Block)`, becomes an empty class: in your project
you pass `where=` with your own layer. Shape annotations become plain `Tensor`s, so that torch is all the file
needs.
"""

import ast
import re
from pathlib import Path

from minieff import compose
from minieff.core.files import ROOT

PACKAGE = Path(__file__).parent
Node = ast.FunctionDef | ast.ClassDef | ast.Assign


class Source:
    """One module of the package: its text, its imports, its definitions by name."""

    def __init__(self, stem: str) -> None:
        self.text = (PACKAGE / f"{stem}.py").read_text()
        self.lines = self.text.splitlines()
        self.tree = ast.parse(self.text)
        self.imports: dict[str, str] = {}  # name -> the line that imports it
        self.ours: dict[str, str] = {}  # name -> the module of minieff that it comes from
        self.definitions: dict[str, Node] = {}
        for node in self.tree.body:
            self._read(node)

    def _read(self, node: ast.stmt) -> None:
        if isinstance(node, ast.Import | ast.ImportFrom):
            origin = getattr(node, "module", None) or ""
            for alias in node.names:
                name = alias.asname or alias.name
                if origin.startswith("minieff."):
                    self.ours[name] = origin.removeprefix("minieff.")
                else:
                    self.imports[name.split(".")[0]] = ast.unparse(
                        ast.ImportFrom(origin, [alias], 0) if origin else ast.Import([alias])
                    )
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            self.definitions[node.name] = node
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            self.definitions[node.targets[0].id] = node

    def segment(self, node: ast.stmt) -> str:
        """The node's lines, with decorators and the comment lines right above it."""
        first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))]) - 1
        while first and self.lines[first - 1].startswith("#"):
            first -= 1
        return "\n".join(self.lines[first : node.end_lineno])


def used_names(nodes: list[ast.stmt]) -> set[str]:
    """Names that occur, those inside of quoted annotations left out."""
    return {n.id for node in nodes for n in ast.walk(node) if isinstance(n, ast.Name)}


def only_asked_about(nodes: list[ast.stmt], name: str) -> bool:
    """Whether every use of `name` is an argument of is_a or isinstance."""
    asked = 0
    for node in (n for top in nodes for n in ast.walk(top) if isinstance(n, ast.Call)):
        if isinstance(node.func, ast.Name) and node.func.id in ("is_a", "isinstance"):
            asked += sum(isinstance(n, ast.Name) and n.id == name for a in node.args for n in ast.walk(a))
    every = sum(isinstance(n, ast.Name) and n.id == name for top in nodes for n in ast.walk(top))
    return asked == every


class Collected:
    """What a snippet is made of, in the order in which it must stand."""

    def __init__(self) -> None:
        self.imports: set[str] = set()
        self.parts: dict[tuple[str, str], str] = {}

    def need(self, source: Source, nodes: list[ast.stmt], stem: str) -> None:
        """Everything that the nodes of a module use, definitions before their users."""
        for name in sorted(used_names(nodes)):
            if name in source.imports:
                self.imports.add(source.imports[name])
            elif name in source.ours and only_asked_about(nodes, name):
                self.parts.setdefault((source.ours[name], name), placeholder(name))
            elif name in source.ours:
                self.define(source.ours[name], name)
            elif name in source.definitions and stem:
                self.define(stem, name)

    def define(self, stem: str, name: str) -> None:
        """One definition of core, after what it uses."""
        if (stem, name) in self.parts:
            return
        source = Source(stem)
        node = source.definitions[name]
        self.parts[stem, name] = ""  # a definition may name itself
        self.need(source, [node], stem)
        del self.parts[stem, name]
        self.parts[stem, name] = source.segment(node)


def placeholder(name: str) -> str:
    """An empty class for a type of our model."""
    return f'class {name}:\n    """{name} of minieff\'s model. For yours, pass where=is_a(YourLayer)."""'


def plain(text: str) -> str:
    """Shape annotations to `Tensor`."""
    return re.sub(r'\b[A-Z][A-Za-z0-9]*\[Tensor, "[^"]*"\]', "Tensor", text)


def snippet(name: str) -> str:
    """The technique `name` as the text of one self-contained file. ValueError when there is none."""
    compose.find(name)
    source = Source(name)
    body = [n for n in source.tree.body[1:] if not isinstance(n, ast.Import | ast.ImportFrom)]
    collected = Collected()
    collected.need(source, body, "")
    licence = (ROOT / "LICENSE").read_text().splitlines()
    docstring = source.segment(source.tree.body[0])
    imports = sorted(line for line in collected.imports if "jaxtyping" not in line)
    own = source.text[len("\n".join(source.lines[: body[0].lineno - 1])) :].strip()
    parts = [f"# From minieff. {licence[2]}. SPDX-License-Identifier: MIT", docstring, "\n".join(imports)]
    parts += ["# What the technique uses", *collected.parts.values(), "# The technique", own]
    return plain("\n\n\n".join(parts)) + "\n"
