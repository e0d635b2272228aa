"""A digest of the code that a rule runs, so that a change of code re-runs what it can change and nothing else.

What counts is a script and, of the modules of this package, the functions, classes and constants that it uses, directly
or through others: as syntax trees, without comments, layout, docstrings, and the texts of errors and log messages. The
walk is our own: grimp and the standard library's modulefinder follow imports by module only, and so would train again
after a change of any function beside one that a training uses.
"""

from __future__ import annotations

import ast
import hashlib
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from prrmse.files import sha256_of

PACKAGE = "prrmse"
# The folder that holds this package.
SOURCE = Path(__file__).parents[2]
# They hand arguments and streams on, or refuse what is damaged, and decide no result.
GLUE = ("prrmse.run.job", "prrmse.run.warm", "prrmse.run.hashes")
EVERYTHING = "*"
# Names the environment variable with which Snakemake tells its jobs what `sources_digest` was when it planned them.
SOURCES = "PRRMSE_SOURCES"
# Module, and a name that it binds; `EVERYTHING` for the module as a whole.
Wanted = tuple[str, str]


def code_digest(script: str | Path, source: str | Path = SOURCE) -> str:
    """A hash of everything in a script, and of `used_by` it, that can change a result.

    Args:
        script: a Python file.
        source: the folder that holds the package.
    """
    parts = [canonical(Path(script).read_text())]
    parts += [f"{name}: {text}" for name, text in used_by(script, source).items()]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def sources_digest(scripts: str | Path) -> str:
    """A hash of the program's files as they are: quick to take, but a comment changes it too.

    Args:
        scripts: the folder of the workflow's scripts.
    """
    files = sorted([*(SOURCE / PACKAGE).rglob("*.py"), *Path(scripts).glob("*.py")])
    return hashlib.sha256("".join(f"{sha256_of(path)}  {path.name}\n" for path in files).encode()).hexdigest()


def used_by(script: str | Path, source: str | Path = SOURCE) -> dict[str, str]:
    """Of each module of this package, the statements that a script uses, directly or through others.

    Imports in functions and under ``try`` count; those under ``if TYPE_CHECKING`` do not, nor does `GLUE`. Of a module
    that is imported, statements that bind no name always count, since they run. Not followed: a network that the
    parameters name by an import path.

    Args:
        script: a Python file.
        source: the folder that holds the package.

    Returns:
        Module -> its used statements as `canonical` text, in order of the modules' names.
    """
    source = Path(source)
    found: dict[str, set[int]] = {}
    seen: set[Wanted] = set()
    queue = [wanted for imports in _module(Path(script), source).imports for wanted in imports]
    while queue:
        wanted = queue.pop()
        name, path = wanted[0], _path_of(wanted[0], source)
        if wanted in seen or name in GLUE or path is None:
            continue
        seen.add(wanted)
        module = _module(path, source)
        if name not in found:  # importing it runs what it imports, too
            found[name] = set()
            queue += [(imported, "") for imports in module.imports for imported, _ in imports]
        new = module.needed(wanted[1]) - found[name]
        found[name] |= new
        queue += [wanted for i in new for wanted in module.imports[i]]
    modules = {name: _module(path, source) for name in sorted(found) if (path := _path_of(name, source))}
    return {name: "\n".join(modules[name].texts[i] for i in sorted(found[name])) for name in modules if found[name]}


def canonical(code: str) -> str:
    """Code as a text that two files share if they differ in nothing that can change a result.

    The same with every version of Python (which `ast.dump` is not).
    """
    return "\n".join(_text(statement) for statement in _statements(code))


class _OnlyWhatDecides(ast.NodeTransformer):
    """Drops docstrings, log messages and what only a type checker reads; empties the texts of errors."""

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        if isinstance(node.value, ast.Constant) or _is_message(node.value):
            return None
        return self.generic_visit(node)

    def visit_If(self, node: ast.If) -> ast.AST | list[ast.stmt]:
        if ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            return [self.visit(statement) for statement in node.orelse]
        return self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        if name.endswith(("Error", "Exit")):
            node.args = [_WithoutTexts().visit(argument) for argument in node.args]
        if name == "Field":  # of a parameter: what it means
            node.keywords = [keyword for keyword in node.keywords if keyword.arg != "description"]
        return self.generic_visit(node)

    def visit_Assert(self, node: ast.Assert) -> ast.AST:
        node.msg = None
        return self.generic_visit(node)


class _WithoutTexts(ast.NodeTransformer):
    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        return ast.Constant("") if isinstance(node.value, str) else node

    def visit_JoinedStr(self, _: ast.JoinedStr) -> ast.AST:
        return ast.Constant("")


def _is_message(node: ast.expr) -> bool:
    """``log.info(...)`` and its like, ``warnings.warn(...)``."""
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
        return False
    name = node.func.value.id if isinstance(node.func.value, ast.Name) else ""
    return name in ("log", "logger", "logging") or (name, node.func.attr) == ("warnings", "warn")


@dataclass(frozen=True)
class _Module:
    """Of each statement of a module: its text, the names that it binds and mentions, and what it imports."""

    texts: list[str]
    binds: list[set[str]]
    mentions: list[set[str]]
    imports: list[list[Wanted]]

    def needed(self, name: str) -> set[int]:
        """Indices of the statements that bind a name, of those that they need, and of all that bind none."""
        if name == EVERYTHING:
            return set(range(len(self.texts)))
        chosen = {i for i, names in enumerate(self.binds) if not names or name in names}
        queue = list(chosen)
        while queue:
            mentioned = self.mentions[queue.pop()]
            new = {i for i, names in enumerate(self.binds) if names & mentioned} - chosen
            chosen |= new
            queue += new
        return chosen


@cache
def _module(path: Path, source: Path) -> _Module:
    found = _statements(path.read_text())
    return _Module(
        [_text(statement) for statement in found],
        [_bound(statement) for statement in found],
        [_mentioned(statement) for statement in found],
        [_imported(statement, source) for statement in found],
    )


def _statements(code: str) -> list[ast.stmt]:
    """What decides, in order; each import of several names as several statements."""
    found: list[ast.stmt] = []
    for node in _OnlyWhatDecides().visit(ast.parse(code)).body:
        if isinstance(node, ast.ImportFrom):
            found += [ast.ImportFrom(node.module, [alias], node.level) for alias in node.names]
        elif isinstance(node, ast.Import):
            found += [ast.Import([alias]) for alias in node.names]
        else:
            found.append(node)
    return found


def _bound(statement: ast.stmt) -> set[str]:
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {statement.name}
    names: set[str] = set()
    for node in ast.walk(statement):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    return names


def _mentioned(statement: ast.stmt) -> set[str]:
    """Names, and texts that could be names: annotations may be texts."""
    nodes = list(ast.walk(statement))
    texts = {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    return {node.id for node in nodes if isinstance(node, ast.Name)} | texts


def _imported(statement: ast.stmt, source: Path) -> list[Wanted]:
    """What a statement imports of the package."""
    found: list[Wanted] = []
    for node in ast.walk(statement):
        if isinstance(node, ast.Import):
            found += [(alias.name, EVERYTHING) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                part = f"{node.module}.{alias.name}"
                found.append((part, EVERYTHING) if _path_of(part, source) else (node.module, alias.name))
    # A package's own file runs, too, when one of its modules is imported.
    packages = {(".".join(name.split(".")[:i]), "") for name, _ in found for i in range(1, name.count(".") + 1)}
    return [(name, part) for name, part in [*found, *packages] if name.split(".")[0] == PACKAGE]


@cache
def _path_of(module: str, source: Path) -> Path | None:
    """The file of a module; None if it is no module of the package."""
    base = source.joinpath(*module.split("."))
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)


def _text(statement: ast.stmt) -> str:
    return json.dumps(_plain(statement))


def _plain(node: object) -> object:
    if isinstance(node, list):
        return [_plain(item) for item in node]
    if not isinstance(node, ast.AST):
        return repr(node)
    # Newer versions of Python have more fields, which are empty where the code does not use them.
    kept = [(k, v) for k, v in ast.iter_fields(node) if v != [] and (v is not None or isinstance(node, ast.Constant))]
    return [type(node).__name__, *([key, _plain(value)] for key, value in kept if key != "kind")]
