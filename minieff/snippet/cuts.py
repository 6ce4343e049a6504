"""Cuts in Python text that leave comments and layout as they are.

A cut looks at the syntax tree and yields edits (start, end, new text), none inside another. `ours` are types
of our own model that occur only in `is_a` or `isinstance`.
"""

import ast
import re
import textwrap
from collections.abc import Callable, Iterator
from functools import partial
from itertools import accumulate

WIDTH = 110
SENTENCE, PARAGRAPH = r"(?<=\.)\s", r"\n\s*\n"  # where the first one ends
UNBROKEN = re.compile(r" (?!\w+:|\*)")  # spaces inside an argument
Span = Callable[[ast.AST], tuple[int, int]]
Edits = Iterator[tuple[int, int, str]]


def rewrite(text: str, cut: Callable[[ast.Module, Span], Edits]) -> str:
    """The text after a cut, without the lines that it left empty.

    >>> rewrite("x = is_a(Block, int)", partial(_types, ours={"Block"}))
    'x = is_a(int)'
    """
    starts = list(accumulate(map(len, text.splitlines(keepends=True)), initial=0))

    def span(node: ast.AST) -> tuple[int, int]:
        return starts[node.lineno - 1] + node.col_offset, starts[node.end_lineno - 1] + node.end_col_offset

    for start, end, new in sorted(cut(ast.parse(text), span), reverse=True):
        text = text[:start] + new + text[end:]
    return re.sub(r"^ +\n", "", text, flags=re.M)


def walk(tree: ast.AST, *kinds: type) -> list[ast.AST]:
    """All nodes of these kinds.

    >>> [node.name for node in walk(ast.parse("def f(): ..."), ast.FunctionDef)]
    ['f']
    """
    return [node for node in ast.walk(tree) if isinstance(node, kinds)]


def names(node: ast.AST) -> list[str]:
    """All names in the code, except in quoted annotations.

    >>> names(ast.parse("f(x) + y"))
    ['y', 'f', 'x']
    """
    return [n.id for n in walk(node, ast.Name)]


def _questions(node: ast.AST, kind: str) -> list[ast.Call]:
    """The calls of `is_a` or of `isinstance` in `node`.

    >>> len(_questions(ast.parse("is_a(A), f(B)"), "is_a"))
    1
    """
    return [n for n in walk(node, ast.Call) if isinstance(n.func, ast.Name) and n.func.id == kind]


def only_asked_about(tree: ast.Module, name: str) -> bool:
    """Whether every use of `name` is an argument of is_a or isinstance.

    >>> only_asked_about(ast.parse("is_a(A)"), "A"), only_asked_about(ast.parse("A()"), "A")
    (True, False)
    """
    calls = _questions(tree, "is_a") + _questions(tree, "isinstance")
    return names(tree).count(name) == sum(names(part).count(name) for call in calls for part in call.args)


def _defaults(tree: ast.Module, span: Span, ours: set[str]) -> Edits:
    """`where: Where = is_a(Block)` to `where: Where`.

    >>> rewrite("def f(*, where=is_a(Block)): ...", partial(_defaults, ours={"Block"}))
    'def f(*, where): ...'
    """
    for arguments in walk(tree, ast.arguments):
        for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
            if default and _questions(default, "is_a") and set(names(default)) <= ours | {"is_a"}:
                yield span(argument)[1], span(default)[1], ""


def _types(tree: ast.Module, span: Span, ours: set[str]) -> Edits:
    """`is_a(Block, nn.Linear)` to `is_a(nn.Linear)`.

    >>> rewrite("is_a(Block, nn.Linear)", partial(_types, ours={"Block"}))
    'is_a(nn.Linear)'
    """
    for call in _questions(tree, "is_a"):
        if ours & set(names(call)):
            rest = [ast.unparse(kind) for kind in call.args if not ours & set(names(kind))]
            yield span(call.args[0])[0], span(call.args[-1])[1], ", ".join(rest)


def _ifs(tree: ast.Module, span: Span, ours: set[str]) -> Edits:
    """`if isinstance(x, Block): ... elif other: ...` to `if other: ...`. No `else` may follow.

    >>> rewrite("if isinstance(x, Block): f()\\nelif y: g()", partial(_ifs, ours={"Block"}))
    'if y: g()'
    """
    elifs = [node.orelse[0] for node in walk(tree, ast.If) if node.orelse]
    for node in walk(tree, ast.If):
        if any(ours & set(names(call.args[1])) for call in _questions(node.test, "isinstance")):
            start, end = span(node)
            if node.orelse and node.orelse[0].col_offset != node.col_offset:
                raise ValueError(
                    f"{ast.unparse(node.test)} has an else, which cannot be cut; return before it"
                )
            skipped = 0 if node in elifs else len("el")
            yield (start, span(node.orelse[0])[0] + skipped, "") if node.orelse else (start, end, "")


def _members(tree: ast.Module, span: Span, unwanted: tuple[str, ...]) -> Edits:
    """Classes without these methods and attributes.

    >>> rewrite("class A:\\n    x = 1\\n    macs = 2", partial(_members, unwanted=("macs",))).split()
    ['class', 'A:', 'x', '=', '1']
    """
    for kind in walk(tree, ast.ClassDef):
        for before, node in zip(kind.body, kind.body[1:], strict=False):
            name = node.targets[0].id if isinstance(node, ast.Assign) else getattr(node, "name", "")
            if name in unwanted:
                yield span(before)[1], span(node)[1], ""


def _docstrings(tree: ast.Module, span: Span, end: str) -> Edits:
    """Docstrings of functions and classes, up to the first match of the pattern `end`.

    >>> text = "def f():\\n    'One. Two.'"
    >>> "Two" in rewrite(text, partial(_docstrings, end=SENTENCE))
    False
    """
    for node in walk(tree, ast.FunctionDef, ast.ClassDef):
        text = ast.get_docstring(node, clean=False)
        if text:
            yield *span(node.body[0]), f'"""{re.split(end, text, maxsplit=1)[0].rstrip()}"""'


def _signatures(tree: ast.Module, span: Span, text: str) -> Edits:
    """Signatures on as few lines as they need, now that shapes are gone.

    >>> text = "def f(\\n    x,\\n): ..."
    >>> rewrite(text, partial(_signatures, text=text)).splitlines()[0]
    'def f(x):'
    """
    for node in walk(tree, ast.FunctionDef):
        start, end = span(node)[0], span(node.body[0])[0]
        header = re.sub(r"\s+", " ", text[start:end].rstrip()).replace("( ", "(")
        header = re.sub(r",? \)", ")", header)
        indent = "\n" + " " * node.col_offset
        if len(indent + header) > WIDTH + 1:
            opening, arguments, result = re.fullmatch(r"(.*?\()(.*)(\).*?)", header).groups()
            lines = textwrap.wrap(UNBROKEN.sub("\0", arguments), WIDTH - len(indent) - 4)
            header = f"{indent}    ".join([opening, *lines]).replace("\0", " ").rstrip(" ,")
            header = f"{header},{indent}{result}"
        yield start, end, f"{header}{indent}    "


def inherited(tree: ast.Module, span: Span, base: str) -> Edits:
    """A class with what it inherits from `base` written out: `__init__`, and methods that it does not define.

    >>> base = "class B(M):\\n    def __init__(self, x):\\n        self.x = x"
    >>> text = "class A(B):\\n    def __init__(self, x):\\n        super().__init__(x)"
    >>> rewrite(text, partial(inherited, base=base)).splitlines()[0::2]
    ['class A(M):', '        self.x = x']
    """
    (own,), (origin,) = tree.body, ast.parse(base).body
    theirs = {n.name: n for n in origin.body if isinstance(n, ast.FunctionDef)}
    mine = {n.name: n for n in own.body if isinstance(n, ast.FunctionDef)}
    start = "\n        ".join(ast.unparse(line) for line in theirs["__init__"].body)
    more = [ast.get_source_segment(base, node) for name, node in theirs.items() if name not in mine]
    yield *span(own.bases[0]), ast.unparse(origin.bases[0])
    yield *span(mine["__init__"].body[0]), start
    end = span(mine["__init__"])[1]
    yield end, end, "".join(f"\n\n    {method}" for method in more)


def cut(text: str, ours: set[str], unwanted: tuple[str, ...], end: str) -> str:
    """All of the cuts above except `inherited`.

    >>> cut("def f(where=1):\\n    return is_a(Block, int)", {"Block"}, (), "$^").splitlines()[1]
    '    return is_a(int)'
    """
    for find in (partial(f, ours=ours) for f in (_defaults, _types, _ifs)):
        text = rewrite(text, find)
    text = rewrite(text, partial(_members, unwanted=unwanted))
    text = rewrite(text, partial(_docstrings, end=end))
    return rewrite(text, partial(_signatures, text=text))
