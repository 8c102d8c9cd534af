from __future__ import annotations

import csv
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import av
import pytest

from tests.jobs.test_interruptions import session_ends
from tests.small_datasets import digests, listing, write_clip
from videokd.codec.index import VideoIndex
from videokd.datasets.manifest import Manifest
from videokd.errors import ConfigError, DataError
from videokd.jobs.workers import Workers
from videokd.preparation import prepare_clip, prepare_dataset
from videokd.preparation.listing import Listing
from videokd.preparation.prepare_dataset import merge, prepare
from videokd.preparation.shards import Shard
from videokd.preparation.verification import verify
from videokd.transcoding.mp4_writer import Encoding

SMALL = Encoding(short_side=32)
ONE = Workers(jobs=1)
TWO = Workers(jobs=2)


def times(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.rglob("*.mp4")}


def test_prepares_clips_and_their_rows(dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    manifest = prepare(listing(dataset, flip=False), out, encoding=SMALL, workers=ONE)
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


def test_resampled_clips_have_one_rate_and_keep_their_time(tmp_path: Path) -> None:
    for number, rate in enumerate((10, 20, 50, 60)):
        write_clip(
            tmp_path / "in" / ["hop", "run"][number % 2] / f"a_g{number // 2}_.mp4", num_frames=rate, frame_rate=rate
        )
    resampling = Encoding(short_side=32, resample=25)
    manifest = prepare(listing(tmp_path / "in"), tmp_path / "out", encoding=resampling, workers=ONE)
    assert [(clip.num_frames, clip.seconds) for clip in manifest.clips] == [(25, 1.0)] * 4
    assert [clip.source_frame_rate for clip in manifest.clips] == [10, 50, 20, 60]
    assert manifest.settings["frame_rates"] == [25, 25]
    assert manifest.settings["encoding"] == {
        "codec": "mpeg4", "gop": 12, "quality": 3, "short_side": 32, "frame_rate": None, "resample": 25,
    }  # fmt: skip
    kept = prepare(listing(tmp_path / "in"), tmp_path / "out2", encoding=SMALL, workers=ONE)
    assert kept.settings["frame_rates"] == [10, 60]


def test_parallel_and_serial_runs_write_the_same_bytes(dataset: Path, tmp_path: Path) -> None:
    listed = listing(dataset)
    prepare(listed, tmp_path / "one", encoding=SMALL, workers=ONE)
    prepare(listed, tmp_path / "two", encoding=SMALL, workers=TWO)
    assert digests(tmp_path / "one") == digests(tmp_path / "two")
    assert len(digests(tmp_path / "one")) == 5


def test_a_second_run_makes_nothing_anew(dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed, out = listing(dataset), tmp_path / "out"
    first = prepare(listed, out, encoding=SMALL, workers=ONE)
    before = digests(out)
    monkeypatch.setattr(prepare_clip, "transcode", None)
    assert prepare(listed, out, encoding=SMALL) == first
    assert digests(out) == before


def test_only_what_changed_is_made_again(dataset: Path, tmp_path: Path) -> None:
    listed, out = listing(dataset), tmp_path / "out"
    prepare(listed, out, encoding=SMALL, workers=ONE)
    before = times(out)
    write_clip(dataset / "hop/a_g1_c1.mp4", num_frames=20, seed=9)
    (out / "videos/hop/a_g2_c1.mp4").write_bytes(b"damaged")
    (out / "videos/run/b_g2_c1.mp4").unlink()
    manifest = prepare(listed, out, encoding=SMALL, workers=ONE)
    after = times(out)
    assert {name for name in before if before[name] != after[name]} == {"a_g1_c1.mp4", "a_g2_c1.mp4", "b_g2_c1.mp4"}
    assert manifest.clips[0].num_frames == 20
    manifest.check_files()


def test_another_encoding_makes_everything_again(dataset: Path, tmp_path: Path) -> None:
    listed, out = listing(dataset), tmp_path / "out"
    prepare(listed, out, encoding=SMALL, workers=ONE)
    manifest = prepare(listed, out, encoding=Encoding(codec="h264", short_side=48), workers=ONE)
    assert {(clip.codec, clip.height) for clip in manifest.clips} == {("h264", 48)}


def test_a_row_that_cannot_be_read_is_made_again(dataset: Path, tmp_path: Path) -> None:
    listed, out = listing(dataset), tmp_path / "out"
    first = prepare(listed, out, encoding=SMALL, workers=ONE)
    for row, text in zip(sorted((out / ".rows").glob("*/*.json")), ["", "[]", '{"made_from": 1}', "null"], strict=True):
        row.write_text(text)
    assert prepare(listed, out, encoding=SMALL, workers=ONE) == first


def test_sources_that_differ_in_their_suffix_alone_stay_apart(dataset: Path, tmp_path: Path) -> None:
    shutil.copy(dataset / "run/b_g2_c1.mp4", dataset / "hop/a_g1_c1.avi")
    manifest = prepare(listing(dataset), tmp_path / "out", encoding=SMALL, workers=ONE)
    lengths = {clip.path: clip.num_frames for clip in manifest.clips}
    assert lengths["videos/hop/a_g1_c1.avi.mp4"] == 17
    assert lengths["videos/hop/a_g1_c1.mp4.mp4"] == 14


@pytest.mark.parametrize("jobs", [1, 2])
def test_failures_are_listed_after_everything_else_is_done(damaged: Path, tmp_path: Path, jobs: int) -> None:
    out = tmp_path / "out"
    with pytest.raises(
        DataError,
        match=r"2 of 6 videos could not be prepared, all listed in .*failures.csv. .* `--on-error skip`. The first",
    ):
        prepare(listing(damaged), out, encoding=SMALL, workers=Workers(jobs=jobs))
    assert len(times(out)) == 4
    assert not (out / "manifest.parquet").exists()
    with (out / "failures.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == ["hop/bad_g3_c1.mp4", "run/short_g3_c1.mp4"]
    assert "is a text file" in rows[0]["reason"]
    assert "has only one picture (accepted: two or more, to see motion)" in rows[1]["reason"]


def test_skipping_leaves_failures_out_and_counts_them(damaged: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    manifest = prepare(listing(damaged), out, encoding=SMALL, workers=ONE, on_error="skip")
    assert len(manifest.clips) == 4
    assert manifest.settings["skipped"] == 2
    for name in ("hop/bad_g3_c1.mp4", "run/short_g3_c1.mp4"):
        (damaged / name).unlink()
    assert prepare(listing(damaged), out, encoding=SMALL, workers=ONE).settings["skipped"] == 0
    assert not (out / "failures.csv").exists()


def test_nothing_but_failures_is_an_error_even_when_skipping(tmp_path: Path) -> None:
    for name in ("a/1.mp4", "a/2.mp4", "b/1.mp4", "b/2.mp4"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_text("text")
    with pytest.raises(DataError, match=r"4 of 4 videos could not be prepared.*Fix or remove them\. The first"):
        prepare(listing(tmp_path / "in"), tmp_path / "out", workers=ONE, on_error="skip")


def test_another_datasets_folder_is_refused(dataset: Path, tmp_path: Path) -> None:
    out, other = tmp_path / "out", tmp_path / "other"
    first = prepare(listing(dataset), out, encoding=SMALL, workers=ONE)
    for number in range(4):
        write_clip(other / f"{'ab'[number % 2]}/{number}.mp4", seed=number)
    with pytest.raises(DataError, match=r"out holds another dataset: 4 clips, none of .*other \(first: hop/a_g1_c1\)"):
        prepare(listing(other), out, encoding=SMALL, workers=ONE)
    assert Manifest.read(out) == first
    (out / "manifest.parquet").write_bytes(b"damaged")  # no reason to stop: it is written again
    assert prepare(listing(dataset), out, encoding=SMALL, workers=ONE) == first


def test_a_source_that_goes_away_is_a_failure(dataset: Path, tmp_path: Path) -> None:
    listed = listing(dataset)
    (dataset / "hop/a_g1_c1.mp4").unlink()
    with pytest.raises(DataError, match=r"1 of 4 videos .*a_g1_c1.mp4: no such file. It was removed"):
        prepare(listed, tmp_path / "out", encoding=SMALL, workers=ONE)


def test_refusals(dataset: Path, tmp_path: Path) -> None:
    listed = listing(dataset)
    with pytest.raises(ConfigError, match=r"jobs 0 \(accepted: 1 or more"):
        Workers(jobs=0)
    with pytest.raises(ConfigError, match=r"on_error 'ignore' \(accepted: fail, skip\)"):
        prepare(listed, tmp_path / "out", on_error="ignore")
    with pytest.raises(DataError, match=r"no videos to prepare. Check the folder and the layout"):
        prepare(Listing(dataset, ()), tmp_path / "out")
    with pytest.raises(DataError, match=r"lies in the dataset's own folder .* Choose a folder outside it"):
        prepare(listed, dataset / "prepared")
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"file cannot be written \(.+\). Choose another folder"):
        prepare(listed, tmp_path / "file")


def test_a_row_that_cannot_be_written_stops_the_run(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = prepare_dataset._remove_leftovers

    def without_rows(listed: Listing, out: Path) -> None:
        real(listed, out)
        shutil.rmtree(out / ".rows")
        (out / ".rows").touch()

    monkeypatch.setattr(prepare_dataset, "_remove_leftovers", without_rows)
    with pytest.raises(DataError, match=r".json could not be written \(.+\).* Check free space"):
        prepare(listing(dataset), tmp_path / "out", encoding=SMALL, workers=ONE, on_error="skip")


def test_a_full_disk_stops_the_run_and_is_not_skipped(dataset: Path, tiny_disk: Path) -> None:
    (tiny_disk / "filler").write_bytes(b"\0" * 1_030_000)
    with pytest.raises(DataError, match=r"could not be written|cannot be written"):
        prepare(listing(dataset), tiny_disk / "out", workers=ONE, on_error="skip")
    assert not (tiny_disk / "out" / "manifest.parquet").exists()


def test_the_bar_goes_to_stderr_and_only_at_a_terminal(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare(listing(dataset), tmp_path / "a", encoding=SMALL, workers=ONE)
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    prepare(listing(dataset), tmp_path / "b", encoding=SMALL, workers=ONE)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "4/4" in captured.err


PROGRAM = """
import sys
from pathlib import Path
from videokd.transcoding.mp4_writer import Encoding
from videokd.preparation.folders import folder_layout
from videokd.preparation.listing import Listing
from videokd.preparation.prepare_dataset import prepare
from videokd.jobs.workers import Workers

if __name__ == "__main__":
    source, out, side = sys.argv[1:]
    listing = Listing(Path(source), folder_layout(source))
    prepare(listing, out, encoding=Encoding(short_side=int(side)), workers=Workers(jobs=2))
"""


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    """Prepares 20 clips with two workers; the folder to write and the short side are to be added."""
    source = tmp_path / "source"
    for label in ("a", "b"):
        for group in range(10):
            write_clip(source / label / f"x_g{group:02d}_c1.mp4", num_frames=30, seed=group)
    script = tmp_path / "run.py"
    script.write_text(PROGRAM)
    return [sys.executable, str(script), str(source)]


def rows_of(out: Path) -> int:
    return len(list(out.glob(".rows/*/*.json")))


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_run_resumes(command: list[str], tmp_path: Path, number: signal.Signals) -> None:
    out = tmp_path / "out"
    # A session of its own: its members are all that the run started.
    process = subprocess.Popen([*command, str(out), "480"], stderr=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.monotonic() + 60
    while rows_of(out) < 3 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # as a terminal does: the whole group sees Ctrl-C
    else:
        process.kill()
    _, errors = process.communicate(timeout=30)
    assert process.returncode != 0
    assert errors.count("Traceback") <= 1  # the parent's own; workers are silent
    assert session_ends(process.pid, seconds=5), "workers outlived the run"
    done = times(out)
    rows = rows_of(out)
    assert 3 <= rows < 20
    assert not (out / "manifest.parquet").exists()

    (out / "videos" / "a" / ".videokd-0123456789ab.part").write_bytes(b"left by a killed worker")
    subprocess.run([*command, str(out), "480"], check=True, timeout=60)
    assert len(Manifest.read(out).clips) == 20
    after = times(out)
    assert sum(done.get(name) == when for name, when in after.items()) >= rows // 2  # names repeat over classes
    assert [path.name for path in out.rglob("*.part")] == []
    Manifest.read(out).check_files()

    subprocess.run([*command, str(tmp_path / "reference"), "480"], check=True, timeout=60)
    assert digests(tmp_path / "reference") == digests(out)


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize("moments", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_kill_9_at_random_moments_loses_nothing(command: list[str], tmp_path: Path, moments: int) -> None:
    started = time.monotonic()
    subprocess.run([*command, str(tmp_path / "reference"), "256"], check=True, timeout=120)
    seconds = time.monotonic() - started
    out = tmp_path / "out"
    rng = random.Random(4)
    for _ in range(moments):
        process = subprocess.Popen([*command, str(out), "256"], stderr=subprocess.DEVNULL, start_new_session=True)
        time.sleep(rng.uniform(0.2, 0.9) * seconds)
        process.kill()
        process.wait()
        assert session_ends(process.pid, seconds=5)
        if (out / "manifest.parquet").exists():  # it was complete before it was killed: start again
            assert digests(tmp_path / "reference") == digests(out)
            shutil.rmtree(out)
    subprocess.run([*command, str(out), "256"], check=True, timeout=120)
    assert digests(tmp_path / "reference") == digests(out)
    assert [path.name for path in out.rglob("*.part")] == []


def test_a_worker_that_dies_is_reported(dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare_dataset, "ClipTask", _Deadly)
    with pytest.raises(
        DataError, match=r"4 of 4 videos .* The first: .*a_g1_c1.mp4: The worker process of this file died"
    ):
        prepare(listing(dataset), tmp_path / "out", encoding=SMALL, workers=TWO)


class _Deadly(prepare_dataset.ClipTask):
    """Ends the process that unpickles it."""

    def __reduce__(self) -> tuple[object, ...]:
        return os._exit, (9,)


@pytest.mark.skipif(sys.platform == "win32", reason="no locks of this kind")
def test_one_writer_at_a_time(dataset: Path, tmp_path: Path) -> None:
    listed, out = listing(dataset), tmp_path / "out"
    first = prepare(listed, out, encoding=SMALL, workers=ONE)
    holding = "import fcntl, sys; file = open(sys.argv[1], 'a'); fcntl.flock(file, int(sys.argv[2])); print(flush=True); input()"

    def held(kind: int) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", holding, str(out / ".rows/lock"), str(kind)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        return process

    other = held(2)  # LOCK_EX, as another `prepare`
    stray = out / "videos/.in-work.part"
    stray.touch()
    message = r"is being written by another `videokd prepare` \(accepted: one at a time, .*\)\. Wait until it is done"
    with pytest.raises(DataError, match=message):
        prepare(listed, out, encoding=SMALL, workers=ONE)
    with pytest.raises(DataError, match=message):
        prepare(replace(listed, shard=Shard(1, 1)), out, encoding=SMALL, workers=ONE)
    with pytest.raises(DataError, match=message):
        verify(out, dataset, workers=ONE)
    assert stray.exists()
    other.kill()  # however the other ends
    other.wait()
    assert prepare(listed, out, encoding=SMALL, workers=ONE) == first
    assert not stray.exists()
    sharing = held(1)  # LOCK_SH, as a shard
    prepare(replace(listed, shard=Shard(1, 1)), out, encoding=SMALL, workers=ONE)
    assert verify(out, dataset, workers=ONE) == 4
    with pytest.raises(DataError, match=message):
        merge(listed, out)
    sharing.kill()
    sharing.wait()
    assert merge(listed, out) == first


def test_where_locks_cannot_be_had_work_goes_on(dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "out/.rows/lock").mkdir(parents=True)
    assert len(prepare(listing(dataset), tmp_path / "out", encoding=SMALL, workers=ONE).clips) == 4
