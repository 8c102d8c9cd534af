"""docs/app.md: its commands and its Python run as written, and its figures are those of the settings."""

from __future__ import annotations

import re
import runpy
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT, MakeClip
from videokd.__main__ import main
from videokd.models.network_spec import NetworkSpec
from videokd.models.students import PredictionSpec, build_students
from videokd.models.students_file import save_students
from videokd.recipes.app import App
from videokd.webpage.answers import MOST_WINDOWS, PageLimits
from videokd.webpage.film_strip import MOST_PICTURES
from videokd.webpage.page import MOST_WAITING
from videokd.webpage.serving import Address

PAGE = (ROOT / "docs" / "app.md").read_text(encoding="utf-8")


@pytest.fixture
def place(tmp_path: Path, make_clip: MakeClip, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what the page names."""
    for seed, name in enumerate(("students", "OTHERS")):
        specs = {"iframe": NetworkSpec(("iframe",), "test_resnet", 3, 32)}
        save_students(build_students(specs, PredictionSpec(("wave", "clap", "throw"), 2), seed=seed), tmp_path / name)
    (tmp_path / "CLIPS").mkdir()
    shutil.copy(make_clip(num_frames=50), tmp_path / "clip.mp4")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_its_commands_start_the_page(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    served: list[dict[str, Any]] = []

    def note(sets: Any, **settings: Any) -> None:
        served.append({"sets": list(sets), **settings})

    monkeypatch.setattr("videokd.recipes.app.serve_page", note)
    (block,) = re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
    commands = [shlex.split(line) for line in block.splitlines() if line.startswith("videokd ")]
    for _, *arguments in commands:
        assert main(arguments) == 0
    first, second = served
    assert (first["sets"], first["folder"]) == (["students"], None)
    assert (second["sets"], second["folder"]) == (["students", "OTHERS"], Path("CLIPS"))
    assert first["address"] == Address("127.0.0.1", 7860)
    assert first["limits"] == PageLimits(window=2.0, stride=0.5, most_megabytes=100.0, most_seconds=60.0)


def test_its_figures_are_those_of_the_settings() -> None:
    usual = App(students="students")
    for text in (
        f"http://{usual.host}:{usual.port}",
        f"`--window {usual.window:g}`",
        f"`--stride {usual.stride:g}`",
        f"`--most_megabytes {usual.most_megabytes:g}`",
        f"`--most_seconds {usual.most_seconds:g}`",
        f"more than {MOST_WINDOWS} windows",
        f"{MOST_PICTURES} evenly spaced pictures",
        f"up to {MOST_WAITING} wait",
    ):
        assert text in PAGE
    assert (ROOT / "docs" / "pictures" / "app.png").stat().st_size <= 200_000


def test_its_python_runs(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (listing,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (place / "page.py").write_text(listing)
    runpy.run_path("page.py")
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(" s: ")[0] for line in lines] == ["0.0 to 1.0", "0.5 to 1.5", "1.0 to 2.0"]
    assert {line.partition(" s: ")[2] for line in lines} <= {"wave", "clap", "throw"}
