"""Watches damaged streams through a pipe, and checks that each ends in results or an error in one line: no crash, no hang, no leak.

    .venv/bin/python measurements/fuzz_watch.py [FOLDER …] [--variants 450] [--seed 0]

Videos below the FOLDERs are watched as they are; variants of generated clips are damaged as in fuzz_codec.py. Each goes through a named pipe, as standard
input does, into `videokd watch`'s engine with a stand-in for the students, all in one process, whose memory, threads and open files are
compared before and after. At most 20 seconds for each. Writes results/fuzz_watch-DATE.json, and exits with 1 if any stream failed.
"""

from __future__ import annotations

import argparse
import collections
import gc
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from fuzz_codec import generate, variants
from record import RESULTS, provenance, write
from videokd.errors import VideoKDError
from videokd.live.events import EventSettings
from videokd.live.feed import WatchSettings
from videokd.live.sources import sources_of
from videokd.live.watching import Watching
from videokd.prediction.predictor import Answer
from videokd.prediction.wanted import Wanted

MOST_SECONDS = 20.0
PACKAGES = ("av", "numba", "numpy")
SUFFIXES = {".mp4", ".avi", ".mkv", ".ts", ".mpg", ".webm", ".flv", ".mov", ".m3u8"}
SETTINGS = WatchSettings(window=0.8, stride=0.4, num_segments=4)


class StandIn:
    """Answers as students do, without networks."""

    wanted = Wanted(
        ("dark", "bright"),
        {name: (name, 64) for name in ("iframe", "motion", "residual")},
        4,
        encoding={"encoding": {"gop": 12}},
    )

    def __call__(self, streams: Mapping[str, Any], *, names: Sequence[str]) -> Answer:
        """Probabilities of the mean brightness."""
        bright = streams["iframe"].reshape(len(names), -1).mean(axis=1, dtype=np.float32) / 255
        return Answer(np.stack([1 - bright, bright], axis=1).astype(np.float32))


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="*", metavar="FOLDER")
    parser.add_argument("--variants", type=int, default=450)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the JSON")
    return parser.parse_args()


def outcome(data: bytes, pipe: Path) -> str:
    """What came of one stream: labelled, refused, slow, or the name of an error that should not be."""

    def send() -> None:
        try:
            with open(pipe, "wb", buffering=0) as file:
                file.write(data)
        except BrokenPipeError:
            pass

    thread = threading.Thread(target=send)
    thread.start()
    until = time.monotonic() + MOST_SECONDS
    try:
        watching = Watching(
            sources_of([str(pipe)]), StandIn(), settings=SETTINGS, events=EventSettings(), top=1, tell=lambda text: None
        )
        count = sum(1 for _ in watching.results(lambda: time.monotonic() > until))
        result = "slow" if time.monotonic() > until else "labelled" if count else "no window"
    except VideoKDError as error:
        result = "refused" if "\n" not in str(error) and "reading failed" not in str(error) else f"error: {error}"
    except Exception as error:
        result = f"error: {type(error).__name__}: {error}"
    finally:
        if thread.is_alive():  # it waits for a reader
            os.close(os.open(pipe, os.O_RDONLY | os.O_NONBLOCK))
        thread.join()
    return result


def videos_below(folders: Sequence[Path]) -> list[Path]:
    """Video files in folders and below."""
    return sorted(path for folder in folders for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)


def streams(given: argparse.Namespace, folder: Path) -> Iterator[tuple[str, bytes]]:
    """The name and the content of each stream."""
    for path in videos_below(given.folders):
        yield str(path), path.read_bytes()
    (folder / "clips").mkdir()
    (folder / "variants").mkdir()
    clips = generate(folder / "clips")
    for name, path in variants(clips, folder / "variants", count=given.variants, seed=given.seed):
        yield name, path.read_bytes()
        path.unlink()


def resident_mib() -> float:
    """Memory of this process."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


def main() -> int:
    """Watches every stream, and writes the result."""
    given = arguments()
    counts: collections.Counter[str] = collections.Counter()
    failures, growth, slowest = [], [], 0.0
    with tempfile.TemporaryDirectory(prefix="fuzz-watch-") as name:
        folder = Path(name)
        os.mkfifo(folder / "pipe")
        total = given.variants + len(videos_below(given.folders))
        for number, (what, data) in enumerate(tqdm(streams(given, folder), total=total, disable=None)):
            began = time.monotonic()
            result = outcome(data, folder / "pipe")
            slowest = max(slowest, time.monotonic() - began)
            counts[result.partition(":")[0]] += 1
            if result.startswith(("error", "slow")):
                failures.append(f"{what}: {result}")
            if number % 50 == 0:
                files = len(os.listdir("/proc/self/fd"))
                growth.append((number, round(resident_mib(), 1), threading.active_count(), files))
    growth.append((total, round(resident_mib(), 1), threading.active_count(), len(os.listdir("/proc/self/fd"))))
    found = {
        **provenance(PACKAGES),
        "streams": total,
        "outcomes": dict(counts),
        "failures": failures,
        "slowest_seconds": round(slowest, 2),
        "growth": [dict(zip(("stream", "mib", "threads", "files"), each, strict=True)) for each in growth],
    }
    print(json.dumps(found, indent=1))
    print(write("fuzz_watch", found, folder=given.out))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
