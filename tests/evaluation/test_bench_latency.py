"""measurements/bench_latency.py: every system runs, and its times add up."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import MakeClip

ROOT = Path(__file__).resolve().parents[2]
STAGES = {"read", "decode", "streams", "network"}


@pytest.mark.slow
def test_every_system_is_timed(make_clip: MakeClip, tmp_path: Path) -> None:
    pytest.importorskip("decord", reason="the RGB systems read by decord")
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "a.mp4").write_bytes(make_clip("mpeg4").read_bytes())
    command = [
        sys.executable,
        ROOT / "measurements" / "bench_latency.py",
        tmp_path / "clips",
        "--out",
        tmp_path,
        "--device=cpu",
    ]
    small = [
        "--videos=1",
        "--repeats=1",
        "--segments=2",
        "--backbone=test_resnet",
        "--size=32",
        "--throughput-seconds=0.1",
    ]
    done = subprocess.run([*map(str, command), *small], check=True, capture_output=True, text=True)
    (path,) = tmp_path.glob("bench_latency-cpu-*.json")
    record = json.loads(path.read_text())
    assert set(record["forms"]) == {"training form", "as shipped"}
    for form in record["forms"].values():
        assert {"iframe", "three", "rgb", "r2plus1d"} <= set(form["systems"])
        for name, system in form["systems"].items():
            assert set(system["stages_ms"]) == STAGES
            assert sum(system["stages_ms"].values()) == pytest.approx(system["p50_ms"], rel=0.01)  # of one run alone
            assert 0 < system["p50_ms"] <= system["p95_ms"]
            assert system["videos_a_second"] > 0
            assert name in done.stdout
        assert len(form["ratios"]) >= 3
