"""Write the documents that are generated from the code, or check that they are current.

python scripts/generate_docs.py           write
python scripts/generate_docs.py --check   exit 1 and name the files that are out of date
"""

import sys
from importlib import resources
from pathlib import Path

from architecture_drawing import architecture_drawing
from artifact_reference import artifact_reference
from blocks import only_checking, replace_block
from cli_reference import cli_reference
from config_reference import config_dialects, config_keys, evaluation_keys
from error_table import error_table
from hostile_table import hostile_table
from llms_text import llms_text
from record_reference import record_reference
from runtime_runs import runs_text
from runtime_table import ran_table, runtime_table

from gradience.cli.exit_codes import ExitCode
from gradience.cli.setup import schema_text
from gradience.reports.registry import ARTIFACTS
from gradience.runtimes.verdict import RUNS, parse_runs

DOCS = Path(__file__).resolve().parent.parent / "docs"


def exit_code_table() -> str:
    """The exit codes as a Markdown table."""
    return "| code | meaning |\n|---|---|\n" + "\n".join(
        f"| {int(code)} | {code.meaning} |" for code in ExitCode
    )


def documents() -> dict[Path, str]:
    """Every generated file and its text."""
    exit_codes = DOCS / "reference" / "exit_codes.md"
    reference = DOCS / "reference" / "files.md"
    runtimes = DOCS / "runtimes.md"
    ran = DOCS / "results" / "runtimes.md"
    reliability = DOCS / "reliability.md"
    config = DOCS / "reference" / "configs.md"
    runs = runs_text()
    records = parse_runs(runs)
    files = {
        DOCS.parent / "llms.txt": llms_text(),
        DOCS / "reference" / "cli.md": cli_reference(),
        DOCS / "images" / "architecture.svg": architecture_drawing(),
        reference: replace_block(
            replace_block(reference.read_text(encoding="utf-8"), "artifacts", artifact_reference()),
            "records",
            record_reference(),
        ),
        DOCS.parent / "gradience" / "runtimes" / RUNS.name: runs,
        reliability: replace_block(reliability.read_text(encoding="utf-8"), "figures", hostile_table()),
        runtimes: replace_block(runtimes.read_text(encoding="utf-8"), "encodings", runtime_table(records)),
        ran: replace_block(ran.read_text(encoding="utf-8"), "ran", ran_table(records)),
        config: replace_block(
            replace_block(
                replace_block(config.read_text(encoding="utf-8"), "keys", config_keys()),
                "other-names",
                config_dialects(),
            ),
            "evaluation-keys",
            evaluation_keys(),
        ),
        exit_codes: replace_block(
            replace_block(exit_codes.read_text(encoding="utf-8"), "exit-codes", exit_code_table()),
            "error-codes",
            error_table(),
        ),
    }
    files[DOCS / "glossary.md"] = (resources.files("gradience.cli") / "glossary.md").read_text(
        encoding="utf-8"
    )
    for name in ARTIFACTS:
        files[DOCS / "schemas" / f"{name}.schema.json"] = schema_text(name)
    return files


def main() -> int:
    check = only_checking(__doc__)
    outdated = [
        (path, text)
        for path, text in documents().items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    ]
    for path, text in outdated:
        print(f"{'out of date' if check else 'wrote'}: {path.relative_to(DOCS.parent)}")
        if not check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    if check and outdated:
        print("run: make docs", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
