"""Training samples by this checkout against another one, such as that of an earlier commit, side by side on one core.

    git worktree add /tmp/before COMMIT
    .venv/bin/python measurements/bench_versions.py --before /tmp/before --clips DIR [--size 224] [--segments 3] [--turns 9] [--out DIR]

Each version runs in a process of its own; both are bound to one core, and take turns. A turn is one sample of every clip, by processor
time, and what counts is the median of the ratios within a turn. All samples are compared: `equal` says how many arrays are the same.
Clips are the videos of a folder, transcoded by this checkout as `prepare` does: MPEG-4, H.264, and the faster form of H.264, of which the
other checkout reads the slower one (then no arrays are the same). Writes results/bench_versions-DATE.json.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).resolve().parent.parent
_STREAMS = (("iframe", "motion", "residual"), ("motion",), ("iframe",))


def serve() -> None:
    """Answers requests on standard input, a line of JSON each, with the times and digests of samples: runs in one version's process."""
    import torch

    from videokd.codec.indexing import index_video
    from videokd.datasets.dataset import ClipDataset
    from videokd.datasets.manifest import Clip, Manifest

    torch.set_num_threads(1)
    clips: dict[str, Clip] = {}
    for line in sys.stdin:
        asked = json.loads(line)
        for file in asked["files"]:
            if file not in clips:
                index = index_video(file)
                about = (index.codec, index.width, index.height, index.num_frames, index.duration_seconds)
                clips[file] = Clip(
                    *(file, file, 0, "a", "g", "train", "train", "train", *about),
                    *(index.to_json(), "0" * 64, "0" * 64, os.path.getsize(file)),
                )
        chosen = tuple(clips[file] for file in asked["files"])
        manifest = Manifest(Path("/"), chosen, ("a",))
        dataset = ClipDataset(manifest, chosen, tuple(asked["streams"]), asked["segments"], asked["size"], "training")
        digests, used = [], 0.0
        for number in range(len(dataset)):
            started = time.process_time()
            sample = dataset[asked["epoch"], number]
            used += time.process_time() - started
            digests += [hashlib.sha256(sample.streams[name].tobytes()).hexdigest() for name in asked["streams"]]
        print(json.dumps({"seconds": used, "digests": digests}), flush=True)


class Version:
    """A process that serves from one checkout.

    Args:
        tree: the checkout.
        core: the core to run on.
        program: what serves, when it is started with `--serve`.
    """

    def __init__(self, tree: Path, core: int, *, program: Path = Path(__file__)) -> None:
        environment = os.environ | {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, str(program.absolute()), "--serve"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=tempfile.gettempdir(),
        )
        os.sched_setaffinity(self._process.pid, {core})

    def ask(self, **request: object) -> dict[str, Any]:
        """Sends a request, and waits for its answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(request), file=self._process.stdin, flush=True)
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def end(self) -> None:
        """Ends the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def measured(versions: dict[str, Version], turns: int, requests: dict[str, dict[str, Any]]) -> dict[str, object]:
    """Both versions in turns: milliseconds of a sample, how many times as fast this one is, and how many arrays are equal."""
    num_clips = len(requests["now"]["files"])
    seconds: dict[str, list[float]] = {"before": [], "now": []}
    equal = compared = 0
    for turn in range(-1, turns):
        order = ("before", "now")[:: 1 if turn % 2 else -1]
        answers = {name: versions[name].ask(**requests[name], epoch=turn + 1) for name in order}
        for name, answer in answers.items():
            if turn >= 0:
                seconds[name].append(answer["seconds"])
        matches = [a == b for a, b in zip(answers["before"]["digests"], answers["now"]["digests"], strict=True)]
        equal, compared = equal + sum(matches), compared + len(matches)
    ratios = sorted(a / b for a, b in zip(seconds["before"], seconds["now"], strict=True))
    return {
        **{f"{name}_ms": round(1000 * statistics.median(each) / num_clips, 2) for name, each in seconds.items()},
        "times_as_fast": round(statistics.median(ratios), 3),
        "lowest": round(ratios[0], 3),
        "highest": round(ratios[-1], 3),
        "equal": f"{equal} of {compared}",
    }


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--before", type=Path, help="the other checkout")
    parser.add_argument("--clips", type=Path, help="a folder of videos")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--segments", type=int, default=3)
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--out", type=Path, default=_ROOT / "measurements" / "results")
    return parser.parse_args()


def rows_of(versions: dict[str, Version], given: argparse.Namespace, sources: list[Path]) -> list[dict[str, object]]:
    """Every form and set of streams."""
    from videokd.transcoding.mp4_writer import Encoding
    from videokd.transcoding.transcode import transcode

    forms = {
        "mpeg4": Encoding("mpeg4"),
        "h264": Encoding("h264"),
        "h264 fastdecode": Encoding("h264", tune="fastdecode"),
    }
    rows = []
    with tempfile.TemporaryDirectory() as name:
        files: dict[str, list[str]] = {}
        for form, encoding in forms.items():
            files[form] = [f"{name}/{number}-{form}.mp4" for number in range(len(sources))]
            for source, target in zip(sources, files[form], strict=True):
                transcode(source, target, encoding)
            for streams in _STREAMS:
                asked = {"segments": given.segments, "size": given.size, "streams": streams}
                read = {"before": form.partition(" ")[0], "now": form}
                requests = {which: {**asked, "files": files[of]} for which, of in read.items()}
                found = measured(versions, given.turns, requests)
                rows.append({"form": form, "form_before": read["before"], "streams": "+".join(streams)} | found)
                print(json.dumps(rows[-1]), flush=True)
    return rows


def main() -> None:
    """The program."""
    given = arguments()
    if given.serve:
        serve()
        return
    from record import provenance, write

    core = min(os.sched_getaffinity(0))
    sources = [path for path in sorted(given.clips.iterdir()) if path.suffix in (".avi", ".mp4", ".mkv", ".webm")]
    versions = {"before": Version(given.before, core), "now": Version(_ROOT, core)}
    rows = rows_of(versions, given, sources)
    for version in versions.values():
        version.end()
    asked = ["git", "-C", str(given.before), "rev-parse", "HEAD"]
    revision = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()
    settings = {"size": given.size, "segments": given.segments, "turns": given.turns, "clips": len(sources)}
    report = provenance(("av", "torch"), threads=1) | {"before": revision, "settings": settings, "rows": rows}
    print(write("bench_versions", report, folder=given.out))


if __name__ == "__main__":
    main()
