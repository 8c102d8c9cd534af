"""`videokd presets`: lists the presets, or shows one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from videokd.messages import give
from videokd.recipes.command_line import parse, preset_names, preset_text


@dataclass(frozen=True)
class Presets:
    """Lists the presets, or shows one.

    Args:
        name: of a preset.
    """

    name: str | None = None


def main(arguments: Sequence[str]) -> None:
    """The verb."""
    settings = parse(Presets, arguments, verb="presets", positional=("name",))
    if settings.name is not None:
        give(preset_text(settings.name.removesuffix(".yaml")).splitlines())
        return
    for name in preset_names():
        # the first line of a preset says what it is
        first = preset_text(name).partition("\n")[0].removeprefix("# ")
        give([f"{name:<28}{first}"])
