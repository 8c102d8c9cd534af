"""The rules that keep the package in order: who may import whom, how large things may grow, and what importing costs.

docs/code.md describes the same stack in a drawing. Each rule is a function of a source tree, so that the tests below can show
that it fails on a tree that breaks it.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields, is_dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from videokd.__main__ import VERBS

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "videokd"
#: From the top; a module imports only what stands in lower lines, or in its own folder.
STACK = (
    ("recipes",),
    ("cards",),
    ("evaluation", "live", "exports", "archives", "webpage"),
    ("training", "preparation", "prediction"),
    ("runs", "description"),
    ("models", "datasets", "transcoding"),
    ("distill", "codec"),
    ("bitstream", "stopping", "jobs", "kernels"),
    ("hub",),
    ("messages", "config", "types"),
    ("drawing",),
    ("files",),
    ("errors",),
)
FOLDERS = [name for line in STACK for name in line if (PACKAGE / name).is_dir()]
MOST_LINES, MOST_CODE_LINES, MOST_PARAMETERS, MOST_FILES = 400, 40, 6, 14
#: A verb that runs other verbs, as somebody at a terminal would.
RUNS_VERBS = {"demo"}
#: Files of recipes/ that are not a verb.
NOT_VERBS = {"command_line", "evaluation_run", "help_text"}


@dataclass(frozen=True)
class Module:
    """One file of a package.

    Args:
        name: dotted, without the package: "codec.reader".
        text: its source.
    """

    name: str
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @property
    def layer(self) -> str:
        return self.name.partition(".")[0]


def modules_of(package: Path) -> dict[str, Module]:
    found = {}
    for path in sorted(package.rglob("*.py")):
        name = ".".join(path.relative_to(package).with_suffix("").parts)
        if not path.stem.startswith("__"):
            found[name] = Module(name, path.read_text(encoding="utf-8"))
    return found


def imports_of(module: Module, known: dict[str, Module]) -> Iterator[str]:
    """Modules of the package that a module imports anywhere, in functions and under TYPE_CHECKING too."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module.name}: imports are absolute"
            if (node.module or "").partition(".")[0] == "videokd":
                base = (node.module or "").removeprefix("videokd").lstrip(".")
                for alias in node.names:
                    name = f"{base}.{alias.name}".lstrip(".")
                    yield name if name in known else base
        elif isinstance(node, ast.Import):
            yield from (
                alias.name.removeprefix("videokd.") for alias in node.names if alias.name.startswith("videokd.")
            )


def upward_imports(modules: dict[str, Module]) -> list[str]:
    height = {name: number for number, line in enumerate(STACK) for name in line}
    wrong = []
    for module in modules.values():
        for target in filter(None, imports_of(module, modules)):
            layer = target.partition(".")[0]
            if layer != module.layer and height.get(layer, -1) <= height.get(module.layer, len(STACK)):
                wrong.append(f"{module.name} imports {target}")
    return wrong


def verbs_that_import_verbs(modules: dict[str, Module]) -> list[str]:
    verbs = {name for name in modules if name.startswith("recipes.") and name.partition(".")[2] not in NOT_VERBS}
    return [
        f"{name} imports {target}"
        for name in sorted(verbs)
        if name.partition(".")[2] not in RUNS_VERBS
        for target in imports_of(modules[name], modules)
        if target in verbs
    ]


def circles(modules: dict[str, Module]) -> list[str]:
    """Modules from which a chain of imports leads back to themselves."""
    targets = {name: {t for t in imports_of(module, modules) if t in modules} for name, module in modules.items()}
    reachable = {name: set(direct) for name, direct in targets.items()}
    changed = True
    while changed:
        changed = False
        for known in reachable.values():
            more = set().union(*(reachable[name] for name in known)) - known if known else set()
            known |= more
            changed |= bool(more)
    return sorted(name for name, known in reachable.items() if name in known)


def names_defined_twice(modules: dict[str, Module]) -> list[str]:
    """Public functions and classes; a private helper is known in its own file only, and every verb has a main.

    A signature that `overload` describes is one of the function that follows.
    """
    where: dict[str, list[str]] = defaultdict(list)
    for module in modules.values():
        for node in module.tree.body:
            if not isinstance(node, (ast.FunctionDef, ast.ClassDef)) or node.name.startswith("_"):
                continue
            if "overload" not in map(ast.unparse, node.decorator_list):
                where[node.name].append(module.name)
    return [f"{name}: {', '.join(files)}" for name, files in where.items() if len(files) > 1 and name != "main"]


def words_of(text: str) -> set[str]:
    return set(re.findall(r"[A-Za-z_]\w*", text))


def unused_public_names(modules: dict[str, Module], others: str) -> list[str]:
    """Public functions and classes that neither another place in the package nor a document or program names."""
    elsewhere = words_of(others)
    unused = []
    for module in modules.values():
        for node in module.tree.body:
            if not isinstance(node, (ast.FunctionDef, ast.ClassDef)) or node.name.startswith("_"):
                continue
            own = module.text.replace(ast.get_source_segment(module.text, node) or "", "")
            used = node.name in words_of(own) or any(
                node.name in words_of(other.text) for other in modules.values() if other is not module
            )
            if not used and node.name not in elsewhere and node.name != "main":
                unused.append(f"{module.name}.{node.name}")
    return unused


def long_files(modules: dict[str, Module]) -> list[str]:
    return [name for name, module in modules.items() if len(module.text.splitlines()) > MOST_LINES]


def functions(modules: dict[str, Module]) -> Iterator[tuple[Module, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for module in modules.values():
        for node in ast.walk(module.tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                yield module, node


def code_lines(module: Module, node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function without its docstring, comments and blank lines."""
    lines = module.text.splitlines()[node.lineno - 1 : node.end_lineno]
    if ast.get_docstring(node) is not None:
        docstring = node.body[0]
        del lines[docstring.lineno - node.lineno : (docstring.end_lineno or 0) - node.lineno + 1]
    return sum(bool(line.strip()) and not line.strip().startswith("#") for line in lines)


def long_functions(modules: dict[str, Module]) -> list[str]:
    return [f"{m.name}.{node.name}" for m, node in functions(modules) if code_lines(m, node) > MOST_CODE_LINES]


def functions_of_many_parameters(modules: dict[str, Module]) -> list[str]:
    """But for compiled kernels: Numba takes arrays and numbers, no dataclass."""
    wrong = []
    for module, node in functions(modules):
        names = [a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
        kernel = any("compiled" in ast.unparse(decorator) for decorator in node.decorator_list)
        if not kernel and len([name for name in names if name not in ("self", "cls")]) > MOST_PARAMETERS:
            wrong.append(f"{module.name}.{node.name}")
    return wrong


def crowded_folders(modules: dict[str, Module]) -> list[str]:
    count: dict[str, int] = defaultdict(int)
    for module in modules.values():
        count[module.layer] += "." in module.name
    return [folder for folder, files in count.items() if files > MOST_FILES and folder != "recipes"]  # one file a verb


RULES: dict[str, Callable[[dict[str, Module]], list[str]]] = {
    "imports go down": upward_imports,
    "no verb imports a verb": verbs_that_import_verbs,
    "no circles": circles,
    "a public name exists once": names_defined_twice,
    "files of at most 400 lines": long_files,
    "functions of at most 40 lines": long_functions,
    "at most 6 parameters": functions_of_many_parameters,
    "at most 14 files in a folder": crowded_folders,
}
MANY_LINES = "def f():\n" + "    x = 1\n" * 41
#: For each rule, sources that break it, and what must be named.
BROKEN = {
    "imports go down": ({"codec.a": "from videokd.models.b import f", "models.b": ""}, "codec.a imports models.b"),
    "no verb imports a verb": (
        {"recipes.fuse": "from videokd.recipes.evaluate import f", "recipes.evaluate": ""},
        "recipes.fuse imports recipes.evaluate",
    ),
    "no circles": (
        {
            "codec.a": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from videokd.codec import b",
            "codec.b": "def f():\n    from videokd.codec.a import g",
        },
        "codec.a",
    ),
    "a public name exists once": ({"codec.a": "def f(): pass", "models.b": "class f: pass"}, "f: codec.a, models.b"),
    "files of at most 400 lines": ({"codec.a": "x = 1\n" * 401}, "codec.a"),
    "functions of at most 40 lines": ({"codec.a": MANY_LINES}, "codec.a.f"),
    "at most 6 parameters": ({"codec.a": "class C:\n    def f(self, a, b, c, *, d, e, f, g): pass"}, "codec.a.f"),
    "at most 14 files in a folder": ({f"codec.m{number}": "" for number in range(15)}, "codec"),
}


@pytest.mark.parametrize("rule", RULES)
def test_the_package_keeps(rule: str) -> None:
    assert RULES[rule](modules_of(PACKAGE)) == []


@pytest.mark.parametrize("rule", RULES)
def test_a_planted_violation_is_found(rule: str) -> None:
    sources, named = BROKEN[rule]
    assert named in RULES[rule]({name: Module(name, text) for name, text in sources.items()})


def documents_and_programs() -> str:
    files = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("measurements/*.py"), *ROOT.glob("tools/*")]
    init = [PACKAGE / "__init__.py", PACKAGE / "__main__.py"]
    return "\n".join(path.read_text(encoding="utf-8") for path in (*files, *init) if path.is_file())


def test_no_public_name_is_used_by_tests_alone() -> None:
    assert unused_public_names(modules_of(PACKAGE), documents_and_programs()) == []


def test_a_name_that_only_tests_use_is_found() -> None:
    modules = {"codec.a": Module("codec.a", "def used(): pass\ndef unused(): return unused()\nused()")}
    assert unused_public_names(modules, "") == ["codec.a.unused"]
    assert unused_public_names(modules, "`unused` in a page") == []


def settings_classes() -> list[type[Any]]:
    """The dataclasses that verbs take their settings from: those of recipes/, and what a run's config.yaml holds."""
    names = [f"videokd.recipes.{path.stem}" for path in sorted((PACKAGE / "recipes").glob("[a-z]*.py"))]
    found = []
    for name in (*names, "videokd.runs.run_settings", "videokd.runs.settings"):
        module = import_module(name)
        found += [
            kind
            for kind in vars(module).values()
            if is_dataclass(kind) and kind.__module__ == name and not kind.__name__.startswith("_")
        ]
    return found


def settings_of_verbs() -> Iterator[tuple[str, str]]:
    """(dataclass, field) of every setting of every verb, groups and single students among them."""
    for kind in settings_classes():
        yield from ((kind.__name__, field.name) for field in fields(kind))


def test_every_verb_has_settings() -> None:
    assert len(settings_classes()) >= len(VERBS)


@pytest.mark.parametrize("kind", settings_classes(), ids=lambda kind: kind.__name__)
def test_help_describes_every_setting(kind: type[Any]) -> None:
    described = re.findall(r"^ +(\w+): ", (kind.__doc__ or "").partition("Args:")[2], flags=re.MULTILINE)
    assert [field.name for field in fields(kind) if field.name not in described] == []


def unnamed_settings(settings: Iterable[tuple[str, str]], texts: str) -> list[str]:
    """Settings that no preset, page, program or test names."""
    named = words_of(texts.replace("--", " ").replace("-", "_"))
    return [f"{kind}.{name}" for kind, name in settings if name not in named]


def test_every_setting_is_used() -> None:
    folders = ("videokd/presets/*.yaml", "docs/*.md", "*.md", "tools/*", "measurements/*.py", "tests/*/*.py")
    texts = "\n".join(p.read_text(encoding="utf-8") for glob in folders for p in ROOT.glob(glob) if p.is_file())
    assert unnamed_settings(settings_of_verbs(), texts) == []


def test_a_setting_that_nothing_names_is_found() -> None:
    assert unnamed_settings([("Teach", "depth"), ("Teach", "lr")], "--optim.lr 3") == ["Teach.depth"]


def test_few_files_touch_pyav() -> None:
    users = {
        name
        for name, module in modules_of(PACKAGE).items()
        for node in module.tree.body
        if isinstance(node, ast.Import) and any(alias.name == "av" for alias in node.names)
    }
    assert users == {
        *(
            "codec.colours",
            "codec.container",
            "codec.indexed_decoder",
            "codec.opening",
            "transcoding.transcode",
            "transcoding.mp4_writer",
            "transcoding.training_form",
        ),
        "live.connection",
        "live.positions",
        "drawing.film",
    }


def test_folders_define_nothing_in_their_init() -> None:
    for folder in FOLDERS:
        assert not (PACKAGE / folder / "__init__.py").read_text().strip()


def loaded_by(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(' '.join(sys.modules))"
    return set(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split())


def test_importing_the_package_is_light() -> None:
    assert not {"torch", "av", "numpy"} & loaded_by("import videokd")


def test_the_codec_loads_no_torch() -> None:
    folders = ("bitstream", "codec", "description", "drawing", "jobs", "transcoding")
    names = [f"videokd.{folder}.{path.stem}" for folder in folders for path in (PACKAGE / folder).glob("[a-z]*.py")]
    modules = loaded_by(f"import {', '.join(names)}; from videokd import open")
    assert "videokd.codec.reader" in modules
    assert "torch" not in modules


def test_predictions_load_no_torch_before_it_predicts() -> None:
    folders = ("prediction", "live", "archives", "webpage")
    names = [f"videokd.{folder}.{path.stem}" for folder in folders for path in (PACKAGE / folder).glob("[a-z]*.py")]
    names.remove("videokd.prediction.torch_predictor")
    assert "torch" not in loaded_by(f"import {', '.join(names)}; from videokd import predict")


def test_public_names_exist() -> None:
    import videokd

    assert len(videokd.__all__) <= 15
    for name in videokd.__all__:
        assert getattr(videokd, name) is not None
    with pytest.raises(AttributeError, match=r"no attribute 'decode' \(public names: ClipDescription"):
        videokd.decode  # noqa: B018
