"""Command lines and presets to a recipe's settings, by jsonargparse over its dataclass."""

from __future__ import annotations

import difflib
import json
import sys
from collections.abc import Sequence
from dataclasses import MISSING, asdict, fields, is_dataclass
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from jsonargparse import ArgumentError, ArgumentParser

from videokd.errors import ConfigError

Settings = TypeVar("Settings")

_PRESETS = resources.files("videokd.presets")
_WITHOUT_VALUE = ("-h", "--help", "--print_config")


def preset_names() -> list[str]:
    """The presets that come with the package."""
    return sorted(file.name.removesuffix(".yaml") for file in _PRESETS.iterdir() if file.name.endswith(".yaml"))


def preset_text(name: str) -> str:
    """One preset, as YAML.

    Raises:
        ConfigError: there is none of that name.
    """
    if name not in preset_names():
        close = difflib.get_close_matches(name, preset_names(), n=1)
        hint = f" Did you mean {close[0]}?" if close else " `videokd presets` lists them."
        raise ConfigError(f"{name} is neither a file nor a preset.{hint}")
    return (_PRESETS / f"{name}.yaml").read_text(encoding="utf-8")


def say(text: str) -> None:
    """A line for the person at the terminal; results go to standard output, this does not."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def parse(settings: type[Settings], arguments: Sequence[str], *, verb: str, positional: Sequence[str] = ()) -> Settings:
    """A recipe's settings from its command line.

    `--config` takes a preset's name or a file; options win over it wherever they stand; hyphens and underscores both
    serve in option names; what is unknown is refused.

    Args:
        settings: the recipe's dataclass; its docstring is the help.
        arguments: of the command line, after the verb.
        verb: for messages.
        positional: names of the fields that need no option name, in order; a field that holds several takes all the rest.

    Raises:
        ConfigError: something is missing, unknown, or not of its type.
    """
    parser = _parser(settings, verb=verb, positional=positional)
    options = _as_options(settings, arguments, verb=verb, positional=positional)
    try:
        values = parser.instantiate(parser.parse_args(options))
        return settings(**{field.name: values[field.name] for field in fields(settings)})  # type: ignore[arg-type]
    except ArgumentError as error:
        raise ConfigError(_in_one_line(str(error), parser, verb=verb)) from error


def _parser(settings: type[Any], *, verb: str, positional: Sequence[str]) -> ArgumentParser:
    shown = " ".join(name.upper() for name in positional)
    parser = ArgumentParser(
        prog=f"videokd {verb}",
        usage=f"videokd {verb} {shown} [--config PRESET-OR-FILE] [--dotted.override value …]".replace("  ", " "),
        exit_on_error=False,
    )
    parser.add_argument("--config", action="config", help="A preset's name (see `videokd presets`) or a YAML file.")
    parser.add_class_arguments(settings, None)
    parser.set_defaults({f.name: _plain_default(f) for f in fields(settings) if _plain_default(f) is not None})
    return parser


def _plain_default(field: Any) -> dict[str, Any] | None:
    """Dictionaries of dataclasses as plain dictionaries, so that `--print_config` can write them."""
    if field.default_factory is MISSING:
        return None
    value = field.default_factory()
    if not isinstance(value, dict) or not any(map(is_dataclass, value.values())):
        return None
    return {key: asdict(item) for key, item in value.items()}


def _as_options(settings: type[Any], arguments: Sequence[str], *, verb: str, positional: Sequence[str]) -> list[str]:
    """The arguments as `--name=value`, the config first."""
    configs, options, values = [], [], []
    hints = get_type_hints(settings)
    waiting = list(arguments)
    while waiting:
        token = waiting.pop(0)
        if not token.startswith("-") or token == "-":
            values.append(token)
            continue
        name, given, value = token.partition("=")
        name = name.replace("_", "-") if name.startswith("-h") else "--" + name.lstrip("-").replace("-", "_")
        if name in _WITHOUT_VALUE:
            options.append(token if name in ("-h", "--help") else name)
            continue
        if not given:
            is_switch = _type_of(settings, name[2:]) is bool and (not waiting or waiting[0] not in ("true", "false"))
            if not is_switch and not waiting:
                raise ConfigError(f"videokd {verb}: {token} has no value. Give one, or see `videokd {verb} --help`.")
            value = "true" if is_switch else waiting.pop(0)
        if name == "--config":
            configs.append(f"--config={_config_file(value)}")
        else:
            options.append(f"{name}={value}")
    return configs + _positional_options(hints, values, verb=verb, positional=positional) + options


def _type_of(settings: type[Any], dotted: str) -> object:
    """The type of a setting such as objective.exits; None where there is no such field."""
    name, _, rest = dotted.partition(".")
    hint = get_type_hints(settings).get(name)
    return _type_of(hint, rest) if rest and is_dataclass(hint) and isinstance(hint, type) else None if rest else hint


def _positional_options(hints: dict[str, Any], values: list[str], *, verb: str, positional: Sequence[str]) -> list[str]:
    options = []
    for name in positional:
        if "tuple" in str(hints[name]):
            if values:
                options.append(f"--{name}={json.dumps(values)}")
            values = []
        elif values:
            options.append(f"--{name}={values.pop(0)}")
    if values:
        accepted = " ".join(name.upper() for name in positional) or "options only"
        raise ConfigError(
            f"videokd {verb}: {values[0]!r} is one too many (accepted: {accepted}). See `videokd {verb} --help`."
        )
    return options


def _config_file(name: str) -> str:
    if Path(name).is_file():
        return name
    preset_text(name.removesuffix(".yaml"))
    return str(_PRESETS / f"{name.removesuffix('.yaml')}.yaml")


def _in_one_line(message: str, parser: ArgumentParser, *, verb: str) -> str:
    line = " ".join(message.replace('Parser key "', '"').split()).replace("typing.", "")
    known = [option for action in parser._actions for option in action.option_strings]
    wrong = next((word.partition("=")[0] for word in line.split() if word.startswith("--")), "")
    close = difflib.get_close_matches(wrong, known, n=1) if wrong not in known else []
    hint = f"Did you mean {close[0]}?" if close else f"`videokd {verb} --help` lists what is accepted."
    return f"videokd {verb}: {line.rstrip('.')}. {hint}"
