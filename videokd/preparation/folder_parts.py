"""Whether the folders of a tree of clips are classes or the parts train, val and test. Only names are looked at."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from videokd.errors import DataError

_SPELLINGS = {
    "train": ("train", "trains", "training", "trn"),
    "val": ("val", "vals", "valid", "validation", "validate", "validating", "dev", "development", "eval", "evaluation"),
    "test": ("test", "tests", "testing", "tst"),
}
_PARTS = {spelling: part for part, spellings in _SPELLINGS.items() for spelling in spellings}
#: Words beside the name of a part that carry no meaning: train_set, ValData, Test_Videos.
_FILLERS = {"set", "sets", "data", "dataset", "split", "part", "subset", "video", "videos", "clip", "clips", "folder"}
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_FOLD = re.compile(r"(split|fold|cv)s?\W*_*\d+", re.IGNORECASE)
_ACCEPTED = (
    "accepted: train/<class>/<clip> with val or test beside it, <class>/train/<clip> likewise, or <class>/<clip>"
)


@dataclass(frozen=True)
class DividedTree:
    """A tree of clips that is divided into train, val and test by its folders.

    Args:
        classes: {class: its clips}.
        parts: {clip: train, val or test}.
        inner: True for class/part/clip, False for part/class/clip.
    """

    classes: Mapping[str, Sequence[Path]]
    parts: Mapping[Path, str]
    inner: bool


def part_of(name: str) -> str | None:
    """The part that a folder's name stands for, in the usual spellings and any case; None for other names.

    >>> [part_of(name) for name in ("Train", "validation", "test_set", "TestVideos", "train2017", "training_dog", "wave")]
    ['train', 'val', 'test', 'test', 'train', None, None]
    """
    words = [word for word in _words(name) if word not in _FILLERS]
    return _PARTS.get(words[0]) if len(words) == 1 and name.isascii() else None


def divided_tree(root: Path, folders: Mapping[str, Sequence[Path]]) -> DividedTree | None:
    """The tree with its parts; None for a tree whose folders are only classes.

    Args:
        root: the dataset's folder.
        folders: {folder in the root: the clips in it, at any depth}.

    Raises:
        DataError: the tree is ambiguous, lacks a part, or has clips outside of class folders.
    """
    filled = {name: paths for name, paths in folders.items() if paths}
    named = {name: part for name in filled if (part := part_of(name)) is not None}
    if named and not _train_is_a_class(root, filled, named):
        return _outer_parts(root, filled, named)
    _refuse_folds(root, filled)
    _refuse_parts_of_names(root, filled)
    return _inner_parts(root, filled)


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """A hint at the name that is closest to a misspelt one; an empty text where none is close.

    >>> did_you_mean("Jmp", ["Jump", "Run"]), did_you_mean("run", ["Jump", "Run"]), did_you_mean("Sit", ["Jump", "Run"])
    (' Did you mean Jump?', ' Did you mean Run?', '')
    """
    by_simple_name = {_simplified(other): other for other in names if other != name}
    close = difflib.get_close_matches(_simplified(name), by_simple_name, n=1)
    if not close:
        return ""
    meant = by_simple_name[close[0]]
    if unicodedata.normalize("NFC", name) == unicodedata.normalize("NFC", meant):
        return f" It looks like {meant}, but its accents are encoded differently (Unicode NFC and NFD)."
    return f" Did you mean {meant}?"


def _simplified(name: str) -> str:
    return re.sub(r"[\s_-]+", "", unicodedata.normalize("NFC", name).casefold())


def _words(name: str) -> list[str]:
    words = [word.lower() for word in _WORD.findall(name)]
    # "trainset" and "TRAINDATA" are two words
    split = (re.sub(r"^(train|val|valid|test|dev)(set|data)$", r"\1 \2", word) for word in words)
    return " ".join(split).split()


def _inside(root: Path, path: Path) -> tuple[str, ...]:
    """The folders between the root and a clip."""
    return path.relative_to(root).parts[:-1]


def _train_is_a_class(root: Path, filled: Mapping[str, Sequence[Path]], named: Mapping[str, str]) -> bool:
    """Whether `train` is the vehicle: the only folder named like a part, with clips directly in it, beside other classes."""
    lies_flat = all(len(_inside(root, path)) == 1 for name in named for path in filled[name])
    return [name.casefold() for name in named] in (["train"], ["trains"]) and len(filled) > 1 and lies_flat


def _outer_parts(root: Path, filled: Mapping[str, Sequence[Path]], named: Mapping[str, str]) -> DividedTree:
    shown = ", ".join(sorted(named))
    others = sorted(set(filled) - set(named))
    if others:
        raise DataError(
            f"{root}: {shown} may be parts of the dataset or classes, because there are folders with clips beside them: {_first_names(others)} ({_ACCEPTED}). "
            "Move clips that belong to a part into its class folders, rename a class, or move other folders out of the tree."
        )
    _check_parts(root, named)
    classes: dict[str, list[Path]] = defaultdict(list)
    parts: dict[Path, str] = {}
    for name, part in named.items():
        for path in filled[name]:
            inside = _inside(root, path)
            if len(inside) < 2:
                raise DataError(
                    f"{root}: {name}/{path.name} is not in a class folder ({_ACCEPTED}). Move it into {name}/<class>."
                )
            _refuse_deeper_parts(root, path, inside[1:])
            classes[inside[1]].append(path)
            parts[path] = part
    return DividedTree(classes, parts, inner=False)


def _inner_parts(root: Path, filled: Mapping[str, Sequence[Path]]) -> DividedTree | None:
    parts: dict[Path, str] = {}
    names: dict[str, str] = {}
    without = []
    for paths in filled.values():
        for path in paths:
            inside = _inside(root, path)
            part = part_of(inside[1]) if len(inside) > 1 else None
            _refuse_deeper_parts(root, path, inside[2:])
            if part is None:
                without.append(path)
            else:
                parts[path] = names[inside[1]] = part
    if not parts:
        return None
    if without:
        raise DataError(
            f"{root}: {next(iter(parts)).relative_to(root).as_posix()} is in a folder named like a part, and "
            f"{without[0].relative_to(root).as_posix()} is not ({len(without)} such clips; {_ACCEPTED}). "
            "Move all clips into such folders, or rename these folders."
        )
    _check_parts(root, names, of_class=True)
    return DividedTree({name: list(paths) for name, paths in filled.items()}, parts, inner=True)


def _check_parts(root: Path, named: Mapping[str, str], *, of_class: bool = False) -> None:
    """Checks that each part has one spelling, and that there are clips to train and to test on."""
    spelt: dict[str, set[str]] = defaultdict(set)
    for name, part in named.items():
        # Each class may spell its folders in its own case
        spelt[part].add(name.casefold() if of_class else name)
    for part, names in spelt.items():
        if len(names) > 1:
            raise DataError(
                f"{root}: {' and '.join(sorted(names))} both stand for {part} (accepted: one folder for each part). "
                "Move their clips into one, or move one out of the tree."
            )
    if set(spelt) == {"train"} and not of_class:
        raise DataError(
            f"{root} has only the part {next(iter(named))} (accepted: val or test beside it). Add one, or prepare "
            f"{root / next(iter(named))}, which is then split by groups."
        )
    if "train" not in spelt or len(spelt) < 2:
        given = ", ".join(sorted(named))
        raise DataError(
            f"{root} has only the part{'s' if len(named) > 1 else ''} {given} (accepted: train, and val or test). "
            "Add the others, or rename the folders if they are classes."
        )


def _refuse_deeper_parts(root: Path, path: Path, inside: Sequence[str]) -> None:
    deeper = next((name for name in inside if part_of(name) is not None), None)
    if deeper is not None:
        raise DataError(
            f"{path.relative_to(root).as_posix()}: {deeper} may be a part of the dataset ({_ACCEPTED}). "
            f"Prepare the folder that holds the parts, or rename {deeper}."
        )


def _refuse_folds(root: Path, filled: Mapping[str, Sequence[Path]]) -> None:
    if filled and all(_FOLD.fullmatch(name) for name in filled):
        raise DataError(
            f"{root}: {_first_names(sorted(filled))} look like splits of one dataset, not like classes ({_ACCEPTED}). "
            "Prepare one of them, or give the splits in a CSV file with --groups."
        )


def _refuse_parts_of_names(root: Path, filled: Mapping[str, Sequence[Path]]) -> None:
    """Refuses `ucf_train` beside `ucf_test`: names that are the same except for the part."""
    alike: dict[str, dict[str, str]] = defaultdict(dict)
    for name in sorted(filled):
        words = _words(name)
        parts = {_PARTS[word] for word in words if word in _PARTS}
        if len(parts) == 1 and len(words) > 1:
            alike[" ".join(word for word in words if word not in _PARTS)][next(iter(parts))] = name
    for names in alike.values():
        if len(names) > 1:
            raise DataError(
                f"{root}: {' and '.join(names.values())} differ only in the part ({_ACCEPTED}). "
                "Move the clips into folders part/class or class/part."
            )


def _first_names(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 3 else f"{', '.join(names[:2])} and {len(names) - 2} more folders"
