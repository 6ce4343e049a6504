"""A technique to take home: its idea, to paste into a training script, or all of it as one file.

Both are cut out of the package's own files. A technique names in `IDEA` which of its definitions are the idea,
and shows in the `>>>` lines of its docstring how to use these by hand. What a definition uses comes along, from
wherever in the package it is. A type of our own model that is only asked about, as in `is_a(Block)`, is left
out, with the `if` that asks for it: in your project you pass `where=` with your own layer.
"""

import ast
import re
import textwrap
from collections.abc import Callable, Iterator
from functools import cache, partial
from itertools import accumulate
from pathlib import Path

from minieff import compose
from minieff.core.files import ROOT

WIDTH = 110
SHAPE = re.compile(r'\b[A-Z]\w*\[Tensor, "[^"]*"\]')
UNBROKEN = re.compile(r" (?!\w+:|\*)")  # spaces inside of an argument
CORE_ASKS = ("macs", "decides_format", "extra_repr")  # attributes without meaning outside of minieff
PAPER = re.compile(r'(?:[A-Z][a-z]+(?:, | and )?)+(?: et al\.)? \d{4}, (?:"[^"]*", )?arXiv \d{4}\.\d{4,5}')
Span = Callable[[ast.AST], tuple[int, int]]
Edits = Iterator[tuple[int, int, str]]  # from, to, what instead


def rewrite(text: str, find: Callable[[ast.Module, Span], Edits]) -> str:
    """The text after the edits that `find` wants in its syntax tree, without the lines that they empty."""
    starts = list(accumulate(map(len, text.splitlines(keepends=True)), initial=0))

    def span(node: ast.AST) -> tuple[int, int]:
        return starts[node.lineno - 1] + node.col_offset, starts[node.end_lineno - 1] + node.end_col_offset

    for start, end, new in sorted(find(ast.parse(text), span), reverse=True):
        text = text[:start] + new + text[end:]
    return re.sub(r"^ +\n", "", text, flags=re.M)


def walk(tree: ast.AST, *kinds: type) -> list[ast.AST]:
    return [node for node in ast.walk(tree) if isinstance(node, kinds)]


def names(node: ast.AST) -> list[str]:
    """All that occur, but in quoted annotations."""
    return [n.id for n in walk(node, ast.Name)]


def questions(node: ast.AST, kind: str) -> list[ast.Call]:
    """The calls of `is_a` or of `isinstance` in `node`."""
    return [n for n in walk(node, ast.Call) if names(n.func) == [kind] and isinstance(n.func, ast.Name)]


def only_asked_about(tree: ast.Module, name: str) -> bool:
    """Whether every use of `name` is an argument of is_a or isinstance."""
    calls = questions(tree, "is_a") + questions(tree, "isinstance")
    return names(tree).count(name) == sum(names(part).count(name) for call in calls for part in call.args)


def without_defaults(tree: ast.Module, span: Span, ours: set[str]) -> Edits:
    """`where: Where = is_a(Block)` to `where: Where`."""
    for arguments in walk(tree, ast.arguments):
        for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
            if default and questions(default, "is_a") and set(names(default)) <= ours | {"is_a"}:
                yield span(argument)[1], span(default)[1], ""


def without_questions(tree: ast.Module, span: Span, ours: set[str]) -> Edits:
    """`is_a(Block, nn.Linear)` to `is_a(nn.Linear)`; and an `if` that asks `isinstance(x, Block)` goes."""
    for call in questions(tree, "is_a"):
        if ours & set(names(call)):
            rest = [ast.unparse(kind) for kind in call.args if not ours & set(names(kind))]
            yield span(call.args[0])[0], span(call.args[-1])[1], ", ".join(rest)
    for node in walk(tree, ast.If):
        if any(ours & set(names(call.args[1])) for call in questions(node.test, "isinstance")):
            start, end = span(node)
            yield (start, span(node.orelse[0])[0] + len("el"), "") if node.orelse else (start, end, "")


def without_members(tree: ast.Module, span: Span, unwanted: tuple[str, ...]) -> Edits:
    """Classes without these methods and attributes."""
    for kind in walk(tree, ast.ClassDef):
        for before, node in zip(kind.body, kind.body[1:], strict=False):
            name = node.targets[0].id if isinstance(node, ast.Assign) else getattr(node, "name", "")
            if name in unwanted:
                yield span(before)[1], span(node)[1], ""


def shorter_docstrings(tree: ast.Module, span: Span, end: str) -> Edits:
    """Docstrings up to where the pattern `end` first matches."""
    for node in walk(tree, ast.FunctionDef, ast.ClassDef):
        text = ast.get_docstring(node, clean=False)
        if text:
            yield *span(node.body[0]), f'"""{re.split(end, text, maxsplit=1)[0].rstrip()}"""'


def shorter_signatures(tree: ast.Module, span: Span, text: str) -> Edits:
    """Signatures on as few lines as they need, now that shapes are gone."""
    for node in walk(tree, ast.FunctionDef):
        start, end = span(node)[0], span(node.body[0])[0]
        header = re.sub(r"\s+", " ", text[start:end].rstrip())
        header = re.sub(r",? \)", ")", header.replace("( ", "("))
        indent = "\n" + " " * node.col_offset
        if len(indent + header) - 1 > WIDTH:
            opening, arguments, result = re.fullmatch(r"(.*?\()(.*)(\).*?)", header).groups()
            lines = textwrap.wrap(UNBROKEN.sub("\0", arguments), WIDTH - len(indent) - 4)
            header = f"{indent}    ".join([opening, *lines]).replace("\0", " ").rstrip(" ,") + f",{indent}{result}"
        yield start, end, f"{header}{indent}    "


class File:
    """One file of the package, cut down: its imports, and its definitions by name."""

    def __init__(self, name: str, short: bool) -> None:
        path = ROOT / name.replace(".", "/")
        text = (path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text()
        text = SHAPE.sub("Tensor", text)
        tree = ast.parse(text)
        self.docstring = ast.get_docstring(tree)
        self.imports: dict[str, str] = {}  # name -> the line that imports it
        self.ours: dict[str, str] = {}  # name -> the file of minieff that it comes from
        for node in walk(tree, ast.Import, ast.ImportFrom):
            self._import(node)
        ours = {n for n, home in self.ours.items() if ".core." in home and only_asked_about(tree, n)}
        for find in (
            partial(without_defaults, ours=ours),
            partial(without_questions, ours=ours),
            partial(without_members, unwanted=CORE_ASKS if short else CORE_ASKS[:1]),
            partial(shorter_docstrings, end=r"(?<=\.)\s" if short else r"\n\s*\n"),
        ):
            text = rewrite(text, find)
        text = rewrite(text, partial(shorter_signatures, text=text))
        self.definitions = definitions(text)

    def _import(self, node: ast.Import | ast.ImportFrom) -> None:
        origin = getattr(node, "module", "")
        for alias in node.names:
            name = alias.asname or alias.name
            if origin.startswith("minieff"):
                self.ours[name] = origin
            else:
                line = ast.ImportFrom(origin, [alias], 0) if origin else ast.Import([alias])
                self.imports[name] = ast.unparse(line)


def definitions(text: str) -> dict[str, str]:
    """Functions, classes and constants by name, each with the comment right above it."""
    lines, found = text.splitlines(), {}
    for node in ast.parse(text).body:
        if isinstance(node, ast.Assign):
            name = node.targets[0].id
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            name = node.name
        else:
            continue
        first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))]) - 1
        while lines[first - 1].startswith("#"):
            first -= 1
        found[name] = "\n".join(lines[first : node.end_lineno])
    return found


class Cut:
    """Definitions of several files, with all that they use."""

    def __init__(self, short: bool) -> None:
        self.file, self.short = cache(partial(File, short=short)), short
        self.imports: set[str] = set()
        self.names: dict[str, set[str]] = {}  # file -> definitions

    def need(self, home: str, name: str) -> None:
        """A definition, and what it uses."""
        file, known = self.file(home), self.names.setdefault(home, set())
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

    def _flatten(self, file: "File", name: str) -> None:
        """A class that inherits from one of ours, to one that does not."""
        (node,) = ast.parse(file.definitions[name]).body
        for base in names(ast.Tuple(node.bases)) if isinstance(node, ast.ClassDef) else []:
            if base in file.ours:
                origin = self.file(file.ours[base])
                file.definitions[name] = flattened(file.definitions[name], origin.definitions[base])
                file.imports = origin.imports | file.imports

    def head(self) -> str:
        """The imports, in isort's order, those from one module on one line."""
        found: dict[str, list[str]] = {}
        for line in sorted(self.imports):
            origin, _, name = line.partition(" import ")
            found.setdefault(origin, []).append(name)
        lines = [f"{o} import {', '.join(n)}" if n[0] else o for o, n in found.items()]
        lines.sort(key=lambda line: ("torch" in line, line.startswith("from")))
        first = next(i for i, line in enumerate(lines) if "torch" in line)
        return "\n".join([*lines[:first], *([""] if first else []), *lines[first:]])

    def files(self, home: str) -> list[str]:
        """A file and all that it imports, each after those that it imports itself."""
        before = [name for origin in self.file(home).ours.values() for name in self.files(origin)]
        return list(dict.fromkeys([*before, home]))

    def parts(self, home: str) -> list[str]:
        """What is needed, in the order of the files."""
        return [
            text
            for file in self.files(home)
            for name, text in self.file(file).definitions.items()
            if name in self.names.get(file, ())
        ]


def flattened(kind: str, base: str) -> str:
    """The text of a class with what it has from `base` in it: how it starts, and methods that are not its own."""
    own, inherited = ast.parse(kind).body[0], ast.parse(base).body[0]
    methods = {n.name: n for n in inherited.body if isinstance(n, ast.FunctionDef)}
    names_of_own = [n.name for n in own.body if isinstance(n, ast.FunctionDef)]
    start = "\n        ".join(ast.unparse(line) for line in methods["__init__"].body)
    missing = [ast.get_source_segment(base, n) for name, n in methods.items() if name not in names_of_own]

    def edits(tree: ast.Module, span: Span) -> Edits:
        yield *span(tree.body[0].bases[0]), ast.unparse(inherited.bases[0])
        for node in walk(tree, ast.FunctionDef):
            if node.name == "__init__":
                yield *span(node.body[0]), start
                yield span(node)[1], span(node)[1], "".join(f"\n\n    {method}" for method in missing)

    return rewrite(kind, edits)


def technique(name: str) -> str:
    """Its file. ValueError where there is no such technique."""
    compose.find(name)
    return f"minieff.{name}"


def full(name: str) -> str:
    """The technique `name` as one file that needs torch alone, with its verbs."""
    cut, home = Cut(short=False), technique(name)
    for definition in cut.file(home).definitions:
        if definition not in ("STAGE", "IDEA"):
            cut.need(home, definition)
    return join([comment(licence()), f'"""{cut.file(home).docstring}\n"""', cut.head(), *cut.parts(home)])


def idea(name: str) -> str:
    """The idea of the technique `name`, and the lines that use it as comments."""
    cut, home = Cut(short=True), technique(name)
    file = cut.file(home)
    for definition in ast.literal_eval(file.definitions["IDEA"].partition("=")[2].strip()):
        cut.need(next(f for f in cut.files(home) if definition in cut.file(f).definitions), definition)
    docstring = file.docstring
    use = re.findall(r"^ *(?:>>>|\.\.\.) ?(.*)", docstring, re.M)
    cut.imports |= {file.imports[used] for used in names(ast.parse("\n".join(use))) if used in file.imports}
    equation = re.findall(r"^    (?!>>>|\.\.\.).*", docstring, re.M)
    papers = "; ".join(PAPER.findall(" ".join(docstring.split())))
    top = [docstring.partition("\n\n")[0], *equation, *textwrap.wrap(papers, WIDTH - 2), licence()]
    use = [line.removeprefix("# ") if line.startswith("# ") else f"    {line}" for line in use]
    return join([comment(*top), cut.head(), *cut.parts(home), comment(*use)])


def join(parts: list[str]) -> str:
    """A blank line between parts, none after a constant."""
    gaps = ["\n" if re.match(r"\w+ = ", part) else "\n\n" for part in parts]
    return "".join(part + gap for part, gap in zip(parts, gaps, strict=True)).rstrip() + "\n"


def comment(*lines: str) -> str:
    return "\n".join(f"# {line}".rstrip() for line in lines)


def licence() -> str:
    holder = (ROOT / "LICENSE").read_text().splitlines()[2]
    return f"From minieff. {holder}. SPDX-License-Identifier: MIT"
