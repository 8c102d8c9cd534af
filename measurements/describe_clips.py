"""How fast `videokd.describe` is, how well its motion columns follow optical flow, and how many cuts it finds.

    .venv/bin/python measurements/describe_clips.py [speed|flow|cuts …] [--shipped FOLDER] [--prepared FOLDER …]

- speed: describing a file against decoding it alone, as ratios in one run (bench_codec.py has the clips and the clock).
- flow: rank correlation over the clips of prepared datasets between columns and the same numbers of OpenCV's DIS flow.
- cuts: scenes of prepared clips are joined at known times, encoded with default settings, and described.

Each part writes results/describe_PART-DATE.json. Flow needs OpenCV: `pip install videokd[bench]`.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
from tqdm import tqdm

import bench_codec
import generated_clips
from record import RESULTS, provenance, write
from timing import in_turns, median_ratio
from videokd.codec.reader import open_video
from videokd.datasets.manifest import Manifest
from videokd.description.clip import ClipDescription, describe

PARTS = ("speed", "flow", "cuts")
SEED = 15
PAIRS = 8  # of neighbouring frames, evenly chosen from each clip
STILL = 0.5  # pixels of flow a frame, below which a pixel stands still
FILMS, SCENES, SHORTEST, LONGEST = 24, 8, 8, 60
LATE = 3  # frames by which a cut may be found late: with B-frames
#: (encoder, its options, B-frames; None: the encoder's default)
ENCODERS: dict[str, tuple[str, dict[str, str], int | None]] = {
    "mpeg4": ("mpeg4", {}, 0),
    "mpeg4, 2 B-frames": ("mpeg4", {}, 2),
    "x264": ("libx264", {}, None),
    "x264 veryfast": ("libx264", {"preset": "veryfast"}, None),
}
#: Cuts inside clips of UCF101, looked at: {clip: first frame of the new scene}
KNOWN_CUTS = {
    "v_HorseRace_g12_c01": 315,
    "v_HorseRace_g16_c01": 111,
    "v_HorseRace_g20_c03": 244,
    "v_HorseRace_g21_c02": 281,
    "v_PlayingPiano_g06_c01": 2,
    "v_PlayingPiano_g11_c01": 2,
    "v_Surfing_g09_c03": 63,
}


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=PARTS, metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--shipped", type=Path, default=Path("data/clips"), help="folder of clips as they are shipped")
    parser.add_argument("--prepared", nargs="*", type=Path, default=[Path("data/ucf101-6/prepared")], help="datasets")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the JSON")
    given = parser.parse_args()
    unknown = sorted({*given.parts} - {*PARTS})
    if unknown:
        parser.error(f"{', '.join(unknown)} (accepted: {', '.join(PARTS)})")
    return given


def speed(given: argparse.Namespace) -> dict[str, Any]:
    """Describing against decoding alone, clip by clip, on one core."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    clips = {}
    with tempfile.TemporaryDirectory() as work:
        files = generated_clips.generate(Path(work), "340x256", 120) | bench_codec.real(given.shipped, Path(work))
        for name, path in files.items():
            clip = bench_codec.Clip(path)
            functions: dict[str, Callable[[], object]] = {
                "decoding_alone": clip.decoding_alone,
                "description": partial(describe, path),
            }
            seconds = in_turns(functions, repeats=given.repeats, clock=time.process_time, name=name)
            clips[name] = {
                "codec": clip.index.codec,
                "frames": clip.index.num_frames,
                "decoding_us": 1e6 * float(np.median(seconds["decoding_alone"])) / clip.index.num_frames,
                "ratio": median_ratio(seconds["decoding_alone"], seconds["description"]),
            }
    return {"settings": {"repeats": given.repeats, "clock": "cpu"}, "clips": clips}


def columns_of_flow(path: Path) -> dict[str, float]:
    """The columns of a clip as optical flow gives them, in pixels a frame."""
    import cv2

    from optical_flow import METHODS

    cv2.setNumThreads(1)
    flow = METHODS["dis-medium"]()
    with open_video(path) as video:
        wanted = set(np.linspace(0, video.num_frames - 2, min(PAIRS, video.num_frames - 1)).astype(int).tolist())
        before, fields = None, []
        for frame in video.frames(vectors=False, pictures=True):
            used = frame.number in wanted or frame.number - 1 in wanted
            grey = cv2.cvtColor(frame.picture, cv2.COLOR_RGB2GRAY) if used else None  # type: ignore[call-overload]
            if frame.number - 1 in wanted and before is not None and grey is not None:
                fields.append(flow(before, grey, None))
            before = grey
    values = np.stack(fields).reshape(len(fields), -1, 2)  # [pairs, pixels, (x, y)]
    lengths = np.hypot(values[..., 0], values[..., 1])
    camera = np.median(values, axis=1)
    return {
        "motion": float(lengths.mean()),
        "motion_p95": float(np.quantile(lengths, 0.95)),
        "still": float((lengths < STILL).mean()),
        "camera": float(np.hypot(*camera.T).mean()),
        "camera_x": float(camera[:, 0].mean()),
        "camera_y": float(camera[:, 1].mean()),
    }


def ranks(values: Sequence[float]) -> np.ndarray:
    """Of each value among all; equal values share their mean rank."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends: np.ndarray = np.cumsum(counts)
    shared: np.ndarray = (ends - (counts - 1) / 2)[inverse]
    return shared


def rank_correlation(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Spearman's.

    >>> round(rank_correlation([1, 2, 3, 4], [1, 4, 9, 16]), 6)
    1.0
    """
    return float(np.corrcoef(ranks(ours), ranks(theirs))[0, 1])


def clips_of(folder: Path) -> list[Path]:
    """The files of a prepared dataset."""
    manifest = Manifest.read(folder)
    return [manifest.file(clip) for clip in manifest.clips]


def dataset_name(folder: Path) -> str:
    """That of the dataset, which its prepared form lies in."""
    return folder.parent.name if folder.name == "prepared" else folder.name


def flow(given: argparse.Namespace) -> dict[str, Any]:
    """Rank correlations of each dataset, and of all its clips together."""
    found: dict[str, Any] = {}
    everything: list[tuple[ClipDescription, dict[str, float]]] = []
    for folder in given.prepared:
        pairs = [(describe(path), columns_of_flow(path)) for path in tqdm(clips_of(folder), disable=None)]
        found[dataset_name(folder)] = correlations(pairs)
        everything += pairs
    if len(found) > 1:
        found["all"] = correlations(everything)
    return {"settings": {"flow": "dis-medium", "pairs": PAIRS, "still_below": STILL}, "datasets": found}


def correlations(pairs: Sequence[tuple[ClipDescription, dict[str, float]]]) -> dict[str, Any]:
    """{"clips": number, column: rank correlation}; speeds of flow are in picture heights a second too."""
    columns: dict[str, Any] = {"clips": len(pairs)}
    for name in pairs[0][1]:
        ours = [getattr(description, name) for description, _ in pairs]
        heights = [1.0 if name == "still" else d.frame_rate / d.height for d, _ in pairs]
        theirs = [values[name] * unit for (_, values), unit in zip(pairs, heights, strict=True)]
        columns[name] = round(rank_correlation(ours, theirs), 3) if len(set(ours)) > 1 else None
    return columns


def film(clips: Sequence[Path], rng: np.random.Generator) -> tuple[list[np.ndarray], list[int]]:
    """Scenes of clips, each from a place of its own, and the numbers of the frames where a scene begins."""
    pictures: list[np.ndarray] = []
    starts: list[int] = []
    for path in clips:
        scene = list(pictures_of(path))
        length = min(int(rng.integers(SHORTEST, LONGEST + 1)), len(scene))
        first = int(rng.integers(0, len(scene) - length + 1))
        if pictures:
            starts.append(len(pictures))
        known = KNOWN_CUTS.get(path.stem, -1) - first
        starts += [len(pictures) + known] if 0 < known < length else []
        pictures += scene[first : first + length]
    return pictures, starts


def pictures_of(path: Path) -> Iterator[np.ndarray]:
    """RGB, 340×256."""
    with open_video(path) as video:
        for frame in video.frames(vectors=False, pictures=True):
            assert frame.picture is not None
            yield frame.picture


def encode(pictures: Sequence[np.ndarray], path: Path, encoder: str) -> None:
    """Encodes pictures with an encoder's default settings."""
    codec, options, b_frames = ENCODERS[encoder]
    with av.open(str(path), "w") as output:
        stream: Any = output.add_stream(codec, rate=25, options=options)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt, stream.codec_context.thread_count = "yuv420p", 1
        if b_frames is not None:
            stream.codec_context.max_b_frames, stream.bit_rate = b_frames, 1_500_000
        for picture in pictures:
            output.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        output.mux(stream.encode(None))


def compared(starts: Sequence[int], found: Sequence[float]) -> dict[str, int]:
    """How many cuts there are, how many were found, and how many of what was found are none.

    >>> compared([10, 20, 40], [0.4, 0.88, 1.0])
    {'cuts': 3, 'found': 2, 'false': 1}
    """
    numbers = [round(seconds * 25) for seconds in found]
    hits = [any(0 <= number - start <= LATE for number in numbers) for start in starts]
    wrong = [not any(0 <= number - start <= LATE for start in starts) for number in numbers]
    return {"cuts": len(starts), "found": sum(hits), "false": sum(wrong)}


def cuts(given: argparse.Namespace) -> dict[str, Any]:
    """Cuts found in films of other scenes, and of the same scene (clips of one group)."""
    manifest = Manifest.read(given.prepared[0])
    groups: dict[str, list[Path]] = {}
    for clip in manifest.clips:
        groups.setdefault(clip.group, []).append(manifest.file(clip))
    rng = np.random.default_rng(SEED)
    names = sorted(groups)
    sums: dict[str, dict[str, dict[str, int]]] = {}
    with tempfile.TemporaryDirectory() as work:
        for number in tqdm(range(FILMS), disable=None):
            same = number % 4 == 3  # a quarter of the films
            if same:
                chosen = [path for name in rng.choice(names, 2, replace=False) for path in groups[name][: SCENES // 2]]
            else:
                chosen = [groups[name][rng.integers(len(groups[name]))] for name in rng.choice(names, SCENES, False)]
            pictures, starts = film(chosen, rng)
            kind = "the same scene again" if same else "another scene"
            for encoder in ENCODERS:
                path = Path(work) / "film.mp4"
                encode(pictures, path, encoder)
                total = sums.setdefault(kind, {}).setdefault(encoder, {"cuts": 0, "found": 0, "false": 0, "frames": 0})
                counted = compared(starts, describe(path).cut_seconds or ()) | {"frames": len(pictures)}
                sums[kind][encoder] = {name: total[name] + counted[name] for name in total}
    return {"settings": {"films": FILMS, "scenes": SCENES, "seed": SEED, "late_frames": LATE}, "films": sums}


def main() -> None:
    """The program."""
    given = arguments()
    for part in given.parts:
        found = {"speed": speed, "flow": flow, "cuts": cuts}[part](given)
        report = provenance(("av", "numba", "numpy", "opencv-python-headless")) | found
        print(write(f"describe_{part}", report, folder=given.out))


if __name__ == "__main__":
    main()
