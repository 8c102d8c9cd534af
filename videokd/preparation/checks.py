"""Checks that results on a dataset will be right, and the CSV files that `prepare` writes: plan, failures and findings.

No clip is missing, nothing is in training and test at once, and the encoding does not give the class away.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath

import numpy as np
import numpy.typing as npt

from videokd.codec.index import VideoIndex
from videokd.datasets.manifest import Clip
from videokd.datasets.splits import NUM_SPLITS, Splits
from videokd.jobs.failures import write_csv
from videokd.preparation.clip_names import grouping_clue, grouping_warning, part_names_warning
from videokd.preparation.groups_file import GroupsFile
from videokd.preparation.listing import Listing

FINDINGS_NAME = "findings.csv"
_PLAN_COLUMNS = ("path", "label", "class_name", "group", "split1", "split2", "split3")

#: Properties of an encoding that can be made equal for all clips; the size also depends on the content.
FORM = ("gop", "b_frames", "frame_rate")
_FEATURES = (*FORM, "bytes")
_BINS = 16
_FLAT = 0.05  # share of a flat distribution mixed into each histogram
_MOST_CLIPS = 50_000  # of a larger dataset, a sample is checked for codec leaks


@dataclass(frozen=True)
class Finding:
    """One problem of a dataset.

    Args:
        check: class_counts, duplicates, groups, codec_leak, or where: the clip was left out by a condition.
        what: the class, clip, group or part that has the problem.
        detail: one sentence.
    """

    check: str
    what: str
    detail: str


def check_clips(
    clips: Sequence[Clip], class_names: Sequence[str], *, official: Mapping[str, int] | None = None
) -> tuple[dict[str, object], list[Finding]]:
    """Looks for problems of a prepared dataset that would make results on it wrong.

    Args:
        clips: the dataset's clips.
        class_names: the name of each label.
        official: {class: number of clips}, for a published dataset.

    Returns:
        Figures for the manifest's settings, where "warnings" has one line for each check that found something; and all
        findings.
    """
    counts = _class_counts(clips, class_names, official)
    duplicates = _duplicates(clips)
    across = sum(finding.check == "duplicates" for finding in duplicates)
    groups = _divided_groups((clip.group, (clip.split1, clip.split2, clip.split3)) for clip in clips)
    leak, leaks = _codec_leak(clips, len(class_names)) if class_names else ({}, [])
    warnings = [finding.detail for finding in leaks]
    if counts and official is not None:
        warnings.insert(0, f"{len(clips)} clips, not the official {sum(official.values())}: {counts[0].detail}")
    if duplicates:
        warnings.append(f"{len(duplicates)} clips are copies of another clip, byte for byte: {duplicates[0].detail}")
    if groups:
        warnings.append(_divided_message(groups))
    figures: dict[str, object] = {
        "clips": len(clips),
        "official_clips": None if official is None else sum(official.values()),
        "duplicates": across,
        "divided_groups": len(groups),
        "codec_leak": leak,
        "warnings": warnings,
    }
    return figures, [*counts, *duplicates, *groups, *leaks]


def check_listing(listing: Listing, *, groups: Path | str | None = None, grouped: bool = False) -> list[str]:
    """Looks for problems that would make results on a folder of clips wrong, from names only, before `prepare` starts.

    Args:
        listing: the dataset on disk, with the layout `folder`.
        groups: the CSV file that gives its groups.
        grouped: whether groups were given, by that file or by a pattern.

    Returns:
        One line for each problem.
    """
    warnings = []
    paths = [clip.path for clip in listing.clips]
    if groups is not None:
        unknown = GroupsFile.read(Path(groups)).unknown_paths(paths)
        if unknown:
            warnings.append(
                f"{groups} lists {len(unknown)} clips that do not exist, or do not have the suffix of a video (first: {unknown[0]})."
            )
    if not grouped:
        clue = grouping_clue(paths, [clip.class_name for clip in listing.clips])
        divided_by_folders = len({clip.splits for clip in listing.clips} & {("train",) * 3, ("test",) * 3}) == 2
        parts: dict[PurePath, str] = {clip.path: clip.splits[0] for clip in listing.clips}
        warnings += [] if clue is None else [grouping_warning(clue, parts if divided_by_folders else None)]
    part_names = part_names_warning(paths)
    warnings += [] if part_names is None else [part_names]
    tested = {clip.class_name for clip in listing.clips if "test" in clip.splits}
    untested = [name for name in listing.class_names if name not in tested]
    if untested and tested:
        warnings.append(
            f"{len(untested)} of {len(listing.class_names)} classes have no test clips (first: {untested[0]})."
        )
    divided = _divided_groups((clip.group, clip.splits) for clip in listing.clips)
    return warnings + ([_divided_message(divided)] if divided else [])


def write_plan(listing: Listing, path: Path | str) -> Path:
    """Writes the clips that `prepare` would make, from names only.

    Args:
        listing: the dataset on disk.
        path: the CSV file, with the columns path, label, class_name, group, split1, split2, split3.

    Returns:
        The file.

    Raises:
        DataError: the file cannot be written.
    """
    rows = ((c.path.as_posix(), c.label, c.class_name, c.group, *c.splits) for c in listing.clips)
    return write_csv(path, _PLAN_COLUMNS, rows)


def write_findings(path: Path, findings: Sequence[Finding]) -> None:
    """Writes the findings, one line each; if there are none, the CSV file is removed.

    Args:
        path: the CSV file.
        findings: from `check_clips`.

    Raises:
        DataError: the file cannot be written.
    """
    path.unlink(missing_ok=True)
    if findings:
        write_csv(path, ("check", "what", "detail"), ((f.check, f.what, f.detail) for f in findings))


def class_accuracy(
    values: npt.NDArray[np.float64], labels: npt.NDArray[np.int64], groups: npt.NDArray[np.int64]
) -> float:
    """How well a few numbers of a clip predict its class: the mean over classes of the share predicted correctly.

    A naive Bayes classifier with up to 16 quantile bins for each number and a uniform prior; each clip is predicted from
    the clips of all other groups. Numbers that carry no information give 1 / K.

    Args:
        values: [N, features].
        labels: int64 [N].
        groups: int64 [N], from 0; a group lies within one class.

    >>> labels, groups = np.arange(40) % 2, np.arange(40)
    >>> class_accuracy(labels[:, None] * 1.0, labels, groups), class_accuracy(np.ones((40, 1)), labels, groups)
    (1.0, 0.5)
    """
    classes, labels = np.unique(labels, return_inverse=True)
    in_class = np.bincount(labels)
    in_group = np.bincount(groups)
    score = np.zeros((len(labels), len(classes)))
    own = np.arange(len(labels)), labels
    for column in values.T:
        edges = np.unique(column)
        if len(edges) > _BINS:
            edges = np.unique(np.quantile(column, np.linspace(0, 1, _BINS + 1)[1:-1], method="nearest"))
        bins = np.unique(np.searchsorted(edges, column), return_inverse=True)[1]
        by_class = _histograms(labels, bins)
        by_group = _histograms(groups, bins)
        share = by_class[:, bins].T / in_class  # [N, K]
        others = np.maximum(in_class[labels] - in_group[groups], 1)
        share[own] = (by_class[labels, bins] - by_group[groups, bins]) / others
        # A flat distribution is mixed in; adding counts instead would favour classes with more clips
        score += np.log((1 - _FLAT) * share + _FLAT / (bins.max() + 1))
    correct = score.argmax(1) == labels
    return float(np.mean(np.bincount(labels, weights=correct) / in_class))


def _class_counts(
    clips: Sequence[Clip], class_names: Sequence[str], official: Mapping[str, int] | None
) -> list[Finding]:
    if official is None:
        return []
    found = Counter(clip.class_name for clip in clips)
    return [
        Finding("class_counts", name, f"{name} has {found[name]} clips, officially {official[name]}.")
        for name in class_names
        if found[name] != official[name]
    ]


def _duplicates(clips: Sequence[Clip]) -> list[Finding]:
    """Sources with the same content; each finding names a clip and the first clip with that content."""
    first: dict[str, Clip] = {}
    findings = []
    for clip in clips:
        other = first.setdefault(clip.source_sha256, clip)
        if other is clip:
            continue
        apart = [s for s in range(1, NUM_SPLITS + 1) if {clip.part(s), other.part(s)} == {"train", "test"}]
        where = f"in training and test of split {', '.join(map(str, apart))}" if apart else "in the same parts"
        labels = "" if clip.label == other.label else f", labelled {clip.class_name} and {other.class_name}"
        findings.append(
            Finding(
                "duplicates",
                _source_name(clip),
                f"{_source_name(clip)} is the same as {_source_name(other)} ({where}{labels}).",
            )
        )
    return findings


def _source_name(clip: Clip) -> str:
    return clip.source_path or PurePosixPath(clip.path).name


def _divided_groups(rows: Iterable[tuple[str, Splits]]) -> list[Finding]:
    """Groups that are in training and test of one split; `rows` has the group and the parts of each clip."""
    parts: dict[str, list[set[str]]] = defaultdict(lambda: [set() for _ in range(NUM_SPLITS)])
    for group, splits in rows:
        for found, part in zip(parts[group], splits, strict=True):
            found.add(part)
    return [
        Finding("groups", group, f"{group} is in training and test of split {split}.")
        for split in range(1, NUM_SPLITS + 1)
        for group, found in parts.items()
        if {"train", "test"} <= found[split - 1]
    ]


def _divided_message(findings: Sequence[Finding]) -> str:
    groups = len({finding.what for finding in findings})
    subject = "1 group is" if groups == 1 else f"{groups} groups are"
    return f"{subject} divided between training and test: {findings[0].detail}"


def _codec_leak(clips: Sequence[Clip], num_classes: int) -> tuple[dict[str, object], list[Finding]]:
    """How well the encoding predicts the class of clips of other groups, for the sources and for the prepared clips."""
    chosen = clips[:: -(-len(clips) // _MOST_CLIPS) or 1]
    labels = np.array([clip.label for clip in chosen], dtype=np.int64)
    names = {name: number for number, name in enumerate(dict.fromkeys((c.label, c.group) for c in chosen))}
    groups = np.array([names[clip.label, clip.group] for clip in chosen], dtype=np.int64)
    chance = 1 / num_classes
    figures: dict[str, object] = {"chance": round(chance, 4), "groups": len(names)}
    findings = []
    # Above chance by three standard errors (each group is one guess), and by enough to matter
    limit = max(1.5 * chance, chance + 3 * float(np.sqrt(chance * (1 - chance) / max(len(names), 1))))
    for part, table in (("sources", _source_form(chosen)), ("results", _result_form(chosen))):
        if table is None:
            continue
        columns = {name: table[:, [number]] for number, name in enumerate(_FEATURES)}
        columns["form"] = table[:, : len(FORM)]
        accuracy = {name: class_accuracy(values, labels, groups) for name, values in columns.items()}
        figures[part] = {name: round(value, 4) for name, value in accuracy.items()}
        if accuracy["form"] > limit:
            findings.append(Finding("codec_leak", part, _leak_message(part, accuracy["form"], chance)))
    return figures, findings


def _leak_message(part: str, accuracy: float, chance: float) -> str:
    found = (
        f"codec leak: GOP length, B-frames and frame rate of the {part} predict the class of {100 * accuracy:.1f}% of the "
        f"clips of other groups (chance {100 * chance:.1f}%)"
    )
    if part == "sources":
        return f"{found}: never train on the files as they are; even after transcoding, traces may remain."
    return f"{found}: a network can learn that instead of the action. Prepare without --keep, with --frame-rate 25."


def _source_form(clips: Sequence[Clip]) -> npt.NDArray[np.float64] | None:
    """[N, features]; None where the manifest does not say how the sources were encoded."""
    if not all(clip.source_codec for clip in clips):
        return None
    rows = [
        (clip.source_gop, clip.source_b_frames, clip.source_frame_rate, clip.source_bytes / clip.num_frames)
        for clip in clips
    ]
    return np.array(rows, dtype=np.float64)


def _result_form(clips: Sequence[Clip]) -> npt.NDArray[np.float64]:
    rows = []
    for clip in clips:
        index = VideoIndex.from_json(clip.index)
        # The longest GOP, not the mean: the last GOP is cut off where the clip ends, so a mean would give its length away
        lengths = [len(positions) for positions in index.anchors]
        b_frames = sum(index.types.count(kind) for kind in "Bb") / clip.num_frames
        rows.append((max(lengths), b_frames, index.frame_rate, clip.bytes / clip.num_frames))
    return np.array(rows, dtype=np.float64)


def _histograms(rows: npt.NDArray[np.int64], bins: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """[rows, bins]: how often each bin occurs in each row."""
    counts = np.zeros((rows.max() + 1, bins.max() + 1))
    np.add.at(counts, (rows, bins), 1)
    return counts
