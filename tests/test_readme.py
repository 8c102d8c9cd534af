"""The README's commands run as they stand (trainings made small), its Python too, and its links lead somewhere."""

from __future__ import annotations

import json
import re
import runpy
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.small_runs import TINY
from videokd.__main__ import VERBS, main
from videokd.preparation.synthetic import generate

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SMALL = {
    "prepare": ["--short-side=64", "--jobs=1"],
    "teach": ["--backbone=test_resnet", *TINY],
    "distill": [
        *TINY,
        '--students={"a": {"streams": ["iframe"], "backbone": "test_resnet"}, '
        '"b": {"streams": ["motion"], "backbone": "test_resnet"}}',
    ],
    "evaluate": ["--views=quick", "--num_segments=2", "--workers=0", "--timed_videos=1", "--pictures=1"],
}


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def commands(block: str) -> list[list[str]]:
    """The block's commands, its loops unrolled."""
    lines = block.replace("\\\n", " ")
    for loop in re.findall(r"for \w+ in .*?\ndone\n", lines, re.DOTALL):
        name, values, body = re.fullmatch(r"for (\w+) in (.*?); do\n(.*)done\n", loop, re.DOTALL).groups()
        lines = lines.replace(loop, "".join(body.replace(f"${name}", value) for value in values.split()))
    return [shlex.split(line, comments=True) for line in lines.splitlines() if line.strip()]


def test_the_tour_runs_as_written(
    clips: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(clips, tmp_path / "CLIPS")
    one = next(clips.rglob("*.mp4"))
    shutil.copy(one, tmp_path / "CLIP.mp4")
    shutil.copy(one, tmp_path / "clip.mp4")
    tour, _ = (block for block in blocks("bash") if "videokd distill" in block)
    seen = set()
    for program, verb, *arguments in commands(tour):
        assert program == "videokd"
        seen.add(verb)
        assert main([verb, *arguments, *SMALL.get(verb, [])]) == 0, (verb, capsys.readouterr().err)
    assert seen >= {"prepare", "teach", "evaluate", "fuse", "distill", "report", "export", "predict"}
    assert (tmp_path / "report.html").stat().st_size > 10_000
    capsys.readouterr()

    (python,) = blocks("python")
    (tmp_path / "readme.py").write_text(python)
    runpy.run_path(str(tmp_path / "readme.py"))
    assert "h264" in capsys.readouterr().out


def test_commands_in_the_text_exist() -> None:
    for verb in re.findall(r"`videokd (\w+)", README):
        assert verb in VERBS or verb == "VERB"
    for program in re.findall(r"`?((?:tools|measurements)/[\w/.-]+\w)", README):
        assert (ROOT / program).exists(), program


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)", README):
        assert (ROOT / target).exists(), target


def test_few_labels_as_written(
    clips: Path,
    teacher_runs: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(clips, tmp_path / "CLIPS")
    generate(tmp_path / "MORE", seed=7, groups=2, clips_per_group=1, num_frames=14, size=64)
    _, few = (block for block in blocks("bash") if "videokd distill" in block)
    one = '--students={"iframe": {"streams": ["iframe"], "backbone": "test_resnet"}}'
    small = {
        "prepare": SMALL["prepare"],
        # no weights from ImageNet for a network so small: those of another run stand in
        "teach": [*SMALL["teach"], f"--init={teacher_runs['iframe']}", "--data.stored_views=2"],
        "distill": [*TINY, one, "--data.stored_views=2"],
    }
    for program, verb, *arguments in commands(few):
        assert program == "videokd"
        assert main([verb, *arguments, *small[verb]]) == 0, (verb, capsys.readouterr().err)
    printed = capsys.readouterr().err
    for run in ("teacher", "student"):
        assert re.search(rf"^{run}: iframe: top-1 \d+\.\d% \(.*chance \d+\.\d%$", printed, re.MULTILINE), printed


def test_the_page_on_raw_vectors_runs_as_written(
    make_clip: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(make_clip("mpeg4", num_frames=24, step=(4, -2)), tmp_path / "clip.mp4")
    page = (ROOT / "docs" / "raw-vectors.md").read_text(encoding="utf-8")
    listing, table = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (tmp_path / "page.py").write_text(listing)
    runpy.run_path("page.py")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 24
    assert re.fullmatch(r"0 0\.0 I 0", lines[0])
    (tmp_path / "page.py").write_text(table)
    found = runpy.run_path("page.py")
    assert found["table"].shape == (len(found["frame"].vectors), 10)
    assert found["table"][:, 3].tolist() == found["frame"].vectors["src_x"].tolist()
    assert found["field"].shape == (6, 8, 2)
    assert np.abs(np.median(found["field"][1:5, 1:7], axis=(0, 1)) - (4, -2)).max() <= 0.5  # right and up
    for name in found["COLUMNS"]:
        assert f"`{name}`" in page


def test_the_figures_of_the_demo_are_those_measured() -> None:
    results = json.loads(max((ROOT / "measurements" / "results").glob("demo-*.json")).read_text(encoding="utf-8"))
    top1 = {row["name"]: f"{100 * row['top1']['value']:.0f}" for row in results["rows"]}
    (compared,) = results["comparisons"]
    gain, low, high = (f"{100 * compared['top1_difference'][key]:.0f}" for key in ("value", "low", "high"))
    text = " ".join(README.split())
    assert f"learns it from these few ({top1['teacher-motion']} %)" in text
    assert f"classifies {top1['student-hard']} % of the clips" in text
    assert f"and {top1['student-distilled']} % when it learns from the fused teachers' predictions" in text
    assert f"+{gain} points ({low} to {high})" in text
