"""`videokd inspect` as a user runs it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import videokd
from tests.codec.test_reader import KINDS
from tests.codec.test_traps import texture, write
from tests.recipes.test_verbs import refused
from videokd.__main__ import main


def inspected(path: Path, capsys: pytest.CaptureFixture[str], *options: str) -> dict:
    assert main(["inspect", str(path), "--format=json", *options]) == 0
    return json.loads(capsys.readouterr().out)


def table(path: Path, capsys: pytest.CaptureFixture[str], *options: str) -> dict[str, str]:
    """The table's lines by their first words."""
    assert main(["inspect", str(path), *options]) == 0
    name, *lines = capsys.readouterr().out.splitlines()
    assert name == str(path)
    return {line[2:16].strip(): line[16:] for line in lines if line[2:3].strip()}


def test_a_file_of_the_training_form(make_clip, capsys: pytest.CaptureFixture[str]) -> None:
    path = make_clip(**KINDS["mpeg4"])
    description = inspected(path, capsys, "--seconds-measured=0.02")
    assert description["file"] == str(path)
    assert (description["codec"], description["size"], description["pixel_format"], description["bits"]) == (
        "mpeg4",
        "128x96",
        "yuv420p",
        8,
    )
    assert (description["frames"], description["frame_rate"], description["seconds"]) == (30, 25.0, 1.2)
    assert description["frame_types"] == {"I": 3, "P": 27}
    assert description["gops"] == {
        "number": 3, "positions": 30, "shortest": 6, "median": 12, "longest": 12, "lengths": [12, 12, 6],
    }  # fmt: skip
    assert description["streams"] == ["iframe", "frame", "motion", "residual"]
    assert (description["exact"], description["because"], description["references"]) == (True, [], 1)
    assert description["kilobits_per_second"] == pytest.approx(path.stat().st_size * 8 / 1.2 / 1000, abs=0.1)
    costs = description["cost"]["streams"]
    assert list(costs) == ["iframe", "frame", "motion", "residual", "iframe + motion + residual"]
    for row in (*costs.values(), {"index_ms": description["cost"]["index_ms"]}):
        assert all(value > 0 for value in row.values())
    # all three take the decoding of one and the arithmetic of the rest
    assert costs["iframe + motion + residual"]["per_second"] < costs["frame"]["per_second"]


def test_the_table(make_clip, capsys: pytest.CaptureFixture[str]) -> None:
    lines = table(make_clip(**KINDS["h264-pyramid"]), capsys, "--seconds-measured=0.02")
    assert lines["codec"].startswith("h264, High profile, level ")
    assert lines["picture"] == "128×96, yuv420p, 8 bits"
    assert lines["references"] == "a P-frame refers to up to 4 frames"
    assert lines["exact"].startswith("no: P-frames may refer to 4 frames")
    assert "B-frames are skipped" in lines["frame types"]
    lines = table(make_clip(**KINDS["mpeg4"]), capsys)
    assert lines["exact"] == "yes: every P-frame's vectors point at the position before it"
    assert lines["GOPs"] == "3 with 30 positions (I- and P-frames), 6 to 12 in each, median 12"
    assert lines["frame types"] == "3 I, 27 P"


def test_zero_seconds_measure_nothing(make_clip, capsys: pytest.CaptureFixture[str]) -> None:
    assert "cost" not in inspected(make_clip("mpeg4"), capsys, "--seconds-measured=0")
    assert main(["inspect", str(make_clip("mpeg4")), "--seconds-measured=0"]) == 0
    assert "Time to read" not in capsys.readouterr().out
    assert main(["inspect", str(make_clip("mpeg4")), "--seconds-measured=0.01"]) == 0
    assert "Time to read" in capsys.readouterr().out


def test_the_only_i_frame_is_not_measured_from_memory(make_clip, capsys: pytest.CaptureFixture[str]) -> None:
    """The trap: read again, the only I-frame of a file comes from memory."""
    path = make_clip("libx264", num_frames=3, gop=250, size=(1280, 720))
    row = inspected(path, capsys, "--seconds-measured=0.01")["cost"]["streams"]["iframe"]
    assert row["per_second"] < 2000
    assert row["random_ms"] > 0.5


def test_long_gops_and_other_tracks(make_clip, capsys: pytest.CaptureFixture[str], shared: Path) -> None:
    lines = table(shared / "clips" / "flipping_a_pancake.mkv", capsys, "--seconds-measured=0")
    assert lines["other tracks"] == "audio opus (eng)"
    assert "`videokd prepare folder` makes GOPs of 12" in lines["GOPs"]
    lines = table(shared / "clips" / "mmaction2_demo.mp4", capsys, "--seconds-measured=0")
    assert lines["picture"] == "340×256, pixels 64:51, yuv420p, 8 bits"


def test_a_codec_without_vectors_says_what_to_do(make_clip, capsys: pytest.CaptureFixture[str]) -> None:
    path = make_clip("mjpeg", container="avi", pixel_format="yuvj420p")
    description = inspected(path, capsys, "--seconds-measured=0.01")
    assert description["streams"] == ["iframe", "frame"]
    assert description["exact"] is False
    assert description["because"] == ["mjpeg exports no motion vectors; `videokd prepare folder` transcodes it"]
    assert list(description["cost"]["streams"]) == ["iframe", "frame"]
    lines = table(path, capsys, "--seconds-measured=0")
    assert lines["motion"] == "none: mjpeg exports no motion vectors; `videokd prepare folder` transcodes it"
    assert lines["colour"] == "matrix BT.601, range full"


def test_damage_after_the_headers_is_reported_not_raised(
    make_clip, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*given: object, **named: object) -> None:
        raise videokd.DecodeError("clip.mp4: packet 3 cannot be decoded")

    monkeypatch.setattr("videokd.codec.reader.VideoReader.read", fails)
    description = inspected(make_clip("mpeg4"), capsys)
    assert description["cost"]["problem"] == "clip.mp4: packet 3 cannot be decoded"
    assert description["cost"]["streams"] == {}
    assert main(["inspect", str(make_clip("mpeg4"))]) == 0
    assert "the measurement ended early: clip.mp4: packet 3 cannot be decoded" in capsys.readouterr().out


def test_what_is_refused(make_clip, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "is not there" in refused(capsys, "inspect", "missing.mp4")
    assert "is a directory" in refused(capsys, "inspect", str(tmp_path))
    assert "seconds_measured" in refused(capsys, "inspect", str(make_clip("mpeg4")), "--seconds-measured=long")


def test_the_length_of_a_variable_rate_is_that_of_the_timestamps(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stamps = [*range(29), 725]  # in 25ths of a second: the last picture after 29 s
    path = write(tmp_path / "variable.mkv", texture(30, 96, 128), codec="mpeg4", stamps=stamps)
    description = inspected(path, capsys, "--seconds-measured=0")
    assert description["seconds"] == pytest.approx(29.04, abs=0.01)
    assert description["kilobits_per_second"] == pytest.approx(path.stat().st_size * 8 / 29.04 / 1000, abs=0.1)
    assert description["variable_frame_rate"]
    assert table(path, capsys, "--seconds-measured=0")["length"] == (
        "29.04 s, 30 frames, variable rate, 1.033 a second on average; the file states 25"
    )
