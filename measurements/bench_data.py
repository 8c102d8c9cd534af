"""What data costs: transcoding against the ffmpeg program, the loader against the codec layer alone; extrapolated to whole datasets.

    .venv/bin/python measurements/bench_data.py [--source DIR] [--clips 24] [--repeats 3] [--size 224] [--batch 32] [--rounds 12]
        [--parts jobs loader …] [--out DIR]

Without --source, clips are generated. Variants take turns, so that a busy machine slows all of them alike; medians of the ratios within
a turn are compared. `processor_seconds` are CPU time, which other processes hardly change; wall times do change with them. Without an
ffmpeg program its comparison is omitted, and the result says so. Writes results/bench_data-DATE.json; with --parts only these are
measured, and replace those of the day's file.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torchvision.transforms.v2 import functional as transforms
from tqdm import tqdm

from record import CODEC_STREAMS, RESULTS, provenance, write
from timing import median_ratio, medians, timed
from videokd.codec.index import VideoIndex
from videokd.codec.indexing import index_video
from videokd.codec.reader import open_video
from videokd.datasets.batches import collate, training_batches
from videokd.datasets.dataset import ClipDataset
from videokd.datasets.manifest import Manifest
from videokd.datasets.order import EpochBatches
from videokd.jobs.workers import Workers
from videokd.preparation.folders import folder_layout
from videokd.preparation.listing import Listing
from videokd.preparation.prepare_clip import ClipTask, prepare_clip
from videokd.preparation.prepare_dataset import prepare
from videokd.preparation.synthetic import generate
from videokd.transcoding.mp4_writer import Encoding
from videokd.types import STREAMS

#: Frames of whole datasets: UCF101's 1600 minutes at 25 a second; Kinetics-700's 10 seconds a clip at 28 on average.
DATASETS = {
    "ucf101": (13_320, 2_400_000),
    "hmdb51": (6_766, 640_000),
    "kinetics700": (650_000, 650_000 * 280),
    "100 million clips": (100_000_000, 100_000_000 * 280),
}
PARTS = ("transcoding", "jobs", "qualities", "loader")
QUALITIES = [Encoding(quality=quality) for quality in (1, 2, 3, 4, 6, 10)] + [
    Encoding("h264", quality=quality) for quality in (15, 18, 23, 28)
]


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, help="a folder with one folder a class")
    parser.add_argument("--clips", type=int, default=24)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=12, help="batches that the loader makes in each repeat")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the JSON file")
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=PARTS)
    return parser.parse_args()


def ratio(above: Sequence[dict[str, float]], below: Sequence[dict[str, float]], key: str) -> float:
    """Median of the ratios within a turn."""
    return round(median_ratio([each[key] for each in above], [each[key] for each in below]), 3)


def tasks_of(sources: Sequence[Path], out: Path, encoding: Encoding) -> list[ClipTask]:
    """The tasks that prepare these clips into a folder."""
    (out / ".rows").mkdir(parents=True, exist_ok=True)
    return [
        ClipTask(path.stem, out, path, out / f"{n}.mp4", out / ".rows" / f"{n}.json", encoding, keep=False)
        for n, path in enumerate(sources)
    ]


def by_the_program(source: Path, target: Path, encoding: Encoding) -> None:
    """The same with one command: one thread, the same size of picture, quantiser, GOP, scaler and container."""
    side = encoding.short_side
    size = f"scale='if(gt(iw,ih),trunc(iw*{side}/ih/2)*2,{side})':'if(gt(iw,ih),{side},trunc(ih*{side}/iw/2)*2)':flags=bicubic"
    quality = str(encoding.resolved_quality)
    codec = {
        "mpeg4": ["mpeg4", "-qmin", quality, "-qmax", quality, "-i_qfactor", "1", "-sc_threshold", "1000000000"],
        "h264": [
            "libx264",
            "-preset",
            "medium",
            "-crf",
            quality,
            "-x264-params",
            "scenecut=0:ref=1:weightp=0:mbtree=0",
        ],
    }[encoding.codec]
    command = [
        *("ffmpeg", "-v", "error", "-nostdin", "-y", "-threads", "1", "-i", str(source), "-map", "0:v:0", "-an"),
        *("-vf", size, "-filter_threads", "1", "-c:v", *codec, "-g", str(encoding.gop), "-bf", "0"),
        *("-pix_fmt", "yuv420p", "-threads", "1", "-fps_mode", "passthrough", "-movflags", "+faststart", str(target)),
    ]
    subprocess.run(command, check=True)


def prepare_each(tasks: Sequence[ClipTask]) -> None:
    """Prepares clips by videokd, one after the other."""
    for task in tasks:
        prepare_clip(task)


def transcode_each(sources: Sequence[Path], targets: Sequence[Path], encoding: Encoding) -> None:
    """Transcodes clips by the ffmpeg program, one after the other."""
    for source, target in zip(sources, targets, strict=True):
        by_the_program(source, target, encoding)


def bench_transcoding(sources: Sequence[Path], folder: Path, repeats: int) -> dict[str, object]:
    """Preparing clips by videokd (transcode, index, hash) against the ffmpeg program, in one process at a time."""
    result: dict[str, object] = {}
    program = shutil.which("ffmpeg")
    for codec in ("mpeg4", "h264"):
        encoding = Encoding(codec)
        ours, theirs = [], []
        tasks = tasks_of(sources, folder / "ours", encoding)
        targets = [folder / f"{n}.mp4" for n in range(len(sources))]
        # H.264 takes six times as long, and its ratio is that of the encoder: two rounds are enough
        for _ in tqdm(range(repeats if codec == "mpeg4" else min(repeats, 2)), desc=f"transcode {codec}"):
            ours.append(timed(prepare_each, tasks))
            if program:
                theirs.append(timed(transcode_each, sources, targets, encoding))
        entry: dict[str, object] = {"videokd": medians(ours) | {"bytes": bytes_of(task.target for task in tasks)}}
        if program:
            entry["ffmpeg"] = medians(theirs) | {"bytes": bytes_of(targets)}
            entry["times_as_fast"] = ratio(theirs, ours, "seconds")
            entry["times_as_fast_by_processor"] = ratio(theirs, ours, "processor_seconds")
        else:
            entry["note"] = "no ffmpeg program here: not compared"
        result[codec] = entry
    return result


def bytes_of(files: Iterable[Path]) -> int:
    """Size of files together."""
    return sum(file.stat().st_size for file in files)


def rate_of(function: Callable[[Any], object], tasks: Sequence[Any], jobs: int) -> dict[str, float]:
    """Tasks a second once all workers are at work."""
    outcomes = Workers(jobs=jobs).outcomes(function, tasks)
    for _ in range(24 * jobs):  # the first worker makes some clips before the last one is there
        next(outcomes)
    start = time.perf_counter()
    count = sum(1 for _ in outcomes)
    return {"clips_per_second": count / (time.perf_counter() - start)}


def count_up(number: int) -> int:
    """Work that needs neither memory nor disk."""
    return sum(range(3_000_000 + number % 2))


def bench_jobs(sources: Sequence[Path], folder: Path, repeats: int) -> dict[str, object]:
    """One job and two; and what two processes on this machine gain at best."""
    tasks = tasks_of(list(sources) * 8, folder / "jobs", Encoding())
    rounds: dict[int, list[dict[str, float]]] = {1: [], 2: []}
    ceiling: dict[int, list[dict[str, float]]] = {1: [], 2: []}
    for _ in tqdm(range(repeats), desc="jobs"):
        for jobs in (1, 2):
            rounds[jobs].append(rate_of(prepare_clip, tasks, jobs))
            ceiling[jobs].append(rate_of(count_up, range(160), jobs))
    return {f"{jobs} jobs": medians(found) for jobs, found in rounds.items()} | {
        "two_over_one": ratio(rounds[2], rounds[1], "clips_per_second"),
        "two_over_one_of_the_machine": ratio(ceiling[2], ceiling[1], "clips_per_second"),
    }


def load() -> dict[str, object]:
    """What else the machine does; above the number of processes measured, wall times say little."""
    return {"load_of_the_machine": round(os.getloadavg()[0], 1)}


def bench_qualities(sources: Sequence[Path], folder: Path) -> dict[str, object]:
    """Bytes, time of transcoding and time of reading at several qualities of both codecs."""
    rows = []
    for encoding in tqdm(QUALITIES, desc="qualities"):
        tasks = tasks_of(sources, folder / "quality", encoding)
        transcoding = timed(prepare_each, tasks)["processor_seconds"]
        reading = timed(read_each_at_random, [task.target for task in tasks])["processor_seconds"]
        frames = sum(index_video(task.target).num_frames for task in tasks)
        rows.append(
            {
                "codec": encoding.codec,
                "quality": encoding.resolved_quality,
                "bytes_per_frame": round(bytes_of(task.target for task in tasks) / frames),
                "transcode_ms_per_frame": round(1000 * transcoding / frames, 3),
                "three_streams_ms_per_clip": round(1000 * reading / len(tasks), 2),
            }
        )
    return {"rows": rows}


def read_each_at_random(files: Sequence[Path]) -> None:
    """Reads three streams at three random positions of each file."""
    for file in files:
        read_at_random(file)


def read_at_random(path: Path) -> None:
    """Reads three streams at three random positions of a file."""
    rng = np.random.default_rng(0)
    with open_video(path) as video:
        for _ in range(3):
            gop = int(rng.integers(len(video.gops)))
            position = int(rng.integers(1, max(video.gops[gop].num_positions, 2)))
            video.read(gop=gop, position=min(position, video.gops[gop].num_positions - 1))


def codec_and_resize(dataset: ClipDataset, numbers: Sequence[int]) -> float:
    """What a sample cannot do without: reading the streams, cutting the crop out of each picture, and resizing uint8 pictures of
    that size, several channels at once, whatever they hold. Gives processor seconds."""
    torch.set_num_threads(1)
    start = time.process_time()
    for number in numbers:
        clip = dataset.clips[number % len(dataset)]
        index = VideoIndex.from_json(clip.index)
        view = dataset.view(index, np.random.default_rng((0, 0, number)))
        crop = view.crops[0]
        with open_video(dataset.manifest.file(clip), index=index) as video:
            for gop, position in view.segments:
                part = video.read(gop=gop, position=position, streams=dataset.streams)
                for name in dataset.streams:
                    np.ascontiguousarray(
                        getattr(part, name)[crop.top : crop.top + crop.height, crop.left : crop.left + crop.width]
                    )
        for name in dataset.streams:
            channels = STREAMS[name].channels
            shared = 1 if channels > 2 else 4 // channels  # PyTorch is quickest with three or four
            shape = (-(-len(view.segments) // shared), crop.height, crop.width, channels * shared)
            pictures = torch.zeros(shape, dtype=torch.uint8).permute(0, 3, 1, 2)
            transforms.resize(pictures, [dataset.input_size] * 2, antialias=True)
    return time.process_time() - start


def samples_and_batches(dataset: ClipDataset, numbers: Sequence[int], batch: int) -> float:
    """The same clips as a worker makes batches of them. Gives processor seconds."""
    torch.set_num_threads(1)
    start = time.process_time()
    for first in range(0, len(numbers), batch):
        collate(dataset.__getitems__([number % len(dataset) for number in numbers[first : first + batch]]))
    return time.process_time() - start


def bench_loader(manifest: Manifest, given: argparse.Namespace) -> dict[str, object]:
    """Samples a second of the loader, against the codec and resizing alone, for three sets of streams."""
    result: dict[str, object] = {}
    count = given.rounds * given.batch
    for streams in (CODEC_STREAMS, ("motion",), ("iframe",)):
        dataset = ClipDataset(manifest, manifest.clips, streams, 3, given.size, "training")
        codec_and_resize(dataset, range(8)), samples_and_batches(dataset, range(8), 8)  # loads what is compiled
        alone_used, loader_used = [], []
        for turn in tqdm(range(given.repeats), desc=f"loader, {' '.join(streams)}"):
            numbers = range(turn * count, turn * count + count // 2)
            alone_used.append({"processor_seconds": codec_and_resize(dataset, numbers)})
            loader_used.append({"processor_seconds": samples_and_batches(dataset, numbers, given.batch)})
        entry: dict[str, object] = {"by_processor": ratio(alone_used, loader_used, "processor_seconds")}
        for workers in (0, 1, 2):
            alone, loader = [], []
            with multiprocessing.get_context("fork").Pool(max(workers, 1)) as pool:
                alone_rate(pool, dataset, 8 * max(workers, 1), max(workers, 1))  # loads what is compiled
                for turn in range(given.repeats):
                    alone.append(alone_rate(pool, dataset, count, max(workers, 1)))
                    loader.append(loader_rate(dataset, workers, given.batch, count, seed=turn))
            entry[f"{workers} workers"] = {
                "samples_per_second": medians(loader)["samples_per_second"],
                "codec_and_resize_alone": medians(alone)["samples_per_second"],
                "ratio": ratio(loader, alone, "samples_per_second"),
            }
        result["+".join(streams)] = entry
    return result


def alone_rate(pool: Any, dataset: ClipDataset, count: int, processes: int) -> dict[str, float]:
    """Samples a second of `codec_and_resize` in several processes."""
    start = time.perf_counter()
    pool.starmap(codec_and_resize, [(dataset, range(n, count, processes)) for n in range(processes)])
    return {"samples_per_second": count / (time.perf_counter() - start)}


def loader_rate(dataset: ClipDataset, workers: int, batch: int, count: int, *, seed: int) -> dict[str, float]:
    """Samples a second of the loader, after its workers have started."""
    batches = training_batches(
        dataset, EpochBatches(len(dataset), min(batch, len(dataset)), seed=seed), workers=workers
    )
    for _ in range(1 + 2 * workers):
        next(batches)
    start, seen = time.perf_counter(), 0
    while seen < count:
        seen += len(next(batches))
    rate = seen / (time.perf_counter() - start)
    batches.close()  # type: ignore[attr-defined]
    return {"samples_per_second": rate}


def three_digits(value: float) -> float:
    """A number rounded to three significant digits."""
    return float(f"{value:.3g}")


def extrapolate(transcoding: dict[str, Any], frames: int) -> dict[str, object]:
    """Core-hours and bytes of whole datasets of pictures of this size, by their numbers of frames."""
    result: dict[str, object] = {}
    for name, (clips, total) in DATASETS.items():
        result[name] = {"clips": clips, "frames": total} | {
            codec: {
                "core_hours": three_digits(entry["videokd"]["processor_seconds"] / frames * total / 3600),
                "gigabytes": three_digits(entry["videokd"]["bytes"] / frames * total / 1e9),
            }
            for codec, entry in transcoding.items()
            if isinstance(entry, dict)
        }
    return result


def sample_of(listing: Listing, count: int) -> Listing:
    """Clips evenly chosen from a dataset.

    Raises:
        SystemExit: a class has none.
    """
    sample = replace(listing, clips=listing.clips[:: max(len(listing.clips) // count, 1)][:count])
    if missing := sorted(set(listing.class_names) - set(sample.class_names)):
        raise SystemExit(f"--clips {count} leaves no clip of {', '.join(missing)}. Raise --clips.")
    return sample


def main() -> None:
    """The program."""
    given = arguments()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = given.source or generate(folder / "generated", groups=4, clips_per_group=1, num_frames=160, size=256)
        sample = sample_of(Listing(source, folder_layout(source)), given.clips)
        sources = [source / clip.path for clip in sample.clips]
        # All clips of a class may be in one part; the loader reads them all alike
        manifest = prepare(sample, folder / "prepared", workers=Workers(jobs=2))
        frames = sum(clip.num_frames for clip in manifest.clips)
        about = provenance(("av", "torch"), threads=1)
        about["versions"]["ffmpeg"] = ffmpeg_version()
        report = {
            **about,
            "settings": {key: value for key, value in vars(given).items() if key not in ("out", "parts")}
            | {"source": source.name if given.source else "generated", "seed": 0},
            "sample": {"clips": len(sources), "frames": frames, "widths": sorted({c.width for c in manifest.clips})},
            "manifest_bytes_per_clip": round((folder / "prepared/manifest.parquet").stat().st_size / len(sources)),
        }
        measures: dict[str, Callable[[], dict[str, object]]] = {
            "transcoding": lambda: bench_transcoding(sources, folder / "transcoded", given.repeats),
            "jobs": lambda: bench_jobs(sources, folder, given.repeats),
            "qualities": lambda: bench_qualities(sources[:: max(len(sources) // 12, 1)], folder),
            "loader": lambda: bench_loader(manifest, given),
        }
        measured = {part: measures[part]() | load() for part in given.parts}
    path = given.out / f"bench_data-{report['date']}.json"
    earlier = json.loads(path.read_text()) if path.exists() and set(given.parts) != set(PARTS) else {}
    report = {**earlier, **report, **measured}
    if "transcoding" in report:
        report["whole_datasets"] = extrapolate(report["transcoding"], frames)
    print(json.dumps(report, indent=1))
    print(write("bench_data", report, folder=given.out))


def ffmpeg_version() -> str | None:
    """Version of the ffmpeg program; None where there is none."""
    if not shutil.which("ffmpeg"):
        return None
    shown = subprocess.run(["ffmpeg", "-version"], capture_output=True, text=True, check=True).stdout
    return shown.split()[2]


if __name__ == "__main__":
    main()
