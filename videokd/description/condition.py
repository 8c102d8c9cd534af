"""Conditions on the columns of a description, such as `still < 0.9 and cuts == 0`: parsed, never executed as Python."""

from __future__ import annotations

import ast
import operator
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from videokd.description.table import COLUMNS
from videokd.errors import ConfigError

_LONGEST = 1000  # characters
_DEEPEST = 100  # parts within parts
_SAMPLES: Mapping[str, Any] = {"str": "a", "int": 1, "float": 1.0, "bool": True}
#: {column: a value of its type} of the columns that a condition may name
_COLUMNS = {
    name: _SAMPLES[kind.removesuffix(" | None")] for name, kind in COLUMNS if kind.removesuffix(" | None") in _SAMPLES
}
_COMPARISONS: Mapping[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_ARITHMETIC: Mapping[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_EXAMPLE = '"still < 0.9 and cuts == 0"'


class _Unknown(Exception):
    """A column that the condition needs is not known of this clip."""


@dataclass(frozen=True)
class Condition:
    """A condition on a clip's description.

    Args:
        text: names of columns, numbers, texts in quotes, True and False, comparisons, and, or, not, +, -, *, /, and parentheses.

    Raises:
        ConfigError: the text is anything else, names an unknown column, or compares a number with a text.
    """

    text: str

    def __post_init__(self) -> None:
        self._check(self._tree(), top=True)

    def _tree(self) -> ast.expr:
        try:
            if len(self.text) > _LONGEST:
                raise ValueError(f"longer than {_LONGEST} characters")
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # such as a number that runs into a word
                tree = ast.parse(self.text.strip(), mode="eval").body
            if _depth(tree) > _DEEPEST:
                raise ValueError("nested too deeply")
            return tree
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            reason = getattr(error, "msg", None) or str(error) or "nested too deeply"
            raise self._refused(reason) from error

    def _refused(self, reason: str) -> ConfigError:
        return ConfigError(
            f"where {self.text[:200]!r}: {reason} (accepted: comparisons of columns with numbers or texts, as in {_EXAMPLE}; columns: "
            f"{', '.join(_COLUMNS)}). Correct it."
        )

    def _check(self, node: ast.expr, *, top: bool = False) -> Any:
        """A value of the type that a part gives; raises ConfigError where it is not allowed."""
        parts = [self._check(part) for part in ast.iter_child_nodes(node) if isinstance(part, ast.expr)]
        if isinstance(node, ast.Name) and node.id not in _COLUMNS:
            raise self._refused(f"no column {node.id}")
        try:
            value = _combined(node, parts, _COLUMNS)
        except ZeroDivisionError:
            value = 1.0
        except OverflowError as error:
            raise self._refused("a number is too large") from error
        except TypeError as error:
            raise self._refused(f"{ast.unparse(node)[:80]} combines a number and a text") from error
        except NotImplementedError as error:
            raise self._refused(f"{ast.unparse(node)[:80]} is not allowed") from error
        if top and not isinstance(value, bool):
            raise self._refused("it is neither true nor false")
        return value

    def why_not(self, description: Mapping[str, Any]) -> str | None:
        """Why a clip does not fulfil the condition; None if it does.

        Args:
            description: {column: value}. A clip of which a needed column is not known does not fulfil it; an unknown text is empty.
        """
        try:
            if _value(self._tree(), description):
                return None
        except _Unknown as unknown:
            return f"{unknown} is not known: its codec exports no motion vectors, or it has no P-frames"
        except ZeroDivisionError:
            return "it divides by zero"
        except OverflowError:
            return "a number is too large"
        named = sorted({node.id for node in ast.walk(self._tree()) if isinstance(node, ast.Name)})
        return ", ".join(f"{name} is {description.get(name)}" for name in named)


def _depth(tree: ast.expr) -> int:
    """How many levels of parts within parts it has; counted without recursion."""
    depth, level = 0, [tree]
    while level:
        depth += 1
        level = [part for node in level for part in ast.iter_child_nodes(node) if isinstance(part, ast.expr)]
    return depth


def _value(node: ast.expr, description: Mapping[str, Any]) -> Any:
    if isinstance(node, ast.BoolOp):  # the rest is not looked at where the result is certain
        decides = isinstance(node.op, ast.Or)
        return next((decides for part in node.values if bool(_value(part, description)) == decides), not decides)
    parts = [_value(part, description) for part in ast.iter_child_nodes(node) if isinstance(part, ast.expr)]
    return _combined(node, parts, description)


def _combined(node: ast.expr, parts: list[Any], description: Mapping[str, Any]) -> Any:  # noqa: PLR0911
    """The value of a part, from the values of its own parts."""
    if isinstance(node, ast.Constant) and type(node.value) in (int, float, str, bool):
        return node.value
    if isinstance(node, ast.Name):
        value = description.get(node.id)
        if value is None and _COLUMNS[node.id] != _SAMPLES["str"]:
            raise _Unknown(node.id)
        return "" if value is None else value
    if isinstance(node, ast.BoolOp):
        return all(parts) if isinstance(node.op, ast.And) else any(parts)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        return not parts[0]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -parts[0]
    if isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC:
        if str in map(type, parts):
            raise TypeError
        return _ARITHMETIC[type(node.op)](*parts)
    if isinstance(node, ast.Compare) and all(type(comparison) in _COMPARISONS for comparison in node.ops):
        if len({isinstance(part, str) for part in parts}) > 1:
            raise TypeError
        pairs = zip(node.ops, parts, parts[1:], strict=False)
        return all(_COMPARISONS[type(comparison)](before, after) for comparison, before, after in pairs)
    raise NotImplementedError
