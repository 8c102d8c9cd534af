"""The table of a prepared dataset: one row a clip, in a Parquet file beside the clips."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from itertools import repeat
from pathlib import Path
from typing import Any, Literal, get_args

import pyarrow as pa
import pyarrow.parquet as pq

from videokd.datasets.manifest_columns import check_size, numbers, read_head, texts
from videokd.datasets.splits import NUM_SPLITS, Part, held_out_groups
from videokd.errors import ConfigError, DataError
from videokd.files import written_whole
from videokd.types import NO_LABEL

Selection = Literal["train", "val", "fit", "test"]

MANIFEST_NAME = "manifest.parquet"
_VERSION = 1
_ROWS_AT_ONCE = 5_000
_METADATA_KEY = b"videokd"
#: Columns whose texts occur in many rows, across batches too
_REPEATED = frozenset({"class_name", "group", "split1", "split2", "split3", "codec", "source_codec"})
_ARROW_TYPES = {"str": pa.string(), "Part": pa.string(), "int": pa.int64(), "float": pa.float64()}


@dataclass(frozen=True, slots=True)  # a dataset may have millions
class Clip:
    """One prepared clip: a row of the manifest.

    Args:
        video_id: unique in the dataset.
        path: of the video, relative to the manifest's folder, with "/" between folders.
        label: class number, from 0; -1 without a label.
        class_name: the class's name; empty without a label.
        group: clips of one group must not be divided between training and test: "Archery/g01", a scene of one class; "s3", a
            person in all classes. Manifests before version 0.2 have "wave/s3" for persons too.
        split1: "train", "test" or "unused" in the first split.
        split2: in the second.
        split3: in the third.
        codec: FFmpeg's name of the decoder.
        width: in pixels.
        height: in pixels.
        num_frames: pictures in the clip.
        seconds: its length.
        index: `videokd.codec.index.VideoIndex` as JSON.
        source_sha256: of the file that it was made from.
        sha256: of the prepared file.
        bytes: size of the prepared file.
        source_path: of the file that it was made from, relative to the dataset's folder; this and what follows is
            empty or 0 in manifests of videokd's first version.
        source_codec: FFmpeg's name of the source's decoder.
        source_frame_rate: pictures a second of the source, as its timestamps say; 0 where nothing tells.
        source_gop: the source's pictures for each of its I-frames, on average.
        source_b_frames: share of B-frames in the source.
        source_bytes: size of the source.
    """

    video_id: str
    path: str
    label: int
    class_name: str
    group: str
    split1: Part
    split2: Part
    split3: Part
    codec: str
    width: int
    height: int
    num_frames: int
    seconds: float
    index: str = field(repr=False)
    source_sha256: str = field(repr=False)
    sha256: str = field(repr=False)
    bytes: int
    source_path: str = ""
    source_codec: str = ""
    source_frame_rate: float = 0.0
    source_gop: float = 0.0
    source_b_frames: float = 0.0
    source_bytes: int = 0

    def part(self, split: int) -> Part:
        """What the clip is for in split 1, 2 or 3."""
        return (self.split1, self.split2, self.split3)[split - 1]


@dataclass(frozen=True)
class Manifest:
    """A prepared dataset.

    Args:
        root: the manifest's folder, from which the clips' paths start.
        clips: the rows.
        class_names: the name of each label; none where the clips have no labels.
        flip: whether a clip mirrored left to right still shows its class.
        settings: how the dataset was prepared; values that JSON holds.

    Raises:
        DataError: two clips share an id, or a label and a class name do not fit.
    """

    root: Path
    clips: tuple[Clip, ...] = field(repr=False)
    class_names: tuple[str, ...]
    flip: bool = True
    settings: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        seen: set[str] = set()
        for clip in self.clips:
            if clip.video_id in seen:
                raise DataError(f"{self.root}: two clips are named {clip.video_id}. Prepare the dataset again.")
            seen.add(clip.video_id)
            if clip.class_name != self._name_of(clip.label):
                raise DataError(
                    f"{self.root}: {clip.video_id} has label {clip.label} and class {clip.class_name}, "
                    f"which do not fit the {len(self.class_names)} class names. Prepare the dataset again."
                )

    def _name_of(self, label: int) -> str | None:
        if label == NO_LABEL:
            return ""
        return self.class_names[label] if 0 <= label < len(self.class_names) else None

    @classmethod
    def read(cls, path: Path | str) -> Manifest:
        """The manifest in a file.

        Args:
            path: manifest.parquet, or its folder.

        Raises:
            DataError: the file is missing, no manifest, or lacks columns.
        """
        path = Path(path)
        path = path / MANIFEST_NAME if path.is_dir() else path
        if not path.is_file():
            raise DataError(f"{path}: no manifest there. Make one with `videokd prepare`, or check the path.")
        try:
            clips, head = _read_rows(path)
            about = read_head(head, version=_VERSION)
        except DataError as error:
            raise DataError(f"{path} is not a sound manifest: {error}. Prepare the dataset again.") from error
        except (pa.ArrowException, OSError, ValueError) as error:
            raise DataError(
                f"{path} is not a Parquet file ({(str(error).splitlines() or [repr(error)])[0]:.200}). Prepare the dataset again."
            ) from error
        return cls(path.parent, tuple(clips), tuple(about["class_names"]), about["flip"], about["settings"])

    def write(self, path: Path | str | None = None) -> Path:
        """Write the manifest; the same manifest gives the same bytes. The file is replaced when the new one is whole.

        Args:
            path: the file; None: manifest.parquet in `root`. Clips' paths stay as they are, relative to its folder.

        Returns:
            The file.

        Raises:
            DataError: the file cannot be written.
        """
        path = self.root / MANIFEST_NAME if path is None else Path(path)
        about = {
            "version": _VERSION,
            "class_names": self.class_names,
            "flip": self.flip,
            "settings": dict(self.settings),
        }
        head = json.dumps(about, sort_keys=True, ensure_ascii=False).encode()
        schema = pa.schema(
            [pa.field(f.name, _ARROW_TYPES[str(f.type)], nullable=False) for f in fields(Clip)], {_METADATA_KEY: head}
        )
        columns = [pa.array([getattr(clip, column.name) for clip in self.clips], column.type) for column in schema]
        table = pa.table(columns, schema)
        with written_whole(path, durable=True) as aside:
            pq.write_table(table, aside, compression="zstd")
        return path

    def file(self, clip: Clip) -> Path:
        """Where a clip's video is."""
        return self.root / clip.path

    def select(self, part: Selection, *, split: int, val_fraction: float = 0.15, seed: int = 0) -> tuple[Clip, ...]:
        """The clips of one part of one split.

        "train" and "test" are the dataset's own. "val" is a validation part held out of "train", whole groups, in each class, those of
        the same name in all classes as far as they have them; "fit" is the rest of "train". A class with one training group
        keeps it in "fit".

        Args:
            part: "train", "val", "fit" or "test".
            split: 1, 2 or 3.
            val_fraction: of each class's training groups, between 0 and 1; at least one group where there are two.
            seed: chooses the groups.

        Raises:
            ConfigError: part, split or val_fraction is none of these.
            DataError: there are no such clips.

        Returns:
            The clips, in the manifest's order.
        """
        if part not in get_args(Selection):
            raise ConfigError(f"part {part!r} (accepted: {', '.join(get_args(Selection))}). Choose one of these.")
        if split not in range(1, NUM_SPLITS + 1):
            raise ConfigError(f"split {split} (accepted: 1, 2 or 3). Choose one of these.")
        if part in ("val", "fit") and not 0 < val_fraction < 1:
            raise ConfigError(f"val_fraction {val_fraction} (accepted: between 0 and 1, ends excluded). 0.15 is usual.")
        wanted = "test" if part == "test" else "train"
        clips = tuple(clip for clip in self.clips if clip.part(split) == wanted)
        if part in ("val", "fit"):
            groups_of: dict[str, set[str]] = defaultdict(set)
            for clip in clips:
                groups_of[clip.class_name].add(clip.group)
            held_out = held_out_groups(groups_of, fraction=val_fraction, key=f"{seed}/{split}")
            clips = tuple(clip for clip in clips if (clip.group in held_out) == (part == "val"))
        if not clips:
            raise DataError(
                f"{self.root}: split {split} has no {part} clips. Choose another split, or prepare clips of more groups."
            )
        return clips

    def check_files(self) -> None:
        """See that every clip's file is there, at its size.

        Raises:
            DataError: files are missing or have changed.
        """
        wrong = [clip for clip in self.clips if _size(self.file(clip)) != clip.bytes]
        if wrong:
            raise DataError(
                f"{self.root}: {len(wrong)} of {len(self.clips)} videos are missing or have changed (first: "
                f"{wrong[0].path}). Move them back, or run the same `videokd prepare` again: it makes what is missing."
            )


def listed_ids(folder: Path) -> frozenset[str]:
    """The video ids of the manifest in a folder; none where no manifest can be read there."""
    try:
        with pq.ParquetFile(folder / MANIFEST_NAME) as file:
            return frozenset(file.read(columns=["video_id"]).column(0).to_pylist())
    except (pa.ArrowException, OSError, IndexError):
        return frozenset()


def _read_rows(path: Path) -> tuple[list[Clip], bytes]:
    """The rows of a file, and what its schema says beside them.

    Raises:
        DataError: columns are missing, or hold what no manifest has.
    """
    schema = pq.read_schema(path)
    kinds = dict(zip(schema.names, map(_plain_type, schema.types), strict=True))
    known = [f.name for f in fields(Clip) if kinds.get(f.name) == _ARROW_TYPES[str(f.type)]]
    text_columns = [name for name in known if kinds[name] == pa.string()]
    with pq.ParquetFile(path, read_dictionary=text_columns) as file:
        check_size(file, path.stat().st_size)
        missing = [f.name for f in fields(Clip) if f.name not in known and f.default is MISSING]
        head = (schema.metadata or {}).get(_METADATA_KEY)
        if missing or head is None:
            lacking = f"columns {', '.join(missing)}" if missing else "videokd's class names and settings"
            raise DataError(f"it lacks {lacking}")
        kept = read_head(head, version=_VERSION)["settings"].get("keep") is True
        same: dict[str, str] = {}
        clips: list[Clip] = []
        for rows in file.iter_batches(_ROWS_AT_ONCE, columns=known):
            values: dict[str, Any] = {}
            for name in known:
                column = rows.column(name)
                found = texts(column, name, kept=kept) if name in text_columns else numbers(column, name)
                values[name] = [same.setdefault(text, text) for text in found] if name in _REPEATED else found
            clips += map(Clip, *(values.get(f.name, repeat(f.default)) for f in fields(Clip)))
    return clips, head


def _plain_type(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1


def read_manifest(path: str | Path, *, labelled: bool = True) -> Manifest:
    """The manifest, its files found where it says.

    Raises:
        DataError: it cannot be read, its clips have no labels where they are needed or labels where there are to be none, or
            clips are missing.
    """
    manifest = Manifest.read(path)
    if labelled and not manifest.class_names:
        raise DataError(
            f"{path} holds clips without labels (accepted: clips in one folder a class). Pass it to `videokd distill --unlabelled`."
        )
    if not labelled and manifest.class_names:
        raise DataError(
            f"{path} holds clips with labels (accepted: what `videokd prepare folder --unlabelled` makes). Prepare it so, or omit "
            "--unlabelled."
        )
    manifest.check_files()
    return manifest
