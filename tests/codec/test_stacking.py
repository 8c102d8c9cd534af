"""Blocks of many positions hold what reading each position gives, in the layout that deep learning frameworks take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import videokd
from tests.codec.test_reader import H264_PLAIN, KINDS
from tests.codec.test_work import Work, work  # noqa: F401 (fixture)
from videokd.codec.indexing import index_video
from videokd.datasets.view import Crop, apply_crop
from videokd.errors import ConfigError
from videokd.types import STREAMS

EVERYTHING = ("iframe", "motion", "residual", "frame")
SEVERAL = {
    **{
        kind: KINDS[kind]
        for kind in ("mpeg4", "mpeg4-b", "mpeg4-4mv-qpel", "h264", "h264-default", "mpeg1", "odd-size")
    },
    "odd-width": {"codec": "mpeg4", "size": (151, 98)},
    "odd-height": {"codec": "mpeg4", "size": (150, 97)},
    "full-range": {"codec": "libx264", "pixel_format": "yuvj420p", "options": H264_PLAIN},
}


def planes(values: list[np.ndarray]) -> np.ndarray:
    return np.stack([value.transpose(2, 0, 1) for value in values])


def all_places(video: videokd.VideoReader) -> list[tuple[int, int]]:
    return [(gop.index, position) for gop in video.gops for position in range(gop.num_positions)]


@pytest.mark.parametrize("with_index", [True, False])
@pytest.mark.parametrize("kind", SEVERAL)
def test_int16_is_what_reading_gives(kind: str, with_index: bool, make_clip) -> None:
    path = make_clip(**SEVERAL[kind])
    with videokd.open(path) as video:
        read = list(video.iterate(streams=EVERYTHING))
        places = all_places(video)
    with videokd.open(path, index=index_video(path) if with_index else None) as video:
        blocks = video.stack(places, EVERYTHING, dtype="int16")
    assert list(blocks) == list(EVERYTHING)
    for name, block in blocks.items():
        expected = planes([getattr(each, name) for each in read])
        assert block.dtype == expected.dtype == (np.uint8 if name in ("iframe", "frame") else np.int16)
        assert block.flags.c_contiguous
        assert np.array_equal(block, expected), name


@pytest.mark.parametrize("kind", SEVERAL)
def test_uint8_is_what_networks_are_trained_on(kind: str, make_clip) -> None:
    path = make_clip(**SEVERAL[kind] | {"step": (9, -4)})
    with videokd.open(path) as video:
        read = list(video.iterate(streams=EVERYTHING))
        whole = Crop(0, 0, video.width, video.height)
        blocks = video.stack(all_places(video))
        for name, block in blocks.items():
            values = [getattr(each, name) for each in read]
            expected = apply_crop(values, whole, spec=STREAMS[name], size=(video.height, video.width))
            assert block.dtype == np.uint8
            assert np.array_equal(block, expected), name
    assert len(np.unique(blocks["motion"])) > 20


@pytest.mark.parametrize(
    "streams", [("iframe",), ("motion",), ("residual",), ("frame",), ("frame", "motion"), EVERYTHING]
)
@pytest.mark.parametrize("kind", ["mpeg4", "mpeg4-b", "h264-default"])
def test_any_order_with_repeats(kind: str, streams: tuple[str, ...], make_clip) -> None:
    path = make_clip(**KINDS[kind])
    rng = np.random.default_rng(0)
    with videokd.open(path) as video:
        every = all_places(video)
        in_order = video.stack(every, streams)
        for count in (1, 2, 7, 40):
            chosen = rng.integers(len(every), size=count)
            blocks = video.stack([every[number] for number in chosen], streams)
            for name in streams:
                assert np.array_equal(blocks[name], in_order[name][chosen]), (name, count)


def test_each_frame_is_decoded_once_in_file_order(make_clip, work: Work) -> None:  # noqa: F811
    path = make_clip("mpeg4")
    with videokd.open(path) as video:
        video.stack([(2, 1), (0, 3), (2, 1), (0, 0), (0, 1), (2, 0)])
        assert work.fed == [0, 1, 2, 3, 24, 25]
        work.fed.clear()
    with videokd.open(path) as video:
        video.stack([(1, 7), (1, 3), (0, 2)], ("iframe",))
        assert work.fed == [0, 12]
        work.fed.clear()
    with videokd.open(path) as video:
        video.stack([(1, 0), (0, 0)], ("motion", "residual"))
        assert work.fed == []


@pytest.mark.parametrize("dtype", ["uint8", "int16"])
@pytest.mark.parametrize("size", [(48, 64), (56, 31), 40, 120, (96, 128), 96])
def test_sizes(size: int | tuple[int, int], dtype: str, make_clip) -> None:
    """The whole picture, resized as torchvision does it, which rounds between its two passes."""
    path = make_clip("mpeg4", step=(5, -3))
    shape = {40: (40, 53), 120: (120, 160), 96: (96, 128)}.get(size, size)
    places = [(0, 0), (0, 5), (1, 11), (2, 3), (0, 5)]
    with videokd.open(path) as video:
        whole, small = (video.stack(places, EVERYTHING, dtype=dtype, size=each) for each in (None, size))
    for name, block in small.items():
        assert block.shape == (5, STREAMS.get(name, STREAMS["rgb"]).channels, *shape)
        assert block.flags.c_contiguous
        assert block.dtype == whole[name].dtype
        expected = torch.nn.functional.interpolate(
            torch.from_numpy(whole[name]).float(), shape, mode="bilinear", antialias=True
        )
        assert np.abs(block - expected.numpy()).max() <= (0 if shape == (96, 128) else 1.1)


def test_frameworks_share_the_memory(make_clip) -> None:
    with videokd.open(make_clip("mpeg4")) as video:
        for dtype in ("uint8", "int16"):
            for block in video.stack([(0, 1), (1, 2)], dtype=dtype, size=64).values():
                tensor = torch.from_dlpack(block)
                assert tensor.data_ptr() == block.ctypes.data
                assert block.ctypes.data % 64 == 0  # JAX copies other blocks
                assert tensor.is_contiguous()
                assert str(tensor.dtype) == f"torch.{block.dtype}"
                tensor += 1
                assert np.array_equal(block, tensor.numpy())


def test_arrays_of_the_caller_are_filled(make_clip) -> None:
    places = [(1, 3), (0, 0), (2, 5)]
    with videokd.open(make_clip("mpeg4")) as video:
        expected = video.stack(places, ("iframe", "motion"), size=(30, 40))
        pinned = torch.empty(3, 2, 30, 40, dtype=torch.uint8)
        out = {"motion": pinned.numpy(), "iframe": np.empty((3, 3, 30, 40), np.uint8)}
        blocks = video.stack(np.array(places), ("iframe", "motion"), size=(30, 40), out=out)
        assert blocks["iframe"] is out["iframe"]
        assert blocks["motion"] is out["motion"]
        for name, block in expected.items():
            assert np.array_equal(out[name], block)
        assert np.array_equal(pinned.numpy(), expected["motion"])


def test_blocks_of_virtual_gops(make_clip) -> None:
    with videokd.open(make_clip("mpeg4", gop=250)) as video:
        video.cut_gops(12)
        read = list(video.iterate(streams=EVERYTHING))
        blocks = video.stack(all_places(video), EVERYTHING, dtype="int16")
        assert len(video.gops) == 3
    for name, block in blocks.items():
        assert np.array_equal(block, planes([getattr(each, name) for each in read])), name


def test_a_stack_between_frames_and_reads(make_clip) -> None:
    with videokd.open(make_clip("mpeg4")) as video:
        expected = video.stack([(1, 2)], ("motion",))["motion"]
        frames = video.frames()
        numbers = [next(frames).number, next(frames).number]
        assert np.array_equal(video.stack([(1, 2)], ("motion",))["motion"], expected)
        numbers += [frame.number for frame in frames]
        assert numbers == list(range(30))


READ_ONLY = np.zeros((1, 2, 96, 128), np.uint8)
READ_ONLY.flags.writeable = False
WRONG_OUTS = [
    ({}, r"out: nothing \(accepted: a dictionary of motion\)"),
    ([1], r"out: list \(accepted: a dictionary of motion\)"),
    ({"motion": READ_ONLY, "flow": READ_ONLY}, r"out: motion, flow \(accepted"),
    (
        {"motion": torch.zeros(1)},
        r"out\['motion'\] is a Tensor \(accepted: a NumPy array of uint8 \[1, 2, 96, 128\], C-cont",
    ),
    ({"motion": np.zeros((1, 2, 96, 128), np.int16)}, r"is int16 \[1, 2, 96, 128\] \(accepted: a NumPy array of uint8"),
    ({"motion": np.zeros((1, 96, 128, 2), np.uint8)}, r"is uint8 \[1, 96, 128, 2\] \(accepted"),
    ({"motion": np.zeros((1, 96, 128, 2), np.uint8).transpose(0, 3, 1, 2)}, r"is not contiguous \(accepted"),
    ({"motion": READ_ONLY}, r"is read-only \(accepted: .* and writable\)"),
]


@pytest.mark.parametrize(("out", "message"), WRONG_OUTS)
def test_arrays_that_do_not_fit(out: object, message: str, make_clip) -> None:
    with videokd.open(make_clip("mpeg4")) as video, pytest.raises(videokd.ConfigError, match=message):
        video.stack([(0, 1)], ("motion",), out=out)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"positions": []}, r"positions: nothing \(accepted: one or more pairs"),
        ({"positions": [3, 4]}, r"mp4: positions has 3 \(accepted: pairs \(gop, position\)\)"),
        ({"positions": [(0, 1, 2)]}, r"positions has \(0, 1, 2\) \(accepted: pairs"),
        ({"positions": [(0, 1), (9, 0)]}, r"gop=9 \(accepted: 0 to 2\)"),
        ({"positions": [(0, 12)]}, r"position=12 of GOP 0 \(accepted: 0 to 11\)"),
        ({"positions": [(0, 1.0)]}, r"position=1\.0 \(accepted: a whole number\)"),
        ({"streams": ("flow",)}, r"streams: flow \(accepted: one or more of iframe"),
        ({"streams": ()}, r"streams: nothing"),
        ({"streams": "iframe"}, r"streams: 'iframe' \(accepted: .*, in a tuple\)"),
        ({"dtype": "float32"}, r"dtype='float32' \(accepted: uint8 or int16\)"),
        ({"dtype": "pixels"}, r"dtype='pixels' \(accepted: uint8 or int16\)"),
        ({"size": 0}, r"size=0 \(accepted: None, \(height, width\), or the length of the short side"),
        ({"size": (64, -1)}, r"size=\(64, -1\) \(accepted"),
        ({"size": (64, 64, 3)}, r"size=\(64, 64, 3\) \(accepted"),
        ({"size": 64.0}, r"size=64\.0 \(accepted"),
        ({"size": True}, r"size=True \(accepted"),
        ({"size": 1 << 16}, r"size=65536 \(accepted: .* up to 32768\)"),
    ],
)
def test_wrong_arguments(given: dict, message: str, make_clip) -> None:
    with videokd.open(make_clip("mpeg4")) as video, pytest.raises(videokd.ConfigError, match=message):
        video.stack(**{"positions": [(0, 1)], "streams": ("motion",)} | given)


def test_a_closed_reader_and_a_codec_without_vectors(make_clip) -> None:
    with videokd.open(make_clip("mpeg4")) as video:
        pass
    with pytest.raises(videokd.ConfigError, match=r"is closed \(accepted: an open reader\)"):
        video.stack([(0, 1)])
    with videokd.open(make_clip("mjpeg", container="avi", pixel_format="yuvj420p")) as video:
        assert video.stack([(3, 0), (4, 0)], ("iframe",))["iframe"].shape == (2, 3, 96, 128)
        with pytest.raises(videokd.DecodeError, match=r"is mjpeg, which exports no motion vectors"):
            video.stack([(3, 0)])


def test_damage_is_an_error_and_the_reader_goes_on(make_clip, tmp_path: Path) -> None:
    index, path = index_video(make_clip("mpeg4")), tmp_path / "cut.mp4"
    whole = make_clip("mpeg4").read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with videokd.open(make_clip("mpeg4")) as video:
        expected = video.stack([(0, 2)])["residual"]
    with videokd.open(path, index=index) as video:
        with pytest.raises(videokd.DecodeError, match=r"cut\.mp4"):
            video.stack([(0, 1), (2, 5)])
        assert np.array_equal(video.stack([(0, 2)])["residual"], expected)


@pytest.mark.parametrize("positions", [None, 3, [3], [(0, 0, 0)], "ab"])
def test_positions_that_are_no_pairs_are_refused_in_a_line(positions: Any, make_clip) -> None:
    with (
        videokd.open(make_clip()) as video,
        pytest.raises(ConfigError, match=r"positions .*accepted: pairs \(gop, position\)|gop="),
    ):
        video.stack(positions)


@pytest.mark.parametrize("streams", [None, 3, (name for name in ("iframe",)), ()])
def test_streams_that_are_no_names_are_refused_in_a_line(streams: Any, make_clip) -> None:
    with videokd.open(make_clip()) as video:
        for read in (lambda: video.stack([(0, 0)], streams), lambda: video.read(gop=0, position=0, streams=streams)):
            with pytest.raises(ConfigError, match="streams: nothing"):
                read()


def test_blocks_of_out_may_not_share_memory(make_clip) -> None:
    with videokd.open(make_clip()) as video:
        block = video.stack([(0, 1)], ("iframe",))["iframe"]
        with pytest.raises(ConfigError, match="share memory"):
            video.stack([(0, 1)], ("iframe", "frame"), out={"iframe": block, "frame": block})
