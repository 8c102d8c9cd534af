"""measurements/gpu_check.py in its CPU form: every check that needs no GPU passes, and the report says so; a failed one is told."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[1]
PROGRAM = ROOT / "measurements" / "gpu_check.py"


def run(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(PROGRAM), *map(str, words), "--device", "cpu"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_every_check_passes_on_a_cpu(tmp_path: Path) -> None:
    done = run("--out", tmp_path / "out", "--results", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    (path,) = tmp_path.glob("gpu_check-cpu-*.json")
    report = json.loads(path.read_text(encoding="utf-8"))
    checks = report["checks"]
    skipped = {name for name, each in checks.items() if str(each["said"]).startswith("skipped")}
    assert {"tests marked gpu", "out of memory says what to do"} <= skipped
    assert len(skipped) <= 5
    assert all(each["ok"] for each in checks.values())
    (steps,) = checks["ms a step, one change at a time"]["said"].values()
    assert all(milliseconds > 0 for milliseconds in steps.values())
    assert checks["SIGTERM, resumed: weights as uninterrupted"]["said"]["largest difference"] < 1e-4
    assert str(tmp_path) not in path.read_text(encoding="utf-8").replace(str(report["command"]), "")


def test_a_check_that_fails_is_told_and_the_others_run(tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = run("--out", out, "--only", "clips are generated", "predict in Python", "clips a second")
    assert done.returncode == 1
    assert "FAILED" in done.stdout
    report = json.loads((out / "gpu_check.json").read_text(encoding="utf-8"))
    good = [each["ok"] for each in report["checks"].values()]
    assert good == [True, False, True], "predict finds no run to export; the loader needs the clips only"


def test_words_that_no_check_has_in_its_name_are_refused(tmp_path: Path) -> None:
    done = run("--out", tmp_path / "out", "--only", "clips are generated", "nonsense")
    assert done.returncode == 2
    first, *names = done.stderr.splitlines()
    assert first == "--only: no check has 'nonsense' in its name. The checks:"
    assert "  predict in Python, students on the device" in names
    assert not done.stdout
    assert not (tmp_path / "out").exists()


def test_every_folder_with_a_gpu_test_is_named(load_measurement: Callable[[str], ModuleType]) -> None:
    marked = {
        path.relative_to(ROOT).parts[1]
        for path in (ROOT / "tests").glob("*/test_*.py")
        if "pytest.mark.gpu" in path.read_text(encoding="utf-8")
    }
    assert {f"tests/{folder}" for folder in marked} == set(load_measurement("gpu_check_runs").GPU_TESTS)
