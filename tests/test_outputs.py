"""Standard output and error: closed, full, read by nobody; and what strangers' names may do to a terminal."""

from __future__ import annotations

import csv
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import MakeClip
from videokd import __main__
from videokd.__main__ import main
from videokd.errors import DataError, printable
from videokd.files import as_cell, from_cell
from videokd.jobs.failures import read_failures, write_failures
from videokd.preparation.groups_file import GroupsFile


def run(command: str, redirection: str) -> tuple[int, str]:
    """Exit status of a command under a shell's redirection, and what came through."""
    program = f"{shlex.quote(sys.executable)} -m videokd {command} {redirection}"
    done = subprocess.run(["sh", "-c", program], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("command", ["presets", "show --help"])
@pytest.mark.parametrize("redirection", [">&-", ">/dev/full"])
def test_results_that_nobody_can_get_are_an_error(command: str, redirection: str) -> None:
    status, text = run(command, redirection)
    assert status == 2
    assert text.startswith("videokd: standard output cannot be written (")
    assert len(text.splitlines()) == 1


@pytest.mark.parametrize("redirection", ["2>&-", "2>/dev/full"])
def test_messages_that_nobody_can_get_do_no_harm(redirection: str, make_clip: MakeClip, tmp_path: Path) -> None:
    assert run("presets", redirection)[0] == 0
    assert run("presets demo-teech", redirection) == (2, "")
    picture = tmp_path / "a.png"
    assert run(f"show {make_clip()} --save {picture}", redirection) == (0, "")
    assert picture.read_bytes()[:4] == b"\x89PNG"


def test_no_output_at_all() -> None:
    assert run("presets", ">&- 2>&- <&-") == (2, "")
    assert run("presets", ">/dev/full 2>&1") == (2, "")


def test_what_needs_no_output_runs_without(make_clip: MakeClip, tmp_path: Path) -> None:
    picture = tmp_path / "a.png"
    status, text = run(f"show {make_clip()} --save {picture}", ">&-")
    assert status == 0
    assert "a.png: GOP" in text
    assert picture.read_bytes()[:4] == b"\x89PNG"  # nothing was written into it by its number


def test_a_reader_that_has_enough_is_no_error(make_clip: MakeClip) -> None:
    for command in ("--help", f"inspect {make_clip()} --seconds_measured 0"):
        done = subprocess.run(
            ["bash", "-c", f"set -o pipefail; {sys.executable} -m videokd {command} | true"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")


def test_a_broken_pipe_elsewhere_is_not_taken_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only standard output's reader may leave: a worker that dies must not look like success."""

    def fails(arguments: list[str]) -> None:
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr("videokd.recipes.presets.main", fails)
    with pytest.raises(BrokenPipeError):
        main(["presets"])


def test_the_machine_s_troubles_are_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(arguments: list[str]) -> None:
        raise PermissionError(13, "Permission denied", "/some/\x1bfile")

    monkeypatch.setattr("videokd.recipes.presets.main", fails)
    assert main(["presets"]) == 2
    assert capsys.readouterr().err.startswith("videokd: /some/\\u001bfile: Permission denied. Check free space")


def test_outputs_are_given_back() -> None:
    before = sys.stdout, sys.stderr
    main(["--version"])
    assert (sys.stdout, sys.stderr) == before


def test_an_output_that_lacks_letters(tmp_path: Path) -> None:
    variables = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        [sys.executable, "-m", "videokd", "distill", "--help"], env=variables, capture_output=True, check=True
    )
    assert b"\\u03b1" in done.stdout  # α


HOSTILE = [
    "a\x1b[2Jb",
    "a\rvideokd: fine",
    "a\nvideokd: fine",
    "a\x9b31mb",
    "gpj.\u202e4pm",
    "a\u2066b\u2069",
    "a\u2028b",
    "a\x00b\x07\x08",
    "a\udc80b",
    "\ufeffa",
    "a\U000e0041b",
    "tab\tulator",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_what_steers_a_terminal_is_escaped(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable()
    assert json.loads(f'"{shown}"') == text
    assert printable(shown) == shown


@pytest.mark.parametrize(
    "text", ["clip.mp4", "跳跃 1.mp4", "قفز.mp4", "café ☕.mp4", "👩\u200d🚀", "می\u200cخواهم", "a\u00a0b", ""]
)
def test_letters_of_all_scripts_stay(text: str) -> None:
    assert printable(text) == text


def test_json_stays_json() -> None:
    content = {"path": "".join(HOSTILE), "n": [1.5, None]}
    assert json.loads(printable(json.dumps(content, ensure_ascii=False))) == content


def test_hostile_names_in_errors_and_tables(
    make_clip: MakeClip, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, name in enumerate(HOSTILE):
        if "\x00" in name:
            continue
        path = tmp_path / f"{name}.mp4"
        path.write_bytes(make_clip().read_bytes())
        assert main(["inspect", str(path), "--seconds_measured=0"]) == 0
        first, *rest = capsys.readouterr().out.split("\n")
        assert printable(name) in first
        assert rest[0].startswith("  file ")
        assert main(["inspect", str(path), "--format=json", "--seconds_measured=0"]) == 0
        assert json.loads(capsys.readouterr().out)["file"] == str(path)
        assert main(["show", str(path), f"--save={tmp_path / f'{number}.png'}"]) == 0
        assert printable(name) in capsys.readouterr().err
        path.write_bytes(b"nothing")
        assert main(["inspect", str(path)]) == 2
        line = capsys.readouterr().err
        assert line.rstrip("\n").isprintable(), name
        assert len(line.splitlines()) == 1


CELLS = [
    "=1+1",
    "+1",
    "-1",
    "@sum",
    "\t=1",
    "\r=1",
    "\n=1",
    "'=1",
    "''=1",
    "'quoted'",
    "'",
    "",
    "＝1",
    "clip.mp4",
    "a=b",
]


@pytest.mark.parametrize("text", CELLS)
def test_cells_are_no_formulas_and_come_back(text: str) -> None:
    cell = as_cell(text)
    assert not cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠"))
    assert from_cell(cell) == text


def test_failures_come_back(tmp_path: Path) -> None:
    failed = [(text or "empty", f"=reason of {text!r}") for text in CELLS]
    write_failures(tmp_path / "failures.csv", failed)
    assert read_failures(tmp_path / "failures.csv") == failed
    with (tmp_path / "failures.csv").open(newline="") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    assert len(cells) == 2 * len(failed) + 2
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n"))]


def test_a_plan_with_formulas_comes_back(
    tmp_path: Path, make_clip: MakeClip, capsys: pytest.CaptureFixture[str]
) -> None:
    """Class folders and files that a spreadsheet would compute; the plan is read back as groups."""
    for name in ("=class", "-other"):
        for number in range(3):
            path = tmp_path / "in" / name / f"+{number}_g{number:02d}_c01.mp4"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(make_clip().read_bytes())
    plan = tmp_path / "plan.csv"
    assert main(["prepare", "folder", str(tmp_path / "in"), "--plan", str(plan)]) == 0, capsys.readouterr().err
    text = plan.read_text()
    assert not [cell for line in text.splitlines() for cell in line.split(",") if cell.startswith(("=", "-", "+", "@"))]
    groups = GroupsFile.read(plan).rows
    assert set(groups) == {f"{name}/+{n}_g{n:02d}_c01.mp4" for name in ("=class", "-other") for n in range(3)}
    again = tmp_path / "again.csv"
    arguments = ["prepare", "folder", str(tmp_path / "in"), "--plan", str(again), "--groups", str(plan)]
    assert main(arguments) == 0, capsys.readouterr().err
    assert again.read_text() == text


@pytest.mark.parametrize("verb", sorted(__main__.VERBS))
def test_help_is_plain(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([verb, "--help"])
    shown = capsys.readouterr().out
    for noise in (
        "CONFIG can be",
        "url",
        "type:",
        "Literal",
        "null",
        "class_path",
        "Path to a configuration file",
        ".help",
        "_weights ",
    ):
        assert noise not in shown
    assert "Hyphens and underscores both work" in shown


def test_a_long_error_stays_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fails(arguments: list[str]) -> None:
        raise DataError("first\nsecond\x1b[31m")

    monkeypatch.setattr("videokd.recipes.presets.main", fails)
    assert main(["presets"]) == 2
    assert capsys.readouterr().err == "videokd: first second\\u001b[31m\n"
