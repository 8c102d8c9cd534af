"""Frozen teachers: only the classifier changes, features are computed once and shared, and the rest of videokd takes them as any teacher."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import timm
import torch

from tests.recipes.test_verbs import refused
from tests.small_networks import random_streams
from tests.small_runs import TINY
from tests.training.test_stored_teachers import clips_of, distill, written
from videokd.__main__ import main
from videokd.errors import ConfigError
from videokd.models.backbone import Network
from videokd.models.network_spec import NetworkSpec
from videokd.runs.device import Precision
from videokd.runs.ranks import Ranks
from videokd.runs.run_folder import RunFolder, load_teacher, network_of
from videokd.runs.session import Session
from videokd.training.frozen import freeze_body
from videokd.training.stored_outputs import body_sha256
from videokd.training.stored_teachers import stored_teachers

VIEWS = 3


def freeze(prepared: Path, body: Path, cache: Path, out: Path, *more: str) -> list[str]:
    """The command; `TINY` has two segments."""
    return [
        *("teach", "--stream=motion", "--backbone=test_resnet", f"--manifest={prepared}", f"--out={out}", *TINY),
        *(f"--init={body}", "--freeze=true", f"--data.cache={cache}", "--data.cache_positions=4"),
        *(f"--data.stored_views={VIEWS}", *more),
    ]


@pytest.fixture(scope="module")
def frozen(
    prepared: Path, teacher_runs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """A frozen teacher, and its cache."""
    folder = tmp_path_factory.mktemp("frozen")
    assert main(freeze(prepared, teacher_runs["motion"], folder / "cache", folder / "run")) == 0
    return folder / "run", folder / "cache"


def test_only_the_classifier_changes(frozen: tuple[Path, Path], teacher_runs: dict[str, Path]) -> None:
    before, after = (network_of(load_teacher(run)).state_dict() for run in (teacher_runs["motion"], frozen[0]))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all(name.startswith("backbone.fc.") for name in changed)


def test_the_log_says_how_the_weight_decay_was_chosen(frozen: tuple[Path, Path]) -> None:
    lines = [json.loads(line) for line in (frozen[0] / "log.jsonl").read_text().splitlines()]
    assert any(line.get("head/weight_decay", 0) > 0 and 0 <= line["head/held_out_top1"] <= 1 for line in lines)
    assert any(0 <= line.get("val/top1", -1) <= 1 for line in lines)


def test_the_same_command_again_does_nothing(
    frozen: tuple[Path, Path], prepared: Path, teacher_runs: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    run, cache = frozen
    before = (run / "best.pt").read_bytes(), written(cache)
    assert main(freeze(prepared, teacher_runs["motion"], cache, run)) == 0
    assert "trained already" in capsys.readouterr().err
    assert ((run / "best.pt").read_bytes(), written(cache)) == before


def test_teachers_on_one_body_share_its_features(
    frozen: tuple[Path, Path], prepared: Path, teacher_runs: dict[str, Path], tmp_path: Path
) -> None:
    """Another seed, another classifier and the students' targets need no picture again."""
    _, cache = frozen
    before = written(cache)
    hidden = tmp_path / "hidden"
    assert main(freeze(prepared, teacher_runs["motion"], cache, hidden, "--seed=4", "--head_units=8")) == 0
    assert distill(prepared, {"motion": hidden}, cache, tmp_path / "students") == 0
    assert written(cache) == before
    assert network_of(load_teacher(hidden)).spec.head_units == 8


def test_its_targets_are_what_it_says(frozen: tuple[Path, Path], prepared: Path, tmp_path: Path) -> None:
    """From stored features and the classifier, against the whole network on the batch's pixels."""
    run = load_teacher(frozen[0])
    session = Session(RunFolder(tmp_path), Precision("fp32", torch.device("cpu")), Ranks())
    clips = clips_of(prepared, frozen[1])
    teachers = stored_teachers(clips.fit, {"motion": run}, session)
    for _, batch in zip(range(3), clips.batches(first_step=0, ranks=Ranks()), strict=False):
        with torch.no_grad():
            torch.testing.assert_close(teachers(batch)["motion"], network_of(run)(batch.streams), rtol=1e-4, atol=1e-4)


def test_it_is_evaluated_like_any_teacher(frozen: tuple[Path, Path]) -> None:
    command = ["evaluate", str(frozen[0]), "--views=quick", "--workers=0", "--timed_videos=0", "--pictures=0"]
    assert main(command) == 0
    assert (frozen[0] / "results.json").is_file()


def test_what_cannot_be_frozen_is_refused(
    prepared: Path, teacher_runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = freeze(prepared, teacher_runs["motion"], tmp_path / "cache", tmp_path / "run")
    assert "weights are random" in refused(capsys, *command, "--init=none")
    assert "mixes no clips" in refused(capsys, *command, "--optim.mixup=0.2")
    assert not (tmp_path / "run").exists()
    state = timm.create_model("test_resnet").state_dict()
    name = next(name for name in state if name.endswith("running_var"))
    torch.save(state | {name: -state[name]}, tmp_path / "damaged.pth")  # finite, but the features are not
    assert "features are not finite" in refused(capsys, *command, f"--init={tmp_path / 'damaged.pth'}")
    video = [*command[:2], "--backbone=video:r3d_18", *command[3:], "--init=none", "--freeze=true"]
    assert "video:r3d_18" in refused(capsys, *video, f"--init={teacher_runs['motion']}")


@pytest.mark.parametrize("backbone", ["deit_tiny_distilled_patch16_224", "levit_128s"])
def test_a_backbone_with_two_classifiers_is_not_frozen(backbone: str) -> None:
    with torch.device("meta"):
        network = Network(NetworkSpec(("iframe",), backbone, 5, 224))
    with pytest.raises(ConfigError, match=f"{backbone} does more than a linear classification"):
        freeze_body(network)


def test_equal_weights_of_another_architecture_are_another_body() -> None:
    """Both have the same names and shapes; tf_ pads in another way."""
    names = ("efficientnet_lite0", "tf_efficientnet_lite0", "tf_efficientnet_lite0.in1k")
    networks = [Network(NetworkSpec(("iframe",), name, 5, 32)).eval() for name in names]
    for network in networks[1:]:
        network.load_state_dict(networks[0].state_dict())
    one, other, tagged = map(body_sha256, networks)
    assert one != other == tagged
    streams = random_streams("iframe")
    first, second, third = (network(streams) for network in networks)
    assert not torch.allclose(first, second)
    assert torch.equal(second, third)
