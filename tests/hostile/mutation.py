"""Does a test fail when our own code is wrong?

Mutants of the numeric core: an operator, a comparison, a constant or a condition is exchanged in the source that a
child process imports; nothing on the disk changes. A mutant that no test of its room notices has survived.
"""

import ast
import copy
import importlib.abc
import importlib.util
import os
import random
import resource
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

ROOT = Path(__file__).resolve().parents[2]
CPU_SECONDS = 120
"""A mutant that never ends is noticed as well."""


class Core(NamedTuple):
    """A module and the tests that stand for it."""

    module: str
    tests: tuple[str, ...]


CORES = {
    "spectra": Core("gradience.spectra", ("tests/numbers/test_spectra.py",)),
    "ranks": Core("gradience.ranks", ("tests/numbers/test_ranks.py",)),
    "measures": Core(
        "gradience.audit.measures", ("tests/audit/test_measures.py", "tests/report/test_audit_text.py")
    ),
    "allocate": Core("gradience.plan.allocate", ("tests/plan/test_suggest.py",)),
    "truncate": Core("gradience.compress.module", ("tests/compress/test_truncate.py",)),
    "policy": Core("gradience.bench.verdict.policy", ("tests/bench/test_policy.py",)),
}

SWAPS: dict[type, type] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.MatMult: ast.Add,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.And: ast.Or,
    ast.Or: ast.And,
}
NAMES = {
    "min": "max",
    "max": "min",
    "any": "all",
    "all": "any",
    "ceil": "floor",
    "floor": "ceil",
    "sum": "max",
}


class Mutant(NamedTuple):
    line: int
    what: str
    tree: ast.Module


def mutants(source: str) -> Iterator[Mutant]:
    """Every mutant of a module, one change each; annotations and messages stay as they are."""
    count = len(list(_changes(ast.parse(source))))
    for number in range(count):
        tree = ast.parse(source)
        line, what, change = list(_changes(tree))[number]
        change()
        yield Mutant(line, what, ast.fix_missing_locations(tree))


def _changes(tree: ast.Module) -> Iterator[tuple[int, str, Callable[[], None]]]:
    for node in _code(tree):
        line = getattr(node, "lineno", 0)
        match node:
            case ast.BinOp(op=op) | ast.AugAssign(op=op) | ast.BoolOp(op=op) if type(op) in SWAPS:
                other = SWAPS[type(op)]()
                yield line, f"{type(op).__name__} -> {type(other).__name__}", _setting(node, "op", other)
            case ast.Compare(ops=[op, *rest]) if type(op) in SWAPS:
                other = SWAPS[type(op)]()
                yield (
                    line,
                    f"{type(op).__name__} -> {type(other).__name__}",
                    _setting(node, "ops", [other, *rest]),
                )
            case ast.UnaryOp(op=ast.USub() | ast.Not(), operand=operand):
                yield line, f"without {type(node.op).__name__}", _replacing(node, operand)
            case ast.Constant(value=bool(value)):
                yield line, f"{value} -> {not value}", _setting(node, "value", not value)
            case ast.Constant(value=int() | float() as value):
                yield line, f"{value} -> {value + 1}", _setting(node, "value", value + 1)
            case ast.If(test=test) | ast.IfExp(test=test) | ast.While(test=test):
                yield line, "condition negated", _setting(node, "test", ast.UnaryOp(ast.Not(), test))
            case ast.Name(id=name, ctx=ast.Load()) if name in NAMES:
                yield line, f"{name} -> {NAMES[name]}", _setting(node, "id", NAMES[name])
            case ast.Attribute(attr=name) if name in NAMES:
                yield line, f".{name} -> .{NAMES[name]}", _setting(node, "attr", NAMES[name])


def _code(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes below `node` that compute: no annotations, no messages of errors, no docstrings."""
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list") or isinstance(
            node, ast.Raise | ast.JoinedStr | ast.AnnAssign
        ):
            continue
        for part in value if isinstance(value, list) else [value]:
            if isinstance(part, ast.AST):
                yield part
                yield from _code(part)


def _setting(node: ast.AST, name: str, value: Any) -> Callable[[], None]:
    return lambda: setattr(node, name, value)


def _replacing(node: ast.UnaryOp, operand: ast.expr) -> Callable[[], None]:
    def change() -> None:
        node.op, node.operand = ast.UAdd(), operand
        if isinstance(operand, ast.Constant | ast.Name | ast.Compare | ast.Call):
            fields = copy.copy(operand.__dict__)
            node.__class__ = type(operand)  # type: ignore[assignment]
            node.__dict__.clear()
            node.__dict__.update(fields)

    return change


class Mutated(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports one module from a tree."""

    def __init__(self, module: str, tree: ast.Module, path: str) -> None:
        self.module, self.tree, self.path = module, tree, path

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> Any:
        if fullname == self.module:
            return importlib.util.spec_from_file_location(fullname, self.path, loader=self)
        return None

    def create_module(self, spec: Any) -> None:
        return None

    def exec_module(self, module: Any) -> None:
        exec(compile(self.tree, self.path, "exec"), module.__dict__)


def notices(core: Core, tree: ast.Module, path: Path) -> bool:
    """Whether a test fails with this source."""
    child = os.fork()
    if not child:
        _test(core, tree, path)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0


def _test(core: Core, tree: ast.Module, path: Path) -> NoReturn:
    code = 1
    try:
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
        for number in (1, 2):
            os.dup2(os.open(os.devnull, os.O_WRONLY), number)
        sys.meta_path.insert(0, Mutated(core.module, tree, str(path)))
        os.chdir(ROOT)
        import pytest

        options = "-x -q -p no:cacheprovider -W ignore::pytest.PytestAssertRewriteWarning --hypothesis-profile unshrunk"
        code = int(pytest.main([*options.split(), *core.tests]))
    except BaseException:  # noqa: BLE001  (a child never returns into its parent's code)
        traceback.print_exc()
    finally:
        os._exit(code)


def main(core: str, count: int) -> dict[str, Any]:
    """Draw `count` mutants of a core, and list those that no test noticed."""
    import hypothesis
    import mpmath  # noqa: F401  (this and numpy are loaded once, for all the children)
    import numpy  # noqa: F401

    patient = {"deadline": None, "suppress_health_check": list(hypothesis.HealthCheck), "derandomize": True}
    phases = (hypothesis.Phase.explicit, hypothesis.Phase.generate)
    hypothesis.settings.register_profile("unshrunk", phases=phases, **patient)
    module, tests = CORES[core]
    path = ROOT / (module.replace(".", "/") + ".py")
    source = path.read_text(encoding="utf-8")
    assert not notices(CORES[core], ast.parse(source), path), f"{tests} fail as they are"
    every = list(mutants(source))
    chosen = random.Random(0).sample(every, min(count, len(every)))
    lines = source.splitlines()
    survivors = [
        f"{module}:{mutant.line} {mutant.what}: {lines[mutant.line - 1].strip()}"
        for mutant in sorted(chosen, key=lambda mutant: mutant.line)
        if not notices(CORES[core], mutant.tree, path)
    ]
    return {"mutants": len(every), "tried": len(chosen), "survivors": survivors}
