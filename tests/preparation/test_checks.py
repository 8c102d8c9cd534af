from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from videokd.codec.index import VideoIndex
from videokd.datasets.manifest import Clip
from videokd.preparation.checks import check_clips, class_accuracy

CLASSES = ("hop", "run", "sit")


def clip(number: int, *, gop: int = 12, rate: float = 25.0) -> Clip:
    """Clip `number` of class number % 3, in a group of two, with a GOP length in source and result."""
    label, group = number % 3, number // 6
    types = "".join("I" if frame % gop == 0 else "P" for frame in range(30))
    keys = tuple((frame, frame, frame, None) for frame in range(0, 30, gop))
    seconds = tuple(frame / rate for frame in range(0, 30, gop))
    index = VideoIndex("mpeg4", 64, 48, rate, 30, types, (), seconds, keys, ())
    part = "test" if group % 2 else "train"
    return Clip(
        video_id=str(number),
        path=f"videos/{number}.mp4",
        label=label,
        class_name=CLASSES[label],
        group=f"{CLASSES[label]}/g{group}",
        split1=part,
        split2=part,
        split3=part,
        codec="mpeg4",
        width=64,
        height=48,
        num_frames=30,
        seconds=30 / rate,
        index=index.to_json(),
        source_sha256=f"{number:064d}",
        sha256=f"{number:064d}",
        bytes=3000 + 37 * (number * 7919 % 101),
        source_path=f"{CLASSES[label]}/{number}.avi",
        source_codec="mpeg4",
        source_frame_rate=rate,
        source_gop=float(gop),
        source_bytes=5000 + 41 * (number * 104729 % 97),
    )


@pytest.fixture
def clips() -> list[Clip]:
    return [clip(number) for number in range(90)]


def test_a_dataset_that_is_as_it_should_be(clips: list[Clip]) -> None:
    figures, findings = check_clips(clips, CLASSES, official=dict.fromkeys(CLASSES, 30))
    assert findings == []
    assert figures["warnings"] == []
    leak = figures["codec_leak"]
    assert leak["chance"] == 0.3333
    assert leak["sources"]["form"] == leak["results"]["form"] == 0.3333
    assert 0.15 < leak["results"]["bytes"] < 0.5


def test_class_counts(clips: list[Clip]) -> None:
    figures, findings = check_clips(clips[:-1], CLASSES, official=dict.fromkeys(CLASSES, 30))
    assert [(f.check, f.what, f.detail) for f in findings] == [
        ("class_counts", "sit", "sit has 29 clips, officially 30.")
    ]
    assert figures["warnings"] == ["89 clips, not the official 90: sit has 29 clips, officially 30."]


def test_duplicates_across_training_and_test(clips: list[Clip]) -> None:
    clips[6] = replace(clips[6], source_sha256=clips[0].source_sha256)
    clips[13] = replace(clips[13], source_sha256=clips[0].source_sha256)
    figures, findings = check_clips(clips, CLASSES)
    assert [f.detail for f in findings] == [
        "hop/6.avi is the same as hop/0.avi (in training and test of split 1, 2, 3).",
        "run/13.avi is the same as hop/0.avi (in the same parts, labelled run and hop).",
    ]
    assert figures["duplicates"] == 2
    assert "2 clips are copies of another clip, byte for byte: hop/6.avi" in figures["warnings"][0]


def test_divided_groups(clips: list[Clip]) -> None:
    clips[0] = replace(clips[0], split2="test")
    clips[4] = replace(clips[4], split3="unused")
    figures, findings = check_clips(clips, CLASSES)
    assert [f.detail for f in findings] == ["hop/g0 is in training and test of split 2."]
    assert figures["divided_groups"] == 1


@pytest.mark.parametrize("changed", [{"gop": (6, 10, 15)}, {"rate": (25.0, 15.0, 30.0)}])
def test_an_encoding_that_tells_the_class(changed: dict[str, tuple[float, ...]]) -> None:
    clips = [clip(n, **{name: values[n % 3] for name, values in changed.items()}) for n in range(90)]
    figures, findings = check_clips(clips, CLASSES)
    assert [f.what for f in findings] == ["sources", "results"]
    assert figures["codec_leak"]["results"]["form"] == 1.0
    assert (
        "of the sources predict the class of 100.0% of the clips of other groups (chance 33.3%): never"
        in findings[0].detail
    )
    assert "of the results predict the class of 100.0%" in findings[1].detail
    assert "Prepare without --keep, with --frame-rate 25" in findings[1].detail


def test_manifests_that_do_not_know_their_sources(clips: list[Clip]) -> None:
    figures, _ = check_clips([replace(one, source_codec="") for one in clips], CLASSES)
    assert set(figures["codec_leak"]) == {"chance", "groups", "results"}


def by_hand(values: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> float:
    """One integer feature, clip by clip: the class whose other groups have that number most often."""
    hits = {label: [] for label in set(labels)}
    for number, label in enumerate(labels):
        shares = {}
        for other in sorted(set(labels)):
            kept = values[(labels == other) & (groups != groups[number])]
            shares[other] = (kept == values[number]).mean()
        hits[label].append(max(shares, key=shares.get) == label)
    return float(np.mean([np.mean(found) for found in hits.values()]))


@pytest.mark.parametrize("seed", range(4))
def test_class_accuracy_equals_a_plain_loop(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, 160)
    groups = labels * 10 + rng.integers(0, 10, 160)
    values = (labels % 2 + rng.integers(0, 2, 160)) * 5
    groups = np.unique(groups, return_inverse=True)[1]
    assert class_accuracy(values[:, None] * 1.0, labels, groups) == pytest.approx(by_hand(values, labels, groups))


def test_a_group_known_by_heart_does_not_count() -> None:
    """Numbers that are the same within a group, and at random between groups, say nothing of new groups."""
    rng = np.random.default_rng(0)
    labels = np.arange(800) % 4
    groups = np.arange(800) // 32 * 4 + labels
    values = rng.normal(size=groups.max() + 1)[groups]
    assert class_accuracy(values[:, None], labels, groups) < 0.4
