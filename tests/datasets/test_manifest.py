from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from videokd.datasets.manifest import Clip, Manifest
from videokd.errors import ConfigError, DataError

CLASSES = ("jump", "run")


def clip(label: int, group: int, number: int, *, parts: tuple[str, str, str] = ("train", "train", "test")) -> Clip:
    name = CLASSES[label]
    return Clip(
        video_id=f"{name}/g{group:02d}_c{number}",
        path=f"videos/{name}/g{group:02d}_c{number}.mp4",
        label=label,
        class_name=name,
        group=f"{name}/g{group:02d}",
        split1=parts[0],
        split2=parts[1],
        split3=parts[2],
        codec="mpeg4",
        width=340,
        height=256,
        num_frames=48,
        seconds=1.92,
        index="{}",
        source_sha256="0" * 64,
        sha256="1" * 64,
        bytes=5,
    )


def manifest_of(root: Path, *, groups: int = 10) -> Manifest:
    """In split 1 the last two groups are tested; in split 2 nothing is; split 3 tests everything."""
    clips = tuple(
        clip(label, group, number, parts=("test" if group >= groups - 2 else "train", "train", "test"))
        for label in (0, 1)
        for group in range(groups)
        for number in range(3)
    )
    return Manifest(root, clips, CLASSES, flip=False, settings={"encoding": {"gop": 12}, "note": "été"})


def test_what_is_written_is_read_by_file_or_folder(tmp_path: Path) -> None:
    written = manifest_of(tmp_path)
    path = written.write()
    assert path == tmp_path / "manifest.parquet"
    assert Manifest.read(path) == written
    assert Manifest.read(tmp_path) == written
    assert [p.name for p in tmp_path.iterdir()] == ["manifest.parquet"]


def test_the_same_manifest_gives_the_same_bytes(tmp_path: Path) -> None:
    digests = {
        hashlib.sha256(manifest_of(tmp_path).write(tmp_path / name).read_bytes()).hexdigest() for name in ("a", "b")
    }
    assert len(digests) == 1


def test_the_table_is_plain_parquet(tmp_path: Path) -> None:
    rows = pq.read_table(manifest_of(tmp_path).write()).to_pylist()
    assert rows[0]["video_id"] == "jump/g00_c0"
    assert rows[-1]["split1"] == "test"
    assert len(rows) == 60


def test_an_empty_manifest_survives(tmp_path: Path) -> None:
    Manifest(tmp_path, (), CLASSES).write()
    assert Manifest.read(tmp_path) == Manifest(tmp_path, (), CLASSES, flip=True, settings={})


def test_the_folder_may_move(tmp_path: Path) -> None:
    manifest_of(tmp_path / "here").write()
    (tmp_path / "here").rename(tmp_path / "there")
    moved = Manifest.read(tmp_path / "there")
    assert moved.file(moved.clips[0]) == tmp_path / "there" / "videos" / "jump" / "g00_c0.mp4"


def test_what_clips_share_is_one_object(tmp_path: Path) -> None:
    clips = Manifest.read(manifest_of(tmp_path).write()).clips
    for name in ("class_name", "group", "split1", "codec"):
        assert len({id(getattr(clip, name)) for clip in clips}) == len({getattr(clip, name) for clip in clips})
    assert not hasattr(clips[0], "__dict__")


def test_a_repr_is_short(tmp_path: Path) -> None:
    assert len(repr(manifest_of(tmp_path))) < 300


def test_train_and_test_are_the_datasets_own(tmp_path: Path) -> None:
    manifest = manifest_of(tmp_path)
    assert {c.group[-2:] for c in manifest.select("test", split=1)} == {"08", "09"}
    assert len(manifest.select("train", split=1)) == 2 * 8 * 3
    assert len(manifest.select("test", split=3)) == 60


@pytest.mark.parametrize("fraction", [0.01, 0.15, 0.5, 0.99])
@pytest.mark.parametrize("seed", [0, 1])
def test_fit_and_val_divide_train_by_whole_groups_of_every_class(tmp_path: Path, fraction: float, seed: int) -> None:
    manifest = manifest_of(tmp_path)
    fit = manifest.select("fit", split=1, val_fraction=fraction, seed=seed)
    val = manifest.select("val", split=1, val_fraction=fraction, seed=seed)
    assert sorted(c.video_id for c in (*fit, *val)) == sorted(c.video_id for c in manifest.select("train", split=1))
    assert not {c.group for c in fit} & {c.group for c in val}
    held: dict[str, set[str]] = defaultdict(set)
    for c in val:
        held[c.class_name].add(c.group)
    expected = {0.01: 1, 0.15: 1, 0.5: 4, 0.99: 7}[fraction]
    assert {name: len(groups) for name, groups in held.items()} == {"jump": expected, "run": expected}


def test_a_person_who_acts_in_all_classes_is_held_out_of_all(tmp_path: Path) -> None:
    manifest = manifest_of(tmp_path)
    for seed in range(5):
        val = manifest.select("val", split=2, val_fraction=0.3, seed=seed)
        names = {label: {c.group.split("/")[1] for c in val if c.class_name == label} for label in ("jump", "run")}
        assert names["jump"] == names["run"]


def test_validation_depends_on_seed_and_not_on_order(tmp_path: Path) -> None:
    manifest = manifest_of(tmp_path)
    shuffled = replace(manifest, clips=manifest.clips[::-1])
    val = {c.video_id for c in manifest.select("val", split=2, seed=0)}
    assert val == {c.video_id for c in shuffled.select("val", split=2, seed=0)}
    assert len({frozenset(c.group for c in manifest.select("val", split=2, seed=seed)) for seed in range(8)}) > 1


def test_a_single_group_stays_in_fit(tmp_path: Path) -> None:
    manifest = Manifest(tmp_path, tuple(clip(label, 0, n) for label in (0, 1) for n in range(3)), CLASSES)
    assert len(manifest.select("fit", split=1)) == 6
    with pytest.raises(
        DataError, match=r"split 1 has no val clips. Choose another split, .* or pass `--data.val_fraction 0`"
    ):
        manifest.select("val", split=1)


@pytest.mark.parametrize(
    ("part", "settings", "message"),
    [
        ("training", {"split": 1}, r"part 'training' \(accepted: train, val, fit, test\)"),
        ("train", {"split": 0}, r"split 0 \(accepted: 1, 2 or 3\)"),
        ("train", {"split": 4}, r"split 4 \(accepted: 1, 2 or 3\)"),
        ("val", {"split": 1, "val_fraction": 1.0}, r"val_fraction 1.0 \(accepted: between 0 and 1"),
    ],
)
def test_select_refuses(tmp_path: Path, part: str, settings: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        manifest_of(tmp_path).select(part, **settings)


def test_an_empty_part_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"split 2 has no test clips"):
        manifest_of(tmp_path).select("test", split=2)


def test_files_that_moved_or_changed_are_counted_and_the_first_is_named(tmp_path: Path) -> None:
    manifest = manifest_of(tmp_path, groups=3)
    for c in manifest.clips:
        manifest.file(c).parent.mkdir(parents=True, exist_ok=True)
        manifest.file(c).write_bytes(b"12345")
    manifest.check_files()
    manifest.file(manifest.clips[4]).write_bytes(b"1234")
    manifest.file(manifest.clips[7]).unlink()
    with pytest.raises(
        DataError, match=r"2 of 18 videos are missing or have changed \(first: videos/jump/g01_c1.mp4\)"
    ):
        manifest.check_files()


def test_read_refuses_what_is_no_manifest(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"manifest.parquet: no such manifest. Make one with `videokd prepare`"):
        Manifest.read(tmp_path)
    (tmp_path / "text.parquet").write_text("hello")
    with pytest.raises(DataError, match=r"text.parquet is not a Parquet file \(.+\). Prepare"):
        Manifest.read(tmp_path / "text.parquet")
    pq.write_table(pa.table({"video_id": ["a"]}), tmp_path / "other.parquet")
    with pytest.raises(DataError, match=r"not a valid manifest: it lacks columns path, label, .*bytes. Prepare"):
        Manifest.read(tmp_path / "other.parquet")
    table = pq.read_table(manifest_of(tmp_path).write())
    pq.write_table(table.replace_schema_metadata({}), tmp_path / "bare.parquet")
    with pytest.raises(DataError, match=r"it lacks videokd's class names and settings"):
        Manifest.read(tmp_path / "bare.parquet")
    newer = {b"videokd": re.sub(rb'"version": 1', b'"version": 9', table.schema.metadata[b"videokd"])}
    pq.write_table(table.replace_schema_metadata(newer), tmp_path / "newer.parquet")
    with pytest.raises(DataError, match=r"it is of version 9 \(accepted: 1\)"):
        Manifest.read(tmp_path / "newer.parquet")


def test_write_names_what_it_cannot_write(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"file/manifest.parquet could not be written \(.+\).* Check free space"):
        manifest_of(tmp_path / "file").write()


def test_a_manifest_checks_itself(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"two clips have the id jump/g00_c0"):
        Manifest(tmp_path, (clip(0, 0, 0), clip(0, 0, 0)), CLASSES)
    with pytest.raises(
        DataError, match=r"run/g00_c0 has label 1 and class run, which do not agree with the 1 class names"
    ):
        Manifest(tmp_path, (clip(1, 0, 0),), ("jump",))


def test_manifests_of_the_first_version_are_read(tmp_path: Path) -> None:
    path = manifest_of(tmp_path).write()
    table = pq.read_table(path)
    pq.write_table(
        table.drop_columns([name for name in table.column_names if name.startswith("source_") and "sha" not in name]),
        path,
    )
    assert Manifest.read(path) == manifest_of(tmp_path)


def damaged(folder: Path, column: str, value: object) -> Path:
    """A manifest's file whose third row has another value in a column."""
    table = pq.read_table(manifest_of(folder).write())
    values = table.column(column).to_pylist()
    values[2] = value
    number = table.schema.get_field_index(column)
    kind = pa.field(column, table.schema.field(column).type, nullable=True)
    path = folder / "manifest.parquet"
    pq.write_table(table.set_column(number, kind, pa.array(values, kind.type)), path)
    return path


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        *(
            ("path", path, "a path inside the manifest's folder")
            for path in (
                "../a.mp4",
                "videos/../../a.mp4",
                "videos/..",
                "/etc/passwd",
                "",
                "..",
                "a\\..\\..\\b.mp4",
                "\\\\server\\a.mp4",
                "C:\\a.mp4",
                "C:a.mp4",
                "a\0b",
            )
        ),
        *(
            (column, value, "64 hexadecimal digits")
            for column in ("sha256", "source_sha256")
            for value in ("../escaped", "1" * 63, "1" * 65, "1" * 63 + "\n", "A" * 64, "/" + "1" * 63, "")
        ),
        ("split1", "tests", "train, test, unused"),
        ("video_id", "", "a name"),
        ("video_id", None, "missing in 1 rows"),
        ("label", None, "missing in 1 rows"),
        ("label", -2, "-1 or more"),
        ("width", 0, "1 or more"),
        ("num_frames", -5, "1 or more"),
        ("seconds", float("nan"), "a finite number"),
        ("seconds", float("inf"), "a finite number"),
        ("group", "g" * 20_000, "has a text of 20000 bytes"),
        ("codec", "../x", "FFmpeg's name of a decoder"),
    ],
)
def test_rows_of_strangers_are_checked(tmp_path: Path, column: str, value: object, reason: str) -> None:
    with pytest.raises(DataError, match="not a valid manifest") as refused:
        Manifest.read(damaged(tmp_path, column, value))
    assert reason in str(refused.value)
    assert len(str(refused.value)) < 500


def test_dots_in_names_are_no_way_up(tmp_path: Path) -> None:
    path = damaged(tmp_path, "path", "videos/a..b/...mp4")
    assert Manifest.read(path).clips[2].path == "videos/a..b/...mp4"


@pytest.mark.parametrize(
    "head",
    [
        b"[]",
        b"{",
        b"[" * 100_000,
        b'{"version": 1}',
        b'{"version": 1, "class_names": "ab", "flip": true, "settings": {}}',
        b'{"version": 1, "class_names": ["jump", 3], "flip": true, "settings": {}}',
        b'{"version": 1, "class_names": ["jump", "run"], "flip": "no", "settings": {}}',
        b'{"version": 1, "class_names": ["jump", "run"], "flip": true, "settings": []}',
        b"\xff\xfe",
    ],
)
def test_heads_of_strangers_are_checked(tmp_path: Path, head: bytes) -> None:
    table = pq.read_table(manifest_of(tmp_path).write())
    pq.write_table(table.replace_schema_metadata({b"videokd": head}), tmp_path / "manifest.parquet")
    with pytest.raises(DataError, match="not a valid manifest"):
        Manifest.read(tmp_path)


def test_a_small_file_that_unpacks_to_much_is_refused(tmp_path: Path) -> None:
    """Equal values take no room in Parquet: many rows, or one long text in many rows."""
    table = pq.read_table(manifest_of(tmp_path).write())
    many = {field.name: pa.repeat(table.column(field.name)[0], 300_000) for field in table.schema}
    pq.write_table(pa.table(many, table.schema), tmp_path / "manifest.parquet")
    assert (tmp_path / "manifest.parquet").stat().st_size < 100_000
    with pytest.raises(DataError, match="300000 rows in"):
        Manifest.read(tmp_path)
    few = {name: column.slice(0, 5_000) for name, column in many.items()}
    few["index"] = pa.DictionaryArray.from_arrays(pa.array([0] * 5_000, pa.int32()), pa.array(["x" * 60_000_000])).cast(
        pa.dictionary(pa.int32(), pa.string())
    )
    schema = table.schema.set(
        table.schema.get_field_index("index"), pa.field("index", few["index"].type, nullable=False)
    )
    pq.write_table(pa.table(few, schema), tmp_path / "manifest.parquet", compression="zstd")
    with pytest.raises(DataError, match="index has a text of 60000000 bytes"):
        Manifest.read(tmp_path)
