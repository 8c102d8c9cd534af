"""`videokd fuse`: fuses scores files, or finds weights for them."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from videokd.errors import ConfigError
from videokd.evaluation.fused_scores import fuse_scores, write_fused_run
from videokd.messages import give
from videokd.recipes.command_line import parse


@dataclass(frozen=True)
class Fuse:
    """Fuses scores files of the same videos, with weights.

    Args:
        scores: {name: scores-*.npz}.
        weights: {name: weight}; equal ones by default.
        space: fuse logits or probabilities.
        temperature: of fusing probabilities.
        calibrate: divide each one's logits by the temperature that suits these scores best, before fusing, and print it; use
            validation scores, and pass what it prints to `videokd distill` as `--temperatures.NAME`.
        sweep: find the weights that are best on these scores; use validation scores (`videokd evaluate --part val` writes
            scores-val-*.npz).
        out: a folder to write the fused scores and results.json to, for `videokd report`.
        format: of what is printed.
    """

    scores: dict[str, str] = field(default_factory=dict)
    weights: dict[str, float] = field(default_factory=dict)
    space: Literal["logits", "probs"] = "logits"
    temperature: float = 1.0
    calibrate: bool = False
    sweep: bool = False
    out: str | None = None
    format: Literal["table", "json"] = "table"

    def __post_init__(self) -> None:
        if not self.scores:
            raise ConfigError(
                "no scores given (accepted: one or more). Name them as `--scores.motion RUN/scores-motion.npz`."
            )
        if self.weights and set(self.weights) != set(self.scores):
            raise ConfigError(
                f"weights: {', '.join(self.weights)} (accepted: {', '.join(self.scores)}). Give one for each scores file."
            )
        if self.weights and self.sweep:
            raise ConfigError("weights and sweep exclude each other (accepted: one of them). Omit the other.")


def main(arguments: Sequence[str]) -> None:
    """The verb."""
    settings = parse(Fuse, arguments, verb="fuse")
    paths = {name: Path(path) for name, path in settings.scores.items()}
    fused = fuse_scores(
        paths,
        weights=settings.weights,
        space=settings.space,
        temperature=settings.temperature,
        calibrate=settings.calibrate,
        sweep=settings.sweep,
    )
    if settings.out is not None:
        command = "videokd fuse " + shlex.join(arguments)
        write_fused_run(Path(settings.out), list(paths.values()), fused.scores, command=command)
    give([json.dumps(fused.as_plain())] if settings.format == "json" else fused.as_table())
