"""Labels of an archive: found, made in parallel, kept and resumed."""

from __future__ import annotations

import csv
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.jobs.test_workers import cluster, ray_workers  # noqa: F401 (fixture)
from tests.small_datasets import write_clip
from videokd.archives import archive
from videokd.archives.archive import label_into_table
from videokd.archives.central import Slots
from videokd.archives.labelling import LabelledFile, Labelling
from videokd.archives.labels_table import check_labels_name, read_labels, write_labels
from videokd.errors import ConfigError, DataError
from videokd.files import held
from videokd.jobs.archive_files import ArchiveFile, failures_of, files_named
from videokd.jobs.failures import read_failures
from videokd.jobs.workers import Workers
from videokd.models.network_spec import NetworkSpec
from videokd.models.students import PredictionSpec, build_students
from videokd.models.students_file import save_students
from videokd.prediction.prediction import STEPS, Prediction, RankedLabel
from videokd.prediction.wanted import Wanted

ONE = Workers(jobs=1)
SUFFIXES = (".parquet", ".csv", ".jsonl", ".json")


def save(folder: Path, *, seed: int = 0) -> Path:
    specs = {stream: NetworkSpec((stream,), "test_resnet", 3, 32) for stream in ("iframe", "motion")}
    return save_students(build_students(specs, PredictionSpec(("wave", "clap", "throw"), 2), seed=seed), folder)


@pytest.fixture(scope="module")
def students(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("students") / "students")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for seed, name in enumerate(("a/x.mp4", "a/y.mp4", "z.mp4")):
        write_clip(tmp_path / "in" / name, seed=seed)
    return tmp_path / "in"


def without_times(out: Path) -> list[dict[str, Any]]:
    return [{**row.values(), "seconds": None} for row in read_labels(out)]


def names(out: Path) -> list[str]:
    return [Path(row.prediction.path).name for row in read_labels(out)]


ROWS = [
    LabelledFile(
        Prediction(
            path,
            (RankedLabel("=wave, twice", 0.625), RankedLabel("clap", 0.25)),
            {step: number + 0.25 for number, step in enumerate(STEPS)},
            {"a": "deepest", "b": "exit 1"},
            "cut GOPs",
        ),
        1234,
        10**18 + 1,
        "00ff",
    )
    for path in ("-x.mp4", "line\nbreak.mp4", "クリップ.mp4", '"a",b.mp4')
]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_tables_come_back(tmp_path: Path, suffix: str) -> None:
    out = tmp_path / f"t{suffix}"
    write_labels(out, ROWS)
    assert list(read_labels(out)) == ROWS
    with_one = tmp_path / f"u{suffix}"
    write_labels(with_one, ROWS[:1])
    assert list(read_labels(with_one)) == ROWS[:1]


def test_what_other_programs_see(tmp_path: Path) -> None:
    for suffix in SUFFIXES:
        write_labels(tmp_path / f"t{suffix}", ROWS)
    (first, *_) = pq.read_table(tmp_path / "t.parquet").to_pylist()
    assert (first["path"], first["labels"], first["probabilities"]) == (
        "-x.mp4",
        ["=wave, twice", "clap"],
        [0.625, 0.25],
    )
    assert (first["decode_seconds"], first["exit_b"]) == (2.25, "exit 1")
    with (tmp_path / "t.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 2 * len(ROWS)
    assert (lines[1]["rank"], lines[1]["label"], lines[1]["bytes"]) == ("2", "clap", "1234")
    assert not [cell for line in lines for cell in line.values() if cell.startswith(("=", "-"))]
    assert json.loads((tmp_path / "t.json").read_text()) == [
        json.loads(line) for line in (tmp_path / "t.jsonl").read_text().splitlines()
    ]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_other_files_are_not_taken_for_tables(tmp_path: Path, suffix: str) -> None:
    out = tmp_path / f"t{suffix}"
    for content in (b"", b"a,b\n1,2\n", b'{"path": 3}\n', b'[{"path": "a"}]', b"\xff\xfe", b"[1]", b"{"):
        out.write_bytes(content)
        if content or suffix in (".parquet", ".json"):
            with pytest.raises(DataError, match=rf"t\{suffix} is not a table of `videokd predict` \("):
                list(read_labels(out))


@pytest.mark.parametrize("jobs", [1, 2])
def test_bad_files_are_listed_and_the_rest_is_labelled(folder: Path, tmp_path: Path, students: Path, jobs: int) -> None:
    (folder / "bad.mp4").write_bytes(b"no video" * 100)
    (folder / "empty.mp4").touch()
    (folder / "folder.mp4").mkdir()
    (folder / "link.mp4").symlink_to("nowhere")
    os.mkfifo(folder / "pipe.mp4")
    out = tmp_path / "labels.csv"
    done = label_into_table(files_named([str(folder)]), Labelling(str(students)), out, workers=Workers(jobs=jobs))
    assert names(out) == ["x.mp4", "y.mp4", "z.mp4"]
    failed = {Path(path).name: reason for path, reason in read_failures(failures_of(out))}
    assert set(failed) == {"bad.mp4", "empty.mp4", "folder.mp4", "link.mp4", "pipe.mp4"}
    assert "is a link to nowhere, which is missing" in failed["link.mp4"]
    assert "is a folder without videos" in failed["folder.mp4"]
    assert "is a pipe" in failed["pipe.mp4"]
    assert len(done.failed) == 5
    assert not list(tmp_path.glob("*.unfinished"))


def stopping_after(monkeypatch: pytest.MonkeyPatch, count: int) -> list[str]:
    """Makes the labelling of files end with Ctrl-C after some; the names of those that were begun."""
    seen: list[str] = []
    original = archive.label_file

    def stopping(labelling: Labelling, made_with: str, file: ArchiveFile) -> LabelledFile:
        if len(seen) == count:
            seen.append("stop")
            raise KeyboardInterrupt
        seen.append(file.file.name)
        return original(labelling, made_with, file)

    monkeypatch.setattr(archive, "label_file", stopping)
    return seen


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_stopped_run_resumes(
    folder: Path, tmp_path: Path, students: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    out, whole = tmp_path / f"t{suffix}", tmp_path / f"whole{suffix}"
    label_into_table(files_named([str(folder)]), Labelling(str(students)), whole, workers=ONE)
    seen = stopping_after(monkeypatch, 2)

    def label() -> archive.Labelled:
        return label_into_table(files_named([str(folder)]), Labelling(str(students)), out, workers=ONE)

    with pytest.raises(KeyboardInterrupt):
        label()
    assert not out.exists()
    with (tmp_path / f"t{suffix}.unfinished").open("a") as lines:
        lines.write('{"path": "half')
    assert (label().reused, seen) == (2, ["x.mp4", "y.mp4", "stop", "z.mp4"])
    assert without_times(out) == without_times(whole)
    assert not list(tmp_path.glob("*.unfinished"))
    # again, it does what is new or changed; of files that are not given, rows stay
    write_clip(folder / "a/x.mp4", num_frames=20)
    write_clip(folder / "a/w.mp4")
    (folder / "z.mp4").unlink()
    done = label()
    assert (seen[4:], done.reused, done.rows) == (["w.mp4", "x.mp4"], 1, 4)
    assert names(out) == ["w.mp4", "x.mp4", "y.mp4", "z.mp4"]
    assert (label().reused, seen[6:]) == (3, [])


def test_a_row_goes_when_its_file_is_bad_now(folder: Path, tmp_path: Path, students: Path) -> None:
    out = tmp_path / "t.csv"
    label_into_table(files_named([str(folder)]), Labelling(str(students)), out, workers=ONE)
    (folder / "z.mp4").write_bytes(b"no video" * 100)
    done = label_into_table(files_named([str(folder)]), Labelling(str(students)), out, workers=ONE)
    assert names(out) == ["x.mp4", "y.mp4"]
    assert [Path(path).name for path, _ in done.failed] == ["z.mp4"]


@pytest.mark.parametrize("change", ["students", "top", "num_segments", "transcode"])
@pytest.mark.parametrize("finished", [True, False])
def test_rows_of_other_students_or_settings_are_not_mixed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str, finished: bool
) -> None:
    out, files = tmp_path / "t.csv", files_named([str(folder)])
    named = str(save(tmp_path / "students"))
    if not finished:
        stopping_after(monkeypatch, 2)
        with pytest.raises(KeyboardInterrupt):
            label_into_table(files, Labelling(named), out, workers=ONE)
    else:
        label_into_table(files, Labelling(named), out, workers=ONE)
    before = {path: path.read_bytes() for path in tmp_path.glob("t.*")}
    others: dict[str, Any] = {"students": {}, "top": {"top": 2}, "num_segments": {"num_segments": 3}}
    if change == "students":
        save(tmp_path / "students", seed=1)
    labelling = Labelling(named, **others.get(change, {"transcode": "always"}))
    with pytest.raises(DataError, match=r"t\.csv was begun with other students or other settings \(.*\)\. Choose"):
        label_into_table(files, labelling, out, workers=ONE)
    assert {path: path.read_bytes() for path in tmp_path.glob("t.*")} == before


def test_refusals(folder: Path, tmp_path: Path, students: Path) -> None:
    files, labelling = files_named([str(folder)]), Labelling(str(students))
    with pytest.raises(ConfigError, match=r"t\.txt \(accepted: a name that ends with .parquet, .csv, .jsonl, .json\)"):
        label_into_table(files, labelling, tmp_path / "t.txt", workers=ONE)
    with (
        held(tmp_path / "u.csv.unfinished", refusal=""),
        pytest.raises(DataError, match=r"u\.csv is being written by another `videokd predict`"),
    ):
        label_into_table(files, labelling, tmp_path / "u.csv", workers=ONE)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty: no students are there \(accepted: the folder"):
        label_into_table(files, Labelling(str(tmp_path / "empty")), tmp_path / "v.csv", workers=ONE)
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match=r"other\.csv is not a table of `videokd predict`"):
        label_into_table(files, labelling, tmp_path / "other.csv", workers=ONE)
    assert (tmp_path / "other.csv").read_text() == "a,b\n1,2\n"
    (tmp_path / "bad.mp4").write_bytes(b"no video" * 100)
    with pytest.raises(
        DataError, match=r"none of 1 files could be labelled; .*w\.failures\.csv lists them\. The first"
    ):
        label_into_table(files_named([str(tmp_path / "bad.mp4")]), labelling, tmp_path / "w.csv", workers=ONE)
    assert not list(tmp_path.glob("[ovw]*.unfinished"))


def test_a_full_disk(folder: Path, tiny_disk: Path, students: Path) -> None:
    (tiny_disk / "filler").write_bytes(b"0" * (1 << 20))
    out = tiny_disk / "t.jsonl"
    with pytest.raises(DataError, match=r"t\.jsonl.* could not be written \(No space left on device\)"):
        label_into_table(files_named([str(folder)]), Labelling(str(students)), out, workers=ONE)
    (tiny_disk / "filler").unlink()
    label_into_table(files_named([str(folder)]), Labelling(str(students)), out, workers=ONE)
    assert names(out) == ["x.mp4", "y.mp4", "z.mp4"]


@pytest.mark.parametrize(("jobs", "batch_size"), [(1, 2), (2, 2), (2, 64)])
def test_batches_say_what_single_files_say(
    folder: Path, tmp_path: Path, students: Path, jobs: int, batch_size: int
) -> None:
    for number in range(20):
        write_clip(folder / f"more/{number:02d}.mp4", num_frames=10 + number, seed=number)
    (folder / "bad.mp4").write_bytes(b"no video" * 100)
    files = files_named([str(folder)])
    for out, size, workers in (("a.jsonl", None, ONE), ("b.jsonl", batch_size, Workers(jobs=jobs))):
        labelling = Labelling(str(students), batch_size=size)
        assert len(label_into_table(files, labelling, tmp_path / out, workers=workers).failed) == 1
    alone, together = (list(read_labels(tmp_path / out)) for out in ("a.jsonl", "b.jsonl"))
    assert len(alone) == len(together) == 23
    for one, other in zip(alone, together, strict=True):
        assert (one.prediction.path, one.bytes, one.made_with) == (other.prediction.path, other.bytes, other.made_with)
        expected = {label.name: label.probability for label in one.prediction.labels}
        found = {label.name: label.probability for label in other.prediction.labels}
        assert found == pytest.approx(expected, abs=1e-5)
        assert min(other.prediction.seconds[step] for step in ("read", "network")) > 0


def test_places_for_streams_are_used_again() -> None:
    wanted = Wanted(("wave",), {"motion": ("motion", 4), "iframe": ("iframe", 6)}, 2)
    slots = Slots(wanted, 2, 3)
    rng = np.random.default_rng(0)
    shapes = {"motion": (1, 2, 2, 4, 4), "iframe": (1, 2, 3, 6, 6)}
    videos = [{key: rng.integers(0, 256, shape, np.uint8) for key, shape in shapes.items()} for _ in range(3)]
    assert all(slots.put(number, video) for number, video in enumerate(videos))
    for number, video in enumerate(videos):
        assert all(np.array_equal(values, video[key]) for key, values in slots.take(number).items())
    assert not slots.put(0, {**videos[1], "motion": np.zeros((1, 3, 2, 4, 4), np.uint8)})
    assert np.array_equal(slots.take(0)["iframe"], videos[0]["iframe"])


@pytest.mark.parametrize("batch_size", [None, 2])
def test_a_worker_that_dies_or_hangs_costs_its_file(
    folder: Path, tmp_path: Path, students: Path, monkeypatch: pytest.MonkeyPatch, batch_size: int | None
) -> None:
    """A module that the workers import at their start kills them at one file, and makes them hang at another."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(
        "import os, sys, time\n"
        "from videokd.prediction import reading\n"
        "original = reading.open_video\n"
        "def deadly(source, **settings):\n"
        "    if str(source).endswith('x.mp4'):\n"
        "        os._exit(9)\n"
        "    if str(source).endswith('y.mp4'):\n"
        "        time.sleep(600)\n"
        "    return original(source, **settings)\n"
        "reading.open_video = deadly\n"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "site"), *sys.path]))
    labelling = Labelling(str(students), batch_size=batch_size, transcode="never")
    workers = Workers(jobs=2, task_seconds=15)
    done = label_into_table(files_named([str(folder)]), labelling, tmp_path / "t.csv", workers=workers)
    assert names(tmp_path / "t.csv") == ["z.mp4"]
    assert [Path(path).name for path, _ in done.failed] == ["x.mp4", "y.mp4"]
    assert all("FFmpeg crashed, or it took too long" in reason for _, reason in done.failed)


def test_numbers_that_nobody_can_mean(students: Path, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"batch_size is 0 \(accepted: 1 to 4096\)"):
        Labelling(str(students), batch_size=0)
    labelling = Labelling(str(students), batch_size=2)
    with pytest.raises(ConfigError, match=r"batch_size needs the engine local \(given: ray\)"):
        label_into_table(files_named([str(folder)]), labelling, tmp_path / "t.csv", workers=Workers("ray"))


@pytest.mark.slow
def test_a_killed_ray_worker_loses_no_file(
    cluster: Any,  # noqa: F811
    tmp_path: Path,
    students: Path,
) -> None:
    for number in range(40):
        write_clip(tmp_path / f"in/{number:02d}.mp4", num_frames=60, seed=number)
    (tmp_path / "in" / "bad.mp4").write_bytes(b"no video" * 100)
    files, labelling, out = files_named([str(tmp_path / "in")]), Labelling(str(students)), tmp_path / "ray.jsonl"
    killed: list[int] = []

    def kill_one() -> None:
        deadline = time.monotonic() + 120
        unfinished = out.with_name("ray.jsonl.unfinished")
        while not killed and time.monotonic() < deadline:
            if unfinished.exists() and unfinished.read_bytes().count(b"\n") >= 4 and (found := ray_workers()):
                os.kill(found[0], signal.SIGKILL)
                killed.append(found[0])
            time.sleep(0.005)

    killer = threading.Thread(target=kill_one)
    killer.start()
    done = label_into_table(files, labelling, out, workers=Workers("ray", address=cluster.address))
    killer.join()
    assert killed
    label_into_table(files, labelling, tmp_path / "here.jsonl", workers=ONE)
    assert (done.rows, len(done.failed)) == (40, 1)
    assert without_times(out) == without_times(tmp_path / "here.jsonl")


def test_parquet_without_pyarrow_is_refused_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("videokd.archives.labels_table.find_spec", lambda name: None)
    check_labels_name(Path("labels.csv"))
    with pytest.raises(ConfigError, match=r"needs pyarrow \(accepted without it: \.csv, \.jsonl, \.json\)"):
        check_labels_name(Path("labels.parquet"))


@pytest.mark.parametrize("name", ["t.json", "t.jsonl"])
@pytest.mark.parametrize("content", ["[" * 100_000, '[{"bytes": 1e999}]'])
def test_tables_of_strangers_are_refused_in_one_line(name: str, content: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=r"is not a table of `videokd predict`"):
        list(read_labels(tmp_path / name))
