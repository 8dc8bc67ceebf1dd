"""Does a test fail when our own code is wrong?

Mutants of the numeric core: one operator, comparison, constant or condition is exchanged in the source that a child
process runs; nothing on the disk changes. A mutant that no test of its module notices has survived.
"""

import ast
import importlib.util
import io
import os
import random
import resource
import sys
import tokenize
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

ROOT = Path(__file__).resolve().parents[2]
CPU_SECONDS = 120
"""A mutant that never ends is noticed as well."""
CORES = {
    "gradience.spectra": ("tests/numbers/test_spectra.py",),
    "gradience.ranks": ("tests/numbers/test_ranks.py",),
    "gradience.audit.adapter": ("tests/audit/test_measures.py", "tests/report/test_audit_text.py"),
    "gradience.plan.allocate": ("tests/plan/test_suggest.py",),
    "gradience.compress.module": ("tests/compress/test_truncate.py",),
    "gradience.bench.verdict.grade": ("tests/bench/test_policy.py",),
}
"""Module -> its tests."""
PAIRS = [
    *(("+", "-"), ("*", "/"), ("//", "*"), ("%", "*"), ("**", "*"), ("@", "+"), ("+=", "-=")),
    *(("<", "<="), (">", ">="), ("==", "!="), ("and", "or"), ("True", "False"), ("in", "not in")),
    *(("if", "if not"), ("while", "while not"), ("not", ""), ("is", "is not")),
    *(("min", "max"), ("any", "all"), ("ceil", "floor"), ("sum", "max")),
]
SWAPS = {new: old for old, new in PAIRS if new} | dict(PAIRS)


class Mutant(NamedTuple):
    line: int
    what: str
    source: str


def mutants(source: str) -> Iterator[Mutant]:
    """Return all mutants of a module: one word replaced, or one number increased by 1. Strings and comments stay."""
    lines = source.splitlines(keepends=True)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        (row, start), (_, end) = token.start, token.end
        old, new = token.string, SWAPS.get(token.string)
        if token.type == tokenize.NUMBER:
            new = str(ast.literal_eval(old) + 1)
        if new is None or token.type not in (tokenize.NUMBER, tokenize.NAME, tokenize.OP):
            continue
        line = lines[row - 1]
        mutant = "".join([*lines[: row - 1], line[:start] + new + line[end:], *lines[row:]])
        if compiles(mutant):  # `**` of keyword arguments cannot be `*` everywhere
            yield Mutant(row, f"{old} -> {new or 'nothing'}", mutant)


def compiles(source: str) -> bool:
    try:
        ast.parse(source)
    except SyntaxError:
        return False
    return True


def notices(module: str, source: str) -> bool:
    """Whether a test fails with this source."""
    child = os.fork()
    if not child:
        _test(module, source)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0


def _test(module: str, source: str) -> NoReturn:
    code = 1
    try:
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
        for number in (1, 2):
            os.dup2(os.open(os.devnull, os.O_WRONLY), number)
        spec = importlib.util.find_spec(module)
        assert spec is not None
        sys.modules[module] = importlib.util.module_from_spec(spec)
        parent, _, name = module.rpartition(".")
        setattr(sys.modules[parent], name, sys.modules[module])
        exec(compile(source, str(spec.origin), "exec"), vars(sys.modules[module]))
        os.chdir(ROOT)
        import pytest

        options = "-x -q -p no:cacheprovider -W ignore::pytest.PytestAssertRewriteWarning --hypothesis-profile unshrunk"
        code = int(pytest.main([*options.split(), *CORES[module]]))
    except BaseException:  # noqa: BLE001  (a child never returns into its parent's code)
        traceback.print_exc()
    finally:
        os._exit(code)


def main(module: str, count: int) -> dict[str, Any]:
    """Draw `count` mutants of a module, and list those that no test noticed."""
    import hypothesis
    import mpmath  # noqa: F401  (this and numpy are loaded once, for all the children)
    import numpy  # noqa: F401

    patient = {"deadline": None, "suppress_health_check": list(hypothesis.HealthCheck), "derandomize": True}
    phases = (hypothesis.Phase.explicit, hypothesis.Phase.generate)
    hypothesis.settings.register_profile("unshrunk", phases=phases, **patient)
    source = (ROOT / (module.replace(".", "/") + ".py")).read_text(encoding="utf-8")
    assert not notices(module, source), f"{CORES[module]} fail as they are"
    every = list(mutants(source))
    chosen = random.Random(0).sample(every, min(count, len(every)))
    lines = source.splitlines()
    survivors = [
        f"{module}:{mutant.line} {mutant.what}: {lines[mutant.line - 1].strip()}"
        for mutant in sorted(chosen, key=lambda mutant: mutant.line)
        if not notices(module, mutant.source)
    ]
    return {"mutants": len(every), "tried": len(chosen), "survivors": survivors}
