"""`videokd show` as a user runs it: pictures and films of every kind of file."""

from __future__ import annotations

import itertools
from pathlib import Path

import av
import numpy as np
import pytest
from matplotlib.image import imread
from PIL import Image

import videokd
from tests.recipes.test_verbs import refused
from videokd.__main__ import main


def show(path: Path, save: Path, *options: str) -> str:
    assert main(["show", str(path), f"--save={save}", *options]) == 0
    return str(save)


def film(path: str) -> list[np.ndarray]:
    with av.open(path) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def test_a_picture_has_a_row_for_each_position(make_clip, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clip = make_clip("mpeg4")
    three = imread(show(clip, tmp_path / "three.png"))
    assert "GOP 0, positions 1, 6, 11 of" in capsys.readouterr().err
    one = imread(show(clip, tmp_path / "one.png", "--gop=2", "--positions=[3]"))
    assert "GOP 2, positions 3 of" in capsys.readouterr().err
    assert three.shape[1] == one.shape[1]
    assert three.shape[0] > 1.6 * one.shape[0]
    two = imread(show(clip, tmp_path / "two.png", "--positions=[0, 11]"))
    assert two.shape[0] - one.shape[0] == pytest.approx((three.shape[0] - one.shape[0]) / 2, abs=2)


def test_a_film_has_a_picture_for_each_position(make_clip, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clip = make_clip("mpeg4")
    assert len(film(show(clip, tmp_path / "all.mp4"))) == 30
    assert "30 positions of 3 GOPs" in capsys.readouterr().err
    one = film(show(clip, tmp_path / "one.mp4", "--gop=1", "--gops=1", "--pictures-per-second=5"))
    assert len(one) == 12
    changes = [np.abs(after.astype(int) - before).mean() for before, after in itertools.pairwise(one)]
    assert min(changes) > 0.2
    with av.open(str(tmp_path / "one.mp4")) as container:
        assert float(container.duration / av.time_base) == pytest.approx(12 / 5, abs=0.05)
    assert len(film(show(clip, tmp_path / "some.mp4", "--positions=[1, 9]"))) == 5  # the last GOP has 6 positions
    with Image.open(show(clip, tmp_path / "two.gif", "--gop=1", "--gops=2")) as gif:
        assert gif.n_frames == 18


def test_long_gops_are_shown_where_chains_still_hold(
    make_clip, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = make_clip("mpeg4", num_frames=20, gop=250, size=(64, 48))
    show(clip, tmp_path / "a.png")
    assert "positions 1, 6, 12 of" in capsys.readouterr().err
    monkeypatch.setattr("videokd.recipes.show._MOST_PICTURES", 8)
    assert len(film(show(clip, tmp_path / "a.mp4"))) == 8
    assert len(film(show(clip, tmp_path / "b.mp4", "--gops=1"))) == 20


def test_b_frames_play_at_half_the_pace_of_the_video(make_clip, tmp_path: Path) -> None:
    clip = make_clip("mpeg4", b_frames=2)
    with videokd.open(clip) as video:
        positions = sum(gop.num_positions for gop in video.gops)
    assert positions < 20
    show(clip, tmp_path / "b.mp4")
    with av.open(str(tmp_path / "b.mp4")) as container:
        seconds = float(container.duration / av.time_base)
    assert seconds == pytest.approx(2 * 30 / 25, rel=0.1)


def test_without_vectors_what_there_is_is_shown(make_clip, tmp_path: Path, capsys) -> None:
    jpeg = make_clip("mjpeg", container="avi", pixel_format="yuvj420p")
    full = imread(show(make_clip("mpeg4"), tmp_path / "full.png", "--positions=[0]"))
    capsys.readouterr()
    bare = imread(show(jpeg, tmp_path / "bare.png"))
    message = capsys.readouterr().err
    assert "is mjpeg, which exports no motion vectors: only I-frame and frame are drawn" in message
    assert "`videokd prepare folder` transcodes it" in message
    assert bare.shape[1] < full.shape[1] / 2
    assert len(film(show(jpeg, tmp_path / "bare.mp4", "--gops=5"))) == 5


@pytest.mark.parametrize(
    "kind",
    [
        {"codec": "mpeg4", "gop": 1, "num_frames": 3},
        {"codec": "mpeg4", "num_frames": 1},
        {"codec": "mpeg4", "num_frames": 3, "size": (16, 16)},
        {"codec": "libx264", "num_frames": 3, "size": (2, 2)},
        {"codec": "libx264", "num_frames": 2, "size": (1280, 720)},
        {"codec": "libx264", "num_frames": 3, "size": (256, 640)},
    ],
    ids=["intra", "one-frame", "tiny", "two-pixels", "large", "upright"],
)
def test_videos_of_every_size(kind: dict, make_clip, tmp_path: Path) -> None:
    clip = make_clip(**kind)
    assert min(imread(show(clip, tmp_path / "a.png")).shape[:2]) > 150
    with videokd.open(clip) as video:
        positions = sum(gop.num_positions for gop in video.gops)
    assert len(film(show(clip, tmp_path / "a.mp4", "--gop=0"))) == positions


def test_what_is_refused(make_clip, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clip = str(make_clip("mpeg4"))
    save = f"--save={tmp_path / 'a.png'}"
    assert r"(accepted: a name ending in .png, .mp4, .gif)" in refused(capsys, "show", clip, "--save=a.jpg")
    assert "gops is 2 with" in refused(capsys, "show", clip, save, "--gops=2")
    assert "pictures_per_second is 5.0 with" in refused(capsys, "show", clip, save, "--pictures-per-second=5")
    assert "gops is 0 (accepted: above 0)" in refused(capsys, "show", clip, "--save=a.gif", "--gops=0")
    assert "gop=3 (accepted: 0 to 2)" in refused(capsys, "show", clip, save, "--gop=3")
    assert "position=12 of GOP 1 (accepted: 0 to 11)" in refused(
        capsys, "show", clip, save, "--gop=1", "--positions=[12]"
    )
    film_save = f"--save={tmp_path / 'a.mp4'}"
    assert "no GOP from 2 on has any of the positions 9 (accepted: 0 to 5)" in refused(
        capsys, "show", clip, film_save, "--gop=2", "--positions=[9]"
    )
    assert list(tmp_path.iterdir()) == []


def test_the_video_itself_is_never_overwritten(make_clip, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clip, link = tmp_path / "clip.mp4", tmp_path / "link.mp4"
    clip.write_bytes(make_clip("libx264").read_bytes())
    link.symlink_to(clip)
    before = clip.read_bytes()
    for target in (clip, link):
        assert "is the video itself" in refused(capsys, "show", str(clip), f"--save={target}")
    assert "accepted: a name that ends with .csv" in refused(
        capsys, "prepare", "folder", str(tmp_path), f"--plan={clip}"
    )
    assert "accepted: a name that ends with .html" in refused(capsys, "report", str(tmp_path), f"--save={clip}")
    assert clip.read_bytes() == before
