"""Students that predict with ONNX Runtime, without PyTorch; files from anybody."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import videokd
from tests.conftest import MakeClip
from tests.small_graphs import WANTED, colour_graph, metadata, write_graph
from videokd.__main__ import main
from videokd.errors import ConfigError, DataError, VideoKDError
from videokd.prediction import onnx_predictor
from videokd.prediction.loading import load_predictor
from videokd.prediction.onnx_bytes import check_onnx, sealed
from videokd.prediction.onnx_predictor import OnnxPredictor

pytest.importorskip("onnx", reason="the extra videokd[onnx] is not installed")
pytest.importorskip("onnxruntime", reason="the extra videokd[onnx] is not installed")

RED = np.zeros((1, 2, 3, 32, 32), np.uint8)
RED[:, :, 0] = 2


def test_a_single_file_is_enough(tmp_path: Path) -> None:
    predictor = OnnxPredictor(write_graph(tmp_path / "any.onnx"), device="cpu")
    assert predictor.wanted == WANTED
    answer = predictor({"iframe": RED, "motion": RED}, names=["a"])
    expected = np.exp([2.0, 0.0, 0.0]) / np.exp([2.0, 0.0, 0.0]).sum()
    np.testing.assert_allclose(answer.probabilities[0], expected, rtol=1e-5)
    assert answer.probabilities.dtype == np.float32
    assert not answer.exits


def test_pictures_need_not_lie_in_order(tmp_path: Path) -> None:
    predictor = OnnxPredictor(write_graph(tmp_path / "any.onnx"), device="cpu")
    rng = np.random.default_rng(0)
    videos = rng.integers(0, 9, (3, 2, 32, 32, 3), dtype=np.uint8).transpose(0, 1, 4, 2, 3)
    apart = [predictor({"iframe": videos[[n]]}, names=["a"]).probabilities[0] for n in range(3)]
    np.testing.assert_allclose(predictor({"iframe": videos}, names=list("abc")).probabilities, apart, rtol=1e-5)


WITHOUT_TORCH = """
import sys
HEAVY = ("torch", "torchvision", "timm", "safetensors")
sys.modules.update(dict.fromkeys(HEAVY))  # whoever imports them gets an error
from videokd.__main__ import main
status = main(["predict", sys.argv[1], "--students", sys.argv[2], "--format", "json"])
import videokd
prediction = videokd.predict(sys.argv[1], sys.argv[2])
print(prediction.labels[0].name.encode("unicode_escape").decode(), file=sys.stderr)
assert not any(name.partition(".")[0] in HEAVY and module for name, module in sys.modules.items())
sys.exit(status)
"""


@pytest.mark.parametrize("codec", ["mpeg4", "mjpeg"])
def test_nothing_imports_torch(codec: str, make_clip: MakeClip, tmp_path: Path) -> None:
    clip = make_clip(codec, container="avi", pixel_format="yuvj420p" if codec == "mjpeg" else "yuv420p")
    graph = write_graph(tmp_path / "students.onnx")
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, str(clip), str(graph)],
        capture_output=True,
        text=True,
        encoding="utf-8",
        env=os.environ | {"PYTHONIOENCODING": "utf-8"},
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    (prediction,) = json.loads(done.stdout)
    label = prediction["labels"][0]["name"]
    assert label in WANTED.class_names
    assert done.stderr.splitlines()[-1] == label.encode("unicode_escape").decode()


def test_without_torch_a_folder_of_weights_says_so(tmp_path: Path) -> None:
    program = (
        "import sys; sys.modules['safetensors'] = None; from videokd.prediction.loading import load_predictor\n"
        "load_predictor(sys.argv[1])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=False, timeout=600
    )
    last = done.stderr.splitlines()[-1]
    assert re.search(
        r"ConfigError: .*needs safetensors, which is not installed \(accepted without it: students.onnx", last
    )


HOSTILE: dict[str, tuple[dict[str, Any], str]] = {
    "of something else": ({"texts": {}}, "its format is 'not given'"),
    "version": ({"texts": metadata(version="2")}, "its version is 2"),
    "no version": ({"texts": metadata(version=None)}, "version is missing"),
    "no JSON": ({"texts": metadata(inputs="{")}, "inputs is '{'"),
    "nested": ({"texts": metadata(encoding="[" * 100_000)}, "encoding is"),
    "not finite": ({"texts": metadata(num_segments="NaN")}, "num_segments is 'NaN'"),
    "segments": ({"texts": metadata(num_segments="1000000000")}, "num_segments is 1000000000 (accepted: a whole number, 1 to 1000)"),
    "bytes": ({"texts": metadata(num_segments="1000", inputs='{"iframe": ["iframe", 4096]}')}, "num_segments is 1000, with inputs of 48000 MiB a video (accepted: up to 1024 MiB)"),
    "no segments": ({"texts": metadata(num_segments="true")}, "num_segments is True"),
    "order": ({"texts": metadata(sees_order="1")}, "sees_order is 1"),
    "classes": ({"texts": metadata(class_names='["a", ""]')}, "class_names is ['a', '']"),
    "half a letter": ({"texts": metadata(class_names='["a", "\\ud800", "b"]')}, "class_names is ['a', '\\ud800', 'b']"),
    "more classes": ({"texts": metadata(class_names='["a", "b"]')}, "its outputs are logits (accepted: logits, tensor(float), of 2 classes)"),
    "stream": ({"texts": metadata(inputs='{"depth": ["depth", 32]}')}, "input depth is ['depth', 32]"),
    "stream of a list": ({"texts": metadata(inputs='{"a": [[], 32]}')}, "input a is [[], 32]"),
    "side": ({"texts": metadata(inputs='{"iframe": ["iframe", 100000]}')}, "side of input iframe is 100000"),
    "key": ({"texts": metadata(inputs='{"a": ["iframe", 32]}')}, "input 'a' is iframe of 32 pixels (accepted: the key 'iframe')"),
    "no inputs": ({"texts": metadata(inputs="{}")}, "inputs is {}"),
    "encoding": ({"texts": metadata(encoding='{"encoding": {"gop": "12"}}')}, "encoding.gop is '12'"),
    "other inputs": ({"key": "rgb"}, "its inputs are rgb (accepted, as it says itself: iframe)"),
    "kind": ({"kind": "FLOAT"}, "its input iframe is tensor(float)"),
    "size": ({"shape": ("b", "s", 3, 16, 32)}, "its input iframe is tensor(uint8)['b', 's', 3, 16, 32]"),
    "channels": ({"key": "motion", "texts": metadata(inputs='{"motion": ["motion", 32]}')}, "its input motion is tensor(uint8)['batch', 'segments', 3, 32, 32]"),
    "fixed batch": ({"shape": (1, "s", 3, 32, 32)}, "its input iframe is tensor(uint8)[1, 's', 3, 32, 32]"),
    "output": ({"output": "scores"}, "its outputs are scores"),
    "opset": ({"opset": 999}, "cannot be loaded by ONNX Runtime"),
}  # fmt: skip


@pytest.mark.parametrize("kind", HOSTILE)
def test_what_is_not_a_graph_of_students_is_refused(kind: str, tmp_path: Path) -> None:
    changes, message = HOSTILE[kind]
    path = write_graph(tmp_path / "any.onnx", **changes)
    with pytest.raises(DataError, match=f"^{re.escape(str(path))} .*{re.escape(message)}") as raised:
        OnnxPredictor(path, device="cpu")
    assert len(str(raised.value)) < 800
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("content", [b"", b"ONNX", b"\x00" * 1000, b"\x08\x0a" * 500, b"cut", b"\x20\x00\x00\x00ORTM"])
def test_what_is_not_onnx_is_refused(content: bytes, tmp_path: Path) -> None:
    path = write_graph(tmp_path / "any.onnx")
    path.write_bytes(path.read_bytes()[:-300] if content == b"cut" else content)
    with pytest.raises(DataError, match=r"any.onnx .*Give a file that `videokd export --format onnx` wrote"):
        OnnxPredictor(path, device="cpu")


def test_a_file_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"none.onnx cannot be read \(No such file or directory\)"):
        load_predictor(tmp_path / "none.onnx")
    monkeypatch.setattr(onnx_predictor, "_MOST_BYTES", 100)
    with pytest.raises(DataError, match=r"any.onnx is too large for ONNX \(accepted: at most 100 bytes\)"):
        OnnxPredictor(write_graph(tmp_path / "any.onnx"))


@pytest.mark.parametrize("where", ["initializer", "constant in a branch"])
def test_no_other_file_is_read(where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from onnx import TensorProto, helper

    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights").write_bytes(np.eye(3, dtype=np.float32).tobytes())
    model = colour_graph(metadata())
    (matrix,) = (tensor for tensor in model.graph.initializer if tensor.name == "matrix")
    matrix.ClearField("raw_data")
    matrix.data_location = TensorProto.EXTERNAL
    matrix.external_data.add(key="location", value="weights")
    if where != "initializer":
        constant = helper.make_node("Constant", [], ["inside"], value=matrix)
        inside = helper.make_graph([constant], "branch", [], [helper.make_empty_tensor_value_info("inside")])
        model.graph.node.insert(0, helper.make_node("If", ["yes"], ["chosen"], then_branch=inside, else_branch=inside))
        model.graph.initializer.remove(matrix)
    path = tmp_path / "any.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(DataError, match=r"any.onnx is not accepted as ONNX: it has weights in another file"):
        OnnxPredictor(path, device="cpu")


def test_graphs_in_graphs_without_end_are_refused(tmp_path: Path) -> None:
    message = b""
    for _ in range(40):  # graph, node, attribute, graph, …
        for field in (6, 5, 1):
            message = bytes([field << 3 | 2]) + _varint(len(message)) + message
    with pytest.raises(DataError, match=r"its graphs are nested too deeply"):
        check_onnx(b"\x3a" + _varint(len(message)) + message)


def test_a_graph_of_countless_parts_is_refused() -> None:
    nodes = b"\x0a\x00" * 1_000_001
    with pytest.raises(DataError, match=r"it has more than 1000000 parts"):
        check_onnx(
            b"\x3a" + bytes([len(nodes) & 127 | 128, len(nodes) >> 7 & 127 | 128, len(nodes) >> 14 & 127]) + nodes
        )


def test_a_changed_byte_is_seen(tmp_path: Path) -> None:
    content = sealed(write_graph(tmp_path / "sound.onnx").read_bytes())
    path = tmp_path / "any.onnx"
    path.write_bytes(content)
    OnnxPredictor(path, device="cpu")
    at = content.index(np.eye(3, dtype=np.float32).tobytes())
    path.write_bytes(content[:at] + b"\1" + content[at + 1 :])
    with pytest.raises(DataError, match=r"any.onnx is not accepted as ONNX: it is damaged: its bytes are not those"):
        OnnxPredictor(path, device="cpu")


def test_onnx_runtime_keeps_no_identifier_and_sends_nothing(tmp_path: Path) -> None:
    path = write_graph(tmp_path / "any.onnx")
    home = tmp_path / "home"
    home.mkdir()
    others = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    places = {name: str(home) for name in ("HOME", "TMPDIR", "XDG_CACHE_HOME")}
    program = "import sys, videokd.prediction.loading as loading; loading.load_predictor(sys.argv[1], device='cpu')"
    subprocess.run([sys.executable, "-c", program, str(path)], check=True, env=others | places)
    assert not list(home.iterdir())


def _varint(number: int) -> bytes:
    return bytes([number & 127 | 128, number >> 7 & 127 | 128, number >> 14])


def test_logits_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    path = write_graph(tmp_path / "any.onnx", weights=np.full((3, 3), np.inf))
    with pytest.raises(VideoKDError, match=r"any.onnx: the logits for a are not finite"):
        OnnxPredictor(path, device="cpu")({"iframe": RED}, names=["a"])


def test_what_cannot_be_computed_is_one_line(tmp_path: Path) -> None:
    predictor = OnnxPredictor(write_graph(tmp_path / "any.onnx"), device="cpu")
    with pytest.raises(ConfigError, match=r"ONNX Runtime cannot compute a in 8 segments .*--num_segments 4"):
        predictor({"iframe": np.zeros((1, 8, 3, 16, 32), np.uint8)}, names=["a"])


def test_devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    path = write_graph(tmp_path / "any.onnx")
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(ConfigError, match=r"has no CUDA here \(accepted: auto, cpu\).*pip install onnxruntime-gpu"):
        OnnxPredictor(path, device="cuda")
    OnnxPredictor(path, device="auto")
    chosen = onnx_predictor._providers(["CUDAExecutionProvider", "CPUExecutionProvider"], "auto")
    assert chosen == ["CUDAExecutionProvider", "CPUExecutionProvider"]
    assert onnx_predictor._providers(chosen, "cpu") == ["CPUExecutionProvider"]


@pytest.mark.parametrize(("asked", "threads"), [("3", 3), ("", None), ("0", None), ("many", None), ("9" * 50, 1024)])
def test_threads(asked: str, threads: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", asked)
    assert onnx_predictor._num_threads() == (threads or len(os.sched_getaffinity(0)))


def test_without_onnx_runtime_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ConfigError, match=r"needs ONNX Runtime.*pip install 'videokd\[onnxruntime\]'"):
        OnnxPredictor(write_graph(tmp_path / "any.onnx"))


def test_which_of_several_files_is_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_graph(tmp_path / "students.int8.onnx", texts=metadata(num_segments="5"))
    assert load_predictor(tmp_path).wanted.num_segments == 5
    assert capsys.readouterr().err == ""
    write_graph(tmp_path / "students.onnx")
    assert load_predictor(tmp_path).wanted.num_segments == 2
    assert "students.onnx is used; to use another, name the file" in capsys.readouterr().err
    assert load_predictor(tmp_path / "students.int8.onnx").wanted.num_segments == 5
    (tmp_path / "students.safetensors").write_bytes(b"")
    with pytest.raises(DataError, match=r"students.json is missing"):
        load_predictor(tmp_path)
    assert "students.safetensors is used; to use another, name the file" in capsys.readouterr().err
    assert load_predictor(tmp_path / "students.onnx").wanted.num_segments == 2


def test_settings_of_pytorch_are_refused(tmp_path: Path) -> None:
    path = write_graph(tmp_path / "students.onnx")
    with pytest.raises(ConfigError, match=r"precision bf16: .* \(accepted: auto, fp32\)"):
        load_predictor(path, precision="bf16")
    with pytest.raises(ConfigError, match=r"exit_threshold is 0.5, but .*students.onnx cannot stop early"):
        load_predictor(tmp_path, exit_threshold=0.5)


def test_the_verb(make_clip: MakeClip, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_graph(tmp_path / "students.onnx")
    clip = make_clip("mpeg4")
    assert main(["predict", str(clip), "--students", str(path), "--format=json"]) == 0
    (prediction,) = json.loads(capsys.readouterr().out)
    best = videokd.predict(clip, path).labels[0]
    assert prediction["labels"][0]["name"] == best.name
    assert prediction["labels"][0]["probability"] == pytest.approx(best.probability, rel=1e-4)
    assert main(["predict", str(clip), "--students", str(path), "--device=cuda"]) in (0, 2)
