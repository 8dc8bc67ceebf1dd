"""The stable codes of the errors, read from the places that raise them."""

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from gradience import errors

PACKAGE = Path(errors.__file__).parent
CLASSES = {name: item for name, item in vars(errors).items() if isinstance(item, type)}


def raised(source: Path) -> Iterator[tuple[str, int, str]]:
    """(code, exit code, what to do where that is one fixed sentence) of every error made in a file."""
    module = ast.parse(source.read_text(encoding="utf-8"))
    constants = {
        line.targets[0].id: line.value
        for line in module.body
        if isinstance(line, ast.Assign) and isinstance(line.targets[0], ast.Name)
    }
    for call in ast.walk(module):
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
            continue
        error = CLASSES.get(call.func.id)
        given = {keyword.arg: keyword.value for keyword in call.keywords}
        code = given.get("code")
        if error is None or not isinstance(code, ast.Constant):
            continue
        hint = given.get("hint")
        hint = constants.get(hint.id, hint) if isinstance(hint, ast.Name) else hint
        fixed = str(hint.value) if isinstance(hint, ast.Constant) else ""
        yield str(code.value), error.exit_code, fixed


def error_table() -> str:
    """Every code with its exit codes and the hints that do not depend on the input."""
    exits: dict[str, set[int]] = defaultdict(set)
    hints: dict[str, list[str]] = defaultdict(list)
    for source in sorted(PACKAGE.rglob("*.py")):
        for code, exit_code, hint in raised(source):
            exits[code].add(exit_code)
            if hint and hint not in hints[code]:
                hints[code].append(hint)
    rows = [
        f"| `{code}` | {', '.join(map(str, sorted(exits[code])))} | {'; '.join(hints[code]).replace('|', '&#124;')} |"
        for code in sorted(exits)
    ]
    return "\n".join(["| code | exit | what to do |", "|---|---|---|", *rows])
