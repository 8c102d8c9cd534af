"""`videokd watch`, run as a user would."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import MakeClip
from tests.live.loopback import free_port, in_real_time, needs_ffmpeg, sending
from videokd.__main__ import main
from videokd.live.sources import sources_of
from videokd.prediction.loading import load_predictor
from videokd.prediction.predict import predict

ROOT = Path(__file__).resolve().parents[2]
QUICK = ("--window", "0.8", "--stride", "0.4", "--num_segments", "2")


@pytest.fixture
def clip(make_clip: MakeClip) -> Path:
    options = (("preset", "veryfast"), ("x264-params", "ref=1:scenecut=0"))
    return make_clip("libx264", container="ts", gop=12, num_frames=60, options=options)


def run(*arguments: str) -> int:
    return main(["watch", *arguments, "--device", "cpu"])


def test_json_lines(clip: Path, exported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(str(clip), "--students", str(exported), *QUICK, "--top", "2", "--on", "0.01", "--off", "0.0") == 0
    out, err = capsys.readouterr()
    lines = [json.loads(line) for line in out.splitlines()]
    windows = [line for line in lines if line["kind"] == "window"]
    assert [window["start_seconds"] for window in windows] == pytest.approx([0.0, 0.4, 0.8, 1.2, 1.6])
    first = windows[0]
    assert first["source"] == str(clip)
    assert first["end_seconds"] == pytest.approx(0.8)
    assert datetime.fromisoformat(first["time"]).tzinfo is not None
    names = load_predictor(exported, device="cpu").wanted.class_names
    assert len(first["labels"]) == 2
    assert all(label["name"] in names and 0 <= label["probability"] <= 1 for label in first["labels"])
    assert first["dropped_seconds"] == first["damaged_seconds"] == 0
    assert first["latency_seconds"] >= 0
    kinds = [line["kind"] for line in lines if line["kind"] != "window"]
    assert kinds == ["start"] * len(names) + ["end"] * len(names)
    assert f"videokd: {clip}: h264, 128×96" in err


def test_a_window_of_the_whole_clip_has_the_labels_of_predict(
    clip: Path, exported: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(str(clip), "--students", str(exported), "--window", "2.4", "--num_segments", "3", "--top", "1") == 0
    (line,) = capsys.readouterr().out.splitlines()
    expected = predict(clip, load_predictor(exported, device="cpu"), num_segments=3, transcode="never", top=1)
    (label,) = json.loads(line)["labels"]
    assert label["probability"] == pytest.approx(expected.labels[0].probability, abs=0.05)  # other positions, by one


def test_a_table_with_smoothing(clip: Path, exported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    smooth = ("--smooth", "3", "--smoothing", "exponential", "--on", "0.01", "--min_seconds", "1")
    assert run(str(clip), "--students", str(exported), *QUICK, "--format", "table", *smooth) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"{clip}      0.00 to     0.80 s  ")
    assert lines[0].endswith(" ms)")
    assert any("1.20 s  start of " in line for line in lines)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("gopher://host/x",), "gopher:// is not a protocol that is watched"),
        (("-", "--window", "0"), "window is 0.0"),
        (("-", "--top", "0"), "top is 0"),
        (("-", "--reconnect", "-1"), "reconnect is -1.0"),
        (("-", "--timeout", "0"), "timeout is 0.0"),
        (("-", "--num_segments", "0"), "num_segments is 0"),
        (("-", "--off", "0.3"), "Pass `--on 0.6` too"),
        (("rtsp://u:s3cret@camera:x/1",), "an address of rtsp:// cannot be read"),
    ],
)
def test_wrong_settings_are_named_before_anything_is_loaded(
    arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments, "--students", "missing") == 2
    err = capsys.readouterr().err
    assert message in err
    assert "s3cret" not in err
    assert len(err.splitlines()) == 1


def started(*arguments: str, **given: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "videokd", "watch", *arguments, "--device", "cpu"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **given)


def test_standard_input(clip: Path, exported: Path) -> None:
    with clip.open("rb") as file:
        process = started("-", "--students", str(exported), *QUICK, stdin=file)
        out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert [json.loads(line)["source"] for line in out.splitlines()] == ["-"] * 5


def test_an_empty_input_ends_with_status_2(exported: Path) -> None:
    process = started("-", "--students", str(exported), stdin=subprocess.DEVNULL)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 2
    assert out == ""
    assert err.startswith("videokd: - cannot be read: ")
    assert len(err.splitlines()) == 1


@needs_ffmpeg
@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_it_stops_cleanly(clip: Path, exported: Path, kind: signal.Signals) -> None:
    port = free_port()
    address = f"tcp://user:s3cret@127.0.0.1:{port}"
    sender = in_real_time(clip, "-f", "mpegts", f"tcp://127.0.0.1:{port}?listen=1")
    with sending(*sender, again=True):
        process = started(address, "--students", str(exported), *QUICK, "--reconnect", "1e9")
        assert process.stdout is not None
        first = json.loads(process.stdout.readline())  # each line comes at once
        process.send_signal(kind)
        out, err = process.communicate(timeout=120)
    assert first["source"] == f"tcp://127.0.0.1:{port}"
    assert process.returncode == 130, err
    assert err.splitlines()[-1] == "videokd: watch stopped."
    assert "Traceback" not in err
    assert "s3cret" not in out + err


@needs_ffmpeg
def test_a_reader_that_goes_away_ends_it(clip: Path, exported: Path) -> None:
    port = free_port()
    with sending(*in_real_time(clip, "-f", "mpegts", f"tcp://127.0.0.1:{port}?listen=1"), again=True):
        process = started(f"tcp://127.0.0.1:{port}", "--students", str(exported), *QUICK, "--reconnect", "1e9")
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(timeout=120) == 0
        assert "Traceback" not in process.stderr.read()
        process.stderr.close()


def test_a_graph_is_watched_with_without_pytorch(clip: Path, student_run: Path, tmp_path: Path) -> None:
    for package in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(package)
    assert main(["export", str(student_run), "--format", "onnx", "--out", str(tmp_path / "graph")]) == 0
    code = (
        "import sys; from videokd.__main__ import main; status = main(sys.argv[1:]); "
        "sys.exit(status or 7 * ('torch' in sys.modules))"
    )
    given = ["watch", str(clip), "--students", str(tmp_path / "graph" / "students.onnx"), *QUICK, "--device", "cpu"]
    done = subprocess.run(
        [sys.executable, "-c", code, *given], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert [json.loads(line)["kind"] for line in done.stdout.splitlines()] == ["window"] * 5


@needs_ffmpeg
def test_the_page_runs_as_written(clip: Path, exported: Path, tmp_path: Path) -> None:
    page = (ROOT / "docs" / "watch.md").read_text(encoding="utf-8")
    commands = re.findall(r"```bash\n(.*?)\n```", page, re.DOTALL)
    assert len(commands) == 4
    shutil.copy(clip, tmp_path / "CLIP.mp4")  # MPEG-TS; FFmpeg looks at the content
    (tmp_path / "students").symlink_to(exported)
    (shown,) = re.findall(r"```json\n(.*?)\n```", page, re.DOTALL)
    program = f"{shlex.quote(sys.executable)} -m videokd"
    for command in commands:
        text = re.sub(r"\bvideokd\b", program, command)
        done = subprocess.run(text, shell=True, cwd=tmp_path, capture_output=True, text=True, timeout=600, check=False)
        assert done.returncode == 0, done.stderr
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        assert lines[0].keys() == json.loads(shown).keys()
    for address in re.findall(r"`((?:rtsp|tcp|udp|https|srt)://[^`…]+)`", page):
        assert sources_of([address])[0].name
