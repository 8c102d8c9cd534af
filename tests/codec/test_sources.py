"""Bytes and file objects: the same streams, facts and errors as by the path, for every kind of file, also damaged ones."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import videokd
from tests.codec.test_reader import KINDS, digest
from videokd.bitstream.source import Source
from videokd.codec.file_info import read_file_info
from videokd.codec.index import Limits
from videokd.codec.indexing import index_video
from videokd.codec.rgb import read_rgb
from videokd.errors import ConfigError
from videokd.transcoding.training_form import form_of
from videokd.transcoding.transcode import transcode


class Bare:
    """A file object with nothing but `read` and `seek`, whose reads are short, and which says nothing when it seeks."""

    def __init__(self, data: bytes) -> None:
        self._file = io.BytesIO(data)

    def read(self, size: int) -> bytes:
        return self._file.read(min(size, 700))

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)


def outcome(given: Any, name: str, seed: int = 0) -> tuple[object, ...]:
    """What reading everything gives, in order and at random: digests and facts, or the error with the name taken out."""
    try:
        facts = read_file_info(given)
        with videokd.open(given) as video:
            everything = ("iframe", "motion", "residual", "frame")
            found = [digest(streams) for streams in video.iterate(streams=everything)]
            places = [(gop.index, position) for gop in video.gops for position in range(gop.num_positions)]
            for n in np.random.default_rng(seed).permutation(len(places))[:4]:
                gop, position = places[n]
                found.append(digest(video.read(gop=gop, position=position, streams=everything)))
            return (facts, video.index, *found)
    except videokd.VideoKDError as error:
        return type(error), str(error).replace(name, "IT")


def outcomes(path: Path) -> dict[str, tuple[object, ...]]:
    data = path.read_bytes()
    with open(path, "rb") as opened:
        opened.seek(len(data) // 3)
        found = {
            "path": outcome(path, str(path)),
            "bytes": outcome(data, "<bytes>"),
            "opened": outcome(opened, str(path)),
            "bare": outcome(Bare(data), "<Bare>"),
        }
        assert not opened.closed
        opened.seek(0)
        assert opened.read() == data
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_every_source_gives_the_same(kind: str, make_clip: Callable[..., Path]) -> None:
    path = make_clip(**KINDS[kind])
    found = outcomes(path)
    assert len(found["path"]) > 10  # it was read
    assert all(other == found["path"] for other in found.values()), found


@pytest.mark.parametrize("damage", ["cut", "nearly whole", "flipped", "zeros"])
@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files_give_the_same(kind: str, damage: str, make_clip: Callable[..., Path], tmp_path: Path) -> None:
    data = bytearray(make_clip(**KINDS[kind]).read_bytes())
    rng = np.random.default_rng(len(data))
    if damage == "cut":
        del data[int(len(data) * 0.6) :]
    elif damage == "nearly whole":
        del data[-5:]
    elif damage == "zeros":
        at = int(rng.integers(len(data) - 500))
        data[at : at + 400] = bytes(400)
    else:
        for at in rng.integers(0, len(data), 12):
            data[at] ^= 1 << int(rng.integers(8))
    path = tmp_path / f"damaged{make_clip(**KINDS[kind]).suffix}"
    path.write_bytes(data)
    found = outcomes(path)
    assert all(other == found["path"] for other in found.values()), found


def test_real_clips_give_the_same(shared: Path) -> None:
    paths = [path for path in sorted((shared / "clips").iterdir()) if path.suffix != ".csv"]
    assert len(paths) > 20
    for path in paths:
        data = path.read_bytes()
        index = index_video(path)
        assert index_video(data) == index
        assert read_file_info(data) == read_file_info(path)
        last = {
            "gop": len(index.gops) - 1,
            "position": index.gops[-1].num_positions - 1,
            "streams": ("iframe", "frame"),
        }
        with videokd.open(path, index=index) as video:
            expected = digest(video.read(**last))
        for given in (data, io.BytesIO(data)):
            with videokd.open(given, index=index) as video:
                assert digest(video.read(**last)) == expected, path.name


def test_what_is_not_a_video_is_refused_alike(tmp_path: Path) -> None:
    for content, message in (
        (b"", "is empty"),
        (b"this is not a video\n" * 99, "is a text file"),
        (b"#EXTM3U\n#EXTINF:10,\n/etc/passwd\n", "is a playlist"),
        (b"PK\3\4" + bytes(999), "is an archive"),
        (np.random.default_rng(0).bytes(5000), "cannot be read as a video|is not in a container format"),
    ):
        path = tmp_path / "given.mp4"
        path.write_bytes(content)
        for given, name in ((path, "given.mp4"), (content, "<bytes>"), (io.BytesIO(content), "<BytesIO>")):
            with pytest.raises(videokd.DecodeError, match=f"{name} ({message})"):
                videokd.open(given)


def test_limits_hold_for_bytes(make_clip: Callable[..., Path]) -> None:
    data = make_clip("mpeg4").read_bytes()
    for limits, message in (
        (Limits(side=100), r"^<bytes> has pictures of 128×96"),
        (Limits(gop_frames=5), r"^<bytes> has a GOP of 12"),
        (Limits(reader_bytes=1000), r"^<bytes> has pictures that take"),
    ):
        with pytest.raises(videokd.DecodeError, match=message):
            videokd.open(data, limits=limits)


def test_a_movie_in_memory_opens_no_other_file(make_clip: Callable[..., Path], tmp_path: Path) -> None:
    """The name of a file object is a name in messages; FFmpeg never opens it."""
    other = tmp_path / "other.mp4"
    other.write_bytes(make_clip("mpeg4").read_bytes())
    file = io.BytesIO(b"ffconcat version 1.0\nfile other.mp4\n")
    file.name = str(tmp_path / "list.mp4")
    with pytest.raises(videokd.DecodeError, match=r"list\.mp4 is a playlist"):
        videokd.open(file)
    sound = io.BytesIO(make_clip("mpeg4", num_frames=7).read_bytes())
    for name in (
        "concat:other.mp4|other.mp4",
        str(other),
        "http://127.0.0.1:1/video.mp4",
        "line\nbreak.mp4",
        "\ud800.avi",
        3,
    ):
        sound.name = name
        with videokd.open(sound) as video:
            assert video.num_frames == 7
            assert "frames" in repr(video)


def test_a_file_object_stays_open_and_may_be_moved_between_reads(make_clip: Callable[..., Path]) -> None:
    path = make_clip(**KINDS["mpeg4-b-avi"])
    with videokd.open(path) as video:
        expected = [digest(streams) for streams in video.iterate()]
    file = io.BytesIO(path.read_bytes())
    with videokd.open(file) as video, videokd.open(file) as second:
        found = []
        for streams, again in zip(video.iterate(), second.iterate(), strict=True):
            file.seek(len(found))
            assert digest(streams) == digest(again)
            found.append(digest(streams))
    assert found == expected
    assert not file.closed
    file.seek(0)
    assert file.read() == path.read_bytes()


def test_a_file_object_that_cannot_seek_is_refused(make_clip: Callable[..., Path]) -> None:
    data = make_clip("mpeg4").read_bytes()
    reading, writing = os.pipe()
    with open(reading, "rb") as pipe, open(writing, "wb") as end:
        end.write(data[:100])
        end.flush()
        with pytest.raises(
            videokd.DecodeError, match=r"cannot seek.*accepted: a file object with read and seek.*file\.read\(\)"
        ):
            videokd.open(pipe)

    class Download:
        name = "download.mp4"
        read = io.BytesIO(data).read

    with pytest.raises(videokd.DecodeError, match=r"^download\.mp4 cannot seek"):
        videokd.open(Download())


def test_file_objects_that_fail_are_named(make_clip: Callable[..., Path], tmp_path: Path) -> None:
    path = make_clip("mpeg4")
    closed = open(path, "rb")  # noqa: SIM115
    closed.close()
    with pytest.raises(videokd.DecodeError, match=r"\.mp4 cannot be read: .*closed file.*Open it again"):
        videokd.open(closed)
    with (
        open(path, encoding="latin-1") as text,
        pytest.raises(videokd.DecodeError, match='text: open it with mode "rb"'),
    ):
        videokd.open(text)

    class Broken(Bare):
        reads = 0

        def read(self, size: int) -> bytes:
            self.reads += 1
            if self.reads > 30:
                raise RuntimeError("the connection is gone")
            return super().read(size)

    class TooMuch(Bare):
        def read(self, size: int) -> bytes:
            return self._file.read(size + 1)

    for kind, message in ((Broken, "Broken> cannot be read: the connection is gone"), (TooMuch, "asked for .* bytes")):
        with pytest.raises(videokd.DecodeError, match=message):
            videokd.open(kind(path.read_bytes()))
    with pytest.raises(videokd.ConfigError, match=r"^None \(accepted: a path, bytes, or a file object"):
        videokd.open(None)


def test_other_readers_take_bytes_too(make_clip: Callable[..., Path], tmp_path: Path) -> None:
    path = make_clip("mpeg4")
    data = path.read_bytes()
    for given in (data, bytearray(data), memoryview(data), io.BytesIO(data)):
        assert index_video(given) == index_video(path)
        assert form_of(given) == form_of(path)
        assert np.array_equal(read_rgb(given, [5, 3]), read_rgb(path, [5, 3]))
    transcode(path, tmp_path / "a.mp4")
    transcode(data, tmp_path / "b.mp4")
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


def test_files_of_fsspec(make_clip: Callable[..., Path]) -> None:
    fsspec = pytest.importorskip("fsspec")
    path = make_clip(**KINDS["h264-ts"])
    with fsspec.open("memory://videos/clip.ts", "wb") as file:
        file.write(path.read_bytes())
    with videokd.open(path) as video:
        expected = [digest(streams) for streams in video.iterate()]
    with fsspec.open("memory://videos/clip.ts", "rb") as file, videokd.open(file) as video:
        assert [digest(streams) for streams in video.iterate()] == expected


def test_a_view_keeps_its_own_place() -> None:
    source = Source(io.BytesIO(b"0123456789"))
    with source.open() as one, source.open() as other:
        assert one.read(4) == b"0123"
        assert other.read(2) == b"01"
        assert one.read() == b"456789"
        assert one.read(1) == b""
        assert other.seek(-3, os.SEEK_END) == 7
        assert other.read(99) == b"789"
        assert other.seek(-11, os.SEEK_END) < 0  # FFmpeg's error; the place stays
        assert other.read(1) == b""
    assert np.array_equal(source.as_array(), np.frombuffer(b"0123456789", np.uint8))


_FORKING = """
import hashlib, os, random, sys
import videokd
from videokd.codec.index import VideoIndex

path, kind, json = sys.argv[1:]
def digest(streams):
    return hashlib.md5(b"".join(array.tobytes() for array in (streams.iframe, streams.motion, streams.residual))).hexdigest()
with videokd.open(path) as video:
    expected = {(streams.gop, streams.position): digest(streams) for streams in video.iterate()}
index = VideoIndex.from_json(json) if json else None
video = videokd.open(open(path, "rb") if kind == "file object" else path, index=index)
video.read(gop=0, position=1)
children = []
for number in range(4):
    child = os.fork()
    if child == 0:
        places = list(expected)
        random.Random(number).shuffle(places)
        try:
            os._exit(2 * any(digest(video.read(gop=gop, position=position)) != expected[gop, position] for gop, position in places))
        except videokd.VideoKDError as error:
            os._exit(7 if "was opened by another process" in str(error) else 1)
    children.append(child)
print({os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children})
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked on this system")
@pytest.mark.parametrize(
    ("kind", "places", "expected"), [("path", True, "{0}"), ("path", False, "{0}"), ("file object", True, "{7}")]
)
def test_readers_in_forked_processes(kind: str, places: bool, expected: str, make_clip) -> None:
    """As in PyTorch's loader, where a dataset holds open readers: processes would share one place in the file."""
    path = make_clip("mpeg4", num_frames=60)
    index = index_video(path)
    text = (index if places else replace(index, places=None)).to_json()
    command = [sys.executable, "-c", _FORKING, str(path), kind, text]
    assert subprocess.run(command, check=False, capture_output=True, text=True, timeout=300).stdout.strip() == expected


def test_frames_does_not_go_on_in_a_forked_process(make_clip, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_clip("mpeg4")
    with videokd.open(path, index=replace(index_video(path), places=None)) as video:
        frames = video.frames()
        next(frames)
        process = os.getpid()
        monkeypatch.setattr(os, "getpid", lambda: process + 1)
        with pytest.raises(ConfigError, match="forked meanwhile"):
            list(frames)
        assert len(list(video.frames())) == video.num_frames
