"""docs/runtimes.md: its commands and its Python run as they stand, and what it says to install is enough."""

from __future__ import annotations

import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.conftest import ROOT, MakeClip
from tests.exports.test_onnx_file import needs_onnx
from tests.small_graphs import write_graph
from videokd.__main__ import main
from videokd.prediction.graph_metadata import graph_metadata
from videokd.prediction.wanted import Wanted

PAGE = (ROOT / "docs" / "runtimes.md").read_text(encoding="utf-8")
FIRST, INSTALL, *_ = re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)


def with_what_they_need(names: list[str]) -> set[str]:
    """Distributions, and those that they require, as installed here."""
    found: set[str] = set()
    waiting = [Requirement(name) for name in names]
    while waiting:
        asked = waiting.pop()
        name = canonicalize_name(asked.name)
        for line in metadata.requires(name) or [] if name not in found else []:
            needed = Requirement(line)
            extras = asked.extras or {""}
            if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in extras):
                waiting.append(needed)
        found.add(name)
    return found


ONLY = """
import json, sys
from importlib.metadata import packages_distributions
from packaging.utils import canonicalize_name
allowed, owners = set(json.loads(sys.argv[1])), packages_distributions()
finders = [*sys.meta_path]
class Allowed:
    def find_spec(self, name, path=None, target=None):
        of = {canonicalize_name(each) for each in owners.get(name.partition(".")[0], ())}
        if of and not of & allowed:
            return None
        found = (finder.find_spec(name, path, target) for finder in finders)
        return next((each for each in found if each is not None), None)
sys.meta_path[:] = [Allowed()]
from videokd.__main__ import main
sys.exit(main(sys.argv[2:]))
"""


def test_what_the_page_installs_is_enough(make_clip: MakeClip, tmp_path: Path) -> None:
    needs_onnx()
    install = INSTALL.splitlines()[-1].removeprefix("pip install ")
    allowed = with_what_they_need(shlex.split(install)) | {"videokd"}
    assert not allowed & {"torch", "timm", "torchvision", "pyarrow", "matplotlib"}
    weights = tmp_path / "weights"  # for PyTorch: nothing of it is needed to say so
    weights.mkdir()
    for name in ("students.json", "students.safetensors"):
        (weights / name).touch()
    for students, status in ((write_graph(tmp_path / "any.onnx"), 0), (weights, 2)):
        command = ["predict", str(make_clip("mpeg4")), f"--students={students}"]
        done = subprocess.run(
            [sys.executable, "-c", ONLY, json.dumps(sorted(allowed)), *command],
            capture_output=True,
            check=False,
            timeout=600,
        )
        assert done.returncode == status, done.stderr
    assert b"which is not installed (accepted without it: students.onnx" in done.stderr


def test_the_page_runs_as_written(
    student_run: Path,
    make_clip: MakeClip,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    needs_onnx()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    os.symlink(student_run, tmp_path / "runs" / "mine" / "students")
    shutil.copy(make_clip("mpeg4"), tmp_path / "CLIP.mp4")
    commands = [shlex.split(line, comments=True) for line in re.findall(r"^videokd .*$", PAGE, re.MULTILINE)]
    assert [command[1] for command in commands] == ["export", "predict", "export", "predict", "export"]
    for _, *arguments in commands:
        assert main(arguments) == 0, capsys.readouterr().err
    (listing,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "page.py").write_text(listing)
    found = runpy.run_path("page.py")
    assert found["logits"].shape == (1, len(json.loads(found["texts"]["class_names"])))


def test_the_page_names_every_text_of_a_graph() -> None:
    texts = graph_metadata(Wanted(("a",), {"rgb": ("rgb", 32)}, 1), fusion={}, videokd_version="0")
    table = re.findall(r"^\| (`.*?) \|", PAGE, re.MULTILINE)
    assert set(re.findall(r"`(\w+)`", " ".join(table))) == {*texts, "int8", "sha256"}
