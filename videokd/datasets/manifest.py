"""The manifest of a prepared dataset: a Parquet file beside the clips, with one row per clip."""

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
#: Columns in which many rows have the same text; each text is kept in memory once
_REPEATED = frozenset({"class_name", "group", "split1", "split2", "split3", "codec", "source_codec"})
_ARROW_TYPES = {"str": pa.string(), "Part": pa.string(), "int": pa.int64(), "float": pa.float64()}


@dataclass(frozen=True, slots=True)  # a dataset may have millions
class Clip:
    """One prepared clip: a row of the manifest.

    Args:
        video_id: unique in the dataset.
        path: the video, relative to the manifest's folder, with "/" between folders.
        label: class number, from 0; -1 without a label.
        class_name: the class's name; empty without a label.
        group: clips of one group must not be divided between training and test: "Archery/g01" is a scene of one class, "s3" a
            person in all classes. Manifests before version 0.2 have "wave/s3" for persons too.
        split1: the clip's part in split 1: "train", "test" or "unused".
        split2: its part in split 2.
        split3: its part in split 3.
        codec: FFmpeg's name of the decoder.
        width: in pixels.
        height: in pixels.
        num_frames: number of pictures.
        seconds: duration.
        index: `videokd.codec.index.VideoIndex` as JSON.
        source_sha256: SHA-256 of the source, the file that the clip was prepared from.
        sha256: SHA-256 of the prepared file.
        bytes: size of the prepared file.
        source_path: the source, relative to the dataset's folder; this and the following columns are empty or 0 in
            manifests of videokd's first version.
        source_codec: FFmpeg's name of the source's decoder.
        source_frame_rate: pictures per second of the source by its timestamps; 0 where it is unknown.
        source_gop: mean number of the source's pictures per I-frame.
        source_b_frames: share of B-frames in the source, 0 to 1.
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
        """The clip's part in split 1, 2 or 3: "train", "test" or "unused"."""
        return (self.split1, self.split2, self.split3)[split - 1]


@dataclass(frozen=True)
class Manifest:
    """A prepared dataset.

    Args:
        root: the manifest's folder; the clips' paths are relative to it.
        clips: the rows.
        class_names: the name of each label; empty where the clips have no labels.
        flip: whether a clip mirrored left to right still shows its class.
        settings: how the dataset was prepared, as JSON values.

    Raises:
        DataError: two clips have the same id, or a label and a class name do not agree.
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
                raise DataError(f"{self.root}: two clips have the id {clip.video_id}. Prepare the dataset again.")
            seen.add(clip.video_id)
            if clip.class_name != self._name_of(clip.label):
                raise DataError(
                    f"{self.root}: {clip.video_id} has label {clip.label} and class {clip.class_name}, "
                    f"which do not agree with the {len(self.class_names)} class names. Prepare the dataset again."
                )

    def _name_of(self, label: int) -> str | None:
        if label == NO_LABEL:
            return ""
        return self.class_names[label] if 0 <= label < len(self.class_names) else None

    @classmethod
    def read(cls, path: Path | str) -> Manifest:
        """Reads a manifest, and checks every row.

        Args:
            path: manifest.parquet, or its folder.

        Raises:
            DataError: the file is missing, not a manifest, or lacks columns.
        """
        path = Path(path)
        path = path / MANIFEST_NAME if path.is_dir() else path
        if not path.is_file():
            raise DataError(f"{path}: no such manifest. Make one with `videokd prepare`, or check the path.")
        try:
            clips, head = _read_rows(path)
            about = read_head(head, version=_VERSION)
        except DataError as error:
            raise DataError(f"{path} is not a valid manifest: {error}. Prepare the dataset again.") from error
        except (pa.ArrowException, OSError, ValueError) as error:
            raise DataError(
                f"{path} is not a Parquet file ({(str(error).splitlines() or [repr(error)])[0]:.200}). Prepare the dataset again."
            ) from error
        return cls(path.parent, tuple(clips), tuple(about["class_names"]), about["flip"], about["settings"])

    def write(self, path: Path | str | None = None) -> Path:
        """Writes the manifest, whole or not at all; the same manifest gives the same bytes.

        Args:
            path: the file; None: manifest.parquet in `root`. The clips' paths are written as they are.

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
        """The path of a clip's video."""
        return self.root / clip.path

    def select(self, part: Selection, *, split: int, val_fraction: float = 0.15, seed: int = 0) -> tuple[Clip, ...]:
        """The clips of one part of one split.

        "train" and "test" are the dataset's own. "val" is a validation part of "train": whole groups of each class, as far as
        possible the same groups in all classes. "fit" is the rest of "train". If a class has only one training group, it is
        in "fit".

        Args:
            part: "train", "val", "fit" or "test".
            split: 1, 2 or 3.
            val_fraction: share of each class's training groups, between 0 and 1; at least one group where there are two.
            seed: of the choice of groups.

        Returns:
            The clips, in the manifest's order.

        Raises:
            ConfigError: part, split or val_fraction is not one of these.
            DataError: there are no such clips.
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
            hold_out = ", or pass `--data.val_fraction 0`, which holds none out" if part in ("val", "fit") else ""
            raise DataError(
                f"{self.root}: split {split} has no {part} clips. Choose another split, or prepare clips of more groups{hold_out}."
            )
        return clips

    def check_files(self) -> None:
        """Checks that the file of every clip exists and has its size.

        Raises:
            DataError: files are missing or have changed.
        """
        wrong = [clip for clip in self.clips if _size_on_disk(self.file(clip)) != clip.bytes]
        if wrong:
            raise DataError(
                f"{self.root}: {len(wrong)} of {len(self.clips)} videos are missing or have changed (first: "
                f"{wrong[0].path}). Move them back, or run the same `videokd prepare` again: it prepares what is missing."
            )


def listed_ids(folder: Path) -> frozenset[str]:
    """The video ids of the manifest in a folder; empty where there is none that can be read."""
    try:
        with pq.ParquetFile(folder / MANIFEST_NAME) as file:
            return frozenset(file.read(columns=["video_id"]).column(0).to_pylist())
    except (pa.ArrowException, OSError, IndexError):
        return frozenset()


def _read_rows(path: Path) -> tuple[list[Clip], bytes]:
    """The rows of a file, and the JSON in its metadata.

    Raises:
        DataError: columns are missing or have values that are not valid.
    """
    schema = pq.read_schema(path)
    kinds = dict(zip(schema.names, map(_type_of_values, schema.types), strict=True))
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
        known_texts: dict[str, str] = {}
        clips: list[Clip] = []
        for rows in file.iter_batches(_ROWS_AT_ONCE, columns=known):
            values: dict[str, Any] = {}
            for name in known:
                column = rows.column(name)
                found = texts(column, name, kept=kept) if name in text_columns else numbers(column, name)
                values[name] = [known_texts.setdefault(text, text) for text in found] if name in _REPEATED else found
            clips += map(Clip, *(values.get(f.name, repeat(f.default)) for f in fields(Clip)))
    return clips, head


def _type_of_values(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _size_on_disk(path: Path) -> int:
    """Size in bytes; -1 where there is no such file."""
    try:
        return path.stat().st_size
    except OSError:
        return -1


def read_manifest(path: str | Path, *, labelled: bool = True) -> Manifest:
    """Reads a manifest, and checks that its files exist and that it has labels, or none.

    Args:
        path: manifest.parquet, or its folder.
        labelled: whether the clips must have labels; if False, they must have none.

    Raises:
        DataError: it cannot be read, has labels or none where the opposite is needed, or files are missing.
    """
    manifest = Manifest.read(path)
    if labelled and not manifest.class_names:
        raise DataError(
            f"{path} has clips without labels (accepted: clips in one folder per class). Pass it to `videokd distill --unlabelled`."
        )
    if not labelled and manifest.class_names:
        raise DataError(
            f"{path} has clips with labels (accepted: the output of `videokd prepare folder --unlabelled`). Prepare it with that, or omit "
            "--unlabelled."
        )
    manifest.check_files()
    return manifest
