"""Writing aside, then renaming."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from videokd.errors import DataError
from videokd.files import held, is_held, leave_at_once, read_json, write_whole, written_whole


def test_a_file_is_replaced(tmp_path: Path) -> None:
    write_whole(tmp_path / "a" / "b.txt", b"old")
    assert write_whole(str(tmp_path / "a" / "b.txt"), b"new").read_bytes() == b"new"
    assert [file.name for file in (tmp_path / "a").iterdir()] == ["b.txt"]


def test_a_write_that_fails_leaves_the_old_file_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_whole(tmp_path / "b.txt", b"old")

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(DataError, match=r"b\.txt could not be written \(disk full\); an older one is untouched"):
        write_whole(path, b"new")
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["b.txt"]


def test_a_file_of_its_owner_alone_is_opened_to_others(tmp_path: Path) -> None:
    """Some libraries make their files for the owner only; other new files follow the umask."""
    (tmp_path / "usual").touch()
    with written_whole(tmp_path / "made") as aside:
        aside.touch(mode=0o600)
    assert (tmp_path / "made").stat().st_mode == (tmp_path / "usual").stat().st_mode
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made", "usual"]


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, '{"a": NaN}', '{"a": -Infinity}', "\xff", "x" * 2_000])
def test_json_that_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=r"."):
        read_json(tmp_path / "a.json", most_bytes=1_000_000 if len(text) != 2_000 else 1_000)


HOLDING = """
import os, sys, time
from pathlib import Path
from videokd.files import held
with held(Path(sys.argv[1]), refusal=""):
    if os.fork() == 0:  # as a process that loads clips: it outlives its parent
        print("forked", flush=True)  # from the child: only then has it released its copy of the lock
        time.sleep(60)
        os._exit(0)
    time.sleep(60)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no locks of this kind")
def test_a_folder_is_held_by_one_process_until_that_ends(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    assert not is_held(lock)
    other = subprocess.Popen(
        [sys.executable, "-c", HOLDING, str(lock)], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        assert other.stdout is not None
        other.stdout.readline()
        assert is_held(lock)
        with pytest.raises(DataError, match="somebody is here"), held(lock, refusal="somebody is here"):
            pass
        with pytest.raises(DataError, match="somebody is here"), held(lock, refusal="somebody is here", shared=True):
            pass
        other.send_signal(signal.SIGKILL)  # its forked child is still there
        other.wait()
        assert not is_held(lock)
        with held(lock, refusal="somebody is here"):
            pass
    finally:
        os.killpg(other.pid, signal.SIGKILL)


def test_those_who_share_do_not_exclude_each_other(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with held(lock, refusal="no", shared=True), held(lock, refusal="no", shared=True):
        with pytest.raises(DataError, match="no"), held(lock, refusal="no"):
            pass
        assert not is_held(lock)
    with held(tmp_path / "no-folder" / "lock", refusal="no"):  # where nothing can be locked, work continues
        pass


def test_leaving_at_once_leaves_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    left: list[int] = []
    monkeypatch.setattr(os, "_exit", left.append)
    with written_whole(tmp_path / "a.bin") as aside:
        aside.write_bytes(b"half")
        leave_at_once("videokd: stopped")
        assert not list(tmp_path.iterdir())
        aside.touch()  # for the block to end, as this process goes on
    assert left == [130]
    assert capfd.readouterr().err == "videokd: stopped\n"
