"""`videokd evaluate`: the test protocol on a run."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from videokd.recipes.command_line import parse
from videokd.recipes.evaluation_run import Evaluate, evaluate_shared
from videokd.runs.device import pick_device
from videokd.runs.ranks import join_ranks


def main(arguments: Sequence[str]) -> None:
    """The verb."""
    settings = parse(Evaluate, arguments, verb="evaluate", positional=("run",))
    with join_ranks(pick_device(settings.device), workers=settings.workers) as ranks:
        evaluate_shared(settings, command="videokd evaluate " + shlex.join(arguments), ranks=ranks)
