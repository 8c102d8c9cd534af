"""Video networks against torchvision's own, and what they take."""

from __future__ import annotations

import pytest
import torch
import torchvision.models._api
from torchvision.models import get_model

import videokd.models.video_backbone
from tests.small_networks import random_streams
from videokd.errors import ConfigError
from videokd.models.backbone import Network
from videokd.models.exits import Exits
from videokd.models.initial_weights import imagenet_weights
from videokd.models.network_spec import NetworkSpec
from videokd.models.transfer import start_from
from videokd.models.video_backbone import KINETICS_MEAN, KINETICS_STD

# Each with the sizes at which torchvision's average pooling is that over everything
CLIPS = {"r3d_18": (4, 32), "mc3_18": (3, 32), "r2plus1d_18": (3, 32), "s3d": (16, 224)}


def spec(*streams, backbone="video:mc3_18", size=32):
    return NetworkSpec(streams, backbone, 5, size)


@pytest.mark.parametrize("name", list(CLIPS))
def test_logits_equal_torchvisions(name, monkeypatch):
    torch.manual_seed(0)
    whole = get_model(name, weights=None).eval()
    monkeypatch.setattr(torchvision.models._api, "load_state_dict_from_url", lambda *_, **__: whole.state_dict())
    monkeypatch.setattr(videokd.models.video_backbone, "answers", lambda _: True)
    network = Network(NetworkSpec(("rgb",), f"video:{name}", 400, CLIPS[name][1])).eval()
    start_from(network, imagenet_weights(network.spec), class_names=())
    classifier = whole.classifier[1] if name == "s3d" else whole.fc
    with torch.no_grad():
        network.backbone.classifier.weight.copy_(classifier.weight.flatten(1))
        network.backbone.classifier.bias.copy_(classifier.bias)
        streams = random_streams("rgb", batch=1, segments=CLIPS[name][0], size=CLIPS[name][1])
        mean, std = (torch.tensor(values).reshape(3, 1, 1) for values in (KINETICS_MEAN, KINETICS_STD))
        clip = ((streams["rgb"].float() / 255 - mean) / std).transpose(1, 2)  # [B, C, T, H, W]
        torch.testing.assert_close(network(streams), whole(clip), rtol=1e-3, atol=1e-4)


def test_the_normalisation_is_that_of_torchvisions_weights():
    for name in CLIPS:
        transforms = torchvision.models.get_model_weights(name).DEFAULT.transforms()
        assert (tuple(transforms.mean), tuple(transforms.std)) == (KINETICS_MEAN, KINETICS_STD)


def test_segments_are_frames_in_their_order():
    torch.manual_seed(0)
    network = Network(spec("rgb")).eval()
    streams = random_streams("rgb")
    logits = network(streams)
    assert list(logits.shape) == [2, 5]
    assert not torch.allclose(network({"rgb": streams["rgb"].flip(1)}), logits, atol=1e-5)
    first = network({"rgb": streams["rgb"][:1]})
    torch.testing.assert_close(first, logits[:1], rtol=1e-4, atol=1e-5)
    assert network.spec.sees_order


def test_other_streams_fit():
    network = Network(spec("motion", "rgb")).train()
    logits = network(random_streams("motion", "rgb"))
    logits.sum().backward()
    assert list(logits.shape) == [2, 5]
    assert network.backbone.stem[0].weight.shape[1] == 5
    assert network.inputs["motion"].norm.weight.grad is not None


def test_groups_of_parameters_tell_classifier_body_and_input_apart():
    def factors(network):
        names = {id(parameter): name for name, parameter in network.named_parameters()}
        groups = network.parameter_groups(weight_decay=1e-4, body_factor=0.01, input_factor=0.1)
        return {names[id(p)]: group["lr_factor"] for group in groups for p in group["params"]}

    found = factors(Network(spec("motion")))
    assert found["backbone.classifier.weight"] == 1
    assert found["backbone.stem.0.weight"] == 0.1
    assert found["backbone.stages.0.0.conv1.0.weight"] == 0.01
    assert factors(Network(spec("rgb")))["backbone.stem.0.weight"] == 0.01


def test_dropout_does_not_change_the_names_of_weights():
    states = [Network(spec("rgb"), dropout=dropout).state_dict() for dropout in (0.0, 0.5)]
    assert list(states[0]) == list(states[1])


def test_what_does_not_fit_is_refused():
    with pytest.raises(ConfigError, match=r"video:r3d_81 is unknown .*video:s3d.*Did you mean video:r3d_18"):
        spec("rgb", backbone="video:r3d_81")
    with pytest.raises(ConfigError, match=r"video: is unknown .*Choose one"):
        spec("rgb", backbone="video:")
    with pytest.raises(ConfigError, match="temporal_shift is for 2-D networks"):
        NetworkSpec(("rgb",), "video:mc3_18", 5, 32, temporal_shift=True)
    with pytest.raises(ConfigError, match=r"a clip has 3 segments \(accepted: 5 or more"):
        Network(spec("rgb", backbone="video:s3d"))(random_streams("rgb"))
    with pytest.raises(ConfigError, match="does not give the features of its stages"):
        Exits(Network(spec("rgb")))


def test_s3d_takes_the_fewest_frames_it_names():
    network = Network(spec("rgb", backbone="video:s3d")).eval()
    assert list(network(random_streams("rgb", segments=5)).shape) == [2, 5]
