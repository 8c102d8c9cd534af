"""What `videokd VERB --help` prints: each setting once, with what it takes and what it is by default."""

from __future__ import annotations

from argparse import SUPPRESS, Action
from collections.abc import Sequence
from dataclasses import asdict, is_dataclass
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from jsonargparse import ArgumentParser, DefaultHelpFormatter

from videokd.config import in_yaml

_ENDING = (
    "Hyphens and underscores both work in option names: --batch-size, --batch_size. A config file has the same names, nested; "
    "options win over it."
)
_METAVARS = {int: "N", float: "X", str: "TEXT", bool: "[true|false]"}


class _Formatter(DefaultHelpFormatter):
    """Options with what they take, in plain words."""

    def _format_action_invocation(self, action: Action) -> str:
        return " ".join([", ".join(action.option_strings), action.metavar or ""]).strip()  # type: ignore[list-item]

    def _get_help_string(self, action: Action) -> str:
        return action.help or ""


def help_parser(settings: type[Any], *, verb: str, positional: Sequence[str]) -> ArgumentParser:
    """A parser of a recipe's settings, its help put into words.

    Args:
        settings: the recipe's dataclass; its docstring is the help.
        verb: that runs it.
        positional: names of the fields that need no option name.
    """
    words = " ".join(
        f"{name.upper()} …" if _type_at(settings, name)[0] is tuple else name.upper() for name in positional
    )
    parser = ArgumentParser(
        prog=f"videokd {verb}",
        usage=" ".join(f"videokd {verb} {words} [--config PRESET-OR-FILE] [--option value …]".split()),
        epilog=_ENDING,
        formatter_class=_Formatter,
        exit_on_error=False,
        default_env=False,
    )
    parser.add_argument(
        "--config", metavar="PRESET-OR-FILE", help="a preset's name (see `videokd presets`) or a YAML file."
    )
    parser.add_argument("--print-config", action="store_true", help="print all settings as a config file, and stop.")
    parser.add_class_arguments(settings, None)
    return parser


def help_text(settings: type[Any], *, verb: str, positional: Sequence[str]) -> str:
    """The text; arguments as for `help_parser`."""
    parser = help_parser(settings, verb=verb, positional=positional)
    for action in parser._actions:
        if action.dest in ("help", "config", "print_config"):
            action.help = "show this help and stop." if action.dest == "help" else action.help
            continue
        kind, metavar = _type_at(settings, action.dest)
        if kind is None or is_dataclass(kind):  # a group of settings, or jsonargparse's own help on a class
            action.help = SUPPRESS
            continue
        name = "--" + action.dest.replace("_", "-")
        action.option_strings = [action.dest.upper() if action.dest in positional else name]
        action.metavar = "" if action.dest in positional and not metavar.startswith("{") else metavar
        ending = "(required)" if action.required else _default_text(action.default)
        action.help = " ".join(f"{action.help or ''} {ending}".split()).replace("%", "%%")
    return str(parser.format_help())


def _type_at(settings: type[Any], dotted: str) -> tuple[Any, str]:
    """The kind of a setting, and what stands for its value; (None, "") where the setting is unknown."""
    hint: Any = settings
    for name in dotted.split("."):
        hint = get_type_hints(hint).get(name) if is_dataclass(hint) else None
    if get_origin(hint) in (Union, UnionType):
        (hint,) = (kind for kind in get_args(hint) if kind is not type(None))
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is dict and is_dataclass(arguments[1]):
        return dict, "{NAME: {" + ", ".join(get_type_hints(arguments[1])) + "}}"
    if origin is dict:
        return dict, "{NAME: " + _METAVARS[arguments[1]] + "}"
    if origin is tuple:
        return tuple, "[" + _METAVARS[arguments[0]] + ", …]"
    if origin is Literal:
        return Literal, "{" + ",".join(map(in_yaml, arguments)) + "}"
    return hint, "" if hint is None or is_dataclass(hint) else _METAVARS[hint]


def _default_text(default: Any) -> str:
    if default is None or default in ("", (), {}):
        return ""
    if isinstance(default, bool):
        return f"(default: {str(default).lower()})"
    if isinstance(default, dict):
        return f"(default: {', '.join(default)})"
    return f"(default: {asdict(default) if is_dataclass(default) and not isinstance(default, type) else default})"
