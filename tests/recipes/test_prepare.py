"""`videokd prepare` as a user runs it: plans of the published datasets, shards, checks, bad files, a Ray cluster."""

from __future__ import annotations

import csv
import ctypes
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.conftest import MakeClip
from tests.small_datasets import digests, write_clip
from videokd.__main__ import main
from videokd.datasets.manifest import Manifest
from videokd.errors import ConfigError
from videokd.preparation import prepare_clip
from videokd.recipes.prepare import Prepare

SMALL = ("--short-side", "32")


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


#: The verb, and at the end its largest memory in KiB, as the kernel knows it of this process alone (getrusage counts that of
#: the process it was forked from).
MEASURED = (
    "import sys; from videokd.__main__ import main; status = main(sys.argv[1:]); "
    "line = next(line for line in open('/proc/self/status') if line.startswith('VmHWM')); "
    "sys.stderr.write(line.split()[1] + '\\n'); sys.exit(status)"
)


def run_alone(*arguments: str, unprivileged: bool = False) -> subprocess.CompletedProcess[str]:
    """The verb in a process of its own; unprivileged: where even root cannot read what its permissions forbid."""

    def drop() -> None:
        for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
            ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP

    return subprocess.run(
        [sys.executable, "-c", MEASURED, "prepare", *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        preexec_fn=drop if unprivileged else None,
    )


def official_parts(lists: Path, dataset: str) -> dict[str, list[str]]:
    """{class/file: its part in splits 1, 2, 3}, read line by line from the official lists."""
    parts: dict[str, list[str]] = {}
    for split in (0, 1, 2):
        if dataset == "ucf101":
            lines = {
                part: (lists / f"{part}list{split + 1:02d}.txt").read_text().split("\n") for part in ("train", "test")
            }
            found = [(line.split()[0], part) for part, all_lines in lines.items() for line in all_lines if line.strip()]
        else:
            files = sorted(lists.glob(f"*_test_split{split + 1}.txt"))
            flags = {"0": "unused", "1": "train", "2": "test"}
            found = [
                (
                    f"{path.name.removesuffix(f'_test_split{split + 1}.txt')}/{line.strip()[:-2]}",
                    flags[line.strip()[-1]],
                )
                for path in files
                for line in path.read_text().split("\n")
                if line.strip()
            ]
        for name, part in found:
            parts.setdefault(name, ["unused"] * 3)[split] = part
    return parts


@pytest.mark.parametrize(("dataset", "clips"), [("ucf101", 13320), ("hmdb51", 6766)])
def test_plans_equal_the_official_lists(shared: Path, tmp_path: Path, dataset: str, clips: int) -> None:
    lists = shared / "lists" / dataset
    official = official_parts(lists, dataset)
    assert len(official) == clips
    root, tiny = tmp_path / "tree", tmp_path / "tiny.avi"
    tiny.write_bytes(b"names are all that a plan looks at")
    for name in official:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        os.link(tiny, root / name)
    ways = [()] if dataset == "hmdb51" else [(), ("--lists",)]  # UCF101: by its rule of groups too
    for number, way in enumerate(ways if dataset == "ucf101" else [("--lists",)]):
        plan = tmp_path / f"plan{number}.csv"
        before = time.monotonic()
        done = run_alone(
            dataset, str(root), "--plan", str(plan), *(item for name in way for item in (name, str(lists)))
        )
        assert done.returncode == 0, done.stderr
        assert time.monotonic() - before < 60
        assert int(done.stderr.split()[-1]) < 2**20
        rows = rows_of(plan)
        assert {row["path"]: [row["split1"], row["split2"], row["split3"]] for row in rows} == official
        assert all(row["path"].split("/")[0] == row["class_name"] for row in rows)
        if dataset == "ucf101":
            labels = dict(line.split()[::-1] for line in (lists / "classInd.txt").read_text().splitlines() if line)
        else:
            labels = {name: str(n + 1) for n, name in enumerate(sorted({row["class_name"] for row in rows}))}
        assert all(int(row["label"]) == int(labels[row["class_name"]]) - 1 for row in rows)
    assert not (tmp_path / "out").exists()


def test_groups_from_a_csv_file(tmp_path: Path) -> None:
    names = [f"{label}/{clip}.mp4" for label in ("hop", "run") for clip in range(6)]
    for name in names:
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).touch()
    groups = tmp_path / "groups.csv"
    lines = [f"{name},film {number % 3}" for number, name in enumerate(names)]
    groups.write_text("\n".join(["path,group", *lines]))
    plan = tmp_path / "plan.csv"
    assert main(["prepare", "folder", str(tmp_path / "in"), f"--plan={plan}", f"--groups={groups}"]) == 0
    rows = rows_of(plan)
    assert {row["group"] for row in rows} == {"film 0", "film 1", "film 2"}
    for group in {row["group"] for row in rows}:
        assert len({row["split1"] for row in rows if row["group"] == group}) == 1


def test_groups_that_are_not_accepted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("hop/1.mp4", "hop/2.mp4", "run/1.mp4", "run/2.mp4"):
        write_clip(tmp_path / "in" / name)
    common = ["prepare", "folder", str(tmp_path / "in"), f"--plan={tmp_path / 'plan.csv'}"]
    groups = tmp_path / "groups.csv"
    groups.write_text("path,group\nhop/1.mp4,a\n")
    for arguments, message in (
        ([f"--groups={groups}"], "gives no group for hop/2.mp4"),
        ([f"--groups={tmp_path / 'none.csv'}"], "does not list groups (accepted: a CSV file"),
        ([f"--groups={groups}", "--group-pattern=(x)"], "exclude each other"),
    ):
        assert main([*common, *arguments]) == 2
        assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("names", "options", "warning"),
    [
        (
            "hop/s1_a hop/s1_b hop/s2_a run/s1_a run/s2_b",
            [],
            "look as if they show 2 scenes or persons (s1, s2 …), and no groups",
        ),
        ("hop/s1_a hop/s1_b hop/s2_a run/s1_a run/s2_b", ["--group-pattern=(s.)"], None),
        ("hop/1 hop/2 run/1 run/2", [], None),
        ("Train/hop/1 Train/run/1 Test/hop/2 Test/run/2", ["--group-pattern=(.)"], None),
        (
            "Train/hop/s1 Train/run/s1 Test/hop/s1 Test/run/s2",
            ["--group-pattern=(s.)"],
            "1 group is divided between training and test: s1",
        ),
        ("Train/hop/1 Train/run/1 Test/hop/2", [], "1 of 2 classes have no test clips (first: run)"),
        ("hop/train_1 hop/test_1 run/train_1 run/test_1", [], "4 clips are named after a part of the dataset"),
    ],
)
def test_what_names_tell_before_anything_is_prepared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], names: str, options: list[str], warning: str | None
) -> None:
    for name in names.split():
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / f"{name}.mp4").touch()
    assert main(["prepare", "folder", str(tmp_path / "in"), f"--plan={tmp_path / 'plan.csv'}", *options]) == 0
    told = capsys.readouterr().err
    assert ("warning: " in told) == (warning is not None)
    assert (warning or "") in told


def test_splits_of_a_file_that_divide_a_person(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [(f"{label}/{n}.mp4", f"s{n}", part) for label in ("hop", "run") for n, part in ((1, "train"), (2, "test"))]
    for path, _, _ in rows:
        write_clip(tmp_path / "in" / path, seed=len(path))
    text = "\n".join(["path,group,split1", *map(",".join, rows), "run/gone.mp4,s1,train"])
    groups = tmp_path / "groups.csv"
    groups.write_text(text.replace("run/2.mp4,s2", "run/2.mp4,s1"))
    command = ["prepare", "folder", str(tmp_path / "in"), f"--groups={groups}", f"--out={tmp_path / 'out'}", *SMALL]
    assert main([*command, "--jobs=1"]) == 0
    told = capsys.readouterr().err
    assert "1 group is divided between training and test: s1 is in training and test of split 1." in told
    assert "lists 1 clips that do not exist, or do not have the suffix of a video (first: run/gone.mp4)" in told
    assert Manifest.read(tmp_path / "out").settings["checks"]["divided_groups"] == 1


def test_splits_from_an_edited_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Five actions of eight persons: odd ones train and even ones test, then the other way round."""
    root = tmp_path / "in"
    for action, name in enumerate(("swipe_left", "wave")):
        for person in range(1, 5):
            write_clip(root / name / f"a{action}_s{person}_t1.mp4", seed=action * 4 + person)
    plan, subjects, out = tmp_path / "plan.csv", tmp_path / "subjects.csv", tmp_path / "out"
    assert main(["prepare", "folder", str(root), f"--plan={plan}", r"--group-pattern=_(s\d+)_"]) == 0
    rows = rows_of(plan)
    for row in rows:
        odd = int(row["group"][-1]) % 2
        row["split1"], row["split2"] = ("train", "test") if odd else ("test", "train")
        del row["split3"]
    with subjects.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows([*rows, {"path": "wave/gone.mp4", "group": "s9", "split1": "train", "split2": "train"}])
    command = [
        "prepare",
        "folder",
        str(root),
        f"--groups={subjects}",
        "--flip=false",
        f"--out={out}",
        *SMALL,
        "--jobs=1",
    ]
    assert main(command) == 0
    assert "8 clips of 2 classes in 4 groups" in capsys.readouterr().err
    manifest = Manifest.read(out)
    assert not manifest.flip
    for clip in manifest.clips:
        odd = int(clip.video_id.split("_s")[-1][0]) % 2
        assert clip.group == f"s{clip.video_id.split('_s')[-1][0]}"
        assert [clip.part(split) for split in (1, 2, 3)] == [
            *(("train", "test") if odd else ("test", "train")),
            "unused",
        ]


def test_gestures_divided_by_subject(shared: Path, tmp_path: Path) -> None:
    """The commands of data/README.md, awk and all, on real names."""
    root, plan, subjects = shared / "utd-mhad-5", tmp_path / "plan.csv", tmp_path / "subjects.csv"
    text = (Path(__file__).resolve().parents[2] / "data/README.md").read_text(encoding="utf-8")
    command = re.search(r"  awk .*?> subjects.csv", text, re.DOTALL)
    assert command is not None
    assert main(["prepare", "folder", str(root), r"--group-pattern=_(s\d+)_", f"--plan={plan}"]) == 0
    subprocess.run(command[0], shell=True, check=True, cwd=tmp_path)
    assert main(["prepare", "folder", str(root), f"--groups={subjects}", f"--plan={plan}"]) == 0
    rows = rows_of(plan)
    assert Counter((row["split1"], row["split2"], row["split3"]) for row in rows) == {
        ("train", "test", "unused"): 80,
        ("test", "train", "unused"): 80,
    }
    for row in rows:
        subject = int(row["path"].split("_s")[-1].split("_")[0])
        assert row["group"] == f"s{subject}"
        assert (row["split1"] == "train") == bool(subject % 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ((",train", ",Train"), "split1 of hop/2.mp4 is 'Train' (accepted: train, test, unused). Correct it."),
        (("hop/2.mp4,b,train", "hop/2.mp4,b,test"), "split1 has no training clips for 1 of 2 classes (first: hop)"),
        (("hop/2.mp4", "hop/1.mp4"), "lists hop/1.mp4 twice (accepted: one line per clip)"),
        (("path", "file"), "does not list groups (accepted: a CSV file with columns path and group, optionally split1"),
    ],
)
def test_listed_splits_that_are_not_accepted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: tuple[str, str], message: str
) -> None:
    for name in ("hop/1.mp4", "hop/2.mp4", "run/1.mp4", "run/2.mp4"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).touch()
    groups = tmp_path / "groups.csv"
    lines = "path,group,split1\nhop/1.mp4,a,test\nhop/2.mp4,b,train\nrun/1.mp4,a,test\nrun/2.mp4,b,train\n"
    command = ["prepare", "folder", str(tmp_path / "in"), f"--plan={tmp_path / 'plan.csv'}", f"--groups={groups}"]
    groups.write_text(lines)
    assert main(command) == 0
    groups.write_text(lines.replace(*change, 1))
    assert main(command) == 2
    assert message in capsys.readouterr().err
    for part in ("train", "test"):
        shutil.copytree(tmp_path / "in", tmp_path / "divided" / part)
    groups.write_text(lines)
    assert main([*command[:2], str(tmp_path / "divided"), *command[3:]]) == 2
    assert "has split columns, and" in capsys.readouterr().err


def test_settings_that_do_not_go_together() -> None:
    with pytest.raises(ConfigError, match=r"--shard and --merge exclude each other"):
        Prepare("folder", "in", out="out", shard="1/2", merge=True)
    with pytest.raises(ConfigError, match=r"--groups is for the layout folder \(given: ucf101\). Omit it"):
        Prepare("ucf101", "in", out="out", groups="groups.csv")
    with pytest.raises(ConfigError, match=r"--lists is for the layout ucf101 and hmdb51 \(given: folder\)"):
        Prepare("folder", "in", out="out", lists="lists")
    with pytest.raises(ConfigError, match=r"no --out .* or --plan FILE.csv"):
        Prepare("folder", "in")
    with pytest.raises(ConfigError, match=r"frame_rate fast \(accepted: keep, or pictures per second\)"):
        Prepare("folder", "in", out="out", frame_rate="fast").encoding()
    with pytest.raises(ConfigError, match=r"frame_rate 25.0 and resample 25 exclude each other"):
        Prepare("folder", "in", out="out", frame_rate="25", resample=25).encoding()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for number in range(8):
        write_clip(tmp_path / "in" / f"{'hop' if number % 2 else 'run'}/x_g{number // 2}_c1.mp4", seed=number)
    return tmp_path / "in"


def test_a_plan_that_cannot_be_written(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.csv").mkdir()
    for plan in ("folder.csv", "in/hop/x_g0_c1.mp4/plan.csv"):
        assert main(["prepare", "folder", str(tree), f"--plan={plan}"]) == 2
        told = capsys.readouterr().err
        assert f"{plan} could not be written (" in told
        assert told.count("\n") == 1


def test_shards_and_merge(tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["prepare", "folder", str(tree), *SMALL, "--jobs=1"]
    out = f"--out={tmp_path / 'out'}"
    assert main([*command, f"--out={tmp_path / 'whole'}"]) == 0
    assert main([*command, out, "--merge"]) == 2
    assert main([*command, out, "--shard=2/2"]) == 0
    assert "shard 2/2 is done" in capsys.readouterr().err
    assert main([*command, out, "--merge"]) == 2
    assert "(first: 1/2). Run the same command with --shard 1/2" in capsys.readouterr().err
    assert main([*command, out, "--shard=1/2"]) == 0
    assert main([*command, out, "--merge"]) == 0
    assert digests(tmp_path / "out") == digests(tmp_path / "whole")


def test_h264_is_fast_unless_a_folder_was_begun_otherwise(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Earlier versions had one form of H.264 and no name for it: their folders are resumed in that form."""

    def tune_of(folder: str, *options: str) -> object:
        command = ["prepare", "folder", str(tree), f"--out={tmp_path / folder}", *SMALL, "--jobs=1", *options]
        assert main(command) == 0
        assert main([*command, "--verify"]) == 0
        return Manifest.read(tmp_path / folder).settings["encoding"].get("tune")  # type: ignore[attr-defined]

    assert tune_of("mpeg4") is None
    assert tune_of("old", "--codec=h264", "--tune=none") is None  # as earlier versions wrote it
    before = digests(tmp_path / "old")
    monkeypatch.setattr(prepare_clip, "transcode", None)
    assert tune_of("old", "--codec=h264") is None
    (tmp_path / "old/manifest.parquet").unlink()  # stopped before the end
    assert tune_of("old", "--codec=h264") is None
    assert digests(tmp_path / "old") == before
    monkeypatch.undo()
    assert tune_of("new", "--codec=h264") == "fastdecode"
    assert tune_of("old", "--codec=h264", "--tune=fastdecode") == "fastdecode"
    assert tune_of("old", "--codec=h264") == "fastdecode"
    assert tune_of("mpeg4", "--codec=h264") == "fastdecode"


def test_verify(tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["prepare", "folder", str(tree), f"--out={tmp_path / 'out'}", *SMALL, "--jobs=1"]
    assert main([*command, "--verify"]) == 2
    assert "no such manifest" in capsys.readouterr().err
    assert main(command) == 0
    assert main([*command, "--verify"]) == 0
    assert "no clip has changed since it was prepared, and none of the 8 sources" in capsys.readouterr().err
    (tmp_path / "out/videos/hop/x_g0_c1.mp4").write_bytes(b"x")
    assert main([*command, "--verify"]) == 2
    assert "1 of 8 clips or their sources have changed" in capsys.readouterr().err
    assert main(command) == 0
    assert main([*command, "--verify"]) == 0


def test_findings_are_told_and_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, out = tmp_path / "in", tmp_path / "out"
    for number in range(24):
        label = ("hop", "run")[number % 2]
        # Each class has a GOP length of its own
        write_clip(root / f"{label}/x_g{number // 2:02d}_c1.mp4", seed=number, gop=(4, 7)[number % 2])
    shutil.copy(root / "hop/x_g00_c1.mp4", root / "hop/x_g11_c2.mp4")
    assert main(["prepare", "folder", str(root), f"--out={out}", *SMALL, "--jobs=1"]) == 0
    told = capsys.readouterr().err
    assert "warning: codec leak: GOP length, B-frames and frame rate of the sources predict the class of 100.0%" in told
    assert (
        "warning: 1 clips are copies of another clip, byte for byte: hop/x_g11_c2.mp4 is the same as hop/x_g00_c1.mp4"
        in told
    )
    checks = Manifest.read(out).settings["checks"]
    assert checks["codec_leak"]["sources"]["gop"] == 1.0
    assert checks["codec_leak"]["results"]["form"] == 0.5
    assert {row["check"] for row in rows_of(out / "findings.csv")} == {"duplicates", "codec_leak"}


@pytest.mark.parametrize(("good", "bad"), [(16, 1), pytest.param(200, 2, marks=pytest.mark.slow)])
def test_bad_files_are_reported_and_the_good_prepared(tmp_path: Path, make_clip: MakeClip, good: int, bad: int) -> None:
    root, out = tmp_path / "in", tmp_path / "out"
    for number in range(good):
        write_clip(root / f"class {number % 4}/v_g{number // 4:02d}_c01.mp4", seed=number, num_frames=14)
    reasons = {}
    for number in range(bad):
        folder = root / f"class {number}"
        whole = write_clip(tmp_path / f"whole{number}.mp4", num_frames=40, seed=1000 + number).read_bytes()
        front = make_clip("mpeg4", num_frames=40, seed=number).read_bytes()  # its index is at the end
        files = {
            "empty": (b"", "is empty"),
            "cut": (whole[: len(whole) * 2 // 3], "is cut short"),
            "beheaded": (front[: len(front) // 2], "cannot be read as a video"),
            "text": (b"not a video\n" * 50, "is a text file"),
            "unknown codec": (whole.replace(b"avc1", b"zzzz"), "has no video track that FFmpeg can decode"),
            "forbidden": (whole, "Permission denied"),
            "one picture": (write_clip(tmp_path / "one.mp4", num_frames=1).read_bytes(), "has only one picture"),
            "sound": (sound_alone(tmp_path / "sound.mp4"), "has no video track"),
        }
        for name, (content, reason) in files.items():
            path = folder / f"{name} {number}_g90_c01.mp4"
            path.write_bytes(content)
            path.chmod(0 if name == "forbidden" else 0o644)
            reasons[path.relative_to(root).as_posix()] = reason
        (folder / f"link {number}_g91_c01.mp4").symlink_to(tmp_path / "nowhere.mp4")
        reasons[f"class {number}/link {number}_g91_c01.mp4"] = "no such file"
        write_clip(folder / f"日本語 {number} ü'\"#%_g92_c01.mp4", seed=2000 + number)
        shutil.copy(folder / "v_g00_c01.mp4", folder / f"again {number}_g93_c01.mp4")
    command = ["folder", str(root), "--out", str(out), *SMALL, "--jobs=2"]
    failed = run_alone(*command, unprivileged=True)
    assert failed.returncode == 2
    assert f"{len(reasons)} of {good + 11 * bad} videos could not be prepared" in failed.stderr
    assert "Traceback" not in failed.stderr
    skipped = run_alone(*command, "--on-error=skip", unprivileged=True)
    assert skipped.returncode == 0, skipped.stderr
    assert f"{len(reasons)} files were omitted" in skipped.stderr
    listed = {row["path"]: row["reason"] for row in rows_of(out / "failures.csv")}
    assert set(listed) == set(reasons)
    for path, reason in reasons.items():
        assert reason in listed[path]
    manifest = Manifest.read(out)
    assert len(manifest.clips) == good + 2 * bad  # the odd name and the duplicate are good files
    manifest.check_files()
    duplicates = [row["what"] for row in rows_of(out / "findings.csv") if row["check"] == "duplicates"]
    assert len(duplicates) == bad
    assert json.dumps(manifest.settings)


def sound_alone(path: Path) -> bytes:
    import av
    import numpy as np

    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path.read_bytes()
