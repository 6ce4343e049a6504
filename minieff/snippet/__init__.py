"""A technique to take home: its idea, to paste into a training script, or all of it as one file.

Both are cut out of the package's own files. A technique names the definitions of its idea in `IDEA`, and ends
its docstring with `By hand, ...:` and the lines of code that use them. What a definition uses comes along,
wherever in the package it is. A type of our own model that only occurs in questions such as `is_a(Block)` is
left out, with the `if` around it: in your project you pass `where=` with your own layer.
"""

import ast
import re
import textwrap
from functools import cache, partial

from minieff import compose
from minieff.core.files import ROOT
from minieff.snippet import cuts
from minieff.snippet.cuts import PARAGRAPH, SENTENCE, names

SHAPE = re.compile(r'\b[A-Z]\w*\[Tensor, "[^"]*"\]')
COUNTED = ("macs", "head_macs")  # methods that only minieff's `cost` calls
TOLD = (*COUNTED, "decides_format", "extra_repr")  # and what only describes a module
PAPER = re.compile(r'(?:[A-Z][a-z]+(?:, | and )?)+(?: et al\.)? \d{4}, (?:"[^"]*", )?arXiv \d{4}\.\d{4,5}')
BY_HAND = re.compile(r"\s*By hand[^:]*:\n\n(.*)", re.S)


class File:
    """One file of the package, cut down: its docstring, its imports, and its definitions by name."""

    def __init__(self, name: str, short: bool) -> None:
        path = ROOT / name.replace(".", "/")
        text = (path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text()
        text = SHAPE.sub("Tensor", text)
        tree = ast.parse(text)
        self.docstring = ast.get_docstring(tree)
        self.imports: dict[str, str] = {}  # name -> the line that imports it
        self.ours: dict[str, str] = {}  # name -> the file of minieff that it comes from
        for node in cuts.walk(tree, ast.Import, ast.ImportFrom):
            self._import(node)
        ours = {n for n, home in self.ours.items() if ".core." in home and cuts.only_asked_about(tree, n)}
        end = SENTENCE if short else PARAGRAPH
        self.definitions = _definitions(cuts.cut(text, ours, TOLD if short else COUNTED, end))

    def _import(self, node: ast.Import | ast.ImportFrom) -> None:
        origin = getattr(node, "module", "")
        for alias in node.names:
            name = alias.asname or alias.name
            if origin.startswith("minieff"):
                self.ours[name] = origin
            else:
                line = ast.ImportFrom(origin, [alias], 0) if origin else ast.Import([alias])
                self.imports[name] = ast.unparse(line)


def _definitions(text: str) -> dict[str, str]:
    """Functions, classes and constants by name, each with its decorators and the comment right above it."""
    lines, found = text.splitlines(), {}
    for node in ast.parse(text).body:
        if isinstance(node, ast.Assign | ast.FunctionDef | ast.ClassDef):
            first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))]) - 1
            while lines[first - 1].startswith("#"):
                first -= 1
            name = node.targets[0].id if isinstance(node, ast.Assign) else node.name
            found[name] = "\n".join(lines[first : node.end_lineno])
    return found


class Snippet:
    """Definitions of several files, with all that they use."""

    def __init__(self, name: str, short: bool) -> None:
        compose.find(name)  # ValueError for an unknown name
        self.home, self.short = f"minieff.{name}", short
        self.file = cache(partial(File, short=short))
        self.imports: set[str] = set()
        self.needed: dict[str, set[str]] = {}  # file -> definitions

    def need(self, home: str, name: str) -> None:
        """A definition, and what it uses."""
        file, known = self.file(home), self.needed.setdefault(home, set())
        if name in known:
            return
        known.add(name)
        if self.short:
            self._flatten(file, name)
        for used in names(ast.parse(file.definitions[name])):
            if used in file.ours:
                self.need(file.ours[used], used)
            elif used in file.definitions:
                self.need(home, used)
            elif used in file.imports:
                self.imports.add(file.imports[used])

    def _flatten(self, file: File, name: str) -> None:
        """A class that inherits from one of ours becomes one that does not."""
        (node,) = ast.parse(file.definitions[name]).body
        for base in node.bases if isinstance(node, ast.ClassDef) else []:
            if isinstance(base, ast.Name) and base.id in file.ours:
                origin = self.file(file.ours[base.id])
                text = cuts.rewrite(
                    file.definitions[name], partial(cuts.inherited, base=origin.definitions[base.id])
                )
                file.definitions[name], file.imports = text, origin.imports | file.imports

    def files(self, home: str) -> list[str]:
        """A file and all that it imports, each after its own imports."""
        before = [name for origin in self.file(home).ours.values() for name in self.files(origin)]
        return list(dict.fromkeys([*before, home]))

    def text(self, top: str, bottom: str = "") -> str:
        """Imports and definitions, in the order of the files."""
        parts = [
            text
            for home in self.files(self.home)
            for name, text in self.file(home).definitions.items()
            if name in self.needed.get(home, ())
        ]
        whole = "\n\n".join([f"{top}\n{_imports(self.imports)}", *parts, bottom]).rstrip()
        return re.sub(r"^([A-Z]+ = .*\n)\n(?=[A-Z]+ = )", r"\1", whole, flags=re.M) + "\n"


def _imports(lines: set[str]) -> str:
    """The lines in isort's order, those from one module merged."""
    found: dict[str, list[str]] = {}
    for line in sorted(lines):
        origin, _, name = line.partition(" import ")
        found.setdefault(origin, []).append(name)
    merged = [f"{origin} import {', '.join(own)}" if own[0] else origin for origin, own in found.items()]
    merged.sort(key=lambda line: ("torch" in line, line.startswith("from")))
    first = next(i for i, line in enumerate(merged) if "torch" in line)
    return "\n".join([*merged[:first], *[""][: first > 0], *merged[first:]])


def _comment(*lines: str) -> str:
    return "\n".join(f"# {line}".rstrip() for line in lines)


def _licence() -> str:
    holder = (ROOT / "LICENSE").read_text().splitlines()[2]
    return f"From minieff. {holder}. SPDX-License-Identifier: MIT"


def full(name: str) -> str:
    """The technique `name` as one file that needs only torch. ValueError for an unknown technique.

    >>> [line for line in full("headdrop").splitlines() if line.startswith("from t")]
    ['from typing import Any', 'from torch import Tensor, nn']
    """
    snippet = Snippet(name, short=False)
    file = snippet.file(snippet.home)
    for definition in file.definitions:
        if definition not in ("STAGE", "VERBS", "IDEA", "__all__"):
            snippet.need(snippet.home, definition)
    for definition, home in file.ours.items():
        if home.startswith(f"{snippet.home}."):  # what the package shows of its own files
            snippet.need(home, definition)
    snippet.need("minieff.core.surgery", "is_a")  # what `where=` is given
    docstring = BY_HAND.sub("", file.docstring)
    return snippet.text(f'{_comment(_licence())}\n"""{docstring}\n"""\n')


def idea(name: str) -> str:
    """The idea of the technique `name`, with the lines that use it as comments. ValueError as for `full`.

    >>> [line for line in idea("layerdrop").splitlines() if line.startswith("class")]
    ['class Skip(nn.Module):']
    """
    snippet = Snippet(name, short=True)
    file = snippet.file(snippet.home)
    for definition in ast.literal_eval(file.definitions["IDEA"].partition(" = ")[2]):
        home = next(f for f in snippet.files(snippet.home) if definition in snippet.file(f).definitions)
        snippet.need(home, definition)
    title, *_ = re.split(PARAGRAPH, file.docstring)
    before, use, _ = BY_HAND.split(file.docstring)
    equation = re.findall(r"^    .*", before, re.M)
    papers = [paper.replace(" ", "\0") for paper in PAPER.findall(" ".join(file.docstring.split()))]
    papers = textwrap.fill("; ".join(papers), cuts.WIDTH - 2).replace("\0", " ").splitlines()
    use = textwrap.dedent(use).splitlines()
    used = names(ast.parse("\n".join(use)))
    snippet.imports |= {file.imports[name] for name in used if name in file.imports}
    use = [line.removeprefix("# ") if line.startswith("# ") else f"    {line}" for line in use]
    return snippet.text(_comment(title, *equation, *papers, _licence()), _comment(*use))
