"""What bookkeeping costs for each clip, from which docs/scale.md calculates what millions take: the manifest, a second `prepare`, handing
out tasks on this machine and on Ray, large sources.

    .venv/bin/python measurements/bench_scale.py [--rows 1000000] [--clips 4000] [--out DIR]

The manifest's rows are made up; everything else is run: `prepare` over links to a few small generated clips. Times are CPU seconds of
one core unless their name has `wall`. Without Ray its figure is omitted. Writes results/bench_scale-DATE.json.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from record import RESULTS, provenance, write
from timing import P
from videokd.datasets.manifest import Clip, Manifest
from videokd.files import sha256_of
from videokd.jobs.workers import Workers
from videokd.preparation.checks import check_clips
from videokd.preparation.folders import folder_layout
from videokd.preparation.listing import Listing
from videokd.preparation.prepare_dataset import prepare
from videokd.transcoding.mp4_writer import Encoding
from videokd.transcoding.transcode import encode, transcode

CLASSES = tuple(f"class{number:03d}" for number in range(100))


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--clips", type=int, default=4_000)
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser.parse_args()


def seconds_of(work: Callable[P, object], *given: P.args, **named: P.kwargs) -> float:
    """CPU seconds of one call."""
    start = time.process_time()
    work(*given, **named)
    return time.process_time() - start


def resident_bytes(line: str) -> int:
    """VmRSS: now; VmHWM: at most so far."""
    status = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(each for each in status if each.startswith(line)).split()[1])


def alone(function: Callable[..., dict[str, float]], *given: object) -> dict[str, float]:
    """In a process of its own, whose memory is its own too."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, given)


def pictures(width: int, height: int, count: int) -> list[np.ndarray]:
    """A coarse texture that moves, with noise on it, so that there is something to encode."""
    rng = np.random.default_rng(0)
    coarse = np.kron(rng.integers(40, 216, (height // 8, width // 8, 3)), np.ones((8, 8, 1), int))
    noise = rng.integers(-6, 7, (height, width, 3))
    return [
        np.clip(np.roll(coarse, 3 * t, axis=1) + np.roll(noise, t, axis=0), 0, 255).astype(np.uint8)
        for t in range(count)
    ]


def sources(folder: Path, clips: int) -> Listing:
    """A tree of links to three small clips."""
    tiny = [folder / f"tiny{number}.mp4" for number in range(3)]
    for number, path in enumerate(tiny):
        encode(pictures(48, 32, 12 + number), path, frame_rate=25, encoding=Encoding("h264", gop=6))
    for number in range(clips):
        path = folder / "tree" / CLASSES[number % len(CLASSES)] / f"v_g{number // 200:03d}_c{number:06d}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        os.link(tiny[number % 3], path)
    return Listing(folder / "tree", folder_layout(folder / "tree"))


def resuming(folder: Path, clips: int) -> dict[str, float]:
    """Listing a tree, and `prepare` of one that is finished."""
    listing = sources(folder, clips)
    listed = seconds_of(folder_layout, listing.root)
    prepare(listing, folder / "out", encoding=Encoding(short_side=32), workers=Workers(jobs=1))
    before = resident_bytes("VmRSS")
    again = seconds_of(
        lambda: prepare(listing, folder / "out", encoding=Encoding(short_side=32), workers=Workers(jobs=1))
    )
    grown = max(resident_bytes("VmHWM") - before, 0)
    return {
        "list_us_per_clip": round(1e6 * listed / clips, 1),
        "resume_us_per_clip": round(1e6 * again / clips, 1),
        "resume_bytes_per_clip": round(grown / clips),
    }


def rows_of(folder: Path, rows: int) -> Manifest:
    """A manifest of made-up clips, each with an index of ten seconds at 28 pictures a second, as Kinetics has."""
    encode(pictures(48, 32, 280), folder / "one" / "a" / "x_g01.mp4", frame_rate=28, encoding=Encoding("h264", gop=6))
    for name in ("a/x_g02.mp4", "b/x_g01.mp4", "b/x_g02.mp4"):
        (folder / "one" / name).parent.mkdir(exist_ok=True)
        os.link(folder / "one/a/x_g01.mp4", folder / "one" / name)
    listing = Listing(folder / "one", folder_layout(folder / "one"))
    model = prepare(listing, folder / "made", encoding=Encoding(short_side=32), workers=Workers(jobs=1)).clips[0]

    index = json.loads(model.index)
    keys = [key[:3] for key in index["keyframes"]]
    before, _, after = json.dumps(index | {"keyframes": "here"}, separators=(",", ":")).partition('"here"')
    rng = np.random.default_rng(0)

    def clip(number: int) -> Clip:
        digest = hashlib.sha256(str(number).encode()).hexdigest()
        label = number % len(CLASSES)
        name = f"{CLASSES[label]}/v_g{number // 1000:06d}_c{number:09d}"
        # Where the keyframes lie differs from file to file, and fills most of the table
        places = rng.integers(20_000, 60_000, len(keys)).cumsum().tolist()
        where = [[*key, place] for key, place in zip(keys, places, strict=True)]
        return replace(
            model,
            video_id=name,
            path=f"videos/{name}.mp4",
            label=label,
            class_name=CLASSES[label],
            group=f"{CLASSES[label]}/g{number // 1000:06d}",
            split1="test" if number // 1000 % 4 == 0 else "train",
            index=before + json.dumps(where, separators=(",", ":")) + after,
            sha256=digest,
            source_sha256=digest[::-1],
            source_path=f"{name}.mp4",
            bytes=500_000 + number % 99_991,
        )

    return Manifest(folder, tuple(clip(number) for number in range(rows)), CLASSES)


def writing(folder: Path, rows: int) -> dict[str, float]:
    """Cost of writing and checking a manifest of many rows."""
    manifest = rows_of(folder, rows)
    seconds = seconds_of(manifest.write)
    checked = seconds_of(check_clips, manifest.clips, manifest.class_names)
    size = (folder / "manifest.parquet").stat().st_size
    return {
        "write_us_per_clip": round(1e6 * seconds / rows, 2),
        "check_us_per_clip": round(1e6 * checked / rows, 2),
        "bytes_per_clip": round(size / rows, 1),
    }


def reading(folder: Path, rows: int) -> dict[str, float]:
    """Cost of reading a manifest of many rows, and of selecting from it."""
    before = resident_bytes("VmRSS")
    kept: list[Manifest] = []
    seconds = seconds_of(lambda: kept.append(Manifest.read(folder)))
    memory, most = resident_bytes("VmRSS") - before, resident_bytes("VmHWM") - before
    selecting = seconds_of(lambda: kept[0].select("fit", split=1))
    return {
        "read_us_per_clip": round(1e6 * seconds / rows, 2),
        "memory_bytes_per_clip": round(memory / rows),
        "memory_bytes_per_clip_at_most": round(most / rows),
        "select_us_per_clip": round(1e6 * selecting / rows, 2),
    }


def nothing(number: int) -> int:
    """A task without work."""
    return number


def handing_out(workers: Workers, tasks: int) -> float:
    """Tasks a wall second that do nothing, once workers are there: what one driver can hand out at most."""
    outcomes = workers.outcomes(nothing, range(tasks))
    for _ in range(tasks // 4):
        next(outcomes)
    start, left = time.perf_counter(), sum(1 for _ in outcomes)
    return round(left / (time.perf_counter() - start))


def handing_out_on_ray(tasks: int) -> float | None:
    """As `handing_out`, by Ray; None where Ray is not installed."""
    try:
        import ray
    except ImportError:
        return None
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        return handing_out(Workers("ray", jobs=16), tasks)
    finally:
        ray.shutdown()


def large_sources(folder: Path) -> dict[str, float]:
    """Transcoding the same picture from 340×256 and from 1280×720, in H.264."""
    took = {}
    for name, width, height in (("small", 340 // 8 * 8, 256), ("hd", 1280, 720)):
        path = folder / f"{name}.mp4"
        encode(pictures(width, height, 60), path, frame_rate=25, encoding=Encoding("h264", gop=250, quality=23))
        transcode(path, folder / "warm.mp4")
        took[name] = min(seconds_of(transcode, path, folder / "out.mp4") for _ in range(3)) / 60
    return {f"{name}_ms_per_frame": round(1000 * seconds, 3) for name, seconds in took.items()} | {
        "hd_over_small": round(took["hd"] / took["small"], 2)
    }


def hashing(folder: Path) -> float:
    """Megabytes a CPU second of SHA-256."""
    path = folder / "large"
    path.write_bytes(bytes(1 << 20) * 256)
    return round((256 << 20) / 1e6 / seconds_of(sha256_of, path))


def main() -> None:
    """The program."""
    given = arguments()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in ("resume", "rows", "large"):
            (folder / part).mkdir()
        report = {
            **provenance(("pyarrow", "ray")),
            "settings": {"rows": given.rows, "clips": given.clips, "seed": 0},
            "manifest": alone(writing, folder / "rows", given.rows) | alone(reading, folder / "rows", given.rows),
            "prepare": alone(resuming, folder / "resume", given.clips),
            "tasks_per_wall_second": {
                "local": handing_out(Workers(jobs=2), 8 * given.clips),
                "ray": handing_out_on_ray(given.clips),
            },
            "hash_megabytes_per_second": hashing(folder / "large"),
            "large_sources": large_sources(folder / "large"),
        }
    print(json.dumps(report, indent=1))
    print(write("bench_scale", report, folder=given.out))


if __name__ == "__main__":
    main()
