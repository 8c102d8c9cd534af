from __future__ import annotations

import csv
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import av
import numpy as np
import pytest

from videokd.codec.index import VideoIndex
from videokd.codec.transcode import Encoding, encode
from videokd.datasets import preparation
from videokd.datasets.layouts import folder_layout
from videokd.datasets.manifest import Manifest
from videokd.datasets.preparation import prepare
from videokd.errors import ConfigError, DataError

SMALL = Encoding(short_side=32)


def write_clip(path: Path, *, num_frames: int = 14, seed: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    coarse = np.kron(rng.integers(0, 256, (4, 5, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    frames = [np.roll(coarse, t, axis=1) for t in range(num_frames)]
    encode(frames, path, frame_rate=20, encoding=Encoding(codec="h264", gop=250))
    return path


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    root = tmp_path / "source"
    names = ["hop/a_g1_c1.mp4", "hop/a_g2_c1.mp4", "run/é (1)#_g1_c1.mp4", "run/b_g2_c1.mp4"]
    for seed, name in enumerate(names):
        write_clip(root / name, num_frames=14 + seed, seed=seed)
    return root


def digests(folder: Path) -> dict[str, str]:
    files = [path for path in sorted(folder.rglob("*")) if path.suffix in (".mp4", ".parquet")]
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def times(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.rglob("*.mp4")}


def test_prepares_clips_and_their_rows(dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    manifest = prepare(folder_layout(dataset), dataset, out, encoding=SMALL, jobs=1, flip=False)
    assert Manifest.read(out) == manifest
    manifest.check_files()
    assert manifest.class_names == ("hop", "run")
    assert manifest.flip is False
    assert manifest.settings["encoding"] == {
        "codec": "mpeg4", "gop": 12, "quality": 3, "short_side": 32, "frame_rate": None,
    }  # fmt: skip
    assert [(clip.video_id, clip.num_frames) for clip in manifest.clips] == [
        ("hop/a_g1_c1", 14),
        ("hop/a_g2_c1", 15),
        ("run/b_g2_c1", 17),
        ("run/é (1)#_g1_c1", 16),
    ]
    for clip in manifest.clips:
        assert clip.path == f"videos/{clip.video_id}.mp4"
        assert clip.sha256 == hashlib.sha256(manifest.file(clip).read_bytes()).hexdigest()
        assert clip.source_sha256 == hashlib.sha256((dataset / f"{clip.video_id}.mp4").read_bytes()).hexdigest()
        assert clip.seconds == pytest.approx(clip.num_frames / 20)
        index = VideoIndex.from_json(clip.index)
        assert index.exact
        assert [gop.num_positions for gop in index.gops] == [12, clip.num_frames - 12]
        with av.open(str(manifest.file(clip))) as container:
            stream = container.streams.video[0]
            assert (stream.codec_context.name, stream.width, stream.height) == (clip.codec, clip.width, clip.height)
            assert sum(1 for _ in container.decode(stream)) == clip.num_frames


def test_parallel_and_serial_runs_write_the_same_bytes(dataset: Path, tmp_path: Path) -> None:
    entries = folder_layout(dataset)
    prepare(entries, dataset, tmp_path / "one", encoding=SMALL, jobs=1)
    prepare(entries, dataset, tmp_path / "two", encoding=SMALL, jobs=2)
    assert digests(tmp_path / "one") == digests(tmp_path / "two")
    assert len(digests(tmp_path / "one")) == 5


def test_a_second_run_makes_nothing_anew(dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entries, out = folder_layout(dataset), tmp_path / "out"
    first = prepare(entries, dataset, out, encoding=SMALL, jobs=1)
    before = digests(out)
    monkeypatch.setattr(preparation, "transcode", None)
    assert prepare(entries, dataset, out, encoding=SMALL) == first
    assert digests(out) == before


def test_only_what_changed_is_made_again(dataset: Path, tmp_path: Path) -> None:
    entries, out = folder_layout(dataset), tmp_path / "out"
    prepare(entries, dataset, out, encoding=SMALL, jobs=1)
    before = times(out)
    write_clip(dataset / "hop/a_g1_c1.mp4", num_frames=20, seed=9)
    (out / "videos/hop/a_g2_c1.mp4").write_bytes(b"damaged")
    (out / "videos/run/b_g2_c1.mp4").unlink()
    manifest = prepare(entries, dataset, out, encoding=SMALL, jobs=1)
    after = times(out)
    assert {name for name in before if before[name] != after[name]} == {"a_g1_c1.mp4", "a_g2_c1.mp4", "b_g2_c1.mp4"}
    assert manifest.clips[0].num_frames == 20
    manifest.check_files()


def test_another_encoding_makes_everything_again(dataset: Path, tmp_path: Path) -> None:
    entries, out = folder_layout(dataset), tmp_path / "out"
    prepare(entries, dataset, out, encoding=SMALL, jobs=1)
    manifest = prepare(entries, dataset, out, encoding=Encoding(codec="h264", short_side=48), jobs=1)
    assert {(clip.codec, clip.height) for clip in manifest.clips} == {("h264", 48)}


def test_a_row_that_cannot_be_read_is_made_again(dataset: Path, tmp_path: Path) -> None:
    entries, out = folder_layout(dataset), tmp_path / "out"
    first = prepare(entries, dataset, out, encoding=SMALL, jobs=1)
    for row, text in zip(sorted((out / ".rows").iterdir()), ["", "[]", '{"made_from": 1}', "null"], strict=True):
        row.write_text(text)
    assert prepare(entries, dataset, out, encoding=SMALL, jobs=1) == first


def test_sources_that_differ_in_their_suffix_alone_stay_apart(dataset: Path, tmp_path: Path) -> None:
    shutil.copy(dataset / "run/b_g2_c1.mp4", dataset / "hop/a_g1_c1.avi")
    manifest = prepare(folder_layout(dataset), dataset, tmp_path / "out", encoding=SMALL, jobs=1)
    lengths = {clip.path: clip.num_frames for clip in manifest.clips}
    assert lengths["videos/hop/a_g1_c1.avi.mp4"] == 17
    assert lengths["videos/hop/a_g1_c1.mp4.mp4"] == 14


@pytest.fixture
def damaged(dataset: Path) -> Path:
    (dataset / "hop" / "bad_g3_c1.mp4").write_bytes(b"no video" * 100)
    write_clip(dataset / "run" / "short_g3_c1.mp4", num_frames=1)
    return dataset


@pytest.mark.parametrize("jobs", [1, 2])
def test_failures_are_listed_after_everything_else_is_done(damaged: Path, tmp_path: Path, jobs: int) -> None:
    out = tmp_path / "out"
    with pytest.raises(
        DataError,
        match=r'2 of 6 videos could not be prepared, all listed in .*failures.csv. .* on_error "skip". The first',
    ):
        prepare(folder_layout(damaged), damaged, out, encoding=SMALL, jobs=jobs)
    assert len(times(out)) == 4
    assert not (out / "manifest.parquet").exists()
    with (out / "failures.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == ["hop/bad_g3_c1.mp4", "run/short_g3_c1.mp4"]
    assert "is no video that FFmpeg reads" in rows[0]["reason"]
    assert "has one picture alone (accepted: two or more, to see motion)" in rows[1]["reason"]


def test_skipping_leaves_failures_out_and_counts_them(damaged: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    manifest = prepare(folder_layout(damaged), damaged, out, encoding=SMALL, jobs=1, on_error="skip")
    assert len(manifest.clips) == 4
    assert manifest.settings["skipped"] == 2
    for name in ("hop/bad_g3_c1.mp4", "run/short_g3_c1.mp4"):
        (damaged / name).unlink()
    assert prepare(folder_layout(damaged), damaged, out, encoding=SMALL, jobs=1).settings["skipped"] == 0
    assert not (out / "failures.csv").exists()


def test_nothing_but_failures_is_an_error_even_when_skipping(tmp_path: Path) -> None:
    for name in ("a/1.mp4", "a/2.mp4", "b/1.mp4", "b/2.mp4"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_text("text")
    with pytest.raises(DataError, match=r"4 of 4 videos could not be prepared.*Mend or remove them\. The first"):
        prepare(folder_layout(tmp_path / "in"), tmp_path / "in", tmp_path / "out", jobs=1, on_error="skip")


def test_a_source_that_goes_away_is_a_failure(dataset: Path, tmp_path: Path) -> None:
    entries = folder_layout(dataset)
    (dataset / "hop/a_g1_c1.mp4").unlink()
    with pytest.raises(DataError, match=r"1 of 4 videos .*a_g1_c1.mp4: no such file. It went away"):
        prepare(entries, dataset, tmp_path / "out", encoding=SMALL, jobs=1)


def test_refusals(dataset: Path, tmp_path: Path) -> None:
    entries = folder_layout(dataset)
    with pytest.raises(ConfigError, match=r"jobs 0 \(accepted: 1 or more"):
        prepare(entries, dataset, tmp_path / "out", jobs=0)
    with pytest.raises(ConfigError, match=r"on_error 'ignore' \(accepted: fail, skip\)"):
        prepare(entries, dataset, tmp_path / "out", on_error="ignore")
    with pytest.raises(DataError, match=r"no videos to prepare. Check the folder and the layout"):
        prepare((), dataset, tmp_path / "out")
    with pytest.raises(DataError, match=r"lies in the dataset's own folder .* Choose a folder outside it"):
        prepare(entries, dataset, dataset / "prepared")
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"file cannot be written \(.+\). Choose another folder"):
        prepare(entries, dataset, tmp_path / "file")


def test_a_disk_that_loses_pictures_stops_the_run(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def losing(source: Path, target: Path, encoding: Encoding) -> int:
        return write_clip(target, num_frames=5) and 6

    monkeypatch.setattr(preparation, "transcode", losing)
    with pytest.raises(DataError, match=r"6 pictures were written, 5 found. Check the disk"):
        prepare(folder_layout(dataset), dataset, tmp_path / "out", encoding=SMALL, jobs=1, on_error="skip")


def test_a_row_that_cannot_be_written_stops_the_run(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = preparation._make_folders

    def without_rows(out: Path) -> None:
        real(out)
        (out / ".rows").rmdir()

    monkeypatch.setattr(preparation, "_make_folders", without_rows)
    with pytest.raises(DataError, match=r".json could not be written \(No such file or directory\). Check free space"):
        prepare(folder_layout(dataset), dataset, tmp_path / "out", encoding=SMALL, jobs=1, on_error="skip")


def test_a_full_disk_stops_the_run_and_is_not_skipped(dataset: Path, tiny_disk: Path) -> None:
    (tiny_disk / "filler").write_bytes(b"\0" * 1_030_000)
    with pytest.raises(DataError, match=r"could not be written|cannot be written"):
        prepare(folder_layout(dataset), dataset, tiny_disk / "out", jobs=1, on_error="skip")
    assert not (tiny_disk / "out" / "manifest.parquet").exists()


def test_the_bar_goes_to_stderr_and_only_when_asked(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare(folder_layout(dataset), dataset, tmp_path / "a", encoding=SMALL, jobs=1)
    assert capsys.readouterr() == ("", "")
    prepare(folder_layout(dataset), dataset, tmp_path / "b", encoding=SMALL, jobs=1, progress=True)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "4/4" in captured.err


PROGRAM = """
import sys
from videokd.codec.transcode import Encoding
from videokd.datasets.layouts import folder_layout
from videokd.datasets.preparation import prepare

if __name__ == "__main__":
    source, out = sys.argv[1:]
    prepare(folder_layout(source), source, out, encoding=Encoding(short_side=480), jobs=2)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_run_goes_on_where_it_stood(tmp_path: Path, number: signal.Signals) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    for label in ("a", "b"):
        for group in range(10):
            write_clip(source / label / f"x_g{group:02d}_c1.mp4", num_frames=30, seed=group)
    script = tmp_path / "run.py"
    script.write_text(PROGRAM)
    command = [sys.executable, str(script), str(source), str(out)]
    # A session of its own: its members are all that the run started.
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.monotonic() + 30
    while len(list(out.glob(".rows/*.json"))) < 3 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # as a terminal does: the whole group sees Ctrl-C
    else:
        process.kill()
    _, errors = process.communicate(timeout=30)
    assert process.returncode != 0
    assert errors.count("Traceback") <= 1  # the parent's own; workers are silent
    assert _session_ends(process.pid), "workers outlived the run"
    done = times(out)
    rows = len(list(out.glob(".rows/*.json")))
    assert 3 <= rows < 20
    assert not (out / "manifest.parquet").exists()

    (out / "videos" / "a" / ".videokd-0123456789ab.part").write_bytes(b"left by a killed worker")
    subprocess.run(command, check=True, timeout=60)
    assert len(Manifest.read(out).clips) == 20
    after = times(out)
    assert sum(done.get(name) == when for name, when in after.items()) >= rows // 2  # names repeat over classes
    assert [path.name for path in out.rglob("*.part")] == []
    Manifest.read(out).check_files()

    reference = tmp_path / "reference"
    subprocess.run([*command[:-1], str(reference)], check=True, timeout=60)
    assert digests(reference) == digests(out)


def _session_ends(session: int) -> bool:
    for _ in range(500):
        try:
            os.killpg(session, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.01)
    return False


def test_a_worker_that_dies_is_reported(dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preparation, "_Task", _Deadly)
    with pytest.raises(DataError, match=r"A worker process died: .* Run the same command again"):
        prepare(folder_layout(dataset), dataset, tmp_path / "out", encoding=SMALL, jobs=2)


class _Deadly(preparation._Task):
    """Ends the process that unpickles it."""

    def __reduce__(self) -> tuple[object, ...]:
        return os._exit, (9,)
