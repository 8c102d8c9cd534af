"""Who may import whom (the arrows in the package), and what importing costs."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "videokd"
FOLDERS = {"codec", "datasets", "models", "distill", "evaluation", "training", "recipes"}
LEAVES = {"types", "errors", "files"}
ALLOWED = {
    "errors": set(),
    "types": {"errors"},
    "files": {"errors"},
    "codec": LEAVES | {"codec"},
    "datasets": LEAVES | {"datasets", "codec"},
    "models": LEAVES | {"models"},
    "distill": LEAVES | {"distill"},
    "evaluation": LEAVES | {"evaluation"},
    "training": LEAVES | {"training"},
    "recipes": LEAVES | FOLDERS,
    "__main__": {"errors"},
}


def runtime_imports(path: Path) -> set[str]:
    """Dotted names that a file imports, but for those under TYPE_CHECKING."""
    names = set()
    waiting: list[ast.AST] = [ast.parse(path.read_text())]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        waiting += ast.iter_child_nodes(node)
    return names


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_follow_the_arrows(path: Path) -> None:
    layer = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if layer in ("__init__", "presets"):
        return
    imported = {name.split(".")[1] for name in runtime_imports(path) if name.startswith("videokd.")}
    assert imported - {"__version__"} <= ALLOWED[layer]


def test_few_files_touch_pyav() -> None:
    users = {path.name for path in FILES if any(n.split(".")[0] == "av" for n in runtime_imports(path))}
    transcoding = {"form.py", "transcode.py", "mp4_writer.py", "orientation.py", "resampling.py"}
    assert users == {"container.py", "opening.py", "animation.py"} | transcoding


def test_folders_define_nothing_in_their_init() -> None:
    for folder in FOLDERS:
        assert not (PACKAGE / folder / "__init__.py").read_text().strip()


def loaded_by(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(' '.join(sys.modules))"
    return set(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split())


def test_importing_the_package_is_light() -> None:
    assert not {"torch", "av", "numpy"} & loaded_by("import videokd")


def test_the_codec_loads_no_torch() -> None:
    names = ", ".join(f"videokd.codec.{path.stem}" for path in (PACKAGE / "codec").glob("[a-z]*.py"))
    modules = loaded_by(f"import {names}; from videokd import open")
    assert "videokd.codec.reader" in modules
    assert "torch" not in modules


def test_public_names_exist() -> None:
    import videokd

    assert len(videokd.__all__) <= 15
    for name in videokd.__all__:
        assert getattr(videokd, name) is not None
    with pytest.raises(AttributeError, match=r"no attribute 'decode' \(public names: ConfigError"):
        videokd.decode  # noqa: B018
