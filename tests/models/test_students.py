"""Students: what they say, how they start, and their way to the disk and back."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch._subclasses import FakeTensorMode

from tests.small_networks import random_streams, spec
from videokd.errors import ConfigError, DataError
from videokd.models.backbone import Network
from videokd.models.exits import Exits
from videokd.models.network_spec import NetworkSpec
from videokd.models.students import PredictionSpec, Students, build_students
from videokd.models.students_file import load_students, save_students
from videokd.types import Batch

CLASSES = ("wave", "clap", "throw", "swipe left", "sauté")
ENCODING = {"codec": "mpeg4", "gop": 12}


def assert_close(found, expected):
    """Equal up to rounding: a reloaded network lies differently in memory, so its sums may be added in another order."""
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def assert_same_state(found, expected):
    """Every weight and buffer is equal to the bit."""
    torch.testing.assert_close(found.state_dict(), expected.state_dict(), rtol=0, atol=0)


def build(*, seed=0, with_exits=False, **specs):
    specs = specs or {"a": spec("motion"), "b": spec("motion")}
    return build_students(
        specs,
        PredictionSpec(
            CLASSES, 3, weights={name: index + 1 for index, name in enumerate(specs)}, space="probs", encoding=ENCODING
        ),
        seed=seed,
        with_exits=with_exits,
    )


def test_outputs_of_a_batch_and_of_its_streams_are_the_same():
    students = build(a=spec("motion"), b=spec("iframe", "motion")).eval()
    streams = random_streams("iframe", "motion")
    outputs = students(Batch(streams, torch.tensor([0, 1]), ("x", "y")))
    assert list(outputs) == ["a", "b"]
    for name, logits in students.logits(streams).items():
        assert_close(outputs[name].logits, logits)
        assert_close(students(streams, only=name)[name].logits, logits)
    assert list(students(streams, only="b")) == ["b"]
    assert students.streams == ("motion", "iframe")
    assert students.input_size == 32


def test_views_are_predicted_apart():
    shifted = NetworkSpec(("motion",), "test_resnet", 5, 32, temporal_shift=True)
    students = build(a=spec("motion"), b=shifted).eval()
    for module in students.members["b"].modules():  # timm starts residual branches at zero: nothing shifted would show
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.ones_(module.weight)
    streams = random_streams("motion", segments=6)
    found = students.logits(streams, num_views=2)
    for name in ("a", "b"):
        halves = [students.logits({"motion": streams["motion"][:, s : s + 3]})[name] for s in (0, 3)]
        assert_close(found[name], torch.stack(halves).mean(dim=0))
    together = students.logits(streams)
    assert_close(found["a"], together["a"])
    assert not torch.allclose(found["b"], together["b"], atol=1e-6)
    assert students.sees_order
    assert not build(a=spec("motion")).sees_order
    with pytest.raises(ValueError, match=r"motion.*of 4 views"):
        students.logits(streams, num_views=4)


def test_a_shifted_student_survives_its_export(tmp_path):
    students = build(a=NetworkSpec(("motion",), "test_resnet", 5, 32, temporal_shift=True)).eval()
    loaded, streams = load_students(save_students(students, tmp_path)), random_streams("motion")
    assert loaded.specs["a"].temporal_shift
    assert_same_state(loaded, students)
    assert_close(loaded.logits(streams)["a"], students.logits(streams)["a"])


def test_peers_start_differently_and_runs_repeat():
    first, again, other = build(seed=3), build(seed=3), build(seed=4)
    states = [students.state_dict() for students in (first, again, other)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    for one, another in [(("a", 0), ("b", 0)), (("a", 0), ("a", 2)), (("b", 0), ("a", 2))]:
        weights = [states[run][f"members.{name}.backbone.fc.weight"] for name, run in (one, another)]
        assert not torch.equal(*weights)


def test_building_leaves_the_global_random_state():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    build()
    assert torch.equal(torch.get_rng_state(), before)


def test_parameter_groups_hold_every_parameter_once():
    students = build(with_exits=True)
    for only, modules in [(None, [students]), ("a", [students.members["a"], students.exits["a"]])]:
        found = [id(p) for group in students.parameter_groups(weight_decay=1e-4, only=only) for p in group["params"]]
        assert sorted(found) == sorted(id(p) for module in modules for p in module.parameters())


def test_an_export_comes_back_the_same(tmp_path):
    students = build(a=spec("motion"), b=spec("iframe")).train()
    streams = random_streams("iframe", "motion")
    students.logits(streams)  # moves the BatchNorm buffers
    folder = save_students(students, tmp_path / "new" / "export")
    loaded = load_students(folder)
    assert sorted(file.name for file in folder.iterdir()) == ["students.json", "students.safetensors"]
    assert not loaded.training
    assert loaded.description() == students.description()
    assert loaded.description()["encoding"] == ENCODING
    assert_same_state(loaded, students)
    assert_close(loaded.logits(streams), students.eval().logits(streams))


def test_a_video_network_survives_its_export(tmp_path):
    students = build(a=spec("iframe", backbone="video:r3d_18")).eval()
    loaded, streams = load_students(save_students(students, tmp_path)), random_streams("iframe")
    assert_same_state(loaded, students)
    assert_close(loaded.logits(streams)["a"], students.logits(streams)["a"])


def test_exits_are_in_the_state_and_absent_from_an_export(tmp_path):
    students = build(with_exits=True)
    assert any(name.startswith("exits.a.") for name in students.state_dict())
    save_students(students, tmp_path)
    assert not any(name.startswith("exits.") for name in load_file(tmp_path / "students.safetensors"))
    assert len(load_students(tmp_path).exits) == 0


def test_exits_are_kept_where_asked_for(tmp_path):
    students = build(with_exits=True).eval()
    streams = random_streams("motion")
    kept = load_students(save_students(students, tmp_path / "kept", with_exits=True))
    assert kept.description() == students.description()
    assert kept.description()["exits"] == {"a": [1, 2, 3], "b": [1, 2, 3]}
    expected, found = students.logits(streams, with_exits=True), kept.logits(streams, with_exits=True)
    assert list(found) == [f"{student}{exit}" for student in "ab" for exit in ("", ":exit1", ":exit2", ":exit3")]
    assert_same_state(kept, students)
    assert_close(found, expected)
    stripped = load_students(save_students(students, tmp_path / "stripped"))
    assert "exits" not in stripped.description()
    assert_close(stripped.logits(streams, with_exits=True), {name: expected[name] for name in "ab"})


def test_students_leave_early_each_by_itself():
    torch.manual_seed(0)
    members = {"a": Network(spec("motion")), "b": Network(spec("motion"))}
    students = Students(members, PredictionSpec(CLASSES, 3), exits={"a": Exits(members["a"])}).eval()
    streams = random_streams("motion", batch=3)
    everything = students.logits(streams, with_exits=True)
    logits, left_by = students.early_logits(streams, threshold=0.0)
    assert left_by == {"a": ("exit1",) * 3, "b": ("deepest",) * 3}
    assert_close(logits, {"a": everything["a:exit1"], "b": everything["b"]})
    logits, left_by = students.early_logits(streams, threshold=1.0)
    assert left_by["a"] == ("deepest",) * 3
    assert_close(logits, {name: everything[name] for name in "ab"})
    for threshold in (-0.1, 1.1, float("nan")):
        with pytest.raises(ConfigError, match=r"exit_threshold is .*accepted: 0 to 1"):
            students.early_logits(streams, threshold=threshold)
    with pytest.raises(ConfigError, match=r"students a, b have no exits to leave by .*--exits"):
        build().early_logits(streams, threshold=0.5)


def test_an_export_that_fails_leaves_the_old_one(tmp_path, monkeypatch):
    save_students(build(seed=0), tmp_path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    def full_disk(*_args, **_keywords):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("videokd.models.students_file.save_file", full_disk)
    with pytest.raises(DataError, match="No space left"):
        save_students(build(seed=1), tmp_path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_description_is_json_and_enough():
    students = build()
    text = json.dumps(students.description())
    assert Students.from_description(json.loads(text)).description() == students.description()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "other"}, "format other, version 1 .accepted: videokd-students, version 1"),
        ({"version": 99}, "version 99"),
        ({"members": {}}, "students: none are given"),
        ({"members": {"a": {}}}, "described by nothing"),
        ({"members": 3}, "damaged"),
        ({"num_segments": "many"}, "damaged"),
        ({"exits": {"b": [1]}}, "damaged"),
        ({"exits": {"a": [9]}}, "exits of test_resnet at stages 9"),
    ],
)
def test_wrong_descriptions_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        Students.from_description(build(a=spec("motion")).description() | changes)


def test_wrong_exports_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"students\.json is missing"):
        load_students(tmp_path)
    save_students(build(), tmp_path)
    weights, description = tmp_path / "students.safetensors", tmp_path / "students.json"
    good_weights, good_description = weights.read_bytes(), description.read_text(encoding="utf-8")

    for text in ("no json", "[1, 2]", '{"format": "other"}'):
        description.write_text(text)
        with pytest.raises(DataError, match=r"students\.json does not describe students"):
            load_students(tmp_path)
    description.write_text(good_description, encoding="utf-8")

    one_changed = good_weights[:-8] + bytes([good_weights[-8] ^ 1]) + good_weights[-7:]
    for damaged in (b"", good_weights[: len(good_weights) // 2], b"\x80" * 1000, one_changed):
        weights.write_bytes(damaged)
        with pytest.raises(DataError, match=r"students\.safetensors is damaged"):
            load_students(tmp_path)

    save_file(build(a=spec("iframe"), b=spec("motion")).state_dict(), weights)
    with pytest.raises(DataError, match=r"another architecture .*members\.a\.inputs.* is missing instead of \[2\]"):
        load_students(tmp_path)
    weights.unlink()
    with pytest.raises(DataError, match=r"students\.safetensors is missing"):
        load_students(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights": {"a": 1.0, "c": 1.0}}, "weights are given for a, c .accepted: one for each of a, b"),
        ({"weights": {"a": 1.0, "b": -1.0}}, "weights are .*0 or more"),
        ({"weights": {"a": 0.0, "b": 0.0}}, "weights are .*one above 0"),
        ({"space": "votes"}, "space is 'votes'"),
        ({"num_segments": 0}, "num_segments is 0"),
        ({"class_names": ["x"]}, "num_classes are .*accepted: 1"),
        ({"exits": {"c": torch.nn.Identity()}}, "exits are given for c"),
    ],
)
def test_what_does_not_fit_together_is_refused(changes, message):
    changes = dict(changes)
    members = {"a": Network(spec("motion")), "b": Network(spec("motion"))}
    exits = changes.pop("exits", None)
    with pytest.raises(ConfigError, match=message):
        Students(members, PredictionSpec(**({"class_names": CLASSES, "num_segments": 3} | changes)), exits=exits)


def test_each_student_takes_the_pictures_of_its_own_size():
    students = build(a=spec("motion", "iframe"), b=spec("motion", size=64)).eval()
    assert (students.input_size, students.inputs_at(64)) == (64, ("motion@32", "iframe@32", "motion"))
    assert students.inputs_at(32, only=["b"]) == ("motion@64",)
    small, large = random_streams("motion", "iframe"), random_streams("motion", size=64)
    together = students.logits({f"{name}@32": values for name, values in small.items()} | large)
    assert_close(together["a"], students.members["a"](small))
    assert_close(together["b"], students.members["b"](large))
    again = students.logits(small | {"motion@64": large["motion"]})
    assert all(torch.equal(again[name], together[name]) for name in "ab")


def test_equal_weights_are_the_default():
    members = {"a": Network(spec("motion")), "b": Network(spec("motion"))}
    assert Students(members, PredictionSpec(CLASSES, 3)).weights == {"a": 1.0, "b": 1.0}


def test_streams_are_copied_to_the_students_device():
    """On fake CUDA tensors, which refuse to mix devices as real ones do."""
    streams = random_streams("iframe", "motion")
    with FakeTensorMode(allow_non_fake_inputs=True):
        with torch.device("cuda"):
            students = build(with_exits=True, a=spec("motion"), b=spec("iframe", "motion")).eval()
        logits = students.logits(streams, with_exits=True)
        outputs = students(Batch(streams, torch.tensor([0, 1]), ("v0", "v1")), with_features=True)
    assert {values.device.type for values in logits.values()} == {"cuda"}
    assert {output.features.device.type for output in outputs.values()} == {"cuda"}


def test_normalised_pictures_keep_their_channels_innermost():
    network = Network(spec("iframe", "motion"))
    streams = {name: values.permute(0, 1, 3, 4, 2).contiguous() for name, values in random_streams("iframe").items()}
    pictures = network.inputs["iframe"](streams["iframe"].permute(0, 1, 4, 2, 3).flatten(0, 1))
    assert pictures.is_contiguous(memory_format=torch.channels_last)
