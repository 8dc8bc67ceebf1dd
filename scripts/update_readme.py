"""Put real output of the command into the pages that show it, or check that it is still what is printed.

python scripts/update_readme.py           write
python scripts/update_readme.py --check   exit 1 when a page shows something else
"""

import html
import io
import multiprocessing
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from blocks import only_checking, replace_block

from gradience.cli.app import main as main_of_gradience
from gradience.reports.base.blocks import View
from gradience.reports.base.numbers import percent, plural
from gradience.reports.base.report import Report
from gradience.reports.bench import BenchAggregate, VariantSummary, mean_percent, points, status_of
from gradience.reports.calibration import CalibrationReport
from gradience.reports.distill import DistillReport
from gradience.reports.evaluation import EvaluationReport
from gradience.reports.fleet import FleetCompression, FleetReport
from gradience.reports.shrink import ShrinkReport

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = "gradience/examples/minilm-reviews-r8"
FOREIGN = "tests/adapters/foreign/diffusers"
RUN = "benchmarks/results/minilm_reviews_demo"
AUDIT = "audit my_adapter"
PICTURE = Path("docs") / "audit.svg"
PICTURE_WIDTH = 84
BENCH_RESULTS = Path("benchmarks") / "results" / "minilm_reviews" / "bench_aggregate.json"
BENCH_ROWS = {
    "per_layer.truncate": "the probe truncated, each module to its own rank",
    "uniform_median.truncate": "the probe truncated, all modules to one rank",
    "per_layer": "retrained, each module at its own rank",
    "uniform_median": "retrained, all modules at one rank",
    "random_directions": "control (must fail): the probe in random directions",
}


COLOR = re.compile(r"\x1b\[[0-9;]*m")


class Shown(NamedTuple):
    """A block of a page, and the command whose output it shows.

    sections: headings of the sections that are shown below the title, all of them where none is named.
    before: commands that must run first.
    scratch: run in a folder with the example adapter as `adapter` and `my_adapter`, a run of Bench as `published`, an
    adapter of diffusers as `diffusers_adapter` and three rows as `reviews.csv`; else in the repository.
    """

    page: str
    block: str
    command: str
    sections: Sequence[str] = ()
    before: Sequence[str] = ()
    scratch: bool = True


class Kept(NamedTuple):
    """A block of a page, and the kept result below benchmarks/results whose screen it shows.

    named: paths in the command that the screen suggests next.
    output: name of the output folder on the page, if another page uses that of the kept run.
    """

    page: str
    block: str
    file: str
    sections: Sequence[str] = ()
    named: tuple[str, ...] = ()
    output: str | None = None


QUESTIONS = "docs/questions.md"
KEPT = (
    Kept("README.md", "shrink", "minilm_shrink_looks/shrink.json", ("Candidates",)),
    Kept("docs/evaluate.md", "evaluation", "minilm_evaluation/evaluation.json", output="evaluated"),
    Kept(
        "docs/calibrate.md",
        "calibrate",
        "minilm_prompts/calibrate.json",
        named=("my_adapter", "calibration.safetensors", "embedded:minilm"),
    ),
    Kept(
        "docs/distill.md",
        "distill",
        "minilm_prompts/distill_report.json",
        named=("my_adapter", "distilled"),
    ),
    Kept("docs/shrink.md", "shrink", "minilm_shrink_looks/shrink.json"),
    Kept("docs/fleet.md", "fleet", "fleet_probes/fleet.json"),
    Kept(
        QUESTIONS,
        "fleet-steps",
        "fleet_probes/fleet.json",
        ("Server memory", "Largest errors"),
    ),
    Kept(QUESTIONS, "truncated", "fleet_probes/fleet_compression.json"),
)
SCREENS: Mapping[str, type[Report]] = {
    "evaluation.json": EvaluationReport,
    "calibrate.json": CalibrationReport,
    "distill_report.json": DistillReport,
    "shrink.json": ShrinkReport,
    "fleet.json": FleetReport,
    "fleet_compression.json": FleetCompression,
}
"""Name of a kept file -> its report."""
REVIEWS = """text,label
"A moving film, and never dull.",positive
Two hours that I will not get back.,negative
"The cast is good, the plot is not.",negative
"""
SMALLER = "compress my_adapter --rank 4 --output smaller"
TITLE = ("nothing but the title",)
WIDE = "compress my_adapter --rank 8 --dtype F32 --output wide"
PAGES = (
    Shown("docs/quickstart.md", "compress", SMALLER, ("Size",)),
    Shown("docs/audit.md", "audit", f"audit {EXAMPLE}", scratch=False),
    Shown("docs/formats.md", "formats", "audit tests/adapters/foreign/mlx", ("Use of rank",), scratch=False),
    Shown("docs/compress.md", "plan", "compress my_adapter --rank 4 --dry-run"),
    Shown("docs/runtimes.md", "compressed", SMALLER, ("Runtime support",)),
    Shown("docs/compare.md", "compare", "compare my_adapter smaller", before=(SMALLER,)),
    Shown("docs/convert.md", "convert", "convert diffusers_adapter as_peft"),
    Shown(
        "docs/tasks.md",
        "preview",
        "evaluate my_adapter --base-model embedded:minilm --data reviews.csv --preview",
        ("…", "Sample examples"),
    ),
    Shown(
        "docs/evidence.md",
        "evidence",
        "evidence examples/evidence/probe.csv examples/evidence/truncated.csv --flips 2",
        scratch=False,
    ),
    Shown(
        "docs/train_and_monitor.md", "monitor", "monitor tests/monitor/runs/overfitting.jsonl", scratch=False
    ),
    Shown("docs/train_and_monitor.md", "check", "check my_adapter --lr 0.02"),
    Shown(
        QUESTIONS,
        "eight-bits",
        "compress my_adapter --rank 8 --dtype F8_E4M3 --output eight",
        ("Size",),
    ),
    Shown(QUESTIONS, "large", "audit wide", TITLE, before=(WIDE,)),
    Shown(
        QUESTIONS,
        "narrow",
        "compress wide --rank 8 --dtype BF16 --output narrow",
        ("Size",),
        before=(WIDE,),
    ),
    Shown(
        QUESTIONS,
        "as-large",
        "audit lower",
        TITLE,
        before=("compress my_adapter --rank 4 --dtype F32 --output lower",),
    ),
    Shown("docs/verify.md", "verify", "verify published", ("Checks",)),
)


def text_of(shown: Shown) -> str:
    """Return the Markdown of a block."""
    printed = in_scratch(shown.command, shown.before) if shown.scratch else output_of(shown.command, ROOT)
    return f"```text\n$ gradience {shown.command}\n\n{part_of(printed, shown.sections).strip()}\n```"


def part_of(printed: str, headings: Sequence[str]) -> str:
    """Return the title and the sections of these headings (all if none is named); `…` marks what is left out.

    A heading `…` leaves the title out.
    """
    title, *sections = printed.strip().split("\n\n")
    shown, left_out = ("", True) if "…" in headings else (title, False)
    for section in sections:
        if headings and not COLOR.sub("", section).startswith(tuple(headings)):
            left_out = True
            continue
        shown += ("\n…\n" if left_out else "\n\n") + section
        left_out = False
    return shown.lstrip("\n") + ("\n…" if left_out else "")


def in_scratch(command: str, before: Sequence[str] = (), *, color: bool = False) -> str:
    """Return what `gradience COMMAND` prints in an empty folder that holds the example adapter."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for place in ("adapter", "my_adapter"):
            shutil.copytree(ROOT / EXAMPLE, folder / place)
        if "published" in command:
            shutil.copytree(ROOT / RUN, folder / "published")
        if "diffusers_adapter" in command:
            shutil.copytree(ROOT / FOREIGN, folder / "diffusers_adapter")
        (folder / "reviews.csv").write_text(REVIEWS, encoding="utf-8")
        for earlier in before:
            output_of(earlier, folder)
        return output_of(command, folder, color=color)


def output_of(command: str, folder: Path, *, color: bool = False) -> str:
    """Return what `gradience COMMAND` prints into a pipe, run in `folder`.

    The command runs in a fork of this process, which has imported the modules that a new interpreter would import.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = multiprocessing.get_context("fork").Process(
            target=_run, args=(command.split(), folder, color, out.fileno(), err.fileno())
        )
        child.start()
        child.join()
        printed, errors = (
            os.pread(file.fileno(), os.fstat(file.fileno()).st_size, 0).decode() for file in (out, err)
        )
    if child.exitcode != 0:
        raise SystemExit(f"gradience {command} ended with {child.exitcode}\n{errors}")
    return printed


def _run(arguments: list[str], folder: Path, color: bool, out: int, err: int) -> None:
    for name in ("FORCE_COLOR", "NO_COLOR"):
        os.environ.pop(name, None)
    if color:
        os.environ["FORCE_COLOR"] = "1"
    os.chdir(folder)
    os.dup2(out, 1)
    os.dup2(err, 2)
    for name, number in (("stdout", 1), ("stderr", 2)):
        setattr(sys, name, open(number, "w", encoding="utf-8", closefd=False))  # noqa: SIM115 (until the process ends)
    sys.argv = ["gradience", *arguments]
    main_of_gradience()


def picture() -> str:
    """Return the audit's screen as an SVG that fetches nothing."""
    from rich.console import Console
    from rich.text import Text

    console = Console(record=True, width=PICTURE_WIDTH, file=io.StringIO())
    console.print(Text.from_ansi(in_scratch(AUDIT, color=True).strip()))
    svg = console.export_svg(title=f"gradience {AUDIT}", unique_id="audit")
    svg = re.sub(r"\s*@font-face \{.*?\}", "", svg, flags=re.DOTALL)
    return "".join(f"{line.rstrip()}\n" for line in svg.strip().splitlines())


def bench_table() -> str:
    """Return variants of the kept result of Bench as a table."""
    result = BenchAggregate.read(ROOT / BENCH_RESULTS)
    tests = next(split.n for split in result.splits if split.role == result.eval_role)
    variants = {variant.name: variant for variant in result.variants}
    rows = [
        f"| `{name}` | {words} | {percent(one.mean_reduction)} | {mean_percent(one.accuracy)}{seeds_run(one)} |"
        f" {points(one.worst_delta)} | {one.seeds_passed} | {status_of(one).text} |"
        for name, words in BENCH_ROWS.items()
        for one in (variants[name],)
    ]
    seeds, allowed = plural(len(result.planned_seeds), "seed"), 100 * float(result.policy.tolerance)
    return "\n".join(
        [
            f"MiniLM-L6 on movie reviews, {tests:,} test examples, {seeds}. The probe (rank {result.probe_rank}) has "
            f"{mean_percent(result.probe)} correct (mean ± SD over seeds); a variant may lose {allowed:g} points."
            f" At least one variant passes, so the run is a **{result.status}**:",
            "",
            "| variant | description | saved | correct | worst Δ, points | seeds passed | |",
            "|---|---|---:|---:|---:|---:|---|",
            *rows,
        ]
    )


def seeds_run(variant: VariantSummary) -> str:
    """Return ` (2 seeds)` if not all planned seeds were run, else nothing."""
    run = sum(seed.n is not None for seed in variant.seeds)
    return "" if run == variant.planned else f" ({plural(run, 'seed')})"


def screen_of(kept: Kept) -> str:
    """Return a kept result as its command and its screen, or some sections of it."""
    result = SCREENS[Path(kept.file).name].read(ROOT / "benchmarks" / "results" / kept.file)
    screen = result.to_text(view=View(brief=True, paths=kept.named))
    command = result.run.command.removesuffix(" --json")  # the kept file is its output
    if kept.output is not None:
        command = re.sub(r"(?<=--output )\S+", kept.output, command)
    return f"```text\n$ {command}\n\n{part_of(screen, kept.sections).strip()}\n```"


def portable(page: str) -> str:
    """Return the page without the digests of what was written: another processor may round the last bit otherwise."""
    written = (
        "(?<=sha256 )[0-9a-f]{12}(?= from)",
        "(?<=smaller  sha256 )[0-9a-f]{12}",
        "(?<=f32 · sha256 )[0-9a-f]{12}",
    )
    return re.sub("|".join(written), "…", page)


def visible(svg: str) -> str:
    """Return the words of a picture: how it is drawn depends on the version of rich."""
    return html.unescape(" ".join(re.findall(r"<text [^>]*>([^<]*)</text>", svg)))


def main() -> int:
    check = only_checking(__doc__)
    blocks = [(shown.page, shown.block, text_of(shown)) for shown in PAGES]
    blocks.append(("README.md", "bench", bench_table()))
    blocks += [(kept.page, kept.block, screen_of(kept)) for kept in KEPT]
    after: dict[Path, str] = {}
    for page, block, text in blocks:
        path = ROOT / page
        after[path] = replace_block(after.get(path) or path.read_text(encoding="utf-8"), block, text)
    after[ROOT / PICTURE] = picture()
    outdated = False
    for path, text in after.items():
        comparable = visible if path.suffix == ".svg" else portable
        if path.exists() and comparable(path.read_text(encoding="utf-8")) == comparable(text):
            continue
        print(f"{'out of date' if check else 'wrote'}: {path.relative_to(ROOT)}")
        if check:
            outdated = True
        else:
            path.write_text(text, encoding="utf-8")
    if outdated:
        print("run: make docs", file=sys.stderr)
    return int(outdated)


if __name__ == "__main__":
    sys.exit(main())
