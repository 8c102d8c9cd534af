"""Adapters: in training, optimizer and checkpoint; absent from everything that predicts."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from tests.small_networks import random_streams, spec
from videokd.errors import ConfigError
from videokd.models.adapters import add_adapters
from videokd.models.backbone import Network
from videokd.models.network_spec import NetworkSpec
from videokd.models.students import PredictionSpec, Students, build_students
from videokd.models.students_file import load_students, save_students

WIDTHS = {"iframe": 7, "motion_large": 11}


def adapted_students(*, seed: int = 0, exits: bool = False, adapters: bool = True) -> Students:
    specs = {"a": spec("motion"), "b": spec("iframe")}
    students = build_students(specs, PredictionSpec([*"vwxyz"], 3), seed=seed, with_exits=exits)
    if adapters:
        add_adapters(students, WIDTHS, seed=seed)
    return students


@pytest.mark.parametrize("exits", [False, True])
def test_features_are_what_the_classifier_gets_and_adapted_to_each_teacher(exits: bool) -> None:
    students, streams = adapted_students(exits=exits).eval(), random_streams("iframe", "motion")
    outputs = students(streams, with_features=True)
    for name, output in outputs.items():
        network = students.members[name]
        classified = network.backbone.get_classifier()(output.features)  # linear: the mean over segments goes through
        torch.testing.assert_close(classified, output.logits, rtol=1e-4, atol=1e-5)
        assert {teacher: [*values.shape] for teacher, values in output.adapted.items()} == {
            "iframe": [2, 7],
            "motion_large": [2, 11],
        }
        linear = students.adapters[name].by_teacher["iframe"]
        torch.testing.assert_close(output.adapted["iframe"], output.features @ linear.weight.T + linear.bias)
    plain = students(streams)
    assert all(not output.adapted for output in plain.values())
    assert all((output.features is not None) == exits for output in plain.values())
    for name in "ab":
        torch.testing.assert_close(plain[name].logits, outputs[name].logits)


def test_adding_them_leaves_the_students_weights_and_the_random_state() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    with_them, without = adapted_students(), adapted_students(adapters=False)
    assert torch.equal(torch.get_rng_state(), before)
    own = without.state_dict()
    assert all(torch.equal(values, with_them.state_dict()[name]) for name, values in own.items())
    assert set(with_them.kept_state()) == set(own)
    assert set(with_them.state_dict()) - set(own) == {
        f"adapters.{student}.by_teacher.{teacher}.{part}"
        for student in "ab"
        for teacher in WIDTHS
        for part in ("weight", "bias")
    }


def test_students_adapters_differ_and_repeat() -> None:
    first, again, other = (adapted_students(seed=seed).state_dict() for seed in (0, 0, 1))
    name = "adapters.{}.by_teacher.iframe.weight"
    assert torch.equal(first[name.format("a")], again[name.format("a")])
    assert not torch.equal(first[name.format("a")], first[name.format("b")])
    assert not torch.equal(first[name.format("a")], other[name.format("a")])


def test_every_parameter_is_trained_once() -> None:
    students = adapted_students(exits=True)
    for only, modules in [
        (None, [students]),
        ("a", [students.members["a"], students.exits["a"], students.adapters["a"]]),
    ]:
        found = [id(p) for group in students.parameter_groups(weight_decay=1e-4, only=only) for p in group["params"]]
        assert sorted(found) == sorted(id(p) for module in modules for p in module.parameters())


def test_they_are_absent_from_an_export_and_its_description(tmp_path) -> None:
    students = adapted_students().eval()
    assert students.description() == adapted_students(adapters=False).description()
    folder = save_students(students, tmp_path)
    assert not any("adapter" in name for name in load_file(folder / "students.safetensors"))
    streams = random_streams("iframe", "motion")
    loaded = load_students(folder)
    assert len(loaded.adapters) == 0
    for name, logits in students.logits(streams).items():
        torch.testing.assert_close(loaded.logits(streams)[name], logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("backbone", ["test_resnet", "test_efficientnet", "mobilenetv3_small_050", "video:r3d_18"])
def test_logits_are_the_same_with_features(backbone: str) -> None:
    torch.manual_seed(0)
    network, streams = Network(spec("motion", backbone=backbone)).eval(), random_streams("motion")
    logits, features = network(streams, with_features=True)
    torch.testing.assert_close(logits, network(streams), rtol=1e-4, atol=1e-5)
    assert [*features.shape] == [2, network.feature_width]
    assert features.dtype == torch.float32


def test_a_backbone_without_features_is_refused() -> None:
    network = Network(NetworkSpec(("motion",), "test_resnet", 5, 32))
    network.backbone = torch.nn.Linear(1, 1)
    with pytest.raises(ConfigError, match="backbone test_resnet does not give its features"):
        _ = network.feature_width
