"""The package imports exactly what pyproject.toml declares, and a bare install has everything the core needs."""

from __future__ import annotations

import ast
import json
import symtable
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from test_docs import is_there

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))
import lowest_versions  # noqa: E402

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
MODULE_OF = {"pyyaml": "yaml", "scikit-learn": "sklearn"}
ON_MODELS = (
    "bench",
    "calibrate",
    "distill",
    "evaluate",
    "live",
    "models",
    "shrink",
    "tasks",
    "training",
    "vnext",
)
IN_A_CHILD = ("unpickle.py",)
"""Packages, and files, that are imported only if the extra `hf` is installed."""
OF_AN_EXTRA = ("statistics", "files/card.py", "files/hub.py")
"""A package and files that need their extra (`stats`, `hub`); cards have their block without it."""
IN_ANOTHER_PYTHON = "evaluate/engines/vllm/server.py"
"""Run by the Python that vLLM is installed in."""


def modules(requirements: list[str]) -> set[str]:
    names = {Requirement(text).name for text in requirements}
    return {MODULE_OF.get(name, name) for name in names}


def imported(files: list[Path]) -> set[str]:
    """Third-party top-level modules that the files import, anywhere in them except in code only for type checkers."""
    names: set[str] = set()
    for file in files:
        tree = ast.parse(file.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
                node.body = []
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names.add(str(node.module).partition(".")[0])
    ours = {"gradience", "pydantic_core"}  # pydantic brings exactly its own core
    return names - set(sys.stdlib_module_names) - ours


def files(*, on_models: bool) -> list[Path]:
    package = ROOT / "gradience"
    every = package.rglob("*.py")
    return [
        file
        for file in every
        if (file.relative_to(package).parts[0] in ON_MODELS or file.name in IN_A_CHILD) == on_models
        and not str(file.relative_to(package)).startswith(OF_AN_EXTRA)
        and file != package / IN_ANOTHER_PYTHON
    ]


def test_the_core_depends_on_exactly_what_it_imports():
    assert imported(files(on_models=False)) == modules(PROJECT["dependencies"])


def test_packages_on_models_import_what_some_extra_brings():
    extras = {name for texts in PROJECT["optional-dependencies"].values() for name in modules(texts)}
    assert imported(files(on_models=True)) <= extras | modules(PROJECT["dependencies"])
    hf = modules(PROJECT["optional-dependencies"]["hf"]) | modules(PROJECT["optional-dependencies"]["hub"])
    assert {"huggingface_hub", "safetensors", "torch", "transformers", "peft"} <= hf


def test_statistics_import_numpy_and_what_their_extra_brings():
    in_statistics = imported(list((ROOT / "gradience" / "statistics").glob("*.py")))
    assert in_statistics == {"numpy", "pydantic"} | modules(PROJECT["optional-dependencies"]["stats"])
    assert any("stats" in Requirement(text).extras for text in PROJECT["optional-dependencies"]["hf"])


def test_the_hub_imports_what_its_extra_brings():
    assert "huggingface_hub" in imported([ROOT / "gradience" / "files" / "hub.py"])
    assert modules(PROJECT["optional-dependencies"]["hub"]) == {"huggingface_hub"}
    assert any("hub" in Requirement(text).extras for text in PROJECT["optional-dependencies"]["hf"])


def test_every_dependency_has_one_lowest_version():
    pins = lowest_versions.lowest_versions(
        tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    )
    names = [pin.partition("==")[0] for pin in pins]
    assert len(names) == len(set(names))
    assert {"numpy", "torch", "scikit-learn", "pytest"} <= set(names)


def test_a_dependency_without_a_lower_bound_is_an_error():
    with pytest.raises(ValueError, match="exactly one lower bound"):
        lowest_versions.pin(Requirement("numpy<3"))


# ---------------------------------------------------------------- programs that the suite does not run

OURS = {
    path.stem: path
    for folder in ("benchmarks", "scripts", "examples", "tests")
    for path in (ROOT / folder).rglob("*.py")
}


def test_imports_of_benchmarks_scripts_and_notebooks_lead_somewhere():
    """No other test notices a moved name of ours in these programs."""
    lost = [
        f"{program.relative_to(ROOT)}:{node.lineno}: {module} {names}"
        for program, source in programs()
        for node in ast.walk(ast.parse(source))
        for module, names in imports_of(node)
        if not leads_somewhere(module, names)
    ]
    assert lost == [], "\n".join(lost)


def leads_somewhere(module: str, names: list[str]) -> bool:
    """Return True for a library, and for a module of ours if it has these names."""
    top, *rest = module.split(".")
    if top == "gradience":
        return is_there(rest) and all(is_there([*rest, name]) for name in names)
    packages = {path.parent.name for path in OURS.values() if path.name == "__init__.py"}
    home = OURS.get([top, *rest][-1]) if top in packages else OURS.get(top)
    return home is None or names_at_the_top(home) >= set(names)


@cache
def names_at_the_top(source: Path) -> set[str]:
    """The names that a module defines or imports, read and not run."""
    table = symtable.symtable(source.read_text(encoding="utf-8"), source.name, "exec")
    return {each.get_name() for each in table.get_symbols() if each.is_assigned() or each.is_imported()}


def programs() -> Iterator[tuple[Path, str]]:
    """Yield (path, source) of programs that the suite does not run, and of the notebooks."""
    for folder in ("benchmarks", "scripts", "examples", "tests/conformance"):
        for path in (ROOT / folder).rglob("*.py"):
            if path.name != "original_launcher.py":  # it runs the original project
                yield path, path.read_text(encoding="utf-8")
    for path in (ROOT / "docs" / "notebooks").glob("*.ipynb"):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        yield path, "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")


def imports_of(node: ast.AST) -> list[tuple[str, list[str]]]:
    """Return each imported module with the names imported from it."""
    if isinstance(node, ast.Import):
        return [(alias.name, []) for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.module:
        return [(node.module, [alias.name for alias in node.names])]
    return []
