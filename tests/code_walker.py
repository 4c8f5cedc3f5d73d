"""The code behind each asset: every definition that its result can depend on, as a hash of its syntax tree.

Names are followed from the function that computes an asset, through `interp_assets` and `resources`; nothing is
imported. A local variable with the name of a definition counts as a use of it: better one too many than one missed.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.util import resolve_name
from pathlib import Path
from typing import NamedTuple

PACKAGES = ("interp_assets", "resources")
CUT_OFF = {
    # How work is ordered, looked at and reported.
    "interp_assets.job",
    "interp_assets.freshness",
    "interp_assets.carry_over",
    "interp_assets.provenance",
    "interp_assets.budget",
    "interp_assets.partitions",
    "interp_assets.progress",
    "interp_assets.metering",
    "interp_assets.activations.plots",
    "resources.errors",
    # What holds models and devices, tables, and replies once given.
    "resources.loaded_models",
    "resources.leases",
    "resources.partition_files",
    "resources.table_store",
    "resources.durable_files",
    "resources.reply_log",
    "resources.reply_rows",
    "resources.sqlite_pages",
    "resources.language_models.logged",
    # Settings and prompts: their values are in the fingerprint.
    "interp_assets.asset",
    "interp_assets.graph",
    "interp_assets.scores.graph",
    "interp_assets.alignment.graph",
    "interp_assets.study",
    "interp_assets.study_checks",
    "interp_assets.layers",
    "interp_assets.settings",
    "interp_assets.setting_errors",
    "interp_assets.worked_examples",
    "interp_assets.explanations.wording",
    "interp_assets.scores.wording",
    "interp_assets.scores.wording_of_others",
    "interp_assets.scores.intervention.wording",
}
VERSION = "CODE_VERSION"
"A module that holds this constant (an engine) is cut off too, and stands by itself: fingerprints hold its version."
NAMED = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
LOOSE = "(module level)"
"Statements that define nothing; they belong to all that their module defines."

Place = tuple[str, str]
"A module and a top-level definition in it."


class Module(NamedTuple):
    definitions: dict[str, list[ast.stmt]]
    imports: dict[str, str]
    "What each imported name stands for, dotted."


def code_behind(root: Path) -> dict[str, dict[str, str]]:
    """The definitions behind each asset, and behind each module with a version of its own, with short hashes.

    Args:
        root: the folder that holds the packages.
    """
    code, found = Code(root), {}
    for file in sorted((root / "interp_assets").glob("*/*.py")):
        module = f"interp_assets.{file.parent.name}.{file.stem}"
        pages = {str(each.relative_to(root)): short_hash(each.read_bytes()) for each in file.parent.glob("templates/*")}
        for name, (statement, *_) in code.module(module).definitions.items():
            for decorator in getattr(statement, "decorator_list", []):
                if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "computes":
                    found[ast.literal_eval(decorator.args[0])] = code.reached([(module, name)]) | pages
    for module in own_versions(root):
        found[module] = code.reached((module, name) for name in code.module(module).definitions)
    return found


def own_versions(root: Path) -> dict[str, str]:
    """The modules with a version of their own."""
    code, found = Code(root), {}
    for file in sorted(file for package in PACKAGES for file in (root / package).rglob("*.py")):
        module = ".".join(file.relative_to(root).with_suffix("").parts)
        for statement in code.module(module).definitions.get(VERSION, []):
            assert isinstance(statement, ast.Assign | ast.AnnAssign) and statement.value is not None
            found[module] = ast.literal_eval(statement.value)
    return found


class Code:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.module = cache(self._module)

    def reached(self, places: Iterable[Place]) -> dict[str, str]:
        """The hashes of some definitions and of all that they use."""
        found: dict[Place, str] = {}
        todo = list(places)
        while todo:
            place = todo.pop()
            if place not in found and place[1] in self.module(place[0]).definitions:
                found[place], uses = self._definition(*place)
                todo += [*uses, (place[0], LOOSE)]
        return {".".join(place): found[place] for place in sorted(found)}

    def _definition(self, name: str, definition: str) -> tuple[str, list[Place]]:
        """The hash of one definition, and what it uses."""
        module = self.module(name)
        statements = module.definitions[definition]
        imports = module.imports | self._imported(name, statements)
        uses, outside = [], set()
        for first, attributes in names_used(statements):
            uses.append((name, first))
            if first in imports:
                inside = self._meant(imports[first] + attributes)
                uses += inside or []
                outside |= {f"{first} is {imports[first]}"} if inside is None else set()
        return short_hash("\n".join([*map(ast.dump, statements), *sorted(outside)]).encode()), uses

    def _meant(self, dotted: str) -> list[Place] | None:
        """What a dotted name stands for: one definition, or all of a module; None outside of the project."""
        parts = dotted.split(".")
        for end in range(len(parts), 0, -1):
            name, rest = ".".join(parts[:end]), parts[end:]
            if self._file(name) is not None:
                module = self.module(name)
                if name in CUT_OFF or VERSION in module.definitions:
                    return []
                if rest and rest[0] in module.imports:
                    return self._meant(".".join([module.imports[rest[0]], *rest[1:]]))
                return [(name, each) for each in rest[:1] or module.definitions]
        return None

    def _file(self, name: str) -> Path | None:
        path = self.root.joinpath(*name.split("."))
        files = (path.with_suffix(".py"), path / "__init__.py")
        return next((file for file in files if name.split(".")[0] in PACKAGES and file.is_file()), None)

    def _module(self, name: str) -> Module:
        file = self._file(name)
        assert file is not None
        module = Module({}, {})
        for statement in WithoutDocstrings().visit(ast.parse(file.read_text(encoding="utf-8"))).body:
            names = bound(statement)
            imports = {} if isinstance(statement, NAMED) else self._imported(name, [statement])
            module.imports.update(imports)
            for each in names or ([] if imports else [LOOSE]):
                module.definitions.setdefault(each, []).append(statement)
        return module

    def _imported(self, name: str, statements: list[ast.stmt]) -> dict[str, str]:
        """What is imported anywhere within some statements of a module."""
        file = self._file(name)
        package = name if file is not None and file.name == "__init__.py" else name.rpartition(".")[0]
        found: dict[str, str] = {}
        for node in (node for statement in statements for node in ast.walk(statement)):
            if isinstance(node, ast.Import):
                names = [(each.asname or each.name.split(".")[0], each) for each in node.names]
                found |= {known: each.name if each.asname else known for known, each in names}
            elif isinstance(node, ast.ImportFrom):
                base = resolve_name("." * node.level + (node.module or ""), package)
                found |= {each.asname or each.name: f"{base}.{each.name}" for each in node.names}
        return found


class WithoutDocstrings(ast.NodeTransformer):
    """Strings that stand by themselves go; descriptions of attributes are such too."""

    def visit_Expr(self, node: ast.Expr) -> ast.Expr | None:
        return None if isinstance(node.value, ast.Constant) and isinstance(node.value.value, str) else node


def bound(statement: ast.AST) -> list[str]:
    """The names that a top-level statement defines or changes, also within `if` and `try`."""
    if isinstance(statement, NAMED):
        return [statement.name]
    if isinstance(statement, ast.Assign | ast.AnnAssign | ast.AugAssign):
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        return [node.id for target in targets for node in ast.walk(target) if isinstance(node, ast.Name)]
    return [name for inner in ast.iter_child_nodes(statement) for name in bound(inner)]


def names_used(nodes: Iterable[ast.AST]) -> Iterator[tuple[str, str]]:
    """Every name that is read, with the attributes that are asked of it: ("detection", ".QUESTION")."""
    for node in nodes:
        attributes, inner = "", node
        while isinstance(inner, ast.Attribute):
            attributes, inner = f".{inner.attr}{attributes}", inner.value
        if not isinstance(inner, ast.Name):
            yield from names_used(ast.iter_child_nodes(node))
        elif not isinstance(inner.ctx, ast.Store):
            yield inner.id, attributes


def short_hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:8]
