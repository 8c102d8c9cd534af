"""measurements/bench_bounds.py: its stand-ins for networks and clips train like the real ones."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from videokd.datasets.manifest import Manifest


@pytest.mark.parametrize(("row", "teachers"), [("neither", "none"), ("networks alone", "test_resnet")])
def test_a_row_is_timed(row: str, teachers: str, load_measurement: Callable[[str], ModuleType], tmp_path: Path) -> None:
    bounds = load_measurement("bench_bounds")
    given = argparse.Namespace(
        size=32,
        batch=4,
        segments=2,
        students=2,
        workers=0,
        steps=bounds.WARM_UP + 3,
        backbone="test_resnet",
        teachers=teachers,
        precision="fp32",
        device="cpu",
    )
    no_clips = Manifest.__new__(Manifest)  # these two rows read none
    assert bounds.seconds_of_step(given, no_clips, row, tmp_path / "run") > 0
    lines = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    assert len(lines) == given.steps
