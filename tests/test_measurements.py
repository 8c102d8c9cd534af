"""measurements/: pages are what the results give, results state where they are from, and every program starts."""

from __future__ import annotations

import ast
import doctest
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "measurements"
FILES = sorted(FOLDER.glob("*.py"))
RESULTS = sorted((FOLDER / "results").glob("*.json"))
PROGRAMS = [path for path in FILES if 'if __name__ == "__main__":' in path.read_text(encoding="utf-8")]
PAGES = ("README.md", "docs/study.md", "docs/measured.md", "docs/describe.md", "docs/scale.md", "docs/protocol.md")


@pytest.fixture(scope="module")
def pages(load_measurement: Callable[[str], ModuleType]) -> ModuleType:
    return load_measurement("pages")


def test_the_pages_are_those_of_the_results(pages: ModuleType) -> None:
    assert pages.stale_pages() == []


def test_a_stale_page_is_noticed_and_rewritten(pages: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    for page in PAGES:
        shutil.copy(ROOT / page, tmp_path / page)
    page = tmp_path / "docs" / "scale.md"
    before = page.read_text(encoding="utf-8")
    page.write_text(before.replace("| UCF101 | 13,320", "| UCF101 | 13,321"), encoding="utf-8")
    assert pages.stale_pages(tmp_path) == ["docs/scale.md"]
    pages.write_pages(tmp_path)
    assert page.read_text(encoding="utf-8") == before
    assert pages.stale_pages(tmp_path) == []


def test_a_page_without_a_block_is_refused(pages: ModuleType) -> None:
    with pytest.raises(ValueError, match=r"README\.md has no block between <!-- tables: begin -->"):
        pages.PAGES[0].updated("text")


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_a_result_states_its_origin_and_is_the_newest(path: Path) -> None:
    found = json.loads(path.read_text(encoding="utf-8"))
    kind, _, date = path.stem.partition("-20")
    assert found["date"] == f"20{date}"
    origin = found.get("made", found)
    assert "machine" in origin
    assert "python" in origin["versions"]
    assert sorted(path.parent.glob(f"{kind}-20*.json")) == [path], "only the newest of a kind is kept"


def test_results_that_no_page_uses_are_not_kept() -> None:
    texts = "".join((ROOT / page).read_text(encoding="utf-8") for page in PAGES)
    assert [path.name for path in RESULTS if path.name not in texts] == []


def test_a_result_is_written_and_found(load_measurement: Callable[[str], ModuleType], tmp_path: Path) -> None:
    record = load_measurement("record")
    assert record.newest("speed", folder=tmp_path) is None
    for date in ("2026-01-02", "2026-01-01"):
        record.write("speed", {"date": date, "value": date}, folder=tmp_path)
    record.write("speed-cpu", {"date": "2026-03-01"}, folder=tmp_path)
    found = record.newest("speed", folder=tmp_path)
    assert found == {"date": "2026-01-02", "value": "2026-01-02", "file": "speed-2026-01-02.json"}


def test_provenance_names_machine_and_versions(load_measurement: Callable[[str], ModuleType]) -> None:
    found = load_measurement("record").provenance(("numpy", "no-such-package"), threads=1)
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", found["date"])
    assert found["machine"].keys() == {"processor", "cores", "system", "load", "threads"}
    assert found["versions"].keys() == {"videokd", "python", "numpy"}


@pytest.mark.parametrize("name", ["markdown"])
def test_examples(load_measurement: Callable[[str], ModuleType], name: str) -> None:
    assert doctest.testmod(load_measurement(name)).failed == 0
    assert doctest.testmod(load_measurement(name)).attempted > 0


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_files_and_functions_are_short(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            names = [a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs) if a.arg != "self"]
            assert len(names) <= 6, node.name
            lines = text.splitlines()[node.lineno - 1 : node.end_lineno]
            code = [line for line in lines if line.strip() and not line.strip().startswith("#")]
            documented = len((ast.get_docstring(node) or "").split("\n")) if ast.get_docstring(node) else 0
            assert len(code) - documented <= 40, node.name


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.stem)
def test_a_program_names_its_command(path: Path) -> None:
    document = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    assert f".venv/bin/python measurements/{path.name}" in document


@pytest.mark.slow
@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.stem)
def test_a_program_starts(path: Path) -> None:
    done = subprocess.run([sys.executable, str(path), "--help"], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"measurements/{path.name}" in done.stdout
