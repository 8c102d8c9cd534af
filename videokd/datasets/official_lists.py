"""The split lists that UCF101 and HMDB51 come with."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from videokd.datasets.class_names import HMDB51_CLASSES
from videokd.errors import DataError

Part = Literal["train", "test", "unused"]
Splits = tuple[Part, Part, Part]
Lists = Sequence[Mapping[str, Part]]

NUM_SPLITS = 3


def read_ucf101_lists(folder: Path) -> Lists:
    """For each split {`clip_key`: part}, from trainlist01.txt … testlist03.txt.

    Raises:
        DataError: a list is missing.
    """
    splits: list[dict[str, Part]] = []
    for split in range(1, NUM_SPLITS + 1):
        parts: dict[str, Part] = {}
        for part in ("train", "test"):
            for line in _lines(folder / f"{part}list{split:02d}.txt"):
                name = re.sub(r"\s+\d+$", "", line)  # training lists add the label
                parts[clip_key(Path(name).parent.name, Path(name))] = part  # type: ignore[assignment]
        splits.append(parts)
    return splits


def read_hmdb51_lists(folder: Path) -> Lists:
    """For each split {`clip_key`: part}, from `<class>_test_split<1|2|3>.txt`.

    Raises:
        DataError: a list is missing, or a line ends in another flag than 0, 1, 2.
    """
    flags: Mapping[str, Part] = {"0": "unused", "1": "train", "2": "test"}
    splits: list[dict[str, Part]] = []
    for split in range(1, NUM_SPLITS + 1):
        parts: dict[str, Part] = {}
        for name in HMDB51_CLASSES:
            path = folder / f"{name}_test_split{split}.txt"
            for line in _lines(path):
                clip, _, flag = line.rpartition(" ")
                if flag not in flags:
                    raise DataError(f"{path}: the line {line!r} (accepted: <clip>.avi 0|1|2). Fetch the lists again.")
                parts[clip_key(name, Path(clip))] = flags[flag]
        splits.append(parts)
    return splits


def clip_key(class_name: str, path: Path) -> str:
    """What a clip is known by in lists: class and name.

    Neither case nor suffix count: the release spells HandstandPushups in two ways, and clips may have been re-encoded.

    >>> clip_key("HandstandPushups", Path("v_HandStandPushups_g01_c01.avi"))
    'handstandpushups/v_handstandpushups_g01_c01'
    """
    return f"{class_name}/{path.stem}".lower()


def listed_splits(root: Path, classes: Mapping[str, Sequence[Path]], lists: Lists) -> dict[Path, Splits]:
    """Each clip's part in each split; "unused" where a list does not name it.

    Args:
        root: of the dataset, for messages.
        classes: {class: its clips}.
        lists: for each split {`clip_key`: part}.

    Raises:
        DataError: clips that the lists name are not there.
    """
    keys = {path: clip_key(name, path) for name, paths in classes.items() for path in paths}
    missing = sorted({key for parts in lists for key in parts} - set(keys.values()))
    if missing:
        raise DataError(
            f"{root}: {len(missing)} listed clips are missing (first: {missing[0]}). "
            "Complete the download, or use the layout `folder` for a part of the dataset."
        )
    return {path: tuple(parts.get(key, "unused") for parts in lists) for path, key in keys.items()}  # type: ignore[misc]


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(f"{path}: no such list. Name the folder with all of the dataset's split lists.") from error
    return [line.strip() for line in text.splitlines() if line.strip()]
