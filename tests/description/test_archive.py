from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tests.jobs.test_workers import cluster  # noqa: F401 (fixture)
from tests.small_datasets import write_clip
from videokd.description import archive
from videokd.description.archive import describe_archive
from videokd.description.table import read_table
from videokd.errors import ConfigError, DataError, DecodeError
from videokd.files import held
from videokd.jobs.archive_files import ArchiveFile, failures_of, files_of
from videokd.jobs.failures import read_failures
from videokd.jobs.workers import Workers

ONE = Workers(jobs=1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for seed, name in enumerate(("a/x.mp4", "a/y.mp4", "z.mp4")):
        write_clip(tmp_path / "in" / name, seed=seed)
    return tmp_path / "in"


def names(out: Path) -> list[str]:
    return [row.description.path for row in read_table(out)]


def test_names_are_relative_to_a_single_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [file.name for file in files_of([str(folder)])] == ["a/x.mp4", "a/y.mp4", "z.mp4"]
    monkeypatch.chdir(folder)
    # of several, as given; a file that is named twice counts once
    assert [file.name for file in files_of(["a", "z.mp4", "a/x.mp4"])] == ["a/x.mp4", "a/y.mp4", "z.mp4"]
    assert all(file.file.is_absolute() for file in files_of(["a"]))


@pytest.mark.parametrize("jobs", [1, 2])
def test_bad_files_are_listed_and_the_rest_is_described(folder: Path, tmp_path: Path, jobs: int) -> None:
    (folder / "bad.mp4").write_bytes(b"no video" * 100)
    (folder / "link.mp4").symlink_to("nowhere")
    out = tmp_path / "out" / "clips.csv"
    done = describe_archive(files_of([str(folder)]), out, workers=Workers(jobs=jobs))
    assert names(out) == ["a/x.mp4", "a/y.mp4", "z.mp4"]
    failed = dict(read_failures(failures_of(out)))
    assert failures_of(out).name == "clips.failures.csv"
    assert set(failed) == {"bad.mp4", "link.mp4"}
    assert failed["link.mp4"].endswith(
        "link.mp4 is a link to nowhere, which is missing. Restore that file, or remove the link."
    )
    assert tuple(failed.items()) == done.failed
    (folder / "bad.mp4").unlink()
    (folder / "link.mp4").unlink()
    describe_archive(files_of([str(folder)]), out, workers=ONE)
    assert not failures_of(out).exists()


def test_a_name_that_is_not_utf8(folder: Path, tmp_path: Path) -> None:
    os.rename(folder / "z.mp4", os.fsencode(folder) + b"/\xff.mp4")
    done = describe_archive(files_of([str(folder)]), tmp_path / "t.parquet", workers=ONE)
    assert [name for name, _ in done.failed] == ["\\udcff.mp4"]
    assert "is not UTF-8" in done.failed[0][1]


def test_a_stopped_run_resumes(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, original, seen = tmp_path / "t.parquet", archive.describe_file, []

    def stopping(file: ArchiveFile) -> object:
        seen.append(file.name)
        if file.name == "z.mp4" and seen.count("z.mp4") == 1:
            raise KeyboardInterrupt
        return original(file)

    monkeypatch.setattr(archive, "describe_file", stopping)
    with pytest.raises(KeyboardInterrupt):
        describe_archive(files_of([str(folder)]), out, workers=ONE)
    assert not out.exists()
    with (tmp_path / "t.parquet.unfinished").open("a") as lines:
        lines.write('{"path": "half')
    done = describe_archive(files_of([str(folder)]), out, workers=ONE)
    assert (seen, done.reused) == (["a/x.mp4", "a/y.mp4", "z.mp4", "z.mp4"], 2)
    assert names(out) == ["a/x.mp4", "a/y.mp4", "z.mp4"]
    assert [path.name for path in tmp_path.iterdir() if path.name != "in"] == ["t.parquet"]
    # what changed is described again, and what is gone leaves the table
    write_clip(folder / "a/x.mp4", num_frames=20)
    (folder / "z.mp4").unlink()
    done = describe_archive(files_of([str(folder)]), out, workers=ONE)
    assert (seen[4:], done.reused, names(out)) == (["a/x.mp4"], 1, ["a/x.mp4", "a/y.mp4"])
    assert read_table(out)[0].description.frames == 20


def test_refusals(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty: no videos \(accepted: files, or folders"):
        files_of([str(tmp_path / "empty")])
    for name in ("nothere.mp4", ""):
        with pytest.raises(DataError, match=rf"^'{name}': no such file or folder \(.*\). Check the path.$"):
            files_of([str(folder), name])
    files = files_of([str(folder)])
    with pytest.raises(ConfigError, match=r"t\.json \(accepted: a name that ends with"):
        describe_archive(files, tmp_path / "t.json")
    (tmp_path / "bad.mp4").write_bytes(b"no video" * 100)
    with pytest.raises(DataError, match=r"none of 1 files could be described; .*t\.failures\.csv lists them"):
        describe_archive(files_of([str(tmp_path / "bad.mp4")]), tmp_path / "t.csv", workers=ONE)
    with (
        held(tmp_path / "u.csv.unfinished", refusal=""),
        pytest.raises(DataError, match=r"u\.csv is being written by another `videokd describe`"),
    ):
        describe_archive(files, tmp_path / "u.csv", workers=ONE)
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match=r"other\.csv is not a table of `videokd describe`"):
        describe_archive(files, tmp_path / "other.csv", workers=ONE)
    assert (tmp_path / "other.csv").read_text() == "a,b\n1,2\n"
    with pytest.raises(ConfigError, match="no Ray cluster|needs Ray"):
        describe_archive(files, tmp_path / "v.csv", workers=Workers("ray", address="127.0.0.1:1"))
    assert not list(tmp_path.glob("[ov]*.unfinished"))
    monkeypatch.setattr(archive, "describe", lambda _: 1 / 0)
    gone = ArchiveFile("a.mp4", tmp_path / "a.mp4")
    with pytest.raises(DecodeError, match=r"a\.mp4 cannot be read \(No such file or directory\). Check the file"):
        archive.describe_file(gone)
    with pytest.raises(DecodeError, match=r"x\.mp4 cannot be described \(ZeroDivisionError: .* report this"):
        archive.describe_file(files[0])


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_near_duplicates_are_looked_for_once(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    searches: list[int] = []
    original = archive.find_copies

    def counted(clips: Any, *arguments: Any, **settings: Any) -> Any:
        searches.append(len(clips))
        return original(clips, *arguments, **settings)

    monkeypatch.setattr(archive, "find_copies", counted)
    for near_duplicates in (False, True, True):
        describe_archive(files_of([str(folder)]), tmp_path / f"t{suffix}", workers=ONE, near_duplicates=near_duplicates)
    assert searches == [3]


@pytest.mark.slow
def test_a_ray_cluster_describes_the_same(cluster: Any, folder: Path, tmp_path: Path) -> None:  # noqa: F811
    (folder / "bad.mp4").write_bytes(b"no video" * 100)
    files = files_of([str(folder)])
    on_ray = describe_archive(files, tmp_path / "ray.parquet", workers=Workers("ray", address=cluster.address))
    here = describe_archive(files, tmp_path / "here.parquet", workers=ONE)
    assert on_ray == here
    assert (len(here.rows), len(here.failed)) == (3, 1)
