"""Seven forgeries by somebody who makes every digest, count, verdict and page again: docs/verify.md says which level
names each of them, and these tests say the same."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from bench_process import RUNTIME, change_records, edit, sevens, write_config
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from test_verify import forge
from tiny_bench import Watcher

from gradience import verify
from gradience.bench.config import BenchConfig, load_config
from gradience.bench.plan import bench_plan, plan_digest
from gradience.bench.run.bench import run_bench
from gradience.bench.verdict.aggregate import aggregate_run
from gradience.bench.verdict.assemble import assemble
from gradience.bench.verify.folder import Findings
from gradience.bench.verify.recompute import SeedFolder, marking_of
from gradience.digests import sha256_file
from gradience.reports.bench import Bench, BenchAggregate
from gradience.reports.bench_plan import BenchPlan
from gradience.reports.verification import Verification
from gradience.training.settings import STREAMS, stream

SEEDS = (1, 2)
WEIGHTS = "adapter_model.safetensors"


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """A real run of two seeds, with all weights."""
    inputs, output = tmp_path_factory.mktemp("inputs"), tmp_path_factory.mktemp("real") / "run"
    config = write_config(
        inputs,
        sevens(20),
        {"generation": {"max_new_tokens": 2}},
        lora={"probe_r": 8, "alpha": 16, "target_modules": ["q_proj", "v_proj"]},
        train={
            "lr": 3e-2,
            "max_steps": 20,
            "per_device_train_batch_size": 4,
            "per_device_eval_batch_size": 32,
        },
        compression={
            "variants": ["uniform_r3", "uniform_r2"],
            "arms": ["truncate"],
            "ladder": {"steps": [4, 1]},
            "controls": ["random_directions"],
        },
        runtime=RUNTIME | {"keep_adapters": "all"},
        seeds=list(SEEDS),
    )
    run_bench(load_config(config), output, Watcher())
    return output


@pytest.fixture
def run(real, tmp_path):
    return Path(shutil.copytree(real, tmp_path / "run"))


# ---------------------------------------------------------------- the forger's tools


def config_of(run: Path) -> BenchConfig:
    return BenchConfig.model_validate(yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8")))


def edit_config(run: Path, change: Callable[[Any], object]) -> None:
    values = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    change(values)
    (run / "config.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")


def replace_digests(folder: Path, digests: dict[str, str]) -> None:
    for path in [*folder.rglob("*.json"), *folder.rglob("*.jsonl")]:
        text = path.read_text(encoding="utf-8")
        for before, after in digests.items():
            text = text.replace(before, after)
        path.write_text(text, encoding="utf-8")


def remake(run: Path) -> None:
    """Make the plan, every manifest, result, aggregate, page and digest again from config, records and adapters."""
    for adapter in {
        path.parent for path in run.rglob("adapter_config.json")
    }:  # headers name the config's digest
        stage = adapter.parents[1]
        for path in stage.glob("eval/*.records.jsonl"):
            digest = sha256_file(adapter / "adapter_config.json")
            change_records(path, lambda header, _, digest=digest: header.update(adapter_config_sha256=digest))
    config, before = config_of(run), BenchPlan.read(run / "plan.json")
    plan = bench_plan(config, before.task, before.splits, before.task_code).model_copy(
        update={"code": before.code}
    )
    plan.save(run / "plan.json")
    for manifest in run.rglob("manifest.json"):
        edit(manifest, lambda values: values.update(plan_digest=plan_digest(plan)))
    forge(run)
    benches = []
    for seed in SEEDS:
        place = run / f"seed_{seed}"
        recorded = Bench.read(place / "bench.json")
        marking = marking_of(config.task, plan, recorded)
        believed = marking._replace(why_not="scores are those of the records")
        facts = SeedFolder(place, config, seed, recorded, believed, Findings()).walk()
        data = recorded.data.model_copy(update={"splits": plan.splits})
        bench = assemble(facts, marking.rules, data, plan, recorded.run)
        bench.save(place / "bench.json")
        (place / "bench.md").write_text(bench.to_markdown(), encoding="utf-8")
        benches.append(bench)
    info = BenchAggregate.read(run / "bench_aggregate.json").run
    together = aggregate_run(benches, info, records_verified=True)
    together.save(run / "bench_aggregate.json")
    (run / "bench_aggregate.md").write_text(together.to_markdown(), encoding="utf-8")
    forge(run)


def delete_examples(run: Path, gone: Callable[[list[str]], set[str]]) -> None:
    """Delete examples from every file of records, and say so nowhere."""
    ids = [row["id"] for row in rows_of(run / "seed_1/probe/eval/answers.records.jsonl")]
    lost = gone(ids)

    def change(header: dict[str, Any], rows: list[dict[str, Any]]) -> None:
        rows[:] = [row for row in rows if row["id"] not in lost]
        header["examples_sha256"] = "1" * 64

    for path in run.rglob("*.records.jsonl"):
        change_records(path, change)

    def fewer(values: dict[str, Any]) -> None:
        split = next(split for split in values["splits"] if split["role"] == values["eval_role"])
        split.update(n=len(ids) - len(lost), sha256="2" * 64)

    edit(run / "plan.json", fewer)


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()[1:]]


# ---------------------------------------------------------------- the forgeries


def rank_4_sold_as_rank_1(run: Path) -> None:
    """The weights, answers and scores of rank 4 under the name, config and parameter count of rank 1."""
    for seed in SEEDS:
        large, small = (run / f"seed_{seed}/ladder.r{rank}" for rank in (4, 1))
        for name in (f"adapter/adapter/{WEIGHTS}", "adapter/weights_header.json"):
            shutil.copy(large / name, small / name)
        for path in (large / "eval").glob("*.records.jsonl"):
            shutil.copy(path, small / "eval")
            change_records(small / "eval" / path.name, lambda header, _: header.update(adapter="ladder.r1"))
    remake(run)


def rank_4_sold_as_rank_1_without_weights(run: Path) -> None:
    """The same with the header of rank 1, and no weights at all."""
    headers = {
        seed: (run / f"seed_{seed}/ladder.r1/adapter/weights_header.json").read_bytes() for seed in SEEDS
    }
    sizes = {
        seed: (run / f"seed_{seed}/ladder.r1/adapter/adapter/{WEIGHTS}").stat().st_size for seed in SEEDS
    }
    rank_4_sold_as_rank_1(run)
    for path in run.rglob(WEIGHTS):
        path.unlink()
    for seed in SEEDS:
        stage = run / f"seed_{seed}/ladder.r1/adapter"
        (stage / "weights_header.json").write_bytes(headers[seed])
        name = f"adapter/{WEIGHTS}"
        edit(
            stage / "manifest.json", lambda values, s=seed, n=name: values["files"][n].update(bytes=sizes[s])
        )
    remake(run)


def answers_of_rank_4_for_rank_1(run: Path) -> None:
    """The weights of rank 1 are published, with the answers and scores of rank 4."""
    for seed in SEEDS:
        large, small = (run / f"seed_{seed}/ladder.r{rank}" for rank in (4, 1))
        digest = sha256_file(small / f"adapter/adapter/{WEIGHTS}")
        for path in (large / "eval").glob("*.records.jsonl"):
            shutil.copy(path, small / "eval")
            change_records(
                small / "eval" / path.name,
                lambda header, _, digest=digest: header.update(adapter="ladder.r1", adapter_sha256=digest),
            )
    remake(run)


def seed_1_copied_as_seed_2(run: Path) -> None:
    """Bit for bit, but for what names the seed and how it began."""
    shutil.rmtree(run / "seed_2")
    shutil.copytree(run / "seed_1", run / "seed_2")
    edit(run / "seed_2/bench.json", lambda values: values.update(seed=2))
    start: dict[str, Any] = {"seed": 2, "streams": {name: stream(2, name) for name in STREAMS}}
    start |= {"initial_adapter_sha256": "3" * 64, "first_batch_sha256": "4" * 64}
    for path in (run / "seed_2").rglob("training.json"):
        edit(path, lambda values: values["start"].update(start))
    remake(run)


def seed_1_copied_as_seed_2_with_noise(run: Path) -> None:
    """Other digests everywhere, and numbers that differ in the seventh digit."""
    seed_1_copied_as_seed_2(run)
    pairs = []
    for path in sorted((run / "seed_2").rglob(WEIGHTS)):
        before = sha256_file(path)
        with safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
        save_file(load_file(path), path, metadata | {"noise": path.parts[-4]})
        pairs.append((before, sha256_file(path)))
        stored = path.read_bytes()
        (path.parents[1] / "weights_header.json").write_bytes(
            stored[8 : 8 + int.from_bytes(stored[:8], "little")]
        )
        manifest = path.parents[1] / "manifest.json"
        size = {"bytes": len(stored)}
        edit(manifest, lambda values, size=size: values["files"][f"adapter/{WEIGHTS}"].update(size))
    replace_digests(run / "seed_2", dict(pairs))

    def jitter(_: dict[str, Any], rows: list[dict[str, Any]]) -> None:
        for row in rows:
            row["loglikelihood"] *= 1 + 1e-7

    for path in (run / "seed_2").rglob("scores.records.jsonl"):
        change_records(path, jitter)
    remake(run)


def examples_deleted(run: Path) -> None:
    delete_examples(run, lambda ids: set(ids[::5]))
    remake(run)


def base_renamed(run: Path) -> None:
    """To a larger model of the same shape, which the verifier has."""
    base = Path(config_of(run).model.name)
    other = base.with_name("Llama-3.1-8B")
    if not other.exists():
        shutil.copytree(base, other)
        weights = other / "model.safetensors"
        save_file(
            {name: 1.5 * tensor for name, tensor in load_file(weights).items()}, weights, {"format": "pt"}
        )
    edit_config(run, lambda values: values["model"].update(name=str(other)))
    for path in run.rglob("training.json"):
        edit(path, lambda values: values.update(base=other.name))
    for path in run.rglob("adapter_config.json"):
        edit(path, lambda values: values.update(base_model_name_or_path=str(other)))
    for path in run.rglob("*.records.jsonl"):
        change_records(path, lambda header, _: header.update(base=other.name))
    remake(run)


def base_renamed_in_the_plan(run: Path) -> None:
    """Only where it is read: in plan, config and results."""
    edit_config(run, lambda values: values["model"].update(name="meta-llama/Llama-3.1-8B"))
    remake(run)


def kl_set_to_nothing(run: Path) -> None:
    def change(_: dict[str, Any], rows: list[dict[str, Any]]) -> None:
        for row in rows:
            row["kl"] = 1e-4

    for path in run.rglob("scores.records.jsonl"):
        change_records(path, change)
    remake(run)


def scoring_changed(run: Path) -> None:
    for path in run.rglob("answers.records.jsonl"):
        change_records(path, lambda header, _: header.update(scoring="easier 7"))
    remake(run)


def worst_examples_and_failing_arm_deleted(run: Path) -> None:
    wrong = {
        row["id"]
        for row in rows_of(run / "seed_1/uniform_r2.truncate/eval/answers.records.jsonl")
        if not row["correct"]
    }
    assert wrong
    delete_examples(run, lambda ids: set([key for key in ids if key in wrong][: len(ids) // 20]))
    for seed in SEEDS:
        shutil.rmtree(run / f"seed_{seed}/uniform_r2.truncate")
    edit_config(run, lambda values: values["compression"].update(variants=["uniform_r3"]))
    remake(run)


# ---------------------------------------------------------------- what names them

L1, DATA, PLAN, L3 = "alone", "--data", "--plan", "--regenerate"
SIZE = "seed_1/ladder.r1/adapter/"
CASES: dict[Callable[[Path], None], dict[str, tuple[str, str] | None]] = {
    rank_4_sold_as_rank_1: dict.fromkeys((L1, DATA, PLAN, L3), (f"{SIZE}parameters.json", "")),
    rank_4_sold_as_rank_1_without_weights: dict.fromkeys((L1, DATA, PLAN, L3)),
    answers_of_rank_4_for_rank_1: dict.fromkeys((L1, DATA, PLAN))
    | {L3: ("seed_1/ladder.r1/eval/scores.records.jsonl", "")},
    seed_1_copied_as_seed_2: dict.fromkeys(
        (L1, DATA, PLAN, L3), (f"seed_2/probe/train/adapter/{WEIGHTS}", "")
    ),
    seed_1_copied_as_seed_2_with_noise: dict.fromkeys((L1, DATA, PLAN, L3)),
    examples_deleted: {
        L1: None,
        DATA: ("seed_1/probe/eval/answers.records.jsonl", "id"),
        PLAN: ("plan.json", ""),
        L3: None,
    },
    base_renamed: {
        L1: None,
        DATA: None,
        PLAN: ("plan.json", ""),
        L3: ("seed_1/probe/eval/answers.records.jsonl", ""),
    },
    base_renamed_in_the_plan: dict.fromkeys(
        (L1, DATA, PLAN, L3), ("seed_1/probe/train/training.json", "base")
    ),
    kl_set_to_nothing: dict.fromkeys((L1, DATA, PLAN))
    | {L3: ("seed_1/ladder.r1/eval/scores.records.jsonl", "")},
    scoring_changed: dict.fromkeys(
        (L1, DATA, PLAN, L3), ("seed_1/probe/eval/answers.records.jsonl", "scoring")
    ),
    worst_examples_and_failing_arm_deleted: {
        L1: None,
        DATA: ("seed_1/probe/eval/answers.records.jsonl", "id"),
        PLAN: ("plan.json", ""),
        L3: None,
    },
}
"""Forgery -> how it is verified -> a file and field that is named; None if nothing disagrees."""


def verified(run: Path, how: str, plan: str) -> Verification:
    options: dict[str, Any] = {DATA: {"data": True}, PLAN: {"plan": plan}, L3: {"regenerate": 40}}
    return verify(run, **options.get(how, {}))


@pytest.mark.parametrize("how", [L1, DATA, PLAN, L3])
def test_nothing_disagrees_in_the_run_itself_nor_if_it_is_made_again(run, how):
    """So what is named below is named because of the forgery."""
    plan = sha256_file(run / "plan.json")
    for _ in range(2):
        report = verified(run, how, plan)
        assert [(one.file, one.what) for one in report.mismatches] == []
        assert (report.verdict, report.level) == (
            "verified" if how == PLAN else "consistent",
            "L3" if how == L3 else "L2",
        )
        remake(run)


@pytest.mark.parametrize("forgery", CASES, ids=lambda forgery: forgery.__name__)
def test_a_forgery_is_named_where_the_page_says_so(run, forgery):
    plan, root = sha256_file(run / "plan.json"), sha256_file(run / "digests.json")
    forgery(run)
    for how, expected in CASES[forgery].items():
        report = verified(run, how, plan)
        named = {(one.file, one.field) for one in report.mismatches}
        if expected is None:
            assert named == set(), how
            assert report.verdict == ("verified" if how == PLAN else "consistent")
        else:
            assert expected in named, how
            assert (report.verdict, report.level) == ("mismatch", None)
    assert verify(run, root=root).verdict == "mismatch"


def test_what_is_not_known_of_a_size_is_said(run):
    for path in run.rglob(WEIGHTS):
        path.unlink()
    assert any("recorded headers" in gap for gap in verify(run).not_verified)
    for manifest in run.rglob("manifest.json"):
        edit(manifest, lambda values: values["files"].pop("weights_header.json", None))
    for path in run.rglob("weights_header.json"):
        path.unlink()
    forge(run)
    report = verify(run)
    assert report.verdict == "consistent"
    assert any("weights and headers are missing" in gap for gap in report.not_verified)
