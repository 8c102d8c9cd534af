"""The desk behind the page: what it accepts, what it answers, and that nothing of an upload is left."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

import videokd
from tests.conftest import MakeClip
from videokd.errors import ConfigError, DataError
from videokd.models.network_spec import NetworkSpec
from videokd.models.students import PredictionSpec, build_students
from videokd.prediction.predictor import Predictor
from videokd.prediction.torch_predictor import TorchPredictor
from videokd.webpage.answers import PageLimits
from videokd.webpage.desk import ClipDesk

LIMITS = PageLimits(window=1.0, stride=0.5, most_megabytes=1.0, most_seconds=5.0)


def students(seed: int = 0, names: tuple[str, ...] = ("wave", "clap", "throw")) -> Predictor:
    specs = {stream: NetworkSpec((stream,), "test_resnet", len(names), 32) for stream in ("iframe", "motion")}
    return TorchPredictor(build_students(specs, PredictionSpec(names, 2), seed=seed).eval())


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return students()


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for temporary files, which must be empty at the end."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    assert list(folder.iterdir()) == []


Upload = Callable[[Path], str]


@pytest.fixture
def upload(tmp_path: Path) -> Upload:
    """Puts a file where Gradio puts uploads."""

    def put(path: Path) -> str:
        place = tmp_path / "uploads" / f"{path.stat().st_size:064x}"
        place.mkdir(parents=True, exist_ok=True)
        return shutil.copy(path, place)

    (tmp_path / "uploads").mkdir()
    return put


def desk_at(
    tmp_path: Path, *predictors: Predictor, limits: PageLimits = LIMITS, folder: Path | None = None
) -> ClipDesk:
    sets = {f"set {number}": predictor for number, predictor in enumerate(predictors)}
    return ClipDesk(sets, limits=limits, uploads=tmp_path / "uploads", folder=folder)


def silent(share: float, text: str) -> None:
    pass


def words(html: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<title>.*?</title>|<[^>]*>", " ", html))


def test_an_upload_is_answered_and_removed(
    tmp_path: Path, make_clip: MakeClip, predictor: Predictor, upload: Upload, temporary: Path
) -> None:
    told: list[tuple[float, str]] = []
    desk = desk_at(tmp_path, predictor, students(1, ("jump", "wave")))
    path = make_clip("libx264", num_frames=75, b_frames=2)
    html = desk.uploaded(upload(path), lambda share, text: told.append((share, text)))
    assert list((tmp_path / "uploads").iterdir()) == []
    text = words(html)
    assert path.name in text
    assert re.search(r"h264, 128 × 96, 0\.\d+ MB", text)
    assert "3.00 s, 75 frames, 25 a second" in text
    assert re.search(r"\d+ I, \d+ P, \d+ B", text)
    assert "motion read from this file is an approximation" in text  # several references and B-frames
    assert text.count("5 windows of 1 s, one every 0.5 s") == 2
    assert all(f"<h3>set {number}</h3>" in html for number in (0, 1))
    assert [name for name in ("jump", "wave", "clap", "throw") if name not in text] == []
    assert html.count("<svg ") == 3 + 2 + 1  # a row for each label, and the frames
    assert "data:video/mp4;base64," in html
    shares = [share for share, _ in told]
    assert shares == sorted(shares)


def test_label_colours_agree_between_sets(
    tmp_path: Path, make_clip: MakeClip, predictor: Predictor, upload: Upload
) -> None:
    html = desk_at(tmp_path, predictor, students(1)).uploaded(upload(make_clip()), silent)
    rows = re.findall(r"<tr><td>(\w+)</td>.*?background:(#\w+)", html)
    assert len(rows) == 6
    assert len(set(rows)) == 3
    assert len({colour for _, colour in rows}) == 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "notes.mp4"),
        (b"not a video" * 50, "notes.mp4"),
        (b"#EXTM3U\n#EXTINF:1,\n/etc/passwd\n", "notes.mp4"),
    ],
    ids=["empty", "text", "playlist"],
)
def test_a_bad_file_is_one_line(
    content: bytes, message: str, tmp_path: Path, predictor: Predictor, upload: Upload, temporary: Path
) -> None:
    bad = tmp_path / "notes.mp4"
    bad.write_bytes(content)
    html = desk_at(tmp_path, predictor).uploaded(upload(bad), silent)
    assert 'class="problem"' in html
    assert message in html
    assert str(tmp_path) not in html  # where the server keeps it is nobody's business
    assert "\n" not in html
    assert list((tmp_path / "uploads").iterdir()) == []


def test_limits_are_named(tmp_path: Path, make_clip: MakeClip, predictor: Predictor, upload: Upload) -> None:
    desk = desk_at(tmp_path, predictor)
    assert "lasts 6.0 s (accepted: at most 5 s)" in desk.uploaded(upload(make_clip(num_frames=150)), silent)
    large = tmp_path / "large.mp4"
    large.write_bytes(bytes(1_200_000))
    assert "large.mp4 has 1.2 MB (accepted: at most 1 MB)" in desk.uploaded(upload(large), silent)
    assert list((tmp_path / "uploads").iterdir()) == []
    for name in ("window", "stride", "most_megabytes", "most_seconds"):
        with pytest.raises(ConfigError, match=rf"{name} is 0 \(accepted: a number above 0\)"):
            PageLimits(**(vars(LIMITS) | {name: 0}))


def test_what_only_transcoding_reads_is_answered_as_predict_does(
    tmp_path: Path, make_clip: MakeClip, predictor: Predictor, upload: Upload, temporary: Path
) -> None:
    """Cut inside a GOP: the first packets are P-frames, and no I-frame is shown."""
    for name, frames in (("cut.avi", 60), ("long.avi", 150)):
        whole = make_clip(container="avi", gop=250, num_frames=frames)
        with av.open(str(whole)) as before, av.open(str(tmp_path / name), "w") as after:
            copied: Any = after.add_stream_from_template(before.streams.video[0])
            for packet in list(before.demux(video=0))[1:]:
                if packet.size:
                    packet.stream = copied
                    after.mux(packet)
    desk = desk_at(tmp_path, predictor, predictor)
    text = words(desk.uploaded(upload(tmp_path / "cut.avi"), silent))
    assert "none: cut.avi shows no I-frame" in text
    assert "; the students saw a transcoded copy" in text
    assert "transcoded first" in text
    best = videokd.predict(tmp_path / "cut.avi", predictor).labels[0]
    assert text.count(f"{best.name} {100 * best.probability:.0f} %") >= 2
    assert "accepted: at most 5 s" in desk.uploaded(upload(tmp_path / "long.avi"), silent)


def test_names_are_text(tmp_path: Path, make_clip: MakeClip, upload: Upload) -> None:
    hostile = "<img src=x onerror=alert(1)>${7*7}{{7}}\"'&\x1b[2J\u202e"
    clip = tmp_path / f"{hostile}.mp4"
    shutil.copy(make_clip(), clip)
    desk = desk_at(tmp_path, students(0, (hostile, "clap")))
    html = desk.uploaded(upload(clip), silent)
    assert "<img" not in html
    assert "&lt;img src=x onerror=alert(1)&gt;${7*7}{{7}}&quot;&#x27;&amp;\\u001b[2J\\u202e.mp4" in html
    clip.write_bytes(b"x")
    assert "<img" not in desk.uploaded(upload(clip), silent)


def test_only_uploads_are_answered_as_uploads(tmp_path: Path, make_clip: MakeClip, predictor: Predictor) -> None:
    (tmp_path / "uploads").mkdir()
    mine = shutil.copy(make_clip(), tmp_path / "mine.mp4")
    (tmp_path / "uploads" / "link.mp4").symlink_to(mine)
    desk = desk_at(tmp_path, predictor)
    uploads = tmp_path / "uploads"
    outside = (str(mine), f"{uploads}/../mine.mp4", f"{uploads}/link.mp4", str(uploads))
    for path in (*outside, "", "mine.mp4", "a\0b", "x" * 5000, None, 3, {"path": str(mine)}, ["a"]):
        assert "was not uploaded" in desk.uploaded(path, silent)
    assert Path(mine).exists()


def test_the_same_file_twice_at_once(tmp_path: Path, make_clip: MakeClip, predictor: Predictor, upload: Upload) -> None:
    desk = desk_at(tmp_path, predictor)
    path = upload(make_clip())  # Gradio gives both the same place
    assert desk.uploaded(path, silent) == desk.uploaded(path, silent)
    assert "Drop it again" in desk.uploaded(str(Path(path).with_name("other.mp4")), silent)


def test_uploads_that_nobody_asked_about_are_removed(
    tmp_path: Path, make_clip: MakeClip, predictor: Predictor, upload: Upload
) -> None:
    desk = desk_at(tmp_path, predictor)
    old, new = (tmp_path / "uploads" / name for name in ("old", "new"))
    for file in (old, new):
        file.write_bytes(b"half an upload")
    os.utime(old, (time.time() - 7200,) * 2)
    desk.uploaded(upload(make_clip()), silent)
    assert list((tmp_path / "uploads").iterdir()) == [new]


def test_a_folder_gives_its_videos_and_nothing_else(tmp_path: Path, make_clip: MakeClip, predictor: Predictor) -> None:
    (tmp_path / "uploads").mkdir()
    inside, outside = tmp_path / "clips" / "a", tmp_path / "outside.mp4"
    inside.mkdir(parents=True)
    shutil.copy(make_clip(), outside)
    shutil.copy(make_clip(), inside / "one.mp4")
    shutil.copy(make_clip(), inside / "two\n.mp4")
    (inside / "notes.txt").write_text("no video")
    (inside / "link.mp4").symlink_to(outside)
    (inside / "gone.mp4").symlink_to(tmp_path / "nothing")
    desk = desk_at(tmp_path, predictor, folder=tmp_path / "clips")
    assert desk.choices == [("a/one.mp4", "0"), ("a/two\\u000a.mp4", "1")]
    assert "a/one.mp4" in desk.chosen("0", silent)
    assert (inside / "one.mp4").exists()
    odd_keys: list[object] = ["9" * 5000, "٠", "\ud800", "0\0", ["0"], [], {"0": 0}, 0, True]
    for key in ("2", "-1", "../outside.mp4", str(outside), "1e0", "²", "00", *odd_keys):
        assert "no such video" in desk.chosen(key, silent)
    assert desk.chosen(None, silent) == ""
    (inside / "one.mp4").unlink()
    (inside / "one.mp4").symlink_to(outside)  # swapped while the page is served
    assert "is not there any more" in desk.chosen("0", silent)
    assert "no such video" in desk_at(tmp_path, predictor).chosen("0", silent)


def test_a_folder_without_videos(tmp_path: Path, predictor: Predictor) -> None:
    (tmp_path / "uploads").mkdir()
    for folder, message in ((tmp_path / "uploads", "has no videos"), (tmp_path / "none", "is not a folder")):
        with pytest.raises(DataError, match=message):
            desk_at(tmp_path, predictor, folder=folder)


def test_it_stops_between_steps(
    tmp_path: Path, make_clip: MakeClip, predictor: Predictor, upload: Upload, temporary: Path
) -> None:
    desk = desk_at(tmp_path, predictor)

    def tell(share: float, text: str) -> None:
        if "students" in text:
            desk.stopping.set()

    assert "is being stopped" in desk.uploaded(upload(make_clip()), tell)
    assert list((tmp_path / "uploads").iterdir()) == []


def test_an_error_of_the_students_is_one_line(
    tmp_path: Path, make_clip: MakeClip, predictor: Predictor, upload: Upload, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*given: Any, **named: Any) -> Any:
        raise RuntimeError("line one\nline two")

    desk = desk_at(tmp_path, predictor)
    monkeypatch.setattr("videokd.webpage.desk.markup.answer", broken)
    html = desk.uploaded(upload(make_clip()), silent)
    assert "cannot be answered (RuntimeError). The terminal has the details." in html


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """Cut off, with bytes replaced, or with a part moved."""
    data = bytearray(content)
    kind = rng.integers(4)
    if kind == 0:
        del data[int(rng.integers(1, len(data))) :]
    for _ in range(int(rng.integers(1, 40)) if kind != 0 else 0):
        data[int(rng.integers(len(data)))] = int(rng.integers(256))
    if kind == 2:
        start, end = sorted(map(int, rng.integers(len(data), size=2)))
        del data[start : min(end, start + 500)]
    if kind == 3:
        at = int(rng.integers(len(data)))
        data[at:at] = rng.bytes(200)
    return bytes(data)


def test_fuzzed_uploads(
    tmp_path: Path, make_clip: MakeClip, predictor: Predictor, upload: Upload, temporary: Path
) -> None:
    """More with VIDEOKD_DAMAGES=50; every one has an answer or one line, and leaves nothing."""
    clips = [
        make_clip("mpeg4", num_frames=24),
        make_clip("libx264", num_frames=24, b_frames=2),
        make_clip("mpeg2video", container="mpg", num_frames=24),
        make_clip("mjpeg", container="avi", pixel_format="yuvj420p", num_frames=24),
        make_clip("libx264", container="mkv", num_frames=24),
    ]
    desk, rng, kinds = desk_at(tmp_path, predictor), np.random.default_rng(17), []
    threads = threading.active_count()
    for number in range(int(os.environ.get("VIDEOKD_DAMAGES", "10"))):
        clip = clips[number % len(clips)]
        bad = tmp_path / f"bad{clip.suffix}"
        bad.write_bytes(damaged(clip.read_bytes(), rng))
        html = desk.uploaded(upload(bad), silent)
        kinds.append("problem" if 'class="problem"' in html else "answer")
        assert "The terminal has the details" not in html
        assert "report this" not in html, words(html)
        assert "Traceback" not in html
        assert list((tmp_path / "uploads").iterdir()) == []
        assert list(temporary.iterdir()) == []
    assert set(kinds) == {"problem", "answer"}
    assert threading.active_count() <= threads + 1
