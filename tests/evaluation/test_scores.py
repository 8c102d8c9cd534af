from __future__ import annotations

import math
from dataclasses import astuple
from pathlib import Path

import numpy as np
import pytest

from videokd.errors import DataError
from videokd.evaluation.exits import early_exit_scores
from videokd.evaluation.metrics import metrics, paired_difference, top1
from videokd.evaluation.results import ClassAccuracy, Interval
from videokd.evaluation.scores import Scores, align

IDS = ("a", "b", "c")
LOGITS = np.array([[2, 1, 0], [0, 3, 1], [1, 0, 0]], np.float32)
LABELS = np.array([0, 1, 2])


def random_scores(videos: int = 60, classes: int = 7, *, seed: int = 0, skill: float = 1.5) -> Scores:
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes - 1, size=videos)  # the last class has no video
    logits = rng.normal(size=(videos, classes)) + skill * np.eye(classes)[labels]
    return Scores(logits.astype(np.float32), labels, tuple(f"v{number}" for number in range(videos)))


def softmax(row: np.ndarray) -> list[float]:
    powers = [math.exp(float(value) - float(row.max())) for value in row]
    return [power / sum(powers) for power in powers]


def slow_metrics(scores: Scores, rows: list[int]) -> dict[str, float]:
    """The definitions as loops over the videos in `rows`, which may come more than once."""
    top1, top5, by_class, bins = [], [], {}, {}
    for row in rows:
        label, logits = int(scores.labels[row]), scores.logits[row]
        order = sorted(range(len(logits)), key=lambda k: -float(logits[k]))
        probabilities = softmax(logits)
        top1.append(order[0] == label)
        top5.append(label in order[:5])
        by_class.setdefault(label, []).append(top1[-1])
        bins.setdefault(int(max(probabilities) * 15), []).append((top1[-1], max(probabilities)))
    error = 0.0
    for members in bins.values():
        error += abs(sum(hit for hit, _ in members) - sum(confidence for _, confidence in members)) / len(rows)
    return {
        "top1": sum(top1) / len(rows),
        "top5": sum(top5) / len(rows),
        "mean_class": sum(sum(hits) / len(hits) for hits in by_class.values()) / len(by_class),
        "calibration_error": error,
    }


def test_saved_scores_come_back(tmp_path: Path) -> None:
    scores = random_scores()
    path = scores.save(tmp_path / "run" / "scores-fused.npz")
    again = Scores.load(path)
    np.testing.assert_array_equal(again.logits, scores.logits)
    np.testing.assert_array_equal(again.labels, scores.labels)
    assert again.video_ids == scores.video_ids
    assert [file.name for file in path.parent.iterdir()] == ["scores-fused.npz"]
    with np.load(path, allow_pickle=False) as arrays:
        assert sorted(arrays.files) == ["labels", "logits", "video_ids"]


def test_a_missing_file_names_the_next_step(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.npz is not there. Run `videokd evaluate RUN`"):
        Scores.load(tmp_path / "none.npz")


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.npz").write_text("not an archive")
    (tmp_path / "empty.npz").touch()
    np.savez(tmp_path / "other.npz", values=np.zeros(3))
    np.savez(tmp_path / "objects.npz", logits=LOGITS, labels=LABELS, video_ids=np.array([{}, {}, {}]))
    with (tmp_path / "single.npz").open("wb") as file:
        np.save(file, LOGITS)
    (tmp_path / "cut.npz").write_bytes(random_scores().save(tmp_path / "whole.npz").read_bytes()[:200])
    for name in ("text", "empty", "other", "objects", "single", "cut"):
        with pytest.raises(
            DataError, match=rf"{name}\.npz is not a scores file \(accepted: \.npz with logits"
        ) as caught:
            Scores.load(tmp_path / f"{name}.npz")
        assert "\n" not in str(caught.value)


def test_a_file_whose_arrays_do_not_fit_is_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "s.npz", logits=LOGITS, labels=LABELS[:2], video_ids=np.array(IDS))
    with pytest.raises(DataError, match=r"s\.npz: labels are int64\[2\] \(accepted: int64 \[3\]\)"):
        Scores.load(tmp_path / "s.npz")


@pytest.mark.parametrize(
    ("logits", "labels", "video_ids", "message"),
    [
        (LOGITS[0], LABELS, IDS, r"logits are float32\[3\] \(accepted: float32 \[N, K\]"),
        (LOGITS.astype(np.float64), LABELS, IDS, r"logits are float64\[3, 3\]"),
        (LOGITS[:, :1], LABELS, IDS, r"logits are float32\[3, 1\]"),
        (LOGITS, LABELS.astype(np.int32), IDS, r"labels are int32\[3\] \(accepted: int64 \[3\]\)"),
        (LOGITS, LABELS, IDS[:2], r"2 video ids for 3 rows of logits"),
        (LOGITS, LABELS + 1, IDS, r"labels lie in \[1, 3\] \(accepted: 0 to 2\)"),
        (LOGITS, LABELS - 1, IDS, r"labels lie in \[-1, 1\] \(accepted: 0 to 2\)"),
        (LOGITS * np.array([[1], [np.nan], [1]], np.float32), LABELS, IDS, r"the logits of b are not finite"),
        (LOGITS, LABELS, ("a", "b", "a"), r"more than one row of logits for a \(accepted: each video once\)"),
    ],
)
def test_what_does_not_fit_is_refused(logits, labels, video_ids, message) -> None:
    with pytest.raises(DataError, match=message):
        Scores(logits, labels, video_ids)


def test_repr_shows_shapes() -> None:
    assert repr(Scores(LOGITS, LABELS, IDS)) == "Scores(logits=float32[3, 3], labels=int64[3], video_ids=3 names)"


def test_align_puts_every_row_beside_its_own() -> None:
    a = random_scores()
    order = np.random.default_rng(1).permutation(len(a))
    b = Scores(a.logits[order] + 1, a.labels[order], tuple(a.video_ids[row] for row in order))
    aligned = align({"a": a, "b": b})
    assert list(aligned) == ["a", "b"]
    assert aligned["b"].video_ids == a.video_ids
    np.testing.assert_array_equal(aligned["b"].logits, a.logits + 1)
    np.testing.assert_array_equal(aligned["b"].labels, a.labels)


def test_align_names_what_differs() -> None:
    a = Scores(LOGITS, LABELS, IDS)
    with pytest.raises(DataError, match=r"iframe and motion: 2 videos are in only one of them \(c, d\)"):
        align({"iframe": a, "motion": Scores(LOGITS, LABELS, ("a", "b", "d"))})
    with pytest.raises(DataError, match=r"iframe and motion: 1 labels differ \(c\)"):
        align({"iframe": a, "motion": Scores(LOGITS, np.array([0, 1, 1]), IDS)})
    wider = Scores(np.zeros((3, 4), np.float32), LABELS, IDS)
    with pytest.raises(DataError, match=r"scores of iframe have 3 classes, those of motion 4"):
        align({"iframe": a, "motion": wider})
    many = random_scores(10)
    renamed = Scores(many.logits, many.labels, tuple(f"w{number}" for number in range(10)))
    with pytest.raises(DataError, match=r"20 videos are in only one of them \(v0, v1, v2 and 17 more\)"):
        align({"a": many, "b": renamed})


@pytest.mark.parametrize("classes", [2, 4, 7])
def test_point_metrics_equal_loops(classes: int) -> None:
    scores = random_scores(classes=classes)
    result = metrics(scores, bootstrap=10)
    for name, value in slow_metrics(scores, list(range(len(scores)))).items():
        assert getattr(result, name).value == pytest.approx(value, abs=1e-6), name
    confusion = [[0] * classes for _ in range(classes)]
    for label, logits in zip(scores.labels, scores.logits, strict=True):
        confusion[label][max(range(classes), key=lambda k: logits[k])] += 1
    assert result.confusion == tuple(map(tuple, confusion))
    assert result.per_class[str(classes - 1)] == ClassAccuracy(None, 0)
    assert result.per_class["0"].accuracy == pytest.approx(confusion[0][0] / sum(confusion[0]))
    assert result.per_class["0"].videos == sum(confusion[0])
    assert result.num_videos == 60


@pytest.mark.parametrize("grouped", [False, True])
def test_intervals_equal_resampling_with_loops(grouped: bool) -> None:
    scores = random_scores()
    groups = [f"g{number % 9}" for number in range(60)] if grouped else None
    clusters: dict[str, list[int]] = {}
    for row, name in enumerate(groups or scores.video_ids):
        clusters.setdefault(name, []).append(row)
    rng = np.random.default_rng(5)
    resampled = []
    for _ in range(1500):
        drawn = rng.integers(len(clusters), size=len(clusters))
        names = list(clusters)
        resampled.append(slow_metrics(scores, [row for number in drawn for row in clusters[names[number]]]))
    result = metrics(scores, groups=groups, bootstrap=4000, seed=3)
    for name in ("top1", "top5", "mean_class", "calibration_error"):
        low, high = np.percentile([values[name] for values in resampled], (2.5, 97.5))
        assert getattr(result, name).low == pytest.approx(low, abs=0.02), name
        assert getattr(result, name).high == pytest.approx(high, abs=0.02), name
    assert result.intervals_over == ("groups" if grouped else "videos")
    assert result.interval_units == (len(set(groups)) if grouped else len(scores))


def test_a_seed_gives_the_same_intervals_and_one_group_gives_no_width() -> None:
    scores = random_scores()
    assert metrics(scores, bootstrap=100, seed=4) == metrics(scores, bootstrap=100, seed=4)
    assert metrics(scores, bootstrap=100, seed=4) != metrics(scores, bootstrap=100, seed=5)
    top1 = metrics(scores, groups=["g"] * 60, bootstrap=20).top1
    assert top1.low == pytest.approx(top1.value)
    assert top1.high == pytest.approx(top1.value)


def test_a_model_that_is_always_right_is_right_in_every_resample() -> None:
    logits = np.array([[1, 0], [0, 1], [0, 1]], np.float32)
    result = metrics(Scores(logits, np.array([0, 1, 1]), IDS), bootstrap=200)
    for name in ("top1", "top5", "mean_class"):
        assert getattr(result, name) == Interval(1.0, 1.0, 1.0)


def test_certain_predictions_have_a_bin() -> None:
    scores = Scores(np.array([[200, 0], [200, 0]], np.float32), np.array([0, 1]), ("a", "b"))
    assert metrics(scores, bootstrap=10).calibration_error.value == pytest.approx(0.5)


def test_logits_between_0_and_1_are_not_taken_for_probabilities() -> None:
    scores = Scores(np.array([[1.0, 0.0]], np.float32), np.array([0]), ("a",))
    expected = 1 - 1 / (1 + math.exp(-1))
    assert metrics(scores, bootstrap=2).calibration_error.value == pytest.approx(expected)


def test_metrics_arguments_are_checked() -> None:
    scores = Scores(LOGITS, LABELS, IDS)
    with pytest.raises(ValueError, match="2 different class names for 3 classes"):
        metrics(scores, class_names=("run", "run", "jump"))
    with pytest.raises(ValueError, match="2 groups for 3 videos"):
        metrics(scores, groups=("g1", "g2"))
    with pytest.raises(ValueError, match="bootstrap is 0"):
        metrics(scores, bootstrap=0)


def test_paired_difference_by_hand() -> None:
    labels, ids = np.zeros(4, np.int64), ("a", "b", "c", "d")
    right, wrong = [1.0, 0.0], [0.0, 1.0]
    a = Scores(np.array([right, right, right, wrong], np.float32), labels, ids)
    b = Scores(np.array([wrong, right, wrong, wrong], np.float32)[::-1].copy(), labels, ids[::-1])
    difference = paired_difference(a, b, bootstrap=4000)
    assert difference.value == 0.5
    # Drawing 4 of {1, 0, 1, 0}: all zeros or all ones come in 1/16 of the draws, more than 2.5%.
    assert (difference.low, difference.high) == (0.0, 1.0)
    assert paired_difference(a, a) == Interval(0.0, 0.0, 0.0)
    grouped = paired_difference(a, b, ["g", "g", "h", "h"])
    assert grouped == Interval(0.5, 0.5, 0.5)  # each group gains half of its videos


def test_top1_is_that_of_the_metrics() -> None:
    scores = random_scores(40, 4)
    groups = [f"g{number % 7}" for number in range(40)]
    for given in (None, groups):
        assert astuple(top1(scores, given)) == pytest.approx(astuple(metrics(scores, groups=given).top1))


def test_each_video_takes_its_first_confident_exit() -> None:
    def of(*confidences):
        share = np.array(confidences)
        logits = np.log(np.stack([share, 1 - share], axis=1)).astype(np.float32)
        return Scores(logits, np.zeros(len(share), np.int64), ("a", "b", "c"))

    exits = {"exit1": of(0.95, 0.6, 0.7), "exit2": of(0.99, 0.95, 0.2), "deepest": of(0.4, 0.4, 0.4)}
    chosen, names = early_exit_scores(exits, threshold=0.9)
    assert names == ("exit1", "exit2", "deepest")
    assert np.exp(chosen.logits[:, 0]) == pytest.approx([0.95, 0.95, 0.4])
    assert early_exit_scores(exits, threshold=1.0)[1] == ("deepest",) * 3
    assert early_exit_scores(exits, threshold=0.0)[1] == ("exit1",) * 3
    other = Scores(exits["exit1"].logits, exits["exit1"].labels, ("c", "b", "a"))
    with pytest.raises(DataError, match="exits exit1 and deepest saw other videos"):
        early_exit_scores(exits | {"exit1": other}, threshold=0.5)
