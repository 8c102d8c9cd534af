"""Reads damaged videos, and checks that each ends in a result or a DecodeError: no crash, no hang, no excessive memory.

    .venv/bin/python measurements/fuzz_codec.py [FILE …] [--variants 10000] [--twice 2000] [--seed 0] [--workers 2]

Small clips of every kind are generated (or the FILEs taken), and damaged: bits flipped, bytes overwritten, pieces cut off, removed,
doubled or shuffled, packets shuffled, sizes in headers made huge, GOPs made endless. Long-lived worker processes read each variant
completely by every route (fuzz_routes.py): by path and as bytes, with its own index, with that of the intact file, and with places of packets
that lie; in order, at random, as blocks, crops and frames. The limits are 5 seconds of CPU time for each route (20 of wall time) and 512 MiB
above an idle worker.

Reads outside of a buffer are looked for in two ways. Compiled loops check every subscript. And glibc fills new and freed memory with a
pattern; the first --twice variants are read once more with another pattern, and all arrays must be the same.

Writes results/fuzz_codec-DATE.json, keeps the variants that failed in --keep DIR, and exits with 1 if any did.
"""

from __future__ import annotations

import argparse
import collections
import itertools
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import av
import numpy as np
from tqdm import tqdm

from fuzz_routes import WORST_FIRST, index_or_none, read_by_all_routes
from record import RESULTS, provenance, write

MOST_SECONDS = 5.0
MOST_ROUTES = 6
MOST_MIB = 512.0
X264 = "mbtree=0:bframes=0:ref=1:weightp=0:scenecut=0:keyint=6:min-keyint=6"
#: Codec, container, B-frames, options
KINDS: tuple[tuple[str, str, int, dict[str, str]], ...] = (
    ("mpeg4", "mp4", 0, {}),
    ("mpeg4", "mp4", 0, {"movflags": "frag_keyframe+empty_moov"}),
    ("mpeg4", "avi", 2, {}),
    ("mpeg4", "m4v", 0, {"flags": "+mv4+qpel", "mbd": "rd"}),
    ("mpeg4", "mkv", 0, {}),
    ("libx264", "mp4", 0, {"x264-params": X264}),
    ("libx264", "mp4", 2, {"x264-params": "mbtree=0:bframes=2:ref=4:keyint=8:b-pyramid=normal:open-gop=1"}),
    ("libx264", "mkv", 0, {"x264-params": X264 + ":slices=3"}),
    ("libx264", "ts", 0, {"x264-params": X264}),
    ("libx264", "h264", 0, {"x264-params": X264}),
    ("mpeg1video", "mpg", 2, {}),
    ("mpeg2video", "ts", 2, {"flags": "+ilme+ildct"}),
    ("h263", "avi", 0, {}),
    ("wmv2", "avi", 0, {}),
    ("flv", "flv", 0, {}),
)


def generate(folder: Path) -> list[Path]:
    """A tiny clip of each kind: 20 frames of 64×48 pixels (H.263: 128×96)."""
    rng = np.random.default_rng(0)
    files = []
    for number, (codec, container, b_frames, options) in enumerate(KINDS):
        width, height = (128, 96) if codec == "h263" else (64, 48)
        texture = rng.integers(0, 256, (height // 8 + 8, width // 8 + 8, 3)).repeat(8, axis=0).repeat(8, axis=1)
        files.append(folder / f"{number:02}-{codec}.{container}")
        muxer = {key: value for key, value in options.items() if key == "movflags"} | {"fflags": "+bitexact"}
        with av.open(str(files[-1]), "w", options=muxer) as output:
            coder = {key: value for key, value in options.items() if key != "movflags"}
            stream: Any = output.add_stream(codec, rate=25, options=coder)
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            stream.codec_context.gop_size, stream.codec_context.max_b_frames = 6, b_frames
            stream.codec_context.thread_count = 1
            for t in range(20):
                picture = np.ascontiguousarray(texture[t : t + height, 2 * t : 2 * t + width].astype(np.uint8))
                output.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            output.mux(stream.encode(None))
    return files


def flip_bits(data: bytearray, rng: np.random.Generator) -> bytes:
    """A few bits anywhere, or many in the first bytes, where the headers are."""
    end = len(data) if rng.random() < 0.6 else min(len(data), 2048)
    for at in rng.integers(0, end, int(2 ** rng.uniform(0, 8))):
        data[at] ^= 1 << int(rng.integers(8))
    return bytes(data)


def cut(data: bytearray, rng: np.random.Generator) -> bytes:
    """The beginning of the file, up to a random byte."""
    return bytes(data[: int(rng.integers(0, len(data)))])


def overwrite(data: bytearray, rng: np.random.Generator) -> bytes:
    """Random bytes, zeros or ones in place of a piece."""
    at, length = int(rng.integers(len(data))), int(2 ** rng.uniform(0, 12))
    value = rng.integers(0, 256, length, dtype=np.uint8).tobytes()
    data[at : at + length] = (value, b"\0" * length, b"\xff" * length)[int(rng.integers(3))]
    return bytes(data)


def shuffle_pieces(data: bytearray, rng: np.random.Generator) -> bytes:
    """Pieces in another order, some missing, some twice; often the first stays where it is."""
    cuts = [0, *sorted(rng.integers(0, len(data), int(rng.integers(2, 12)))), len(data)]
    pieces = [data[a:b] for a, b in itertools.pairwise(cuts)]
    order = rng.integers(0, len(pieces), len(pieces))
    if rng.random() < 0.7:
        order[0] = 0
    return b"".join(bytes(pieces[n]) for n in order)


def lie(data: bytearray, rng: np.random.Generator) -> bytes:
    """Extreme numbers in place of two or four bytes, mostly near the beginning or behind the name of an MP4 box."""
    names = (b"stsd", b"avc1", b"mp4v", b"tkhd", b"stsz", b"stts", b"stco", b"mdhd", b"strf", b"avih", b"strh", b"trun")
    places = [at for name in names if (at := data.find(name)) >= 0]
    for _ in range(int(rng.integers(1, 6))):
        near = places[int(rng.integers(len(places)))] if places and rng.random() < 0.7 else 0
        at = min(near + int(rng.integers(0, 64 if near else 512)), len(data) - 4)
        value = (0, 1, 0x7FFF, 0xFFFF, 0x2000, 0x7FFFFFFF, 0xFFFFFFFF, 0x10000000)[int(rng.integers(8))]
        size = 2 if value <= 0xFFFF and rng.random() < 0.6 else 4
        data[at : at + size] = value.to_bytes(size, ("big", "little")[int(rng.integers(2))])
    return bytes(data)


def endless(data: bytearray, rng: np.random.Generator) -> bytes:
    """The tail repeated many times: an endless GOP, in formats without an index."""
    at = int(rng.integers(len(data) // 2, len(data)))
    return bytes(data) + bytes(data[at:]) * int(rng.integers(2, 60))


MUTATIONS: tuple[Callable[[bytearray, np.random.Generator], bytes], ...] = (
    flip_bits, flip_bits, cut, overwrite, shuffle_pieces, lie, lie, endless,
)  # fmt: skip


def shuffle_packets(source: Path, target: Path, rng: np.random.Generator) -> None:
    """An intact container with packets in another order, missing, doubled, or damaged."""
    with av.open(str(source)) as given, av.open(str(target), "w") as output:
        stream = given.streams.video[0]
        copy: Any = output.add_stream_from_template(stream)
        packets = [bytes(packet) for packet in given.demux(stream) if packet.size]
        for number, at in enumerate(rng.integers(0, len(packets), len(packets))):
            data = packets[int(at) if rng.random() < 0.5 else number]
            packet: Any = av.Packet(flip_bits(bytearray(data), rng) if rng.random() < 0.2 else data)
            packet.pts = packet.dts = number
            packet.time_base, packet.stream = stream.time_base, copy
            packet.is_keyframe = bool(rng.random() < 0.3)
            output.mux(packet)


def variants(files: list[Path], folder: Path, *, count: int, seed: int) -> Iterator[tuple[str, Path]]:
    """(mutation, file) of each variant, written when asked for."""
    for number in range(count):
        rng = np.random.default_rng([seed, number])
        source = files[number % len(files)]
        target = folder / f"{number:06}{source.suffix}"
        if rng.random() < 0.12:
            kind = "shuffle_packets"
            try:
                shuffle_packets(source, target, rng)
            except (av.FFmpegError, ValueError):
                target.write_bytes(cut(bytearray(source.read_bytes()), rng))
        else:
            mutate = MUTATIONS[int(rng.integers(len(MUTATIONS)))]
            kind = mutate.__name__
            target.write_bytes(mutate(bytearray(source.read_bytes()), rng))
        yield kind, target


def _status(name: str) -> float:
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith(name))


def work(pipe: Connection) -> None:
    """A worker: receives (number, path) from the pipe until it closes; sends back ({route: outcome}, checksum, seconds, MiB above idle)."""
    av.logging.set_level(None)
    originals = [(Path(path), index_or_none(Path(path))) for path in os.environ["FUZZ_FILES"].split(os.pathsep)]
    for path, original in originals:  # compiles and warms up
        read_by_all_routes(path, original, seed=[0])
    measured = os.access("/proc/self/clear_refs", os.W_OK)
    idle = _status("VmRSS") if measured else 0.0
    pipe.send(None)
    while (job := pipe.recv()) is not None:
        number, path = job
        if measured:
            Path("/proc/self/clear_refs").write_text("5")
        started = time.process_time()  # on a busy machine the wall clock runs on while others work
        found, checksum = read_by_all_routes(path, originals[number % len(originals)][1], seed=[1, number])
        seconds = (time.process_time() - started) / len(found)
        pipe.send((found, checksum, seconds, _status("VmHWM") - idle if measured else 0.0))


class Worker:
    """A worker process and its present job."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, other = context.Pipe()
        self.process = context.Process(target=work, args=(other,), daemon=True)
        self.process.start()
        other.close()
        self.pipe.recv()
        self.job: tuple[str, Path] | None = None
        self.deadline = 0.0

    def start(self, job: tuple[str, Path]) -> None:
        """Sends a job to the process."""
        self.job = job
        self.deadline = time.monotonic() + 4 * MOST_SECONDS * MOST_ROUTES  # a busy machine is no hang
        self.pipe.send((int(job[1].stem), job[1]))

    def stop(self) -> None:
        """Ends the process at once."""
        self.process.kill()
        self.process.join()
        self.pipe.close()


@dataclass(frozen=True)
class Result:
    """What reading one variant gave."""

    mutation: str
    path: Path
    outcomes: dict[str, str]
    checksum: str
    seconds: float
    mib: float

    @property
    def failed(self) -> bool:
        """Whether a route ended in anything but a result or a DecodeError, or a limit was exceeded."""
        exceeded = self.seconds > MOST_SECONDS or self.mib > MOST_MIB
        return exceeded or any(outcome.startswith(WORST_FIRST) for outcome in self.outcomes.values())


def outcomes(jobs: Iterator[tuple[str, Path]], num_workers: int) -> Iterator[Result]:
    """The result of every job; a worker that dies or hangs is replaced."""
    workers = [Worker() for _ in range(num_workers)]
    for worker in list(workers):
        job = next(jobs, None)
        if job is not None:
            worker.start(job)
    while busy := [worker for worker in workers if worker.job is not None]:
        wait([worker.pipe for worker in busy], timeout=1.0)
        for number, worker in enumerate(list(workers)):
            if worker.job is None:
                continue
            kind, path = worker.job
            if worker.pipe.poll():
                try:
                    yield Result(kind, path, *worker.pipe.recv())
                except EOFError:
                    yield Result(kind, path, {"": f"CRASH {worker.process.exitcode}"}, "", 0.0, 0.0)
                    worker.stop()
                    workers[number] = Worker()
            elif time.monotonic() > worker.deadline:
                yield Result(kind, path, {"": "HANG"}, "", 4 * MOST_SECONDS, 0.0)
                worker.stop()
                workers[number] = Worker()
            else:
                continue
            worker.job = None
            job = next(jobs, None)
            if job is not None:
                workers[number].start(job)
    for worker in workers:
        worker.stop()


@dataclass
class Tally:
    """Counts of outcomes, the worst figures, and the failures so far."""

    outcomes: dict[str, collections.Counter[str]] = field(default_factory=dict)
    mutations: collections.Counter[str] = field(default_factory=collections.Counter)
    checksums: dict[str, str] = field(default_factory=dict)
    worst_seconds: float = 0.0
    worst_mib: float = 0.0
    failures: list[dict[str, Any]] = field(default_factory=list)

    def add(self, result: Result, keep: Path | None) -> None:
        """Counts one variant; copies it to `keep` where it failed."""
        for route, outcome in result.outcomes.items():
            self.outcomes.setdefault(route, collections.Counter())[outcome.split(" (")[0]] += 1
        self.mutations[result.mutation] += 1
        self.worst_seconds = max(self.worst_seconds, result.seconds)
        self.worst_mib = max(self.worst_mib, result.mib)
        known = self.checksums.setdefault(result.path.name, result.checksum)
        differs = known != result.checksum
        if not result.failed and not differs:
            return
        self.failures.append({**asdict(result), "path": result.path.name, "differs_with_other_memory": differs})
        if keep:
            keep.mkdir(parents=True, exist_ok=True)
            shutil.copy(result.path, keep)

    def text(self) -> str:
        """One line for all variants, then up to twenty failures."""
        every = [(outcome, count) for route in self.outcomes.values() for outcome, count in route.items()]
        read = sum(count for outcome, count in every if outcome.startswith("read"))
        lines = [
            f"{len(self.checksums)} variants by up to {len(self.outcomes)} routes: {read} times read, "
            f"{sum(count for _, count in every) - read} times refused, {len(self.failures)} failed; "
            f"worst {self.worst_seconds:.2f} s, {self.worst_mib:.0f} MiB above idle",
            *(f"  {failure}" for failure in self.failures[:20]),
        ]
        return "\n".join(lines)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE")
    parser.add_argument("--variants", type=int, default=10_000)
    parser.add_argument(
        "--twice", type=int, default=0, help="read so many of them again, with other bytes in free memory"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=min(os.cpu_count() or 1, 8))
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the JSON file")
    parser.add_argument("--keep", type=Path, help="folder for variants that failed")
    return parser.parse_args()


def main() -> int:
    """The program."""
    given = arguments()
    tally = Tally()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = given.files or generate(folder)
        os.environ |= {
            "FUZZ_FILES": os.pathsep.join(map(str, files)),
            "NUMBA_BOUNDSCHECK": "1",
            "NUMBA_CACHE_DIR": str(folder / "compiled"),
        }
        for pattern, count in (("85", given.variants), ("170", min(given.twice, given.variants))):
            os.environ["MALLOC_PERTURB_"] = pattern
            jobs = variants(files, folder, count=count, seed=given.seed)
            for result in tqdm(outcomes(jobs, given.workers), total=count, unit="variant", disable=None):
                tally.add(result, given.keep)
                result.path.unlink()
    report = provenance(("av",)) | {
        "seed": given.seed,
        "variants": given.variants,
        "twice": given.twice,
        "mutations": dict(tally.mutations.most_common()),
        "outcomes": {route: dict(counts.most_common()) for route, counts in tally.outcomes.items()},
        "worst_seconds": round(tally.worst_seconds, 3),
        "worst_mib_above_idle": round(tally.worst_mib, 1),
        "failures": tally.failures,
    }
    target = write("fuzz_codec", report, folder=given.out)
    print(f"{tally.text()}\n{target}")
    return 1 if tally.failures else 0


if __name__ == "__main__":
    sys.exit(main())
