"""Command lines and presets to a recipe's settings, by jsonargparse over its dataclass."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar, get_origin, get_type_hints

import yaml
from jsonargparse import ArgumentError

from videokd.config import (
    checked,
    is_switch,
    missing_settings,
    plain_default,
    read_option,
    read_yaml,
    setting_type,
    without_retired,
)
from videokd.errors import ConfigError
from videokd.recipes.help_text import help_parser, help_text

Settings = TypeVar("Settings")

_PRESETS = resources.files("videokd.presets")


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


def parse(settings: type[Settings], arguments: Sequence[str], *, verb: str, positional: Sequence[str] = ()) -> Settings:
    """A recipe's settings from its command line.

    `--config` takes a preset's name or a file; options win over it wherever they stand; hyphens and underscores both
    serve in option names; what is unknown or not of its type is refused, before jsonargparse sees it: that would import
    the modules that some values name, and read the files.

    Args:
        settings: the recipe's dataclass; its docstring is the help.
        arguments: of the command line, after the verb.
        verb: for messages.
        positional: names of the fields that need no option name, in order; a field that holds several takes all the rest.

    Raises:
        ConfigError: something is missing, unknown, or not of its type.
    """
    given = _split(settings, arguments, verb=verb)
    if given.asks == "help":
        sys.stdout.write(help_text(settings, verb=verb, positional=positional))
        raise SystemExit(0)
    try:
        values: dict[str, Any] = {}
        for name in given.configs:
            values = _merged(settings, values, _read_config(settings, name, verb=verb))
        for dotted, value in [*_positional_options(settings, given.values, positional=positional), *given.options]:
            _put(settings, values, dotted, value)
    except ConfigError as error:
        raise ConfigError(f"{verb}: {error} See `videokd {verb} --help`.") from error
    parser = help_parser(settings, verb=verb, positional=positional)
    if given.asks == "print_config":
        everything = {field.name: plain_default(field) for field in fields(settings)}  # type: ignore[arg-type]
        sys.stdout.write(yaml.safe_dump(_merged(settings, everything, values), sort_keys=False, allow_unicode=True))
        raise SystemExit(0)
    missing = missing_settings(settings, values)
    if missing:
        names = ", ".join(name.upper() if name in positional else f"--{name}" for name in missing)
        raise ConfigError(f"{verb}: required: {names}. See `videokd {verb} --help`.")
    try:
        made = parser.instantiate(parser.parse_object(values, env=False))
        return settings(**{field.name: made[field.name] for field in fields(settings)})  # type: ignore[arg-type]
    except ArgumentError as error:
        raise ConfigError(f"{verb}: {error} See `videokd {verb} --help`.") from error


@dataclass(frozen=True)
class _Given:
    """A command line, taken apart: what is asked for instead of running, config files, (name, value) pairs, bare words."""

    asks: str
    configs: Sequence[str]
    options: Sequence[tuple[str, Any]]
    values: Sequence[str]


def _split(settings: type[Any], arguments: Sequence[str], *, verb: str) -> _Given:
    asks, configs, options, values = "", [], [], []
    waiting = list(arguments)
    while waiting:
        token = waiting.pop(0)
        if token == "--":
            values += waiting
            break
        if not token.startswith("-") or token == "-":
            values.append(token)
            continue
        name, given, value = token.partition("=")
        name = name.lstrip("-").replace("-", "_")
        if name in ("h", "help", "print_config"):
            asks = "print_config" if name == "print_config" else "help"
            continue
        try:
            if name == "config":
                if not given and not waiting:
                    raise ConfigError(f"{token} has no value (accepted: a preset's name or a YAML file).")
                configs.append(value if given else waiting.pop(0))
                continue
            hint = setting_type(settings, name)
            if not given:
                switched_on = is_switch(hint) and not _next_is_its_value(hint, waiting)
                if not switched_on and not waiting:
                    raise ConfigError(f"{token} has no value.")
                value = "true" if switched_on else waiting.pop(0)
            options.append((name, read_option(settings, name, value)))
        except ConfigError as error:
            raise ConfigError(f"{verb}: {error} See `videokd {verb} --help`.") from error
    return _Given(asks, configs, options, values)


def _next_is_its_value(hint: Any, waiting: Sequence[str]) -> bool:
    """Whether the next word is the value of a switch: true or false; any word but an option where it has values of its own too."""
    if not waiting:
        return False
    return waiting[0] in ("true", "false") if hint is bool else not waiting[0].startswith("-")


def _positional_options(
    settings: type[Any], words: Sequence[str], *, positional: Sequence[str]
) -> Iterator[tuple[str, Any]]:
    values = list(words)
    for name in positional:
        if get_origin(setting_type(settings, name)) is tuple:
            if values:
                yield name, values
            values = []
        elif values:
            yield name, read_option(settings, name, values.pop(0))
    if values:
        accepted = " ".join(name.upper() for name in positional) or "options only"
        raise ConfigError(f"{values[0]!r} is one too many (accepted: {accepted}).")


def _put(settings: type[Any], values: dict[str, Any], dotted: str, value: Any) -> None:
    """Sets one value; the rest of a mapping that it belongs to stays as the config or the defaults have it."""
    first, *rest = dotted.split(".")
    if not rest:
        values[first] = value
        return
    if first not in values:
        (field,) = (field for field in fields(settings) if field.name == first)
        values[first] = plain_default(field)
    inside = values[first]
    for name in rest[:-1]:
        inside = inside.setdefault(name, {})
    inside[rest[-1]] = value


def _merged(settings: type[Any], values: Mapping[str, Any], others: Mapping[str, Any]) -> dict[str, Any]:
    """The second over the first, group by group."""
    hints = get_type_hints(settings)
    merged = dict(values)
    for name, value in others.items():
        group = hints[name]
        merged[name] = _merged(group, merged[name], value) if is_dataclass(group) and name in merged else value  # type: ignore[arg-type]
    return merged


def _read_config(settings: type[Any], name: str, *, verb: str) -> dict[str, Any]:
    """The values of a config file or preset, checked; those of required settings may be null, as `--print_config` has them."""
    path = Path(name)
    try:
        text = path.read_text(encoding="utf-8") if path.is_file() else preset_text(name.removesuffix(".yaml"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{name} cannot be read ({error}; accepted: a YAML file or a preset).") from error
    values = read_yaml(text, where=name)
    if isinstance(values, dict):
        missing = missing_settings(settings, {})
        values = {key: value for key, value in values.items() if value is not None or key not in missing}
        if "verb" in values and values["verb"] != verb:
            raise ConfigError(
                f"{name} has the settings of `videokd {values['verb']!s:.20}` (accepted: of {verb}). Choose another file, or run that verb."
            )
        if "verb" in values:  # a run's config.yaml names the verb that wrote it
            values = without_retired({key: value for key, value in values.items() if key != "verb"})
    return dict(checked(settings, {} if values is None else values, where=name))
