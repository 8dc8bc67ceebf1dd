"""The house: light imports, names that say something, the public surface, and what `gradience env` says."""

import ast
import json
from pathlib import Path

import pytest
from running import gradience as command_line
from running import printed_by

import gradience

ROOT = Path(__file__).resolve().parent.parent
HEAVY = {"torch", "transformers", "peft", "datasets", "accelerate"}
SLOW_TO_IMPORT = {"numpy", "ml_dtypes", "scipy", "pydantic", "rich", "huggingface_hub", "pandas", *HEAVY}


def modules_after(code: str) -> set[str]:
    """Top-level modules that a fresh interpreter has loaded after running `code`."""
    probe = f"import sys\n{code}\nprint('loaded', *sorted({{m.partition('.')[0] for m in sys.modules}}))"
    return set(printed_by(probe).rpartition("loaded")[2].split())


def test_starting_loads_nothing_slow():
    code = "import gradience; gradience.GradienceError; from gradience.cli.app import run"
    assert not modules_after(f"{code}; assert run(['--help']) == run(['--version']) == 0") & SLOW_TO_IMPORT


def test_help_of_a_verb_loads_nothing_slow():
    loaded = modules_after("from gradience.cli.app import run; assert run(['schema', '--help']) == 0")
    assert not loaded & (SLOW_TO_IMPORT - {"pydantic"})  # typer itself asks pydantic about arguments


@pytest.mark.parametrize(
    ("code", "never"),
    [
        ("import gradience.telemetry", {"numpy", "pydantic"}),
        ("from gradience import tasks; [tasks.find(name) for name in tasks.PROFILES]",
         {"sklearn", "pandas", "reasoning_gym", "huggingface_hub"}),
        ("import gradience.bench.config, gradience.bench.aggregate, gradience.bench.verdict.assemble, "
         "gradience.bench.status, gradience.monitor, gradience.reports.bench, gradience.reports.monitor",
         {"safetensors"}),
        ("import gradience.evaluate.evaluator, gradience.models.tokenizers", set()),
    ],
    ids=["telemetry", "tasks", "bench", "evaluate"],
)  # fmt: skip
def test_rooms_that_need_no_model_never_load_torch(code, never):
    assert not modules_after(code) & (HEAVY | never)


def test_public_names_never_load_torch_except_those_that_live_inside_a_training():
    names = sorted({*gradience.__all__} - {"GradienceCallback", "SpectralTracker"})
    assert not modules_after(f"import gradience; [getattr(gradience, n) for n in {names}]") & HEAVY


# --- names ----------------------------------------------------------------------------------------

TREES = {
    path: ast.parse(path.read_text(encoding="utf-8"))
    for folder in ("gradience", "tests", "scripts", "benchmarks", "examples")
    for path in sorted((ROOT / folder).rglob("*.py"))
}
SAY_NOTHING = {"found", "made", "judge", "told", "own", "practice", "rankuse", "registration"}


def identifiers(tree: ast.Module) -> set[str]:
    """Return the names in a file: variables, parameters, attributes, functions, classes and what it imports."""
    fields = ("id", "arg", "attr", "name", "asname", "module")
    named = {
        value
        for node in ast.walk(tree)
        for field in fields
        if isinstance(value := getattr(node, field, 0), str)
    }
    return {part for name in named for part in name.split(".")}


def test_no_name_says_nothing_of_what_it_names():
    """`matches`, not `found`; `evaluator`, not `judge`; `reference`, not `told`."""
    names = {path.relative_to(ROOT): {path.stem} | identifiers(tree) for path, tree in TREES.items()}
    assert {path: words for path, name in names.items() if (words := name & SAY_NOTHING)} == {}


def test_no_test_imports_through_a_folder_that_a_library_can_shadow():
    """`tests/evaluate/` is no package, and `evaluate` of Hugging Face is: what several folders share is imported by its
    file's name.
    """
    tests = ROOT / "tests"
    folders = {path.name for path in tests.iterdir() if path.is_dir() and not (path / "__init__.py").exists()}
    through = {
        f"{path.relative_to(ROOT)}:{node.lineno}": module
        for path, tree in TREES.items()
        if path.is_relative_to(tests)
        for node in ast.walk(tree)
        for module in modules_of(node)
        if "." in module and module.split(".")[0] in folders
    }
    assert through == {}


def modules_of(node: ast.AST) -> list[str]:
    """`a.b` of `from a.b import c` and of `import a.b`."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module] if isinstance(node, ast.ImportFrom) and node.module and not node.level else []


# --- the public surface ---------------------------------------------------------------------------


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'audit_adaptor'"):
        _ = gradience.audit_adaptor


def test_version_is_the_installed_one():
    from importlib.metadata import version

    assert gradience.__version__ == version("gradience-lora")


# --- what `gradience env` says --------------------------------------------------------------------


def test_env_names_versions_and_extras_but_nobody():
    import getpass
    import platform

    import numpy as np

    done = command_line("env", "--json")
    facts = json.loads(done.stdout)
    assert facts["gradience"] == gradience.__version__
    assert facts["core"]["numpy"] == np.__version__
    assert {"hf", "bench", "demo"} <= set(facts["extras"])
    assert facts["extras"]["hf"].items() <= facts["extras"]["bench"].items()
    assert facts["blas"][0]["threads"] == 1  # conftest.py asks for one
    assert facts["variables"]["OMP_NUM_THREADS"] == "1"
    assert platform.node() not in done.stdout.replace(facts["platform"], "")
    assert f"/{getpass.getuser()}" not in done.stdout
    assert str(ROOT) not in done.stdout


def test_env_for_people_names_what_an_extra_lacks():
    from gradience.cli.setup import environment_text

    facts = {
        "gradience": "0.1.0", "python": "3.11", "implementation": "CPython", "platform": "Linux", "blas": [],
        "conflict": None,
        "cpu": {"count": 2, "usable": 1}, "variables": {}, "core": {"numpy": "2.0"},
        "extras": {"x": {"numpy": "2.0", "no-such-package-anywhere": None}},
    }  # fmt: skip
    text = environment_text(facts)
    assert "extra      x: not installed (missing: no-such-package-anywhere)" in text
    assert "1 of 2 usable" in text
