"""What a config file or an option may hold: read and checked against the recipe's dataclass before anything else sees it.

Values are numbers, words, lists and mappings; nothing names a module, a class or another file to read.
"""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, asdict, fields, is_dataclass
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from videokd.errors import ConfigError, VideoKDError

_LONGEST = 100_000
_SCALARS: dict[object, str] = {str: "a text", int: "a whole number", float: "a number", bool: "true or false"}


class _Loader(yaml.SafeLoader):
    """YAML without tags, anchors (they can multiply) and repeated keys; 1e-3 is a number, a date is a text."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise yaml.MarkedYAMLError(
                problem="anchors and aliases (& and *) are not accepted", problem_mark=event.start_mark
            )
        if getattr(event, "tag", None):
            raise yaml.MarkedYAMLError(problem=f"the tag {event.tag} is not accepted", problem_mark=event.start_mark)
        return super().compose_node(parent, index)  # type: ignore[no-untyped-call]

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if str(key.value) in seen:
                raise yaml.MarkedYAMLError(problem=f"{key.value} is given twice", problem_mark=key.start_mark)
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)  # type: ignore[no-untyped-call]


_Loader.yaml_implicit_resolvers = {}
for _kind, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", [*"~nN", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(0|[1-9][\d_]*)", list("-+0123456789")),
    ("float", r"[-+]?(\d[\d_]*\.[\d_]*|\.\d+)([eE][-+]?\d+)?|[-+]?\d[\d_]*[eE][-+]?\d+", list("-+0123456789.")),
    ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", list("-+.")),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_kind}", re.compile(f"^(?:{_pattern})$"), _first)


def read_yaml(text: str, *, where: str) -> Any:
    """A YAML text as plain numbers, texts, lists and mappings.

    Args:
        text: at most 100,000 characters.
        where: it comes from, for the error.

    Raises:
        ConfigError: it is not plain YAML, or has tags, anchors or a repeated key.

    >>> read_yaml("{lr: 1e-3, out: 2024-01-01}", where="example")
    {'lr': 0.001, 'out': '2024-01-01'}
    """
    if len(text) > _LONGEST:
        raise ConfigError(f"{where} has {len(text)} characters (accepted: at most {_LONGEST}). Give another file.")
    try:
        return yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, ValueError, RecursionError, TypeError, AttributeError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        reason = getattr(error, "problem", None) or (
            "it is nested too deeply" if isinstance(error, RecursionError) else error
        )
        raise ConfigError(f"{where}{line}: {reason} (accepted: plain YAML). Correct it.") from error


def read_option(settings: type[Any], dotted: str, text: str) -> Any:
    """The value of an option of the command line, of its setting's type.

    Args:
        settings: the recipe's dataclass.
        dotted: name of the setting.
        text: as it was typed; that of a text is taken as it is.

    Raises:
        ConfigError: the setting is unknown, or the value does not fit it.
    """
    hint, optional = _without_none(setting_type(settings, dotted))
    if optional and text in ("null", "None"):
        return None
    if hint is str or (get_origin(hint) is Literal and text in get_args(hint)):
        return text
    where = f"--{dotted}"
    if get_origin(hint) is Literal or hint in _SCALARS:
        try:
            value = read_yaml(text, where=where)
        except ConfigError:
            value = text
    else:
        value = read_yaml(text, where=where)
    return checked(hint, value, where=where)


def setting_type(settings: type[Any], dotted: str) -> Any:
    """The type of a setting such as `optim.lr` or `teachers.motion`.

    Args:
        settings: a dataclass of settings.
        dotted: name of the setting, from the dataclass down.

    Raises:
        ConfigError: there is none of that name.
    """
    hint: Any = settings
    for number, name in enumerate(dotted.split(".")):
        hint, _ = _without_none(hint)
        if is_dataclass(hint) and name in (known := _hints(hint)):
            hint = known[name]
        elif get_origin(hint) is dict and name:
            hint = get_args(hint)[1]
        else:
            close = _close(dotted, list(setting_names(settings)))
            hint_text = f" Did you mean --{close[0]}?" if close else ""
            parts = dotted.split(".")
            known_part = ".".join(parts[:number])
            reason = f": {known_part} has no {parts[number]!r}" if number else ""
            raise ConfigError(f"--{dotted} is unknown{reason}.{hint_text}")
    return hint


def _close(unknown: str, known: Sequence[str]) -> list[str]:
    """The setting that was meant, as far as one can tell: the new name of one that was renamed, or one that is written like it."""
    renamed = _RENAMED.get(unknown, ("", {}))[0]
    return [renamed] if renamed in known else difflib.get_close_matches(unknown, known, n=1)


def setting_names(settings: type[Any], prefix: str = "") -> Iterator[str]:
    """Dotted names of all settings."""
    for name, hint in _hints(settings).items():
        yield f"{prefix}{name}"
        if is_dataclass(hint):
            yield from setting_names(hint, f"{prefix}{name}.")  # type: ignore[arg-type]


def checked(hint: Any, value: Any, *, where: str) -> Any:
    """The value, if it fits its type: scalars, lists and mappings, down to the last one.

    Args:
        hint: a dataclass, dict[str, …], tuple[…], Literal, str, int, float, bool, or one of these or None.
        value: plain, as JSON or YAML holds it.
        where: names the setting, for the error.

    Raises:
        ConfigError: it does not fit.
    """
    hint, optional = _without_none(hint)
    if value is None and optional:
        return None
    if is_dataclass(hint):
        return _checked_fields(hint, value, where=where)
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is dict:
        if not isinstance(value, Mapping) or not all(isinstance(key, str) and key for key in value):
            raise _refusal(where, value, "a mapping, as in {name: value}")
        return {key: checked(arguments[1], item, where=f"{where}.{key}") for key, item in value.items()}
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise _refusal(where, value, "a list, as in [first, second]")
        kinds = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else list(arguments)
        if len(kinds) != len(value):
            raise _refusal(where, value, f"a list of {len(kinds)}")
        return [
            checked(kind, item, where=f"{where}[{i}]") for i, (kind, item) in enumerate(zip(kinds, value, strict=True))
        ]
    if origin is Literal:
        if not any(value == one and type(value) is type(one) for one in arguments):  # 1 is not true
            raise _refusal(where, value, ", ".join(map(in_yaml, arguments)))
        return value
    return _checked_scalar(hint, value, where=where)


def in_yaml(choice: object) -> str:
    """One of the values of a Literal as it is written in a file and on the command line.

    >>> in_yaml(True), in_yaml("cosine")
    ('true', 'cosine')
    """
    return str(choice).lower() if isinstance(choice, bool) else str(choice)


def is_switch(hint: Any) -> bool:
    """Whether an option without a value means true."""
    return hint is bool or (get_origin(hint) is Literal and True in get_args(hint))


def _checked_scalar(hint: Any, value: Any, *, where: str) -> Any:
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value) if abs(value) < 1e300 else math.inf
    if type(value) is not hint or (hint is float and not math.isfinite(value)):
        in_quotes = "; put it in quotes" if hint is str and isinstance(value, (bool, int, float)) else ""
        raise _refusal(
            where,
            value,
            ("a finite number" if hint is float and isinstance(value, float) else _SCALARS[hint]) + in_quotes,
        )
    return value


def _checked_fields(settings: Any, value: Any, *, where: str) -> dict[str, Any]:
    hints = _hints(settings)
    if not isinstance(value, Mapping):
        raise _refusal(where, value, f"a mapping with {', '.join(hints)}")
    unknown = next((key for key in value if key not in hints), None)
    if unknown is not None:
        close = _close(str(unknown), list(hints))
        known = f"Did you mean {close[0]}?" if close else f"Accepted: {', '.join(hints)}."
        raise ConfigError(f"{where}: {_shown(unknown)} is unknown. {known}")
    return {key: checked(hints[key], item, where=f"{where}.{key}") for key, item in value.items()}


def known_part(hint: Any, value: Any, *, where: str) -> Any:
    """A JSON value without the keys that its type does not have; 2e9 is a whole number too, as JSON has one kind of number.

    Args:
        hint: as for `checked`.
        value: plain, as JSON holds it.
        where: it comes from, for the error.

    Raises:
        ConfigError: a key is missing whose field has no default value; a default factory serves only whoever makes a new one.
    """
    hint, _ = _without_none(hint)
    if is_dataclass(hint) and isinstance(value, Mapping):
        hints = _hints(hint)
        missing = [each.name for each in fields(hint) if each.default is MISSING and each.name not in value]
        if missing:
            raise ConfigError(f"{where} lacks {', '.join(missing)} (accepted: {', '.join(hints)}). Correct it.")
        return {key: known_part(hints[key], value[key], where=f"{where}.{key}") for key in hints if key in value}
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is dict and isinstance(value, Mapping):
        return {key: known_part(arguments[1], item, where=f"{where}.{key:.80}") for key, item in value.items()}
    if origin is tuple and arguments[-1] is Ellipsis and isinstance(value, list):
        return [known_part(arguments[0], item, where=f"{where}[{i}]") for i, item in enumerate(value)]
    return int(value) if hint is int and isinstance(value, float) and value.is_integer() else value


def built(hint: Any, value: Any, *, where: str = "") -> Any:
    """The dataclass, tuple or mapping that a checked value describes; fields that are missing take their defaults.

    Args:
        hint: as for `checked`.
        value: what `checked` returned.
        where: it comes from; what a dataclass refuses is then named by its place.

    Raises:
        TypeError: a field without a default is missing.
        VideoKDError: a dataclass refuses its values.
    """
    hint, _ = _without_none(hint)
    if value is None:
        return None
    if is_dataclass(hint):
        hints = _hints(hint)
        values = {key: built(hints[key], item, where=where and f"{where}.{key}") for key, item in value.items()}
        try:
            return hint(**values)  # type: ignore[operator]
        except VideoKDError as error:
            if not where:
                raise
            raise type(error)(f"{where}: {error}") from error
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is dict:
        return {key: built(arguments[1], item, where=where and f"{where}.{key:.80}") for key, item in value.items()}
    if origin is tuple:
        kinds = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else list(arguments)
        items = enumerate(zip(kinds, value, strict=True))
        return tuple(built(kind, item, where=where and f"{where}[{i}]") for i, (kind, item) in items)
    return value


def missing_settings(settings: Any, values: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Dotted names of settings that need a value and have none, in mappings of groups too.

    Args:
        settings: a dataclass of settings.
        values: those that are given, as `checked` returns them.
        prefix: of the names.
    """
    missing = []
    hints = _hints(settings)
    for field in fields(settings):
        value = values.get(field.name)
        needed = field.default is MISSING and field.default_factory is MISSING
        if value is None:
            missing += [f"{prefix}{field.name}"] if needed else []
        elif is_dataclass(hints[field.name]):
            missing += missing_settings(hints[field.name], value, f"{prefix}{field.name}.")
        elif get_origin(hints[field.name]) is dict and is_dataclass(kind := get_args(hints[field.name])[1]):
            for key, item in value.items():
                missing += missing_settings(kind, item, f"{prefix}{field.name}.{key}.")
    return missing


def plain_default(field: Any) -> Any:
    """A setting's default as JSON and YAML can hold it; None where it needs a value."""
    if field.default_factory is not MISSING:
        return _plain(field.default_factory())
    return None if field.default is MISSING else _plain(field.default)


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def _hints(settings: Any) -> dict[str, Any]:
    hints = get_type_hints(settings)
    return {field.name: hints[field.name] for field in fields(settings)}


def _without_none(hint: Any) -> tuple[Any, bool]:
    if get_origin(hint) not in (Union, UnionType):
        return hint, False
    kinds = [kind for kind in get_args(hint) if kind is not type(None)]
    assert len(kinds) == 1, f"settings have one type, or None: {hint}"
    return kinds[0], True


def _refusal(where: str, value: Any, accepted: str) -> ConfigError:
    return ConfigError(f"{where} is {_shown(value)} (accepted: {accepted}). Correct it.")


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else f"{text[:77]}…"


#: Settings that earlier versions had, with the value that changes nothing: a run with another one cannot be read as it was.
_RETIRED = {"data.blank_invalid": False, "optim.label_smoothing": 0.0}


#: Settings that have another name now, and their old values as new ones.
_RENAMED: dict[str, tuple[str, dict[Any, Any]]] = {"pretrained": ("init", {True: "imagenet", False: "none"})}


def without_retired(values: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a config.yaml as today's, without those that only earlier versions had.

    Args:
        values: nested, as YAML holds them.

    Raises:
        ConfigError: one of them is set to something that videokd can no longer do.

    >>> without_retired({"seed": 1, "optim": {"lr": 0.1, "label_smoothing": 0.0}})
    {'seed': 1, 'optim': {'lr': 0.1}}
    >>> without_retired({"pretrained": True})
    {'init': 'imagenet'}
    """
    kept = {key: dict(value) if isinstance(value, Mapping) else value for key, value in values.items()}
    for dotted, neutral in _RETIRED.items():
        group, _, name = dotted.partition(".")
        inside = kept.get(group)
        if isinstance(inside, dict) and name in inside and inside.pop(name) != neutral:
            raise ConfigError(f"{dotted} no longer exists (accepted: settings without it). Train again without it.")
    for old, (new, meant) in _RENAMED.items():
        if type(kept.get(old)) is bool and new not in kept:
            kept[new] = meant[kept.pop(old)]
    return kept
