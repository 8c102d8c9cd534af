"""`videokd presets`: lists the presets, or shows one."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

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
        sys.stdout.write(preset_text(settings.name.removesuffix(".yaml")))
        return
    for name in preset_names():
        # the first line of a preset says what it is
        first = preset_text(name).partition("\n")[0].removeprefix("# ")
        sys.stdout.write(f"{name:<28}{first}\n")
