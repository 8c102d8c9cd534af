"""`videokd evaluate`: the test protocol on a run."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from videokd.recipes.command_line import parse
from videokd.recipes.evaluation_run import Evaluate, evaluate


def main(arguments: Sequence[str]) -> None:
    """The verb."""
    settings = parse(Evaluate, arguments, verb="evaluate", positional=("run",))
    evaluate(settings, command="videokd evaluate " + shlex.join(arguments))
