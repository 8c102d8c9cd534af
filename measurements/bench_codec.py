"""Decoding speed of videokd against libavcodec's decoding alone, and against other readers; as ratios within one run.

    .venv/bin/python measurements/bench_codec.py [FOLDER …] [--sizes 340x256 1280x720] [--frames 120] [--repeats 7] [--clock cpu|wall]

Clips are generated (moving objects over a moving background, with some noise) as MPEG-4 with GOP 12, H.264 with GOP 12 and one
reference, and H.264 by x264's defaults. Up to four clips of each FOLDER are read as they are, and transcoded to the first two forms.
Variants take turns, so that a busy machine slows all of them alike. The clock counts CPU time of all threads, unless --clock wall; two
processes against one are always timed by wall time. Peers that are not installed are skipped with a note: motion-vector-extractor,
decord, torchcodec. Writes results/bench_codec-DATE.json, and prints its table.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch

from generated_clips import SEED, generate
from record import CODEC_STREAMS, RESULTS, provenance, write
from timing import in_turns, median_ratio
from videokd.codec.container import MOTION_CODECS
from videokd.codec.index import VideoIndex
from videokd.codec.indexing import index_video
from videokd.codec.reader import open_video
from videokd.datasets.view import Crop, apply_crop
from videokd.transcoding.mp4_writer import Encoding
from videokd.transcoding.transcode import transcode
from videokd.types import STREAMS, Streams

PLACES = 24
NETWORK_SIZE = (112, 112)
BARS = {  # ratio: (mpeg4, h264, whether more is better)
    "three streams: frame rate / decoding alone": (0.48, 0.72, True),
    "motion alone: frame rate / decoding alone": (0.65, 0.85, True),
    "motion of every frame: speed / motion-vector-extractor": (1.2, 1.2, True),
    "random access: time / seeking and decoding alone": (1.8, 1.8, False),
    "random access, newly opened: time / opening, seeking and decoding alone": (1.45, 1.45, False),
    "I-frames alone: speed / decoding every frame": (4.0, None, True),
    "two processes: throughput / one": (1.8, 1.8, True),
}
CLOCKS = {"cpu": time.process_time, "wall": time.perf_counter}


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path, metavar="FOLDER", help="real clips")
    parser.add_argument("--sizes", nargs="+", default=["340x256", "1280x720"])
    parser.add_argument("--frames", type=int, default=120, help="of a generated clip")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--clock", default="cpu", choices=tuple(CLOCKS))
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the JSON")
    return parser.parse_args()


def real(folder: Path, work: Path) -> dict[str, Path]:
    """Up to four clips, evenly chosen from the folder: as they are, and in both training forms."""
    files = [path for path in sorted(folder.iterdir()) if path.suffix in (".avi", ".mp4", ".mkv", ".mpg", ".webm")]
    files = [path for path in files if index_video(path).codec in MOTION_CODECS]
    clips = {}
    for path in files[:: max(len(files) // 4, 1)][:4]:
        clips[f"{path.name} as it is"] = path
        for codec in ("mpeg4", "h264"):
            clips[f"{path.name} {codec} GOP 12"] = target = work / f"{path.stem}-{codec}.mp4"
            transcode(path, target, Encoding(codec=codec, gop=12))
    return clips


def decoder_of(path: Path) -> tuple[Any, Any]:
    """A container and its video stream, decoded by one thread."""
    container: Any = av.open(str(path))
    stream = container.streams.video[0]
    stream.thread_type, stream.codec_context.thread_count = "NONE", 1
    return container, stream


class Clip:
    """One clip; each method does one piece of work that is timed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.index: VideoIndex = index_video(path)
        self.reader = open_video(path, index=self.index)
        self.reader.read(gop=0, position=self.reader.gops[0].num_positions - 1)
        rng = np.random.default_rng(SEED)
        gops = rng.integers(0, len(self.index.gops), PLACES)
        self.places = [(int(g), int(rng.integers(0, self.index.gops[g].num_positions))) for g in gops]
        self.sought, self.sought_stream = decoder_of(path)

    def decoding_alone(self) -> None:
        """Decodes every frame by libavcodec."""
        container, stream = decoder_of(self.path)
        with container:
            for _ in container.decode(stream):
                pass

    def three_streams(self) -> None:
        """Reads the three streams of every position."""
        with open_video(self.path, index=self.index) as video:
            for _ in video.iterate(streams=CODEC_STREAMS):
                pass

    def kept(self) -> list[Streams]:
        """Reads the three streams of every position, and keeps them."""
        with open_video(self.path, index=self.index) as video:
            return list(video.iterate(streams=CODEC_STREAMS))

    def kept_and_joined(self) -> dict[str, np.ndarray]:
        """Makes blocks of what was kept, by the code that quantises for networks."""
        return self._joined((self.index.height, self.index.width))

    def kept_and_resized(self) -> dict[str, np.ndarray]:
        """The same at a network's size."""
        return self._joined(NETWORK_SIZE)

    def _joined(self, size: tuple[int, int]) -> dict[str, np.ndarray]:
        kept, whole = self.kept(), Crop(0, 0, self.index.width, self.index.height)
        pictures = {name: [getattr(streams, name) for streams in kept] for name in CODEC_STREAMS}
        blocks = {name: apply_crop(each, whole, spec=STREAMS[name], size=size) for name, each in pictures.items()}
        return {name: np.ascontiguousarray(block) for name, block in blocks.items()}

    def stacked(self) -> dict[str, np.ndarray]:
        """Reads the three streams of every position into blocks of uint8."""
        return self._stacked(None)

    def stacked_small(self) -> dict[str, np.ndarray]:
        """The same at a network's size."""
        return self._stacked(NETWORK_SIZE)

    def _stacked(self, size: tuple[int, int] | None) -> dict[str, np.ndarray]:
        places = [(gop.index, position) for gop in self.index.gops for position in range(gop.num_positions)]
        with open_video(self.path, index=self.index) as video:
            return video.stack(places, CODEC_STREAMS, size=size)

    def memory_of_stacks(self) -> dict[str, float]:
        """Bytes of blocks, as shares of those of all `Streams`, whose shared I-frames count once."""
        arrays = {
            id(array): array for streams in self.kept() for array in vars(streams).values() if hasattr(array, "nbytes")
        }
        every = sum(array.nbytes for array in arrays.values())
        sizes = {"whole": self.stacked(), f"{NETWORK_SIZE[1]} px": self.stacked_small()}
        return {name: sum(block.nbytes for block in blocks.values()) / every for name, blocks in sizes.items()}

    def motion_alone(self) -> None:
        """Reads the accumulated motion of every position."""
        with open_video(self.path, index=self.index) as video:
            for _ in video.iterate(streams=("motion",)):
                pass

    def motion_unindexed(self) -> None:
        """Indexes the file, and reads the motion of every frame."""
        with open_video(self.path) as video:
            for _ in video.iterate(streams=("motion",), accumulate=False):
                pass

    def vectors_unindexed(self) -> None:
        """Indexes the file, and reads the motion vectors of every frame as FFmpeg exports them, as motion-vector-extractor does."""
        with open_video(self.path) as video:
            for _ in video.frames():
                pass

    def iframes_alone(self) -> None:
        """Reads the I-frame of every GOP."""
        with open_video(self.path, index=self.index) as video:
            for gop in video.gops:
                video.read(gop=gop.index, position=0, streams=("iframe",))

    def random_access(self) -> None:
        """Reads the three streams at random positions."""
        for gop, position in self.places:
            self.reader.read(gop=gop, position=position, streams=CODEC_STREAMS)

    def seeking_alone(self) -> None:
        """Decodes from the same keyframes to the same frames, without reading streams."""
        for gop, position in self.places:
            self._decode_to(self.sought, self.sought_stream, gop, position)

    def newly_opened(self) -> None:
        """Reads the three streams at random positions, and opens the file for each."""
        for gop, position in self.places:
            with open_video(self.path, index=self.index) as video:
                video.read(gop=gop, position=position, streams=CODEC_STREAMS)

    def newly_opened_alone(self) -> None:
        """Decodes from the same keyframes to the same frames by libavcodec, and opens the file for each."""
        for gop, position in self.places:
            container, stream = decoder_of(self.path)
            with container:
                self._decode_to(container, stream, gop, position)

    def _decode_to(self, container: Any, stream: Any, gop: int, position: int) -> None:
        anchors, types = self.index.anchors, self.index.types
        first, pts, dts, _ = self.index.keyframes[self.index.start_of(anchors[gop][0])]
        at = dts if dts is not None else pts
        first = 0 if at is None else first  # such a file can only be decoded from its start
        container.seek(at or 0, stream=stream)
        stream.codec_context.flush_buffers()
        last = anchors[gop][position]
        for number, packet in enumerate(container.demux(stream), first):
            if types[number] == "b":
                continue
            stream.codec_context.decode(packet)
            if number == last:
                break

    def vector_extractor(self) -> None:
        """Reads the motion vectors of every frame by motion-vector-extractor."""
        from mvextractor.videocap import VideoCap

        capture = VideoCap()
        capture.open(str(self.path))
        capture.set_decode_frames(False)
        while capture.read()[0]:
            pass
        capture.release()

    def decord_all(self) -> None:
        """Decodes every frame by decord."""
        import decord

        reader = decord.VideoReader(str(self.path), num_threads=1)
        for _ in range(len(reader)):
            reader.next()

    def torchcodec_all(self) -> None:
        """Decodes every frame by torchcodec."""
        from torchcodec.decoders import VideoDecoder

        # "packed" AVI headers count a frame too many, and torchcodec then fails behind the last one
        with contextlib.suppress(RuntimeError):
            for _ in VideoDecoder(str(self.path), num_ffmpeg_threads=1):
                pass


def peers() -> dict[str, str]:
    """{method: package} of the readers that are installed; reports the others on standard error."""
    found = {}
    for method, module, package in (
        ("vector_extractor", "mvextractor.videocap", "motion-vector-extractor"),
        ("decord_all", "decord", "decord"),
        ("torchcodec_all", "torchcodec.decoders", "torchcodec"),
    ):
        try:
            __import__(module)
        except (ImportError, RuntimeError, OSError) as error:
            sys.stderr.write(f"{package}: skipped ({str(error).splitlines()[0]})\n")
            continue
        found[method] = package
    return found


def _loop(path: Path, start: Any, done: Any, rounds: int) -> None:
    clip = Clip(path)
    clip.three_streams()
    start.wait()
    for _ in range(rounds):
        clip.three_streams()
    done.wait()


def two_processes(path: Path, *, repeats: int) -> float:
    """Throughput of two processes over that of one, by wall time; the median of the turns."""
    context = multiprocessing.get_context("spawn")
    ratios = []
    for _ in range(max(repeats // 2, 2)):
        seconds = []
        for count in (1, 2):
            start, done = context.Barrier(count + 1), context.Barrier(count + 1)
            workers = [context.Process(target=_loop, args=(path, start, done, 12)) for _ in range(count)]
            for worker in workers:
                worker.start()
            start.wait()
            started = time.perf_counter()
            done.wait()
            seconds.append(time.perf_counter() - started)
            for worker in workers:
                worker.join()
        ratios.append(2 * seconds[0] / seconds[1])
    return statistics.median(ratios)


#: {ratio: (work above, work below)} of their times
RATIOS = {
    "three streams: frame rate / decoding alone": ("decoding_alone", "three_streams"),
    "motion alone: frame rate / decoding alone": ("decoding_alone", "motion_alone"),
    "random access: time / seeking and decoding alone": ("random_access", "seeking_alone"),
    "random access, newly opened: time / opening, seeking and decoding alone": ("newly_opened", "newly_opened_alone"),
    "I-frames alone: speed / decoding every frame": ("decoding_alone", "iframes_alone"),
    "three streams, kept: frame rate / decoding alone": ("decoding_alone", "kept"),
    "three streams, stacked: frame rate / decoding alone": ("decoding_alone", "stacked"),
    "three streams, stacked: speed / kept": ("kept", "stacked"),
    "three streams, stacked: speed / kept and joined": ("kept_and_joined", "stacked"),
    "three streams, stacked at 112 px: speed / kept and resized": ("kept_and_resized", "stacked_small"),
}
OF_EXTRACTOR = {
    "motion of every frame: speed / motion-vector-extractor": ("vector_extractor", "motion_unindexed"),
    "raw vectors of every frame: speed / motion-vector-extractor": ("vector_extractor", "vectors_unindexed"),
    "decoding alone: speed / motion-vector-extractor": ("vector_extractor", "decoding_alone"),
}


def measure(path: Path, given: argparse.Namespace, found: dict[str, str], name: str) -> dict[str, Any]:
    """Times and ratios of one clip."""
    clip = Clip(path)
    wanted = dict(RATIOS)
    for method, package in found.items():
        decoders = {f"three streams: speed / {package} (RGB of every frame)": (method, "three_streams")}
        wanted |= OF_EXTRACTOR if method == "vector_extractor" else decoders
    functions = {work: getattr(clip, work) for pair in wanted.values() for work in pair}
    seconds = in_turns(functions, repeats=given.repeats, clock=CLOCKS[given.clock], name=name)
    ratios = {ratio: median_ratio(seconds[above], seconds[below]) for ratio, (above, below) in wanted.items()}
    memory = clip.memory_of_stacks()
    return {
        "codec": clip.index.codec,
        "size": f"{clip.index.width}x{clip.index.height}",
        "frames": clip.index.num_frames,
        "positions": sum(gop.num_positions for gop in clip.index.gops),
        "milliseconds": {work: statistics.median(values) * 1e3 for work, values in seconds.items()},
        "ratios": ratios | {f"three streams, stacked {kind}: memory / kept": share for kind, share in memory.items()},
    }


def table(clips: dict[str, Any]) -> str:
    """The ratios of each clip, as text."""
    lines = []
    for name, result in clips.items():
        alone = result["milliseconds"]["decoding_alone"] / result["frames"] * 1e3
        lines.append(f"\n{name}: {result['frames']} frames, decoding alone {alone:.0f} µs each")
        for label, value in result["ratios"].items():
            bar = BARS.get(label, (None, None, True))
            wanted = bar[result["codec"] == "h264"]
            verdict = ""
            if wanted is not None and "default" not in name and "as it is" not in name:
                met = value >= wanted if bar[2] else value <= wanted
                verdict = f"  {'met' if met else 'MISSED'}: {'at least' if bar[2] else 'at most'} {wanted}"
            lines.append(f"  {label:<58}{value:7.2f}{verdict}")
    return "\n".join(lines) + "\n"


def main() -> None:
    """The program."""
    given = arguments()
    torch.set_num_threads(1)
    found = peers()
    clips: dict[str, Path] = {}
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as work:
        for size in given.sizes:
            clips |= generate(Path(work), size, given.frames)
        for folder in given.folders:
            clips |= real(folder, Path(work))
        cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, {min(cores)})
        for name, path in clips.items():
            results[name] = measure(path, given, found, name)
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, cores)
        for name in list(clips)[:2] if len(cores) > 1 else ():
            both = two_processes(clips[name], repeats=given.repeats)
            results[name]["ratios"]["two processes: throughput / one"] = both
    settings = {"repeats": given.repeats, "frames": given.frames, "clock": given.clock, "seed": SEED}
    report = provenance(("av", "numba", "numpy", *found.values())) | {"settings": settings, "clips": results}
    target = write("bench_codec", report, folder=given.out)
    print(f"{table(results)}\n{target}")


if __name__ == "__main__":
    main()
