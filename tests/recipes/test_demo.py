"""The demo, made small: it runs end to end, says what came out, and a second run finds everything done."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from videokd.__main__ import main
from videokd.models.students_file import load_students
from videokd.preparation.synthetic import Scenes, generate_actions


def outcome(shown: str) -> list[str]:
    """The table at the end."""
    return shown.partition("interval)")[2].partition(" s. The report")[0].splitlines()[1:-1]


def test_the_demo_runs_end_to_end_and_repeats_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = partial(generate_actions, num_frames=16, size=64)
    monkeypatch.setattr("videokd.recipes.demo.generate_actions", small)
    monkeypatch.setattr("videokd.recipes.demo.Scenes", partial(Scenes, labelled=1, tested=2))
    command = ["demo", f"--out={tmp_path / 'demo'}", "--scenes=2", "--epochs=1", "--workers=0"]
    assert main(command) == 0, capsys.readouterr().err
    shown = capsys.readouterr().err
    for run in ("teacher-iframe", "teacher-motion", "teacher-residual", "teachers-fused", "student-hard"):
        assert f"\n{run} " in shown
    assert "distilled minus hard labels: " in shown
    assert "6 actions, chance 16.7 %" in shown
    page = (tmp_path / "demo" / "report.html").read_text(encoding="utf-8")
    assert "student-distilled" in page
    assert load_students(tmp_path / "demo" / "student").streams == ("iframe",)

    assert main(command) == 0
    again = capsys.readouterr().err
    assert again.count("already done") == 9
    assert again.count("trained already") == 5
    assert outcome(again) == outcome(shown)
