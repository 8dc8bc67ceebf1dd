"""`gradience verify`: nothing disagrees in a run that nobody touched, and whatever is touched is named."""

import json
import os
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bench_process import KEPT, SMALL, change_records, edit, unpacked, write_inputs
from raising import raises
from tiny_bench import Watcher

import gradience
from gradience import verify
from gradience.bench.config import load_config
from gradience.bench.run.bench import run_bench
from gradience.bench.verify.folder import Findings, check_files
from gradience.cli.app import run
from gradience.digests import sha256_file
from gradience.errors import InputError
from gradience.files.digests import DIGESTS, files_below, root_of, write_digests
from gradience.files.records import pack, unpack

SECTIONS = SMALL | {"compression": {"variants": ["uniform_r2"], "controls": ["rewrite_control", "head_only"]}}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A real run of two seeds."""
    output = tmp_path_factory.mktemp("trained") / "mine"
    config = load_config(write_inputs(tmp_path_factory.mktemp("inputs"), **SECTIONS))
    watcher = Watcher()
    run_bench(config, output, watcher)
    assert watcher.plan == f"plan: {sha256_file(output / 'plan.json')} (sha256 of {output / 'plan.json'})"
    assert watcher.before_plan == []
    return output


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """The kept run of the demo, unpacked."""
    return unpacked("minilm_reviews_demo", tmp_path_factory.mktemp("kept"))


@pytest.fixture
def copy(trained, tmp_path):
    return Path(shutil.copytree(trained, tmp_path / "mine"))


def named(folder: Path, root: str | None = None) -> dict[str, list[str]]:
    """File -> the fields of it that disagree."""
    names: dict[str, list[str]] = {}
    for one in verify(folder, root=root).mismatches:
        names.setdefault(one.file, []).append(one.field)
    return names


def forge(folder: Path) -> None:
    """Make every manifest, and digests.json, say what the files are now."""
    for manifest in folder.rglob("manifest.json"):
        values = json.loads(manifest.read_text(encoding="utf-8"))
        for name, file in values["files"].items():
            path = manifest.parent / name
            if path.is_file():
                file |= {"sha256": sha256_file(path), "bytes": path.stat().st_size}
        manifest.write_text(json.dumps(values), encoding="utf-8")
    write_digests(folder)


# ---------------------------------------------------------------- what nobody touched


def test_nothing_disagrees_in_a_run_that_has_just_ended(trained):
    report = verify(trained, root=root_of(trained))
    assert not report.mismatches
    assert (report.verdict, report.level, report.seeds) == ("verified", "L2", (1, 2))
    assert {check.result for check in report.checks} == {"passed"}
    listed = json.loads((trained / DIGESTS).read_text())["files"]
    there = {str(path.relative_to(trained)) for path in trained.rglob("*") if path.is_file()}
    assert there - listed.keys() == {DIGESTS, ".lock"}


def test_a_failed_check_counts_its_mismatches_and_an_invalid_result_does_not_blame_the_plan(copy):
    (copy / "config.yaml").unlink()
    for seed in (1, 2):
        (copy / f"seed_{seed}" / "bench.json").write_text("{}")
    report = verify(copy)
    checks = {check.name: (check.result, check.what) for check in report.checks}
    assert checks["files"] == ("failed", "3 mismatches")
    assert checks["plan"][0] == "not done"
    assert "plan.json" not in {one.file for one in report.mismatches}
    screen = report.to_text()
    assert f"MISMATCH: {len(report.mismatches)} contradictions" in screen
    assert "Not checked" in screen


def test_the_plan_that_was_printed_is_checked(copy):
    printed = sha256_file(copy / "plan.json")
    assert verify(copy, plan=printed.upper()).verdict == "verified"
    report = verify(copy, plan="0" * 64)
    assert [(one.file, report.verdict) for one in report.mismatches] == [("plan.json", "mismatch")]


def test_one_seed_is_verified_by_itself(trained, monkeypatch):
    report = verify(trained / "seed_2")
    assert (report.verdict, report.level, report.seeds) == ("consistent", "L2", (2,))
    monkeypatch.chdir(trained / "seed_2")
    assert verify(Path()).seeds == (2,)


@pytest.mark.parametrize(
    "name",
    sorted(
        path.parent.name for path in KEPT.glob("*/everything.tar.xz") if [*path.parent.rglob("bench.json")]
    ),
)
def test_the_kept_runs_are_verified(name):
    """As they are in a clone, packed. Pages are compared only by the version that made the run."""
    report = gradience.verify(KEPT / name)
    assert not report.mismatches
    assert (report.verdict, report.level) == ("consistent", "L2")
    assert {check.name for check in report.checks if check.result == "not done"} <= {"pages"}


# ---------------------------------------------------------------- one byte


@pytest.mark.parametrize("which", ["kept", "trained"])
def test_a_changed_byte_in_any_file_is_named(which, request, tmp_path):
    folder = Path(shutil.copytree(request.getfixturevalue(which), tmp_path / "run"))
    names = list(files_below(folder))
    assert len(names) > 40
    for name in names:
        path = folder / name
        before = path.read_bytes()
        place = len(before) // 2
        path.write_bytes(before[:place] + bytes([before[place] ^ 1]) + before[place + 1 :])
        findings = Findings()
        check_files(folder, findings)
        assert [one.file for one in findings.mismatches] == [name]
        path.write_bytes(before)
    assert not verify(folder).mismatches


def torn(lines: list[bytes]) -> Iterator[list[bytes]]:
    """A line less, a line twice, two lines exchanged, a line of another example."""
    yield lines[:-1]
    yield [*lines, lines[-1]]
    yield [*lines[:-2], lines[-1], lines[-2]]
    yield [*lines[:-1], lines[-2]]


def test_lines_of_records_that_were_dropped_doubled_or_exchanged_are_named(copy):
    """Also where every digest was made again: the counts, the pairs or the root tell."""
    root = root_of(copy)
    files = sorted((copy / "seed_1").rglob("*.records.jsonl"))
    assert len(files) == 5
    for path in files:
        name, before = str(path.relative_to(copy)), path.read_bytes()
        for lines in torn(before.splitlines(keepends=True)):
            path.write_bytes(b"".join(lines))
            assert name in named(copy)
            forge(copy)
            names = named(copy, root)
            assert DIGESTS in names
            assert any(file.startswith("seed_1/") for file in names)
            path.write_bytes(before)
            forge(copy)


# ---------------------------------------------------------------- clever cheats, all digests made again


def test_a_file_of_20_gb_is_named_and_not_read(copy, monkeypatch):
    name = "seed_1/probe/eval/answers.records.jsonl"
    os.truncate(copy / name, 20 * 2**30)  # sparse: it takes no space

    def hashed(path: Path, **limit: Any) -> str:
        assert path != copy / name or limit.get("limit")
        return sha256_file(path, **limit)

    monkeypatch.setattr("gradience.bench.verify.folder.sha256_file", hashed)
    said = [one.what for one in verify(copy).mismatches if one.file == name]
    assert any("bytes" in what for what in said), said


def better(bench: dict[str, Any]) -> None:
    """One example more for a variant, consistently: pairs, counts, difference."""
    result = next(row for row in bench["variants"] if row["name"] == "head_only")
    pairs, measures = result["pairs"], result["measures"]
    lost = pairs["n10"] > 0
    kind, other = ("n10", "n11") if lost else ("n00", "n01")
    pairs[kind] -= 1
    pairs[other] += 1
    measures["correct"] += 1
    answers, probe = list(unpack(measures["correct_examples"], measures["n"])), bench["probe"]
    of_probe = unpack(probe["correct_examples"], probe["n"])
    answers[next(i for i, ours in enumerate(answers) if not ours and of_probe[i] is lost)] = True
    measures["correct_examples"] = pack(answers)
    measures["score"] = round(measures["correct"] / measures["n"], 12)
    for name in ("delta", "low", "high", "mcnemar_p"):
        del pairs[name]
    net = pairs["n01"] - pairs["n10"]
    result |= {"delta": round(net / measures["n"], 12), "delta_exact": f"{net}/{measures['n']}"}


def test_edited_counts_are_named_field_by_field_and_not_added_up(copy, command):
    from gradience.reports.bench import Bench

    result = copy / "seed_1" / "bench.json"
    edit(result, better)
    (copy / "seed_1" / "bench.md").write_text(Bench.read(result).to_markdown(), encoding="utf-8")
    forge(copy)
    fields = named(copy)["seed_1/bench.json"]
    assert any(field.endswith((".pairs.n11", ".pairs.n00")) for field in fields)
    assert any(field.endswith(".measures.correct") for field in fields)
    said = command("bench", "aggregate", copy, code=3).err
    assert "seed_1/bench.json" in said
    assert "gradience verify" in said


def test_an_edited_policy_is_named(copy):
    def lenient(values: dict[str, Any]) -> None:
        values["policy"]["tolerance"] = "0.5"
        if "config" in values:
            values["config"]["policy"]["tolerance"] = "0.5"

    for seed in (1, 2):
        edit(copy / f"seed_{seed}" / "bench.json", lenient)
    forge(copy)
    assert "policy.tolerance" in named(copy)["seed_1/bench.json"]
    edit(copy / "plan.json", lenient)
    forge(copy)
    names = named(copy)
    assert "plan_digest" in names["seed_1/bench.json"]
    assert "plan_digest" in names["seed_1/probe/train/manifest.json"]


def test_seeds_that_changed_places_are_named(copy):
    (copy / "seed_1").rename(copy / "other")
    (copy / "seed_2").rename(copy / "seed_1")
    (copy / "other").rename(copy / "seed_2")
    for seed in (1, 2):
        edit(copy / f"seed_{seed}" / "bench.json", lambda values, seed=seed: values.update(seed=seed))
    forge(copy)
    assert {"start.seed", "start.streams"} <= set(named(copy)["seed_1/probe/train/training.json"])


def test_a_seed_that_was_left_out_with_its_entry_in_the_plan_is_named(copy):
    root = root_of(copy)
    shutil.rmtree(copy / "seed_2")
    for name in ("seed_1/bench.json", "bench.json"):
        (copy / "seed_1").is_dir() and shutil.copytree(copy / "seed_1", copy, dirs_exist_ok=True)
        if (copy / name).is_file():
            edit(copy / name, lambda values: values.update(planned_seeds=[1]))
    shutil.rmtree(copy / "seed_1")
    edit(copy / "plan.json", lambda values: values.update(seeds=[1]))
    for name in ("bench_aggregate.json", "bench_aggregate.md"):
        (copy / name).unlink()
    forge(copy)
    names = named(copy)
    assert "plan_digest" in names["bench.json"]
    assert "seeds" in names["plan.json"]
    assert DIGESTS in named(copy, root)


def test_gold_answers_that_were_changed_are_named(copy):
    """In the records of one seed, all of them, with whatever follows from it: the other seed was asked the same."""
    for path in (copy / "seed_1").rglob("answers.records.jsonl"):
        change_records(path, lambda _, rows: rows[0].update(label=rows[0]["predicted"], correct=True))
    forge(copy)
    assert "seed_2/probe/eval/answers.records.jsonl" in named(copy)


def test_a_seed_beside_those_of_the_plan_is_named(copy):
    shutil.copytree(copy / "seed_1", copy / "seed_3")
    assert "seed_3/bench.json" in named(copy)


# ---------------------------------------------------------------- what there is to say besides


def test_weights_that_are_not_published_are_no_mismatch_and_changed_ones_are(copy):
    weights = sorted(copy.rglob("adapter_model.safetensors"))
    weights[0].write_bytes(weights[0].read_bytes() + b"\0")
    assert str(weights[0].relative_to(copy)) in named(copy)
    for path in weights:
        path.unlink()
    report = verify(copy)
    assert report.verdict == "consistent"
    assert any("weights" in gap for gap in report.not_verified)


def test_files_beside_those_of_the_run_are_listed_and_no_mismatch(copy):
    (copy / "README.md").write_text("my run")
    report = verify(copy)
    assert report.verdict == "consistent"
    assert any("README.md" in gap for gap in report.not_verified)


def test_results_without_anything_beside_them_are_not_verified(copy, tmp_path, capsys):
    """The aggregate takes them as they stand, and says so."""
    for seed in (1, 2):
        (tmp_path / f"seed_{seed}").mkdir()
        shutil.copy(copy / f"seed_{seed}" / "bench.json", tmp_path / f"seed_{seed}")
    with raises(InputError, "nothing-to-verify"):
        verify(tmp_path / "seed_1")
    assert run(["bench", "aggregate", str(tmp_path / "seed_1"), str(tmp_path / "seed_2"), "--json"]) in (
        0,
        1,
        8,
    )
    notes = json.loads(capsys.readouterr().out)["notes"]
    assert any("no records" in note and "seed_1" in note and "seed_2" in note for note in notes)


def test_a_run_whose_audit_failed_is_verified_up_to_its_error(tmp_path, monkeypatch):
    def fails(*_: Any, **__: Any) -> None:
        raise RuntimeError("no memory left")

    monkeypatch.setattr("gradience.bench.run.seed.audit_adapter", fails)
    config = load_config(write_inputs(tmp_path / "inputs", **SMALL | {"seeds": [1]}))
    (bench,), _ = run_bench(config, tmp_path / "run", Watcher())
    assert {row.reasons for row in bench.variants} == {("no probe: RuntimeError: no memory left",)}
    verified = verify(tmp_path / "run")
    assert verified.mismatches == ()
    assert "probe: that it ended in the recorded error" in verified.not_verified


def test_a_packed_run_without_its_archive_is_named_once(tmp_path):
    source = KEPT / "minilm_reviews"
    shutil.copytree(source, tmp_path / "run", ignore=shutil.ignore_patterns("*.xz"))
    said = [one.what for one in verify(tmp_path / "run").mismatches if one.file == DIGESTS]
    assert len(said) == 1
    assert "everything.tar.xz" in said[0]


def test_a_file_in_the_archive_is_named_as_it_is_there(kept, tmp_path):
    """Not by the temporary folder in which it is read."""
    run, packed = Path(shutil.copytree(kept, tmp_path / "run")), tmp_path / "packed"
    (run / "probe/eval/answers.records.jsonl").write_text("no record\n", encoding="utf-8")
    (run / "plan.json").write_text("no plan", encoding="utf-8")
    packed.mkdir()
    shutil.copy(run / "plan.json", packed)
    with tarfile.open(packed / "everything.tar.xz", "w:xz") as tar:
        tar.add(run, ".", filter=lambda member: None if member.name == "./plan.json" else member)
    report = verify(packed)
    assert {one.file for one in report.mismatches} >= {"plan.json", "probe/eval/answers.records.jsonl"}
    assert any(f"{packed / 'plan.json'}: " in one.what for one in report.mismatches)
    assert "gradience-" not in report.model_dump_json()
    shutil.copy(kept / "plan.json", packed)
    said = " ".join(one.what for one in verify(packed).mismatches)
    assert f"{packed}/probe/eval/answers.records.jsonl: " in said


@pytest.mark.parametrize("content", [b"", b"no archive", None])
def test_an_archive_that_cannot_be_unpacked_is_named(content, tmp_path):
    """None: whole, but one of its names leads out of the folder."""
    shutil.copy(KEPT / "minilm_reviews_demo" / "plan.json", tmp_path)
    archive = tmp_path / "everything.tar.xz"
    if content is None:
        with tarfile.open(archive, "w:xz") as tar:
            tar.addfile(tarfile.TarInfo("../outside"))
    else:
        archive.write_bytes(content)
    with raises(InputError, "bad-archive"):
        verify(tmp_path)
