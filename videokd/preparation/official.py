"""UCF101 and HMDB51: the layout of their folders, their official split lists, and the clips of each of their classes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from videokd.datasets.splits import NUM_SPLITS, Part, Splits
from videokd.errors import DataError
from videokd.jobs.video_files import videos_in
from videokd.preparation.folder_parts import did_you_mean
from videokd.preparation.groups import default_group
from videokd.preparation.listing import ListedClip, checked_root, folders_in, listed_clips

_UCF101_NAME = re.compile(r"v_(?P<name>\w+)_g(?P<group>\d+)_c\d+", re.IGNORECASE)
_UCF101_GROUPS = range(1, 26)
# <title and class>_<body part>_<camera>_<people>_<viewpoint>_<quality>_<number>: one title's clips come from one film.
_HMDB51_TITLE = re.compile(r"(.+?)_[a-z]_(?:cm|nm)_np\d+_[a-z]+_[a-z]+_\d+")
_HMDB51_LISTS = "testTrainMulti_7030_splits"

#: For each split {`clip_key`: part}
Lists = Sequence[Mapping[str, Part]]


def ucf101_layout(root: Path | str, *, lists: Path | str | None = None) -> tuple[ListedClip, ...]:
    """UCF101: `<Class>/v_<Class>_g<group>_c<clip>.avi`, or the folder UCF-101 with that in it.

    Args:
        root: the folder with the 101 class folders (any suffix of video; the case of the class names does not matter).
        lists: the folder with trainlist01.txt … testlist03.txt. None: the rule that gives the same splits (test groups
            1–7, 8–14, 15–21).

    Returns:
        The clips; labels in the order of classInd.txt.

    Raises:
        DataError: the root is missing or a file; classes or listed clips are missing; a folder is not one of the classes,
            or a file is not named as UCF101 names its clips.
    """
    root = checked_root(root)
    base = root / "UCF-101" if (root / "UCF-101").is_dir() else root
    classes = _official_classes(base, UCF101_CLASSES, "UCF101")
    paths = [path for found in classes.values() for path in found]
    for path in paths:
        match = _UCF101_NAME.fullmatch(path.stem)
        if match is None or int(match["group"]) not in _UCF101_GROUPS:
            raise DataError(
                f"{path} is not named as UCF101 names its clips (v_<Class>_g01_c01.avi, groups 1 to 25). "
                "Remove it, or use the layout `folder`."
            )
    groups = {path: default_group(path, name) for name, found in classes.items() for path in found}
    if lists is None:
        splits = {path: _ucf101_rule(path) for path in paths}
    else:
        splits = listed_splits(base, classes, read_ucf101_lists(Path(lists)))
    return listed_clips(root, UCF101_CLASSES, classes, groups, splits)


def hmdb51_layout(root: Path | str, *, lists: Path | str | None = None) -> tuple[ListedClip, ...]:
    """HMDB51: `<class>/<title>_<class>_<properties>_<number>.avi`.

    Args:
        root: the folder with the 51 class folders.
        lists: the folder with `<class>_test_split<1|2|3>.txt`. None: testTrainMulti_7030_splits in the root
            or beside it.

    Returns:
        The clips; labels in alphabetical order; a group is the title of a film.

    Raises:
        DataError: the root or the lists are missing; classes or listed clips are missing; a folder is not one of the
            classes.
    """
    root = checked_root(root)
    classes = _official_classes(root, HMDB51_CLASSES, "HMDB51", ignored=(_HMDB51_LISTS,))
    folders = [Path(lists)] if lists is not None else [root / _HMDB51_LISTS, root.parent / _HMDB51_LISTS]
    found = next((folder for folder in folders if folder.is_dir()), None)
    if found is None:
        raise DataError(
            f"{folders[0]}: no folder with HMDB51's split lists (<class>_test_split1.txt …). "
            "Unpack test_train_splits.rar and name its folder with `lists`."
        )
    splits = listed_splits(root, classes, read_hmdb51_lists(found))
    groups = {path: f"{name}/{_hmdb51_title(path)}" for name, paths in classes.items() for path in paths}
    return listed_clips(root, HMDB51_CLASSES, classes, groups, splits)


def ucf101_splits(classes: Mapping[str, Sequence[Path]]) -> dict[Path, Splits] | None:
    """The splits of UCF101's rule, or None where it does not apply.

    It applies where all clips have UCF101's names and group numbers, and each class gets clips to train and to test on.

    Args:
        classes: {class: its clips}.
    """
    splits: dict[Path, Splits] = {}
    for name, paths in classes.items():
        for path in paths:
            match = _UCF101_NAME.fullmatch(path.stem)
            if match is None or match["name"].lower() != name.lower() or int(match["group"]) not in _UCF101_GROUPS:
                return None
            splits[path] = _ucf101_rule(path)
        if any({splits[path][split] for path in paths} != {"train", "test"} for split in range(3)):
            return None
    return splits


def read_ucf101_lists(folder: Path) -> Lists:
    """For each split {`clip_key`: part}, from trainlist01.txt … testlist03.txt.

    Args:
        folder: where the lists are.

    Raises:
        DataError: a list is missing.
    """
    splits: list[dict[str, Part]] = []
    for split in range(1, NUM_SPLITS + 1):
        parts: dict[str, Part] = {}
        for part in ("train", "test"):
            for line in _lines_of_list(folder / f"{part}list{split:02d}.txt"):
                name = re.sub(r"\s+\d+$", "", line)  # training lists add the label
                parts[clip_key(Path(name).parent.name, Path(name))] = part  # type: ignore[assignment]
        splits.append(parts)
    return splits


def read_hmdb51_lists(folder: Path) -> Lists:
    """For each split {`clip_key`: part}, from `<class>_test_split<1|2|3>.txt`.

    Args:
        folder: where the lists are.

    Raises:
        DataError: a list is missing, or a line does not end in 0, 1 or 2.
    """
    splits: list[dict[str, Part]] = []
    for split in range(1, NUM_SPLITS + 1):
        parts: dict[str, Part] = {}
        for name in HMDB51_CLASSES:
            parts |= _hmdb51_list(folder / f"{name}_test_split{split}.txt", name)
        splits.append(parts)
    return splits


def clip_key(class_name: str, path: Path) -> str:
    """The name under which a clip is looked up in the lists: class and file name, in lower case, without the suffix.

    The release spells HandstandPushups in two ways, and clips may have been re-encoded into another container.

    >>> clip_key("HandstandPushups", Path("v_HandStandPushups_g01_c01.avi"))
    'handstandpushups/v_handstandpushups_g01_c01'
    """
    return f"{class_name}/{path.stem}".lower()


def listed_splits(root: Path, classes: Mapping[str, Sequence[Path]], lists: Lists) -> dict[Path, Splits]:
    """The part of each clip in each split; "unused" where no list names it.

    Args:
        root: the dataset's folder, for messages.
        classes: {class: its clips}.
        lists: for each split {`clip_key`: part}.

    Raises:
        DataError: clips that the lists name are missing.
    """
    keys = {path: clip_key(name, path) for name, paths in classes.items() for path in paths}
    missing = sorted({key for parts in lists for key in parts} - set(keys.values()))
    if missing:
        raise DataError(
            f"{root}: {len(missing)} listed clips are missing (first: {missing[0]}). "
            "Complete the download, or use the layout `folder` for a part of the dataset."
        )
    return {path: tuple(parts.get(key, "unused") for parts in lists) for path, key in keys.items()}  # type: ignore[misc]


def _official_classes(
    root: Path, names: Sequence[str], dataset: str, *, ignored: Sequence[str] = ()
) -> dict[str, list[Path]]:
    official = {name.lower(): name for name in names}
    folders = {folder.name: folder for folder in folders_in(root) if folder.name not in ignored}
    unknown = [name for name in folders if name.lower() not in official]
    if unknown:
        raise DataError(
            f"{root}: {unknown[0]} is not a class of {dataset} ({len(unknown)} such folders)."
            f"{did_you_mean(unknown[0], names)} Rename or remove it, or use the layout `folder`."
        )
    classes: dict[str, list[Path]] = {name: [] for name in names}
    for name, folder in folders.items():
        classes[official[name.lower()]] += videos_in(folder)
    missing = [name for name, paths in classes.items() if not paths]
    if missing:
        raise DataError(
            f"{root}: {len(missing)} of {dataset}'s {len(names)} classes have no videos here (first: {missing[0]}). "
            "Complete the download, or use the layout `folder` for a part of the dataset."
        )
    return classes


def _hmdb51_title(path: Path) -> str:
    match = _HMDB51_TITLE.fullmatch(path.stem)
    return match[1] if match else path.stem


def _ucf101_rule(path: Path) -> Splits:
    match = _UCF101_NAME.fullmatch(path.stem)
    assert match is not None
    tested = (int(match["group"]) - 1) // 7  # 0, 1, 2: the split that tests the group; 3: none does
    first, second, third = ("test" if tested == split else "train" for split in range(3))
    return first, second, third  # type: ignore[return-value]


def _hmdb51_list(path: Path, class_name: str) -> dict[str, Part]:
    flags: Mapping[str, Part] = {"0": "unused", "1": "train", "2": "test"}
    parts: dict[str, Part] = {}
    for line in _lines_of_list(path):
        clip, _, flag = line.rpartition(" ")
        if flag not in flags:
            raise DataError(f"{path}: the line {line!r} (accepted: <clip>.avi 0|1|2). Download the lists again.")
        parts[clip_key(class_name, Path(clip))] = flags[flag]
    return parts


def _lines_of_list(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(f"{path}: no such list. Name the folder with all of the dataset's split lists.") from error
    return [line.strip() for line in text.splitlines() if line.strip()]


_UCF101 = """
ApplyEyeMakeup:145 ApplyLipstick:114 Archery:145 BabyCrawling:132 BalanceBeam:108 BandMarching:155 BaseballPitch:150
Basketball:134 BasketballDunk:131 BenchPress:160 Biking:134 Billiards:150 BlowDryHair:131 BlowingCandles:109
BodyWeightSquats:112 Bowling:155 BoxingPunchingBag:163 BoxingSpeedBag:134 BreastStroke:101 BrushingTeeth:131
CleanAndJerk:112 CliffDiving:138 CricketBowling:139 CricketShot:167 CuttingInKitchen:110 Diving:150 Drumming:161
Fencing:111 FieldHockeyPenalty:126 FloorGymnastics:125 FrisbeeCatch:126 FrontCrawl:137 GolfSwing:139 Haircut:130
Hammering:140 HammerThrow:150 HandstandPushups:128 HandstandWalking:111 HeadMassage:147 HighJump:123 HorseRace:124
HorseRiding:164 HulaHoop:125 IceDancing:158 JavelinThrow:117 JugglingBalls:121 JumpingJack:123 JumpRope:144
Kayaking:141 Knitting:123 LongJump:131 Lunges:127 MilitaryParade:125 Mixing:136 MoppingFloor:110 Nunchucks:132
ParallelBars:114 PizzaTossing:113 PlayingCello:164 PlayingDaf:151 PlayingDhol:164 PlayingFlute:155 PlayingGuitar:160
PlayingPiano:105 PlayingSitar:157 PlayingTabla:111 PlayingViolin:100 PoleVault:149 PommelHorse:123 PullUps:100
Punch:160 PushUps:102 Rafting:111 RockClimbingIndoor:144 RopeClimbing:119 Rowing:137 SalsaSpin:133 ShavingBeard:161
Shotput:144 SkateBoarding:120 Skiing:135 Skijet:100 SkyDiving:110 SoccerJuggling:147 SoccerPenalty:137
StillRings:112 SumoWrestling:116 Surfing:126 Swing:131 TableTennisShot:140 TaiChi:100 TennisSwing:166
ThrowDiscus:130 TrampolineJumping:119 Typing:136 UnevenBars:104 VolleyballSpiking:116 WalkingWithDog:123
WallPushups:130 WritingOnBoard:152 YoYo:128
"""

_HMDB51 = """
brush_hair:107 cartwheel:107 catch:102 chew:109 clap:130 climb:108 climb_stairs:112 dive:127 draw_sword:103
dribble:145 drink:164 eat:108 fall_floor:136 fencing:116 flic_flac:107 golf:105 handstand:113 hit:127 hug:118
jump:151 kick:130 kick_ball:128 kiss:102 laugh:128 pick:106 pour:106 pullup:104 punch:126 push:116 pushup:103
ride_bike:103 ride_horse:116 run:232 shake_hands:162 shoot_ball:131 shoot_bow:112 shoot_gun:103 sit:142 situp:105
smile:102 smoke:109 somersault:140 stand:154 swing_baseball:143 sword:127 sword_exercise:127 talk:120 throw:102
turn:240 walk:548 wave:104
"""


def _parse_counts(text: str) -> Mapping[str, int]:
    return {name: int(count) for name, _, count in (item.partition(":") for item in text.split())}


UCF101_CLIPS = _parse_counts(_UCF101)
"""{class: number of clips} of the 101 classes, in the order of classInd.txt (alphabetical, ignoring case); 13,320 in total."""

HMDB51_CLIPS = _parse_counts(_HMDB51)
"""{class: number of clips} of the 51 classes, in alphabetical order; 6,766 in total."""

UCF101_CLASSES = tuple(UCF101_CLIPS)
HMDB51_CLASSES = tuple(HMDB51_CLIPS)
