"""The command line as a user meets it: help, statuses, one-line errors."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from videokd.__main__ import VERBS, main


def test_help_is_quick_and_lists_every_verb() -> None:
    command = [sys.executable, "-m", "videokd", "--help"]
    subprocess.run(command, check=True, capture_output=True)
    started = time.perf_counter()
    shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert time.perf_counter() - started < 5  # nothing heavy is imported; the figure itself is measured, not asserted
    assert all(f"  {verb} " in shown for verb in VERBS)


def test_help_imports_nothing_heavy() -> None:
    code = "import sys; from videokd.__main__ import main; main(['--help']); print('torch' in sys.modules, 'numpy' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert shown.strip().endswith("False False")


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([verb, "--help"])
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    assert f"usage: videokd {verb}" in shown
    assert "PRESET-OR-FILE" in shown


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    import videokd

    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"videokd {videokd.__version__}\n"


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line that a refused command prints."""
    assert main(list(arguments)) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.strip().splitlines()
    assert len(lines) == 1, captured.err
    assert lines[0].startswith("videokd: ")
    return lines[0]


def test_unknown_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert "no verb 'teech' (accepted: demo, show" in refused(capsys, "teech")
    assert "Did you mean `teach`?" in refused(capsys, "teech")


def test_wrong_options(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    wanted = ("--stream=motion", "--manifest=x", f"--out={tmp_path / 'run'}")
    assert "Did you mean --optim.lr?" in refused(capsys, "teach", *wanted, "--optim.lrr", "3")
    assert "required: --manifest, --stream" in refused(capsys, "teach", "--out=x")
    assert "--optim.name is lion (accepted: adam, adamw, sgd)" in refused(capsys, "teach", *wanted, "--optim.name=lion")
    assert "stream: motin (accepted: one or more of iframe, motion" in refused(
        capsys, "teach", *wanted, "--stream", "motin"
    )
    assert "--seed has no value" in refused(capsys, "teach", *wanted, "--seed")
    assert "'more' is one too many (accepted: FILE)" in refused(capsys, "inspect", "one", "more")
    assert "split is 4 (accepted: 1, 2, 3)" in refused(capsys, "teach", *wanted, "--split", "4")
    assert "optim.lr is -1.0" in refused(capsys, "teach", *wanted, "--optim.lr=-1")
    assert not (tmp_path / "run").exists()


def test_wrong_settings_of_students(capsys: pytest.CaptureFixture[str]) -> None:
    wanted = ("--manifest=x", "--out=y")
    assert "teachers: motin (accepted: iframe, motion, residual, rgb, or one of these with" in refused(
        capsys, "distill", *wanted, "--teachers.motin", "run"
    )
    assert "weights: iframe (accepted: none, as there are no teachers)" in refused(
        capsys, "distill", *wanted, "--weights.iframe", "2"
    )
    assert "objective.alpha is 0.3 without teachers" in refused(capsys, "distill", *wanted, "--objective.alpha=0.3")
    assert "objective.alpha is 0" in refused(capsys, "distill", *wanted, "--teachers.iframe=run", "--objective.alpha=0")
    one = '--students={"a": {"streams": ["iframe"]}}'
    assert "objective.beta is 1.0 with one student" in refused(capsys, "distill", *wanted, one, "--objective.beta=1")
    fused = '--students={"fused": {"streams": ["iframe"]}}'
    assert "none called fused" in refused(capsys, "distill", *wanted, fused)


def test_presets_and_files_serve_as_config(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "demo-teech is neither a file nor a preset. Did you mean demo-teacher?" in refused(
        capsys, "teach", "--config=demo-teech"
    )
    unknown = tmp_path / "unknown.yaml"
    unknown.write_text("stream: motion\nbananas: 3\n")
    assert "bananas" in refused(capsys, "teach", f"--config={unknown}", "--out=x", "--manifest=y")


def print_config(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as stopped:
        main([*arguments, "--print_config"])
    assert stopped.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("verb", ["teach", "distill", "evaluate", "prepare"])
def test_print_config_goes_round(verb: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    first = print_config(capsys, verb)
    file = tmp_path / "config.yaml"
    file.write_text(first)
    assert print_config(capsys, verb, "--config", str(file)) == first


def test_options_win_over_the_config_wherever_they_stand(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (("--optim.epochs=7", "--config=demo-teacher"), ("--config=demo-teacher", "--optim.epochs", "7")):
        assert "epochs: 7" in print_config(capsys, "teach", *arguments)
    assert "input_size: 64" in print_config(capsys, "teach", "--optim.epochs=7", "--config", "demo-teacher")


def test_hyphens_and_underscores_both_serve(capsys: pytest.CaptureFixture[str]) -> None:
    for option in ("--data.batch-size", "--data.batch_size"):
        assert "batch_size: 5" in print_config(capsys, "teach", option, "5")


def test_a_switch_needs_no_value(capsys: pytest.CaptureFixture[str]) -> None:
    assert "sweep: true" in print_config(capsys, "fuse", "--scores.iframe=a.npz", "--sweep")
    assert "temporal_shift: false" in print_config(capsys, "teach", "--temporal_shift", "false")


def test_a_switch_may_have_a_third_choice(capsys: pytest.CaptureFixture[str]) -> None:
    assert "compile: true" in print_config(capsys, "teach", "--optim.compile", "--optim.epochs=7")
    assert "compile: true" in print_config(capsys, "teach", "--optim.compile")
    assert "compile: false" in print_config(capsys, "teach", "--optim.compile", "false")
    assert "compile: reduce-overhead" in print_config(capsys, "teach", "--optim.compile", "reduce-overhead")
    assert main(["teach", "--optim.compile=max"]) == 2
    assert "--optim.compile is max (accepted: false, true, reduce-overhead)" in capsys.readouterr().err
    assert main(["teach", "--optim.compile", "max"]) == 2
    assert "--optim.compile is max (accepted: false, true, reduce-overhead)" in capsys.readouterr().err
    assert main(["teach", "--optim.compile=1"]) == 2
    with pytest.raises(SystemExit):
        main(["teach", "--help"])
    assert "--optim.compile {false,true,reduce-overhead}" in capsys.readouterr().out


def test_a_closed_pipe_is_no_error() -> None:
    done = subprocess.run(
        f"{sys.executable} -m videokd presets | true", shell=True, check=False, capture_output=True, text=True
    )
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "resumes"),
    [
        (["watch", "-"], False),
        (["predict", "A.mp4"], False),
        (["predict", "A.mp4", "--save=a.csv"], True),
        (["teach"], True),
    ],
)
def test_only_what_resumes_says_so(
    arguments: list[str], resumes: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(arguments: list[str]) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(f"videokd.recipes.{arguments[0]}.main", stop)
    assert main(arguments) == 130
    assert ("the same command resumes" in capsys.readouterr().err) == resumes
