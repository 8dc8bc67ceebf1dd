"""The adapter gate of `action.yml`: audit, compare and evaluate a changed adapter; write a Markdown summary.

Settings are environment variables, named after the inputs of the action: GATE_ADAPTER, GATE_RELEASED, … The verdict,
the exit code of gradience and the paths of the reports are appended to the file in GITHUB_OUTPUT, the summary to the
file in GITHUB_STEP_SUMMARY. Exits with 0 whatever the verdict is: the last step of the action ends the job.
"""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

VERDICTS = {0: "PASS", 1: "FAIL", 8: "INCONCLUSIVE", 4: "INCOMPLETE"}
"""Exit code of `gradience evaluate` -> verdict; any other code is an error (docs/reference/exit_codes.md)."""
MEANINGS = {
    "PASS": "The drop in accuracy is shown to be below the margin.",
    "FAIL": "The changed adapter is worse than the released one.",
    "INCONCLUSIVE": "Neither a drop below the margin nor a worse adapter is shown: more examples are needed.",
    "INCOMPLETE": "The changed adapter could not be evaluated completely.",
    "ERROR": "The gate could not run.",
}
ADAPTER_FACTS = (
    ("LoRA rank", lambda audit: " to ".join(map(str, sorted({min(ranks(audit)), max(ranks(audit))})))),
    ("LoRA parameters", lambda audit: f"{audit['total_lora_params']:,}"),
    ("weights file", lambda audit: f"{audit['adapter']['bytes']:,} bytes"),
    ("sha256", lambda audit: f"`{audit['adapter']['sha256'][:12]}…`"),
)


class Refused(Exception):
    """A command ended with an exit code that ends the gate."""

    def __init__(self, code: int, words: str) -> None:
        super().__init__(words)
        self.code = code


def ranks(audit: dict[str, Any]) -> list[int]:
    return [layer["r"] for layer in audit["layers"]]


def gradience(*words: str, accept: tuple[int, ...] = (0,)) -> tuple[int, str]:
    """Run a verb; return exit code and stdout. Raises Refused for a code that is not in `accept`."""
    print(f"$ gradience {shlex.join(words)}", flush=True)
    done = subprocess.run(
        [sys.executable, "-m", "gradience", *words], capture_output=True, text=True, check=False
    )
    print(done.stderr, end="", flush=True)
    if done.returncode not in accept:
        raise Refused(done.returncode, done.stderr.strip() or f"exit code {done.returncode}")
    return done.returncode, done.stdout


def gate(output: Path) -> tuple[int, list[str]]:
    """Run every step; return the exit code and the lines of the summary below the verdict."""
    setting = {name: os.environ.get(f"GATE_{name.upper()}", "") for name in ("adapter", "released", "margin")}
    released, adapter = setting["released"], setting["adapter"]
    given = {name: os.environ.get(f"GATE_{name.upper()}", "") for name in ("base_model", "data", "task")}
    base = ["--base-model", given["base_model"]] if given["base_model"] else []
    flags = [*base, "--margin", setting["margin"] or "2.5"]
    for name in ("data", "task"):
        flags += [f"--{name}", given[name]] if given[name] else []
    flags += shlex.split(os.environ.get("GATE_ARGUMENTS", ""))

    audits: list[dict[str, Any]] = []
    incomplete = 0
    for name, path in (("released", released), ("changed", adapter)):
        code, text = gradience("audit", path, "--json", accept=(0, 4))
        incomplete = max(incomplete, code)
        (output / f"audit_{name}.json").write_text(text, encoding="utf-8")
        audits.append(json.loads(text))
    lines = ["| | released | this change |", "|---|---|---|"]
    lines += [f"| {label} | {' | '.join(map(fact, audits))} |" for label, fact in ADAPTER_FACTS]
    code, text = gradience("compare", released, adapter, "--json", accept=(0, 3, 4))
    if code != 3:
        (output / "comparison.json").write_text(text, encoding="utf-8")
        difference = json.loads(text)["relative_difference"]
        if difference is not None:
            lines.append(f"| difference of the updates | | {100 * difference:.2g} % |")
    codes, documents = [], list[str]()
    for guard in (None, *os.environ.get("GATE_GUARDS", "").split()):
        folder = output / ("evaluation" if guard is None else f"guard_{guard}")
        chosen = flags if guard is None else [*base, "--task", guard]
        code, words = evaluated((released, adapter, *chosen), folder)
        codes.append(code)
        documents += [] if guard is None else ["", f"## Guard `{guard}`: {VERDICTS[code]}", ""]
        documents += words
    lines = [*lines, "", *documents]
    _, text = gradience("card", adapter, "--dry-run", "--json")
    lines += [
        "",
        "## Loading the changed adapter",
        json.loads(text)["block"].partition("## How to load it")[2].partition("## Copied card")[0],
    ]
    return next((code for code in (4, 1, 8) if code in (*codes, incomplete)), 0), lines


def evaluated(words: tuple[str, ...], folder: Path) -> tuple[int, list[str]]:
    """Evaluate into `folder`; return the exit code, and the lines of the summary about it."""
    _, text = gradience("evaluate", *words, "--dry-run", "--json")
    detectable = [
        f"{100 * row['margin']:.1f} points if {100 * row['discordance']:g} % of the answers change"
        for row in json.loads(text)["margins"]
    ]
    code, _ = gradience("evaluate", *words, "-o", str(folder), "--quiet", accept=tuple(VERDICTS))
    report = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    lines = [row["reason"] for row in report["adapters"] if row["role"] == "candidate"]
    if detectable:
        planned = f"Minimum detectable drop with {report['examples']:,} examples (80 % chance)"
        lines += ["", f"{planned}: {'; '.join(detectable)}.", ""]
    document = (folder / "evaluation.md").read_text(encoding="utf-8")
    return code, lines + [f"#{line}" if line.startswith("#") else line for line in document.splitlines()]


def main() -> None:
    output = Path(os.environ.get("GATE_OUTPUT") or "adapter-gate")
    output.mkdir(parents=True, exist_ok=True)
    page = output / "report.html"
    try:
        code, lines = gate(output)
        texts = [] if os.environ.get("GATE_TEXTS") == "true" else ["--no-texts"]
        gradience("report", str(output), "-o", str(page), "--quiet", *texts)
    except Refused as refused:
        code, lines = refused.code, ["```text", str(refused).replace("```", "'''"), "```"]
    verdict = VERDICTS.get(code, "ERROR")
    heading = [f"# Adapter gate: {verdict}", "", f"**{MEANINGS[verdict]}**", ""]
    summary = output / "summary.md"
    summary.write_text("\n".join([*heading, *lines, ""]), encoding="utf-8")
    for variable, text in (
        ("GITHUB_STEP_SUMMARY", summary.read_text(encoding="utf-8")),
        (
            "GITHUB_OUTPUT",
            f"verdict={verdict}\nexit-code={code}\nsummary={summary}\nreport={page if page.exists() else ''}\n",
        ),
    ):
        if variable in os.environ:
            with open(os.environ[variable], "a", encoding="utf-8") as file:
                file.write(text)
    print(f"adapter gate: {verdict}")


if __name__ == "__main__":
    main()
