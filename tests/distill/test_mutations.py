"""Are the tests awake? Each loss is broken on purpose, and the test named beside it must notice."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from videokd.distill import feature_losses, losses

pytestmark = pytest.mark.slow

NO_GRADIENT, HALF = "no_gradient_reaches", "half_precision"
# What reduction="mean" means in PyTorch today; it is to become the same as "batchmean"
MEAN = ('"batchmean", log_target=True)', '"batchmean", log_target=True) / log_student.shape[1]')

# (the file of the tests that may notice, a piece of losses.py or feature_losses.py, what it is broken to, which of the tests)
BREAKS = {
    "kd without detach": ("losses", "log_target = F.log_softmax(widen(target.detach())", "log_target = F.log_softmax(widen(target)", NO_GRADIENT),
    "mutual without detach": ("losses", "widen(peer.detach())", "widen(peer)", NO_GRADIENT),
    "hint without detach": ("losses", "widen(deepest.detach())", "widen(deepest)", NO_GRADIENT),
    "kd without T²": ("losses", "temperature**2 * divergence", "divergence", "kd_loss_equals_numpy"),
    "mean over samples and classes": ("losses", *MEAN, "kd_loss_equals_numpy"),
    "mutual: mean over samples and classes": ("losses", *MEAN, "mutual_loss_of_two_by_hand"),
    "target and student exchanged": (
        "losses",
        "F.kl_div(log_student, log_target,",
        "F.kl_div(log_target, log_student,",
        "kd_loss_equals_numpy",
    ),
    "half precision before T": ("losses", "values.to(torch.promote_types(values.dtype, torch.float32))", "values", HALF),
    "hint over the whole batch": ("losses", "return distance.mean()", "return distance.norm()", "hint_loss_equals_numpy"),
    "exits' γ on the wrong side": ("losses", "(1 - gamma) * cross", "gamma * cross", "self_distillation_equals"),
    "dist without detach": ("target_losses", "q = F.softmax(widen(target.detach())", "q = F.softmax(widen(target)", NO_GRADIENT),
    "dkd without detach": ("target_losses", "(widen(student), widen(target.detach()))", "(widen(student), widen(target))", NO_GRADIENT),
    "dist without T²": ("target_losses", "return temperature**2 * loss", "return loss", "dist_loss_equals_numpy"),
    "dkd without T²": ("target_losses", "return temperature**2 * (in_target", "return (in_target", "dkd_loss_equals_numpy"),
    "pseudo-labels' mean over those that pass": (
        "target_losses",
        "0.0, each).mean()",
        "0.0, each).sum() / (probability >= confidence).sum().clamp(min=1)",
        "pseudo_label_loss_equals_numpy",
    ),
    "pseudo-labels' threshold on the student": (
        "target_losses",
        "return torch.where(probability < confidence",
        "return torch.where(each.neg().exp() < confidence",
        "pseudo_label_loss_equals_numpy",
    ),
    "dist not centred": ("target_losses", "p = p - p.mean(dim=dim, keepdim=True)", "pass", "dist_loss_equals_numpy"),
    "deviation over the batch": (
        "target_losses",
        "F.layer_norm(widen(logits), logits.shape[1:], eps=1e-8)",
        "F.layer_norm(widen(logits), logits.shape, eps=1e-8)",
        "standardise_equals_numpy",
    ),
    "features without detach": ("feature_losses", "widen(adapted), widen(teacher.detach())", "widen(adapted), widen(teacher)", NO_GRADIENT),
    "relations without detach": ("feature_losses", "_relations(widen(teacher.detach()))", "_relations(widen(teacher))", NO_GRADIENT),
    "l2 to the teacher's own size": ("feature_losses", "F.rms_norm(theirs, theirs.shape[1:], eps=1e-8)", "theirs", "l2_equals_numpy"),
    "the student at size 1 too": ("feature_losses", "F.mse_loss(own, ", "F.mse_loss(F.rms_norm(own, own.shape[1:]), ", "l2_equals_numpy"),
    "as many angles as distances": ("feature_losses", "_ANGLES = 2.0", "_ANGLES = 1.0", "relation_loss_equals_numpy"),
    "distances squared": ("feature_losses", "F.smooth_l1_loss(distances, t", "F.mse_loss(distances, t", "a_distance_beyond_one"),
    "distances not divided by their mean": ("feature_losses", "return distances / mean", "return distances", "relation_loss_equals_numpy"),
    "a clip's distance to itself counted": ("feature_losses", ".div(num_clips * (num_clips - 1))", ".div(num_clips**2)", "relation_loss_equals_numpy"),
    "angles with two equal ends counted": ("feature_losses", " & others.unsqueeze(0)", "", "only_triples_of_different"),
    "a clip's pair with itself counted": ("feature_losses", "summed / (count * (count - 1))", "summed / count**2", "relation_loss_equals_numpy"),
    "triples with a clip twice counted": ("feature_losses", "(count - 1) * (count - 2)", "count**2", "relation_loss_equals_numpy"),
    "directions between equal clips": ("feature_losses", "torch.where(apart, distances, mean)", "distances.clamp(min=1e-12)", "clips_that_are_alike"),
}  # fmt: skip


def load(name: str, path: Path, source: str) -> ModuleType:
    spec = importlib.util.spec_from_loader(name, loader=None)
    module = importlib.util.module_from_spec(spec)
    module.__file__ = str(path)
    exec(compile(source, str(path), "exec"), module.__dict__)
    return module


def outcome(monkeypatch, test_file: str, old: str, new: str, wanted: str) -> list[bool]:
    """Whether each test whose name holds `wanted` passes when the losses have `new` in the place of `old`."""
    original = feature_losses if test_file == "feature_losses" else losses
    source = Path(original.__file__).read_text(encoding="utf-8")
    assert source.count(old) == 1, f"{old!r} is no longer in {original.__file__}, or more than once"
    broken = load(original.__name__, Path(original.__file__), source.replace(old, new))
    path = Path(__file__).with_name(f"test_{test_file}.py")
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, original.__name__, broken)
        tests = load("tests_on_a_broken_loss", path, path.read_text(encoding="utf-8"))
    passed = []
    for name, test in vars(tests).items():
        if not name.startswith("test_") or wanted not in name or any(m.name == "gpu" for m in marks(test)):
            continue
        for arguments in arguments_of(test):
            try:
                test(**arguments)
                passed.append(True)
            except (AssertionError, RuntimeError, TypeError):
                passed.append(False)
    return passed


def marks(test) -> list[pytest.Mark]:
    return getattr(test, "pytestmark", [])


def arguments_of(test) -> list[dict]:
    """The keywords of each case of a test with at most one parameter."""
    parameters = [mark.args for mark in marks(test) if mark.name == "parametrize"]
    return [{parameters[0][0]: value} for value in parameters[0][1]] if parameters else [{}]


def test_nothing_broken_nothing_noticed(monkeypatch):
    same = "from __future__ import annotations"
    for test_file, wanted in sorted({(test_file, wanted) for test_file, _, _, wanted in BREAKS.values()}):
        passed = outcome(monkeypatch, test_file, same, same, wanted)
        assert passed
        assert all(passed)


@pytest.mark.parametrize(("test_file", "old", "new", "wanted"), BREAKS.values(), ids=BREAKS)
def test_a_broken_loss_is_noticed(monkeypatch, test_file, old, new, wanted):
    passed = outcome(monkeypatch, test_file, old, new, wanted)
    assert passed
    assert not all(passed)
