"""Shallow exits beside a network."""

from __future__ import annotations

import pytest
import torch

from tests.small_networks import random_streams, spec
from videokd.errors import ConfigError
from videokd.models.backbone import Network
from videokd.models.exits import Exits, first_confident_exit
from videokd.models.students import PredictionSpec, build_students


def test_output_has_logits_exits_and_hints():
    network = Network(spec("motion")).eval()
    exits = Exits(network).eval()
    streams = random_streams("motion")
    output = exits(network, streams)
    torch.testing.assert_close(output.logits, network(streams), rtol=1e-4, atol=1e-5)
    assert {name: list(logits.shape) for name, logits in output.exits.items()} == {
        key: [2, 5] for key in ["exit1", "exit2", "exit3"]
    }
    for adapted, deepest in output.hints.values():
        assert adapted.shape == deepest.shape == (6, 96)


def test_exit_logits_are_the_mean_over_segments():
    network = Network(spec("motion")).eval()
    exits = Exits(network).eval()
    streams = random_streams("motion", segments=2)
    halves = [exits(network, {"motion": streams["motion"][:, s : s + 1]}).exits["exit2"] for s in range(2)]
    together = exits(network, streams).exits["exit2"]
    torch.testing.assert_close(together, torch.stack(halves).mean(dim=0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("backbone", "stages"), [("resnet18", (1, 2, 3)), ("test_efficientnet", (1, 2, 3)), ("test_convnext", (0, 1, 2))]
)
def test_stages_stand_between_stem_and_deepest(backbone, stages):
    network = Network(spec("iframe", backbone=backbone, size=64)).eval()
    exits = Exits(network)
    assert exits.stages == stages
    assert len(exits(network, random_streams("iframe", size=64)).exits) == 3


def test_stages_can_be_chosen():
    network = Network(spec("motion"))
    assert list(Exits(network, stages=[2])(network, random_streams("motion")).exits) == ["exit1"]


@pytest.mark.parametrize("backbone", ["mobilenetv4_conv_small", "resnet18", "convnext_atto"])
def test_a_head_counts_each_batch_once(backbone):
    """MobileNetV4 has a BatchNorm in its head, through which logits and deepest features both go."""
    streams = random_streams("iframe", size=64)
    for with_exits in (True, False):
        students = build_students(
            {"a": spec("iframe", backbone=backbone, size=64)},
            PredictionSpec(("v", "w", "x", "y", "z"), 3),
            seed=0,
            with_exits=with_exits,
        )
        output = students(streams, with_features=True)["a"]
        counted = {name: int(n) for name, n in students.named_buffers() if name.endswith("num_batches_tracked")}
        assert set(counted.values()) <= {1}
        assert output.features is not None
        students.eval()
        expected = students.members["a"](streams)
        torch.testing.assert_close(students(streams, with_features=True)["a"].logits, expected, rtol=1e-4, atol=1e-5)


def test_exits_hold_parameters_of_their_own_only():
    network = Network(spec("motion"))
    own = {id(parameter) for parameter in Exits(network).parameters()}
    assert own.isdisjoint(id(parameter) for parameter in network.parameters())


def test_a_shallow_exit_teaches_the_body_below_it_and_its_bottleneck():
    network = Network(spec("motion")).train()
    exits = Exits(network).train()
    exits(network, random_streams("motion")).exits["exit1"].sum().backward()
    assert network.backbone.layer1[0].conv1.weight.grad is not None
    assert network.backbone.layer2[0].conv1.weight.grad is None
    assert all(p.grad is not None for p in exits.exit1.parameters())


def test_backbones_without_such_stages_are_refused():
    with pytest.raises(ConfigError, match=r"exits of test_vit at stages none"):
        Exits(Network(spec("iframe", backbone="test_vit", size=160)))
    network = Network(spec("motion"))
    for stages in ([], [4], [-1]):
        with pytest.raises(ConfigError, match=r"accepted: one or more of 0 to 3"):
            Exits(network, stages=stages)
    network.backbone = torch.nn.Linear(2, 2)
    with pytest.raises(ConfigError, match="does not give the features of its stages"):
        Exits(network)


def test_exits_come_one_after_the_other():
    network = Network(spec("motion")).eval()
    exits = Exits(network).eval()
    streams = random_streams("motion")
    output = exits(network, streams)
    found = dict(exits.stagewise(network, streams))
    assert list(found) == [*exits.names, "deepest"] == ["exit1", "exit2", "exit3", "deepest"]
    for name, logits in (output.exits | {"deepest": output.logits}).items():
        torch.testing.assert_close(found[name], logits, rtol=1e-5, atol=1e-6)
    assert list(dict(exits.stagewise(network, streams, names=["exit2"]))) == ["exit2", "deepest"]


def test_an_exit_that_is_taken_leaves_the_rest_uncomputed():
    network = Network(spec("motion")).eval()
    exits = Exits(network).eval()
    called = []
    for name in ("layer1", "layer2", "layer3", "layer4", "fc"):
        getattr(network.backbone, name).register_forward_pre_hook(lambda *_, name=name: called.append(name))
    _, names = first_confident_exit(exits.stagewise(network, random_streams("motion")), threshold=0.0)
    assert names == ("exit1", "exit1")
    assert called == ["layer1"]
    called.clear()
    _, names = first_confident_exit(exits.stagewise(network, random_streams("motion")), threshold=1.0)
    assert names == ("deepest", "deepest")
    assert called == ["layer1", "layer2", "layer3", "layer4", "fc"]


def test_each_video_leaves_by_its_first_sure_exit():
    computed = []

    def exits():
        for name, confidences in {"exit1": (0.95, 0.2, 0.2), "exit2": (0.99, 0.91, 0.9), "deepest": (0.3,) * 3}.items():
            computed.append(name)
            share = torch.tensor(confidences, dtype=torch.float64)
            yield name, torch.stack([share, 1 - share], dim=1).log()

    logits, names = first_confident_exit(exits(), threshold=0.91 - 1e-9)
    assert names == ("exit1", "exit2", "deepest")
    torch.testing.assert_close(logits.exp()[:, 0], torch.tensor([0.95, 0.91, 0.3], dtype=torch.float64))
    computed.clear()
    assert first_confident_exit(exits(), threshold=0.0)[1] == ("exit1",) * 3
    assert computed == ["exit1"]
    # a saturated exit is not above 1
    sure = torch.tensor([[900.0, 0.0]])
    assert first_confident_exit(iter([("exit1", sure), ("deepest", sure)]), threshold=1.0)[1] == ("deepest",)
