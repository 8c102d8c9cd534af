"""How many live streams `videokd watch` labels in real time on one core, and how soon after its last packet a window has its label.

    .venv/bin/python measurements/bench_watch.py [FOLDER] [--streams 1 6 8 12 16] [--seconds 40] [--students EXPORT] [--core 0]
        [--together 6 12] [--nice 0]

FOLDER holds clips that are joined to the streams' content, such as UCF101's, which are 320×240 at 25 pictures a second; without it, the
content is ffmpeg's test picture with noise. It is coded as H.264 by x264 (veryfast, a keyframe a second, 500 kbit/s) at 320×240 and 25
pictures a second. A process sends it as MPEG-TS over TCP, each picture when it is due, to every connection; `videokd watch` runs in another,
on one core, and its lines are read as they come. Both clocks are that of this machine. Students: an export, or three with random weights as
in the preset small-students (one each for I-frame, motion and residual; test_efficientnet, 64 pixels): times do not depend on weights.

Latencies: from when the packet came that a label needs last to the label (as watch says), and from when the sender had sent that picture to
when the line was read. Windows have 2 seconds, one a second, 8 places each: the last picture that a label needs is that at 1.875 s.
Streams begin at different moments of a second, as cameras do; then, for the numbers of --together, all at once, the worst case. --nice runs
watch and the sender before other work, so that they have nearly all of their core on a busy machine, too.
CPU time is that of watch, all its threads, for each second of each stream, after its start. Writes results/bench_watch-DATE.json.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np

from latency_systems import random_students
from record import CODEC_STREAMS, RESULTS, provenance, write
from videokd.models.students_file import save_students

RATE, SIZE, WINDOW, STRIDE, SEGMENTS = 25, "320x240", 2.0, 1.0, 8
#: (bar, number of streams, most seconds at the 95th percentile)
BAR_STREAMS, BAR_SECONDS = 6, 0.3
# The picture that is shown at the middle of a window's last segment, in pictures from its start
_LAST_NEEDED = int((1 - 0.5 / SEGMENTS) * WINDOW * RATE)
PACKAGES = ("av", "numba", "numpy", "torch", "timm")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", metavar="FOLDER")
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 6, 8, 12, 16])
    parser.add_argument("--seconds", type=float, default=40.0, help="of each number of streams")
    parser.add_argument("--students", type=Path, help="an export; by default random ones as in small-students")
    parser.add_argument("--core", type=int, default=0, help="that watch runs on")
    parser.add_argument(
        "--together", type=int, nargs="*", default=[6, 12], help="numbers of streams that all begin at once, too"
    )
    parser.add_argument("--nice", type=int, default=0, help="of watch and the sender; below 0 needs root")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the JSON")
    return parser.parse_args()


def make_stream(folder: Path | None, target: Path, seconds: int) -> None:
    """Writes the streams' content: H.264 of a typical camera."""
    picture = ["-f", "lavfi", "-i", f"testsrc2=s={SIZE}:r={RATE},noise=alls=8:allf=t"]
    if folder is not None:
        files = sorted(path for path in folder.rglob("*") if path.suffix in (".mp4", ".avi"))
        names = target.with_suffix(".txt")
        names.write_text("".join(f"file '{path.resolve()}'\n" for path in files[:: max(len(files) // 40, 1)]))
        picture = ["-f", "concat", "-safe", "0", "-i", str(names)]
    coded = ["-c:v", "libx264", "-preset", "veryfast", "-tune", "zerolatency", "-g", str(RATE), "-b:v", "500k"]
    scaled = ["-vf", f"scale={SIZE.replace('x', ':')},setsar=1,fps={RATE}", "-t", str(seconds), "-an"]
    subprocess.run(["ffmpeg", "-v", "error", "-y", *picture, *scaled, *coded, str(target)], check=True)


class _Pieces:
    """A file that keeps what is written to it between two calls of `take`."""

    def __init__(self) -> None:
        self._written = bytearray()

    def write(self, data: bytes) -> int:
        self._written += data
        return len(data)

    def take(self) -> bytes:
        piece, self._written = bytes(self._written), bytearray()
        return piece


def pictures_of(path: Path) -> list[bytes]:
    """The bytes of MPEG-TS for each picture of a file."""
    pieces, found = _Pieces(), []
    options = {"flush_packets": "1"}
    with av.open(str(path)) as source, av.open(pieces, "w", format="mpegts", options=options) as output:
        stream = output.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                output.mux(packet)
                found.append(pieces.take())
    return found


class Camera:
    """Sends a stream to whoever connects, in real time, after `pause` seconds; `began` is when it sent the first picture."""

    def __init__(self, pictures: Sequence[bytes], pause: float) -> None:
        self._pictures, self._pause = pictures, pause
        self._stopped = threading.Event()
        self._server = socket.create_server(("127.0.0.1", 0))
        self._server.settimeout(0.2)
        self.address = f"tcp://127.0.0.1:{self._server.getsockname()[1]}"
        self.began = 0.0
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                connection, _ = self._server.accept()
            except TimeoutError:
                continue
            with connection, contextlib.suppress(OSError):
                self._send(connection)

    def _send(self, connection: socket.socket) -> None:
        self.began = time.time() + self._pause
        for number, data in enumerate(self._pictures):
            if self._stopped.wait(max(self.began + number / RATE - time.time(), 0)):
                return
            connection.sendall(data)

    def close(self) -> None:
        """Ends it."""
        self._stopped.set()
        self._thread.join()
        self._server.close()


def cpu_seconds(process: int) -> float:
    """CPU time of a process so far, all its threads."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measured(cameras: Sequence[Camera], students: Path, given: argparse.Namespace) -> dict[str, Any]:
    """What `videokd watch` does with these cameras."""
    names = [camera.address for camera in cameras]
    options = ["--window", str(WINDOW), "--stride", str(STRIDE), "--num_segments", str(SEGMENTS), "--device", "cpu"]
    command = ["taskset", "-c", str(given.core), sys.executable, "-m", "videokd", "watch", *names]
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    process = subprocess.Popen(
        [*command, "--students", str(students), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | threads,
        text=True,
    )
    lines: list[tuple[float, dict[str, Any]]] = []
    assert process.stdout is not None
    first = cpu_before = 0.0
    for text in process.stdout:
        now = time.time()
        lines.append((now, json.loads(text)))
        if not first and {line["source"] for _, line in lines} == set(names):
            first, cpu_before = now, cpu_seconds(process.pid)
        if first and now - first > given.seconds:
            cpu = cpu_seconds(process.pid) - cpu_before
            process.send_signal(signal.SIGINT)
            break
    else:
        raise SystemExit(process.stderr.read() if process.stderr else "watch ended")
    process.communicate()
    return summary([each for each in lines if each[0] > first], cameras, cpu / (now - first), now - first)


def summary(
    lines: Sequence[tuple[float, dict[str, Any]]], cameras: Sequence[Camera], cpu: float, seconds: float
) -> dict[str, Any]:
    """Latencies, and whether every window had its label."""
    began = {camera.address: camera.began for camera in cameras}
    inside = [line["latency_seconds"] for _, line in lines]
    outside = [
        now - began[line["source"]] - (round(line["start_seconds"] * RATE) + _LAST_NEEDED) / RATE for now, line in lines
    ]
    last = {line["source"]: line for _, line in lines}
    dropped = sum(line["dropped_seconds"] for line in last.values())
    return {
        "streams": len(cameras),
        "seconds": round(seconds, 1),
        "windows": len(lines),
        "windows_expected": int(seconds / STRIDE) * len(cameras),
        "dropped_seconds": round(dropped, 1),
        "damaged_seconds": round(sum(line["damaged_seconds"] for line in last.values()), 1),
        "cpu_per_stream": round(cpu / len(cameras), 4),
        "from_packet": quantiles(inside),
        "from_sender": quantiles(outside),
    }


def quantiles(values: Sequence[float]) -> dict[str, float]:
    """The median, the 95th percentile and the maximum, in seconds."""
    return {
        "p50": round(float(np.median(values)), 4),
        "p95": round(float(np.quantile(values, 0.95)), 4),
        "max": round(float(np.max(values)), 4),
    }


def prefer(nice: int) -> None:
    """Runs this process, and those that it starts, before other work or after it."""
    os.nice(nice)
    group = Path("/proc/self/autogroup")  # Linux shares the cores among sessions first, then by nice inside each
    if nice and group.exists():
        group.write_text(str(nice))


def students_for(given: argparse.Namespace, folder: Path) -> tuple[Path, str]:
    """The students' folder, and what they are."""
    if given.students:
        return given.students, str(given.students)
    students = random_students(CODEC_STREAMS, "test_efficientnet", 64, [str(label) for label in range(6)])
    return save_students(students, folder / "students"), "as in the preset small-students, random weights"


def bars_of(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What was wanted, and what was found; the streams of one number begin at different moments."""
    spread = [row for row in rows if not row["together"]]
    in_time = [row for row in spread if not row["dropped_seconds"] and row["from_sender"]["p95"] <= BAR_SECONDS]
    return {
        "streams in real time on one core": {
            "wanted": BAR_STREAMS,
            "found": max((row["streams"] for row in in_time), default=0),
        },
        "p95 from the last packet to the label, seconds": {
            "wanted": BAR_SECONDS,
            "found": next((row["from_sender"]["p95"] for row in spread if row["streams"] >= BAR_STREAMS), None),
        },
    }


def rows_of(given: argparse.Namespace, pictures: Sequence[bytes], students: Path) -> list[dict[str, Any]]:
    """What is measured for each number of streams."""
    rows = []
    for count, together in [*((n, False) for n in given.streams), *((n, True) for n in given.together)]:
        phases = [0.0 if together else STRIDE * number / count for number in range(count)]
        cameras = [Camera(pictures, phase) for phase in phases]
        try:
            rows.append({"together": together, **measured(cameras, students, given)})
        finally:
            for camera in cameras:
                camera.close()
        print(json.dumps(rows[-1]), flush=True)
    return rows


def main() -> None:
    """Measures each number of streams, and writes the result."""
    given = arguments()
    others = set(range(os.cpu_count() or 1)) - {given.core}
    os.sched_setaffinity(0, others or {given.core})
    prefer(given.nice)
    with tempfile.TemporaryDirectory(prefix="bench-watch-") as name:
        make_stream(given.folder, Path(name) / "stream.mp4", int(given.seconds) + 120)
        pictures = pictures_of(Path(name) / "stream.mp4")
        students, about = students_for(given, Path(name))
        rows = rows_of(given, pictures, students)
    found = {
        **provenance(PACKAGES, threads=1),
        "settings": {
            "window": WINDOW,
            "stride": STRIDE,
            "segments": SEGMENTS,
            "students": about,
            "nice": given.nice,
            "content": given.folder.name if given.folder else "generated",
        },
        "kilobits": round(8 * sum(map(len, pictures)) / len(pictures) * RATE / 1000),
        "rows": rows,
        "bars": bars_of(rows),
    }
    print(write("bench_watch", found, folder=given.out))


if __name__ == "__main__":
    main()
