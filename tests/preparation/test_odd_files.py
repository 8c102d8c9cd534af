"""No file, whatever its name or shape, ends a `prepare`: it is listed in failures.csv, and the rest is prepared."""

from __future__ import annotations

import csv
import os
import shutil
import socket
from pathlib import Path

import numpy as np
import pytest

from tests.recipes.test_prepare import run_alone
from tests.small_datasets import listing, write_clip
from videokd.errors import DataError, DecodeError
from videokd.jobs.workers import Workers
from videokd.preparation import prepare_clip
from videokd.preparation.prepare_dataset import prepare
from videokd.transcoding.mp4_writer import Encoding
from videokd.transcoding.transcode import encode

SMALL = Encoding(short_side=32)
ONE = Workers(jobs=1)


def failures(out: Path) -> dict[str, str]:
    with (out / "failures.csv").open(encoding="utf-8", newline="") as file:
        return {row["path"]: row["reason"] for row in csv.DictReader(file)}


GOOD = (
    *(
        "new\nline.mp4",
        'quo"te.mp4',
        "com,ma.mp4",
        "car\rriage.mp4",
        "100%d.mp4",
        "concat:x.mp4",
        "-dash.mp4",
        "日本 🎬.mp4",
    ),
    *(
        "L" * 251 + ".mp4",
        "M" * 252 + ".ts",
        "Case.mp4",
        "case.mp4",
        "same.avi",
        "same.mkv",
        "x.mp4/y.mp4",
        "x.avi",
        "clip.f4v",
    ),
)


def test_odd_names_are_prepared(root: Path, tmp_path: Path) -> None:
    clip = (root / "hop/a_g1_.mp4").read_bytes()
    for name in GOOD:
        (root / "hop" / name).parent.mkdir(exist_ok=True)
        (root / "hop" / name).write_bytes(clip)
    manifest = prepare(listing(root), tmp_path / "out", encoding=SMALL, workers=ONE)
    prepared = {clip.source_path: manifest.file(clip) for clip in manifest.clips}
    assert {f"hop/{name}" for name in GOOD} <= set(prepared)
    assert len(set(prepared.values())) == len(prepared) == len(GOOD) + 4
    assert all(file.is_file() for file in prepared.values())
    assert not (tmp_path / "out/failures.csv").exists()
    again = prepare(listing(root), tmp_path / "out", encoding=SMALL, workers=ONE)
    assert again == manifest


def put_bad_files(folder: Path) -> dict[str, str]:
    """{name: what is said of it}."""
    write_clip(folder / "good.mp4")
    (folder / "empty.mp4").touch()
    (folder / "text.mp4").write_text("no video")
    (folder / "folder.mp4").mkdir()
    os.mkfifo(folder / "pipe.mp4")
    (folder / "broken.mp4").symlink_to("nowhere.mp4")
    (folder / "loop.mp4").symlink_to("loop.mp4")
    shutil.copy(folder / "good.mp4", os.fsencode(folder) + b"/bytes\xff.mp4")
    encode([np.zeros((32, 4000, 3), np.uint8)] * 3, folder / "strip.mp4", frame_rate=25)
    encode([np.zeros((32, 64, 3), np.uint8)], folder / "single.mp4", frame_rate=25)
    return {
        "empty.mp4": "is empty",
        "text.mp4": "text file",
        "folder.mp4": "is a directory",
        "pipe.mp4": "is a pipe or a device",
        "broken.mp4": "broken link",
        "loop.mp4": "broken link",
        "bytes\\udcff.mp4": "its name is not UTF-8",
        "strip.mp4": r"4000×32 pixels of 1:1 become 32000×256 with a short side of 256 (accepted: up to 8190",
        "single.mp4": "has only one picture",
    }


@pytest.mark.parametrize("keep", [False, True])
def test_bad_files_are_listed_and_the_rest_is_prepared(root: Path, tmp_path: Path, keep: bool) -> None:
    expected = put_bad_files(root / "hop")
    if keep:
        del expected["strip.mp4"]  # a strip is read as it is
    encoding = Encoding(short_side=256)
    out = tmp_path / "out"
    with pytest.raises(DataError, match=rf"{len(expected)} of 14 videos could not be prepared"):
        prepare(listing(root), out, encoding=encoding, keep=keep, workers=ONE)
    found = failures(out)
    assert {path.removeprefix("hop/") for path in found} == set(expected)
    assert all(said in found[f"hop/{name}"] for name, said in expected.items())
    manifest = prepare(listing(root), out, encoding=encoding, keep=keep, on_error="skip", workers=ONE)
    assert manifest.settings["skipped"] == len(expected)
    assert len(manifest.clips) == 14 - len(expected)


def test_a_socket_and_an_error_of_an_unknown_kind(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root / "hop")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("socket.mp4")
        original = prepare_clip.transcode

        def failing(source: Path, *given: object) -> object:
            if source.name == "a_g1_.mp4":
                raise MemoryError("no memory for a picture")
            return original(source, *given)  # type: ignore[arg-type]

        monkeypatch.setattr(prepare_clip, "transcode", failing)
        prepare(listing(root), tmp_path / "out", encoding=SMALL, on_error="skip", workers=ONE)
    found = failures(tmp_path / "out")
    assert "is a pipe or a device" in found["hop/socket.mp4"]
    assert "cannot be prepared (MemoryError: no memory for a picture)" in found["hop/a_g1_.mp4"]


def test_an_unreadable_folder_is_a_failure(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root / "hop", root / "hop/locked")
    (root / "hop/locked").chmod(0)
    arguments = ["folder", str(root), "--out", str(tmp_path / "out"), "--short-side", "32", "--jobs", "1"]
    done = run_alone(*arguments, "--on-error", "skip", unprivileged=True)
    assert done.returncode == 0, done.stderr
    assert "its files cannot be listed (Permission denied)" in failures(tmp_path / "out")["hop/locked"]
    assert "1 files were omitted" in done.stderr
    (root / "hop/locked").chmod(0o755)


def deadly(number: int) -> int:
    if number == 3:
        os._exit(9)
    return number


def test_a_worker_that_dies_costs_only_its_file() -> None:
    outcomes = dict(Workers(jobs=2).outcomes(deadly, range(7)))
    assert {number: outcome for number, outcome in outcomes.items() if number != 3} == {
        n: n for n in range(7) if n != 3
    }
    assert isinstance(outcomes[3], DecodeError)
    assert "worker process of this file died" in str(outcomes[3])
