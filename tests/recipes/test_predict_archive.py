"""`videokd predict` on many files, as a user runs it."""

from __future__ import annotations

import io
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.archives.test_labels import save
from tests.conftest import ROOT
from tests.jobs.test_interruptions import interrupt_twice, session_ends, started
from tests.recipes.test_verbs import refused
from tests.small_datasets import write_clip
from videokd.__main__ import main
from videokd.archives.labels_table import read_labels
from videokd.errors import DataError
from videokd.jobs.archive_files import files_named, listed_paths

NAMES = ("a/x.mp4", "a/y.mp4", "z.mp4")


@pytest.fixture(scope="module")
def students(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("students") / "students")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clip") / "clip.mp4")


@pytest.fixture
def folder(tmp_path: Path, clip: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with three clips, in which the test runs."""
    for name in NAMES:
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(clip, tmp_path / "in" / name)
    (tmp_path / "in" / "text.txt").write_text("no video")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "in"


def named(*words: str, listed: tuple[str, ...] = ()) -> list[str]:
    return [file.name for file in files_named(words, listed)]


def test_files_folders_and_patterns(folder: Path) -> None:
    every = [f"in/{name}" for name in NAMES]
    assert named("in") == every
    assert named("in/**/*.mp4") == every
    assert named("in/*.mp4") == ["in/z.mp4"]
    assert named("in/?") == every[:2]  # a folder that a pattern matches
    assert named("in/*") == [*every[:2], "in/text.txt", "in/z.mp4"]
    assert named("in/z.mp4", "in/z.mp4") == ["in/z.mp4"] * 2
    assert named("in/z.mp4", "in", "in/**") == ["in/z.mp4", *every[:2], "in/text.txt"]
    assert named("none.mp4", "in/z.mp4") == ["none.mp4", "in/z.mp4"]
    assert named(listed=("in", "in/z.mp4", "none.mp4")) == [*every, "none.mp4"]
    (folder / "[z].mp4").write_bytes(b"")  # a file of this name, no pattern
    assert named("in/[z].mp4", listed=("in/[z].mp4",)) == ["in/[z].mp4"]


@pytest.mark.parametrize(
    ("content", "paths"),
    [
        (b"a.mp4\nb c.mp4\r\n\n", ["a.mp4", "b c.mp4"]),
        (b"a\nb.mp4\0c.mp4\0", ["a\nb.mp4", "c.mp4"]),
        (b"\xff.mp4", ["\udcff.mp4"]),
        (b"", []),
        (b"\n\n", []),
        (b"\xef\xbb\xbfa.mp4\n", ["a.mp4"]),  # as Windows' editors save it
    ],
)
def test_lists(content: bytes, paths: list[str]) -> None:
    assert listed_paths(content) == paths


def test_a_list_in_utf_16_is_no_list_of_single_letters() -> None:
    with pytest.raises(DataError, match=r"the list is in UTF-16 .accepted: UTF-8."):
        listed_paths("/data/a.mp4\n".encode("utf-16"))  # one of the letters would be the root folder


def test_patterns_follow_links_in_a_circle_once(folder: Path) -> None:
    (folder / "a" / "self").symlink_to(".")
    (folder / "a" / "up").symlink_to("../../in")
    (folder / "a" / "back").symlink_to("../../in/a")
    (folder / ".hidden").mkdir()
    (folder / ".hidden" / "h.mp4").write_bytes(b"")
    every = [f"in/{name}" for name in NAMES]
    assert named("in/**/*.mp4") == every
    assert named("**/*.mp4") == every
    assert named("i[n]/**/a/*.mp4") == every[:2]
    assert named(f"{folder}/**/x.mp4") == [str(folder / "a" / "x.mp4")]


@pytest.mark.parametrize("seconds", ["0", "-1", "1e12"])
def test_a_time_that_no_timer_has_is_refused(seconds: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", "in", "--students", "s", "--jobs", "2", "--most_seconds", seconds]) == 2
    assert re.fullmatch(r"videokd: most_seconds \S+ \(accepted: above 0.*\n", capsys.readouterr().err)


def test_lists_from_files_and_standard_input(
    folder: Path, students: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "new\nline.mp4").symlink_to(folder / "z.mp4")
    Path("list").write_bytes(b"in/z.mp4\0in/new\nline.mp4\0")
    arguments = ["predict", "--students", str(students), "--format", "jsonl", "--jobs", "1"]
    assert main([*arguments, "--list", "list"]) == 0
    shown = [json.loads(line)["path"] for line in capsys.readouterr().out.splitlines()]
    assert shown == ["in/z.mp4", "in/new\nline.mp4"]
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"in/z.mp4\n")))
    assert main([*arguments, "--list", "-", "in/a"]) == 0
    shown = [json.loads(line)["path"] for line in capsys.readouterr().out.splitlines()]
    assert shown == ["in/a/x.mp4", "in/a/y.mp4", "in/z.mp4"]


def test_a_table(folder: Path, students: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["predict", "in", "--students", str(students), "--save", "out/labels.parquet", "--top=2", "--jobs=2"]
    assert main([*arguments, "--most-seconds", "600"]) == 0
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == "out/labels.parquet: 3 videos.\n"  # no bar where nobody looks
    (folder / "bad.mp4").write_bytes(b"no video" * 100)
    assert main(arguments) == 2
    assert capsys.readouterr().err.splitlines() == [
        "out/labels.parquet: 3 videos, 3 labelled before.",
        "videokd: 1 of 4 files could not be labelled; out/labels.failures.csv says why.",
    ]
    rows = list(read_labels(Path("out/labels.parquet")))
    assert [row.prediction.path for row in rows] == [f"in/{name}" for name in NAMES]
    assert {len(row.prediction.labels) for row in rows} == {2}
    assert {path.name for path in Path("out").iterdir()} == {"labels.parquet", "labels.failures.csv"}


@pytest.mark.parametrize("layout", ["table", "jsonl", "json", "csv"])
def test_processes_print_the_same(
    folder: Path, students: Path, capsys: pytest.CaptureFixture[str], layout: str
) -> None:
    def shown(*more: str) -> list[str]:
        assert main(["predict", "in/**/*.mp4", "--students", str(students), f"--format={layout}", *more]) == 0
        lines = capsys.readouterr().out.splitlines()
        if layout == "json":
            lines = [json.dumps(one) for one in json.loads("\n".join(lines))]
        if layout in ("json", "jsonl"):
            return sorted(json.dumps({**json.loads(line), "seconds": 0}) for line in lines)
        return sorted(line.partition("  (")[0] for line in lines if layout == "table") or [str(len(lines))]

    assert shown("--jobs=2") == shown()


def test_refusals(folder: Path, students: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("predict", "--students", str(students))
    assert "required: FILES or --list" in refused(capsys, *arguments)
    Path("empty").write_bytes(b"")
    assert "empty lists nothing" in refused(capsys, *arguments, "--list", "empty")
    assert "nowhere cannot be read (No such file" in refused(capsys, *arguments, "--list", "nowhere")
    assert "'in/*.avi': nothing matches (accepted: " in refused(capsys, *arguments, "in/*.avi")
    assert "format parquet cannot be printed" in refused(capsys, *arguments, "in", "--format", "parquet")
    assert "format csv and t.json differ" in refused(capsys, *arguments, "in", "--format", "csv", "--save", "t.json")
    assert "t.txt (accepted: a name that ends with" in refused(capsys, *arguments, "in", "--save", "t.txt")
    assert "address auto needs the engine ray" in refused(capsys, *arguments, "in", "--address", "auto")
    Path("none").mkdir()
    assert "none is a folder without videos" in refused(capsys, *arguments, "none")
    assert "none.mp4 cannot be read (No such file" in refused(capsys, *arguments, "none.mp4")


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize("times", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_it_stops_and_resumes(
    tmp_path: Path, students: Path, clip: Path, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C twice, or the end without warning, at any moment; nothing is left but what the next run needs."""
    (tmp_path / "in").mkdir()
    for number in range(24):
        shutil.copy(clip, tmp_path / "in" / f"{number}.mp4")
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    rng = random.Random(times)
    command = [sys.executable, "-m", "videokd", "predict", "in", "--students", str(students), "--transcode=always"]
    command += ["--save", "t.jsonl", "--jobs", "2"]
    for turn in range(times):
        ready = (tmp_path / "t.jsonl.unfinished").exists
        process = started(command, tmp_path, ready)
        time.sleep(rng.uniform(0, 4))
        if turn % 2:
            process.kill()
            process.communicate()
            assert session_ends(process.pid, seconds=60), "workers outlived the run"
            continue
        said = interrupt_twice(process, rng.uniform(0, 0.05))
        assert process.returncode in (0, 130, -signal.SIGINT), said
        assert "24 videos" in said or said == "videokd: predict stopped; the same command resumes.\n"
        assert session_ends(process.pid, seconds=60), "workers outlived the run"
    subprocess.run(command, cwd=tmp_path, check=True, timeout=300)
    rows = [json.loads(line)["path"] for line in (tmp_path / "t.jsonl").read_text().splitlines()]
    assert sorted(rows) == sorted(f"in/{number}.mp4" for number in range(24))
    assert {path.name for path in tmp_path.iterdir()} == {"in", "tmp", "t.jsonl"}
    assert list((tmp_path / "tmp").iterdir()) == []


def test_the_page_runs_as_written(folder: Path, students: Path, clip: Path) -> None:
    page = (ROOT / "docs" / "archives.md").read_text(encoding="utf-8")
    shutil.copytree(students, "students")
    shutil.copytree("in", "CLIPS")
    (Path("CLIPS") / "text.txt").unlink()
    shutil.copy(clip, "clip.mp4")
    (block,) = re.findall(r"```bash\n(.*?)```", page, re.DOTALL)
    for line in block.splitlines():
        command = line.replace("videokd", f"{sys.executable} -m videokd", 1)
        done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    every = {f"CLIPS/{name}" for name in NAMES}
    for table in ("labels.parquet", "labels.csv"):
        assert {row.prediction.path for row in read_labels(Path(table))} == every
    (python,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    Path("page.py").write_text(python)
    done = subprocess.run([sys.executable, "page.py"], capture_output=True, text=True, check=True)
    first, second, third = done.stdout.splitlines()
    assert first.split()[0] == "clip.mp4"
    assert second.split() == ["<bytes>", first.split()[1]]
    assert third.startswith(f"['{first.split()[1]}'] [('missing.mp4', 'missing.mp4 is not there")


def test_a_reader_that_has_enough(folder: Path, students: Path) -> None:
    for number in range(16):
        os.link(folder / "z.mp4", folder / f"{number}.mp4")
    words = f"{sys.executable} -m videokd predict in --students {students} --format jsonl --jobs 2"
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {words} | head -n 1"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["path"].startswith("in/")


def test_no_space_for_transcoded_copies_is_no_fault_of_the_files(
    folder: Path, students: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*arguments: object, **named: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("videokd.files.tempfile.mkdtemp", full)
    command = ["predict", "in", f"--students={students}", "--save=out.csv", "--jobs=1", "--transcode=always"]
    assert main(command) == 2
    assert "No space left on device" in capsys.readouterr().err.splitlines()[-1]
    assert not Path("out.failures.csv").exists()
    monkeypatch.undo()
    monkeypatch.chdir(folder.parent)
    assert main(command) == 0
    assert len([*read_labels(Path("out.csv"))]) == 3
