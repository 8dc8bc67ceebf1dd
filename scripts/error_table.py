"""The stable codes of the errors, read from the places that raise them."""

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from gradience import errors

PACKAGE = Path(errors.__file__).parent
CLASSES = {name: item for name, item in vars(errors).items() if isinstance(item, type)}
Names = dict[str, list[ast.expr]]


def assigned(body: ast.AST) -> Names:
    """Every name assigned inside `body` -> the expressions assigned to it."""
    names: Names = defaultdict(list)
    for line in ast.walk(body):
        if isinstance(line, ast.Assign):
            for target in line.targets:
                if isinstance(target, ast.Name):
                    names[target.id].append(line.value)
    return names


def texts(value: ast.expr | None, names: Names) -> list[str]:
    """Return the sentences that an expression can have; `…` stands for a value that depends on the input."""
    match value:
        case ast.Constant(value=str(text)):
            return [text]
        case ast.JoinedStr(values=parts):
            return ["".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in parts)]
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return [a + b for a in texts(left, names) or ["…"] for b in texts(right, names) or ["…"]]
        case ast.IfExp(body=body, orelse=orelse):
            return texts(body, names) + texts(orelse, names)
        case ast.BoolOp(values=options):
            return [text for option in options for text in texts(option, names)]
        case ast.Call(func=ast.Name(id="did_you_mean")):
            return ["did you mean …?"]
        case ast.Name(id=name):
            others = {key: each for key, each in names.items() if key != name}
            return [text for each in names.get(name, ()) for text in texts(each, others)]
    return []


def raised(source: Path) -> Iterator[tuple[str, int, list[str]]]:
    """(code, exit code, hints) of every error made in a file, by its class or by a function that returns one."""
    module = ast.parse(source.read_text(encoding="utf-8"))
    makers = {
        line.name: CLASSES.get(line.returns.id)
        for line in module.body
        if isinstance(line, ast.FunctionDef) and isinstance(line.returns, ast.Name)
    }
    constants = assigned(ast.Module([line for line in module.body if isinstance(line, ast.Assign)], []))
    for scope in module.body:
        names = constants | assigned(scope)
        for call in ast.walk(scope):
            if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
                continue
            error = CLASSES.get(call.func.id) or makers.get(call.func.id)
            given = {keyword.arg: keyword.value for keyword in call.keywords}
            if error is None or "code" not in given:
                continue
            code, hint = given["code"], given.get("hint")
            if isinstance(code, ast.IfExp) and isinstance(hint, ast.IfExp):
                pairs = [(code.body, hint.body), (code.orelse, hint.orelse)]
            else:
                pairs = [(code, hint)]
            for each, advice in pairs:
                for name in texts(each, {}):
                    yield name, error.exit_code, texts(advice, names)


def error_table() -> str:
    """Every code with its exit codes and its hints."""
    exits: dict[str, set[int]] = defaultdict(set)
    hints: dict[str, dict[str, None]] = defaultdict(dict)
    places = [each for source in sorted(PACKAGE.rglob("*.py")) for each in raised(source)]
    for code, exit_code, advice in places:
        exits[code].add(exit_code)
        hints[code] |= dict.fromkeys(filter(None, advice))
    rows = [
        f"| `{code}` | {', '.join(map(str, sorted(exits[code])))} | {'; '.join(hints[code]).replace('|', '&#124;')} |"
        for code in sorted(exits)
    ]
    return "\n".join(["| code | exit | what to do |", "|---|---|---|", *rows])
