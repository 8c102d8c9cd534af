"""One training sample of three streams against torchcodec decoding RGB frames at the same places, in turns on one core.

    .venv/bin/python measurements/bench_peers.py CLIPS [--segments 3] [--size 224] [--turns 15] [--out DIR]

CLIPS is a folder of videos; they are transcoded as `prepare` does: MPEG-4, H.264, and the faster form of H.264. A turn is one sample of
every clip, at random places, with files newly opened, by CPU time. videokd reads by the stored index and crops to the network's size;
torchcodec decodes its frames: as it does by default (it first looks at all packets of a file), by approximate seeking (it does not; it
relies on a constant frame rate), and so with crops and resizing. Needs `pip install torchcodec`. Writes results/bench_peers-DATE.json.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torchvision.transforms.v2 import functional as transforms

from record import CODEC_STREAMS, RESULTS, provenance, write
from timing import in_turns, median_ratio, medians
from videokd.codec.index import VideoIndex
from videokd.codec.indexing import index_video
from videokd.codec.reader import open_video
from videokd.datasets.view import View, random_crop, read_inputs, sample_positions
from videokd.jobs.video_files import videos_in
from videokd.transcoding.mp4_writer import Encoding
from videokd.transcoding.transcode import transcode

FORMS = {"mpeg4": Encoding("mpeg4"), "h264": Encoding("h264"), "h264 fastdecode": Encoding("h264", tune="fastdecode")}


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", type=Path, metavar="CLIPS")
    parser.add_argument("--segments", type=int, default=3)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the JSON file")
    return parser.parse_args()


class Samples:
    """Random views of clips: in each turn one of every clip, the same for all readers.

    Args:
        files: the clips, with constant GOPs and no B-frames.
        segments: places in each view.
        size: side of the crops in pixels.
    """

    def __init__(self, files: list[Path], *, segments: int, size: int) -> None:
        self._indexes: dict[Path, VideoIndex] = {file: index_video(file) for file in files}
        self._segments, self._size = segments, size
        self._inputs = {name: (name, size) for name in CODEC_STREAMS}

    def _views(self, turn: int) -> list[tuple[Path, View, list[int]]]:
        """(file, view, numbers of the frames at its places) of every clip."""
        rng, found = np.random.default_rng(turn), []
        for file, index in self._indexes.items():
            lengths = [gop.num_positions for gop in index.gops]
            places = sample_positions(lengths, num_segments=self._segments, first_position=1, rng=rng)
            size = (index.width, index.height)
            crop = random_crop(*size, flip=False, rng=rng)
            frames = [sum(lengths[:gop]) + position for gop, position in places]
            found.append((file, View(places, (crop,), size), frames))
        return found

    def streams(self, turn: int) -> None:
        """Three streams, cropped to the network's size."""
        for file, view, _ in self._views(turn):
            with open_video(file, index=self._indexes[file]) as video:
                read_inputs(video, view, self._inputs)

    def frames(self, turn: int, *, seeking: Literal["exact", "approximate"], cropped: bool = False) -> None:
        """RGB frames by torchcodec."""
        from torchcodec.decoders import VideoDecoder

        for file, view, numbers in self._views(turn):
            pictures = VideoDecoder(str(file), num_ffmpeg_threads=1, seek_mode=seeking).get_frames_at(numbers)
            if cropped:
                (crop,) = view.crops
                place = (crop.top, crop.left, crop.height, crop.width)
                transforms.resized_crop(pictures.data, *place, [self._size, self._size], antialias=True)


def counted(work: Callable[[int], None]) -> Callable[[], None]:
    """Calls it with 0, 1, 2 …: each reader sees the same turns."""
    turns = iter(range(10**9))
    return lambda: work(next(turns))


def row_of(form: str, files: list[Path], given: argparse.Namespace) -> dict[str, object]:
    """One form: milliseconds of a sample, and how many times as fast videokd is."""
    samples = Samples(files, segments=given.segments, size=given.size)
    readers = {
        "streams": samples.streams,
        "frames": lambda turn: samples.frames(turn, seeking="exact"),
        "frames by approximate seeking": lambda turn: samples.frames(turn, seeking="approximate"),
        "the same, cropped and resized": lambda turn: samples.frames(turn, seeking="approximate", cropped=True),
    }
    seconds = in_turns(
        {name: counted(read) for name, read in readers.items()},
        repeats=given.turns,
        clock=time.process_time,
        name=form,
    )
    turns = [
        {name: 1000 * of[turn] / len(files) for name, of in seconds.items()} for turn in range(len(seconds["streams"]))
    ]
    return {
        "form": form,
        "ms": medians(turns),
        "times_as_fast": {
            name: round(median_ratio(seconds[name], seconds["streams"]), 3) for name in readers if name != "streams"
        },
    }


def main() -> None:
    """The program."""
    given = arguments()
    torch.set_num_threads(1)
    sources, rows = videos_in(given.clips), []
    with tempfile.TemporaryDirectory() as name:
        for form, encoding in FORMS.items():
            files = [Path(name) / f"{number}-{form}.mp4" for number in range(len(sources))]
            for source, target in zip(sources, files, strict=True):
                transcode(source, target, encoding)
            rows.append(row_of(form, files, given))
            print(rows[-1], flush=True)
    report = provenance(("av", "torch", "torchcodec"), threads=1) | {
        "command": "measurements/bench_peers.py CLIPS",
        "settings": {"segments": given.segments, "size": given.size, "turns": given.turns, "clips": len(sources)},
        "rows": rows,
    }
    print(write("bench_peers", report, folder=given.out))


if __name__ == "__main__":
    main()
