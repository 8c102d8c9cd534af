"""Compiled networks: none falls back to being interpreted, and validation compiles nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters

from tests.small_runs import STUDENTS, TINY
from videokd.__main__ import main
from videokd.training import loop


def test_every_network_is_compiled_once_for_training_and_not_for_validation(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Traced as for any backend, but not translated, which would take minutes; with a limit that two students exceed."""
    plain = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, mode=None: plain(self, backend="eager"))
    found: list[int] = []
    validate = loop.validate

    def counting(*given: Any, **options: Any) -> dict[str, float]:
        before = counters["frames"]["total"]
        values = validate(*given, **options)
        found.append(counters["frames"]["total"] - before)
        return values

    monkeypatch.setattr(loop, "validate", counting)
    command = ["distill", f"--manifest={prepared}", f"--out={tmp_path / 'run'}", STUDENTS, *TINY]
    command += ["--optim.compile=true", "--objective.update=alternate", "--objective.beta=0.5"]
    torch._dynamo.reset()
    counters.clear()
    with torch._dynamo.config.patch(recompile_limit=2):
        assert main(command) == 0
        frames = dict(counters["frames"])
    torch._dynamo.reset()
    assert frames["ok"] == frames["total"] > 2
    assert found == [0, 0]
