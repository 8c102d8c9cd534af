"""Docstrings of names that cross a folder's border say everything that a caller must know.

Names of `videokd.__all__` and those that a file of another folder imports: every parameter (or field) stands under "Args:", what
comes back as a mapping or a tuple is described, and a function that raises says when.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest

from tests.test_layers import PACKAGE, Module, imports_of, modules_of

Definition = ast.FunctionDef | ast.ClassDef


def names_across_folders(modules: dict[str, Module]) -> set[tuple[str, str]]:
    """(module, name) of what a file imports from another folder, or `videokd` itself offers."""
    found = set()
    files = [*modules.values(), Module("__init__", (PACKAGE / "__init__.py").read_text(encoding="utf-8"))]
    for module in files:
        for node in ast.walk(module.tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("videokd."):
                target = (node.module or "").removeprefix("videokd.")
                if target in modules and target.partition(".")[0] != module.layer:
                    found |= {(target, alias.name) for alias in node.names}
    return found


def parameters_of(node: Definition) -> list[str]:
    """Parameters of a function; fields of a dataclass; parameters of another class's `__init__`."""
    if isinstance(node, ast.FunctionDef):
        arguments = node.args
        return [a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    if any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list):
        return [n.target.id for n in node.body if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)]
    for inside in node.body:
        if isinstance(inside, ast.FunctionDef) and inside.name == "__init__":
            return parameters_of(inside)
    return []


def public_methods(node: ast.ClassDef) -> Iterator[ast.FunctionDef]:
    for inside in node.body:
        if isinstance(inside, ast.FunctionDef) and not inside.name.startswith("_"):
            yield inside


def raises(node: ast.FunctionDef) -> bool:
    """Whether the function itself raises an error of videokd or a ValueError."""
    for inside in ast.walk(node):
        if isinstance(inside, ast.Raise) and inside.exc is not None:
            name = ast.unparse(inside.exc).partition("(")[0]
            if re.fullmatch(r"(DecodeError|NeedsTranscoding|DataError|ConfigError|VideoKDError|ValueError)", name):
                return True
    return False


def gaps(where: str, node: Definition) -> list[str]:
    docstring = ast.get_docstring(node) or ""
    if not docstring:
        return [f"{where}: no docstring"]
    found = []
    described = set(re.findall(r"^    (\*{0,2}\w+(?:, \w+)*):", docstring.partition("Args:")[2], flags=re.MULTILINE))
    described = {name for group in described for name in group.split(", ")} | set(re.findall(r"`(\w+)`", docstring))
    names = [name for name in parameters_of(node) if name not in ("self", "cls") and not name.startswith("_")]
    missing = [] if re.search(r"arguments\b.* as for `", docstring) else [n for n in names if n not in described]
    if missing and (
        len(names) > 1 or isinstance(node, ast.ClassDef)
    ):  # the summary speaks of a function's only parameter
        found.append(f"{where}: Args: lacks {', '.join(missing)}")
    if isinstance(node, ast.FunctionDef):
        returned = ast.unparse(node.returns) if node.returns else "None"
        if re.match(r"(tuple|dict)\[", returned) and not re.search(r"Returns:|returns|[{(\[]", docstring):
            found.append(f"{where}: Returns: what {returned} holds")
        if raises(node) and "Raises:" not in docstring and "errors as for" not in docstring:
            found.append(f"{where}: Raises:")
    return found


def all_gaps(modules: dict[str, Module], wanted: set[tuple[str, str]]) -> list[str]:
    found = []
    for module, name in sorted(wanted):
        for node in modules[module].tree.body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name == name:
                if "overload" in map(ast.unparse, node.decorator_list):
                    continue  # the function that follows has the docstring
                found += gaps(f"{module}.{name}", node)
                if isinstance(node, ast.ClassDef):
                    for method in public_methods(node):
                        found += gaps(f"{module}.{name}.{method.name}", method) if raises(method) else []
    return found


def test_docstrings_of_names_across_folders_are_complete() -> None:
    modules = modules_of(PACKAGE)
    assert all_gaps(modules, names_across_folders(modules)) == []


@pytest.mark.parametrize(
    ("source", "gap"),
    [
        ("def f(a): ...", "codec.a.f: no docstring"),
        ('def f(a, b):\n    """One.\n\n    Args:\n        a: this.\n    """', "codec.a.f: Args: lacks b"),
        ('def f() -> dict[str, int]:\n    """All of them."""', "codec.a.f: Returns: what dict[str, int] holds"),
        ('def f():\n    """One."""\n    raise DataError("x")', "codec.a.f: Raises:"),
        ('class f:\n    """One."""\n    def __init__(self, a): ...', "codec.a.f: Args: lacks a"),
        (
            'class f:\n    """One."""\n    def g(self):\n        """Two."""\n        raise ValueError',
            "codec.a.f.g: Raises:",
        ),
    ],
)
def test_a_gap_is_found(source: str, gap: str) -> None:
    assert all_gaps({"codec.a": Module("codec.a", source)}, {("codec.a", "f")}) == [gap]


def test_a_complete_docstring_has_no_gap() -> None:
    text = '"""One.\n\n    Args:\n        a: this.\n\n    Returns:\n        {name: number}.\n\n    Raises:\n        DataError: never.\n    """'
    source = f'def f(a) -> dict[str, int]:\n    {text}\n    raise DataError("x")'
    assert all_gaps({"codec.a": Module("codec.a", source)}, {("codec.a", "f")}) == []
    assert list(imports_of(Module("codec.a", source), {})) == []
