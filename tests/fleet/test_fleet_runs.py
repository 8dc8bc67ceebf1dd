"""`gradience fleet` over folders: where adapters are looked for, what is kept, what is the same, and the tables."""

import fcntl
import json
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from factory import adapter, config, lfs_pointer, stored
from fleets import MODULES, random_factors, rotated, save
from raising import raises
from running import python
from safetensors.torch import load_file

from gradience import LockedError, UsageError, audit_adapter, audit_fleet, compare_adapters, compress_fleet
from gradience.adapters.formats import open_adapter
from gradience.cli.app import run
from gradience.cli.demo import example_adapter
from gradience.errors import InputError, OutputError
from gradience.files.whole import LOCK, held
from gradience.fleet import measure as processes
from gradience.fleet import verb
from gradience.fleet.measure import FleetJournal, measure, read_rows
from gradience.fleet.verb import discover
from gradience.reports.fleet import FleetCompression, FleetReport

FOREIGN = Path(__file__).resolve().parents[1] / "adapters" / "foreign"


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder `zoo` with four adapters, one of them broken; the current folder is the one above."""
    monkeypatch.chdir(tmp_path)
    first = random_factors(1, 4)
    save(tmp_path / "zoo" / "one", first)
    save(tmp_path / "zoo" / "wide", random_factors(2, 12, decay=0.9))
    save(tmp_path / "zoo" / "turned", rotated(first, 5))
    (tmp_path / "zoo" / "broken").mkdir()
    (tmp_path / "zoo" / "broken" / "adapter_model.safetensors").write_bytes(lfs_pointer(4242))
    (tmp_path / "zoo" / "notes").mkdir()
    return tmp_path


def names():
    return [row.path for row in read_rows(Path("fleet.jsonl"))]


def save_pickled(folder):
    """The example adapter as a pickle."""
    weights = shutil.copytree(example_adapter(), folder) / "adapter_model.safetensors"
    torch.save(load_file(weights), weights.with_suffix(".bin"))
    weights.unlink()


# ---------------------------------------------------------------- the command


def test_a_row_each_and_what_holds_over_all(here, capsys):
    assert run(["fleet", "zoo", "-o", "fleet.jsonl", "--json"]) == 4
    report = FleetReport.model_validate_json(capsys.readouterr().out)
    assert (report.adapters, report.measured, report.failed, report.elsewhere) == (4, 3, 1, 1)
    (base,) = report.bases
    assert (base.base_model, base.largest_rank, base.max_lora_rank) == ("org/base", 12, 16)
    assert [step.max_lora_rank for step in base.steps] == [8, 1]
    assert [step.truncated for step in base.steps] == [1, 3]
    assert [adapter.path for adapter in base.forcing] == ["zoo/wide"]
    assert base.forcing[0].lost_energy == base.steps[0].lost_energy_max > 0
    assert [(failure.code, failure.first) for failure in report.failures] == [("lfs-pointer", "zoo/broken")]
    assert names() == ["zoo/broken", "zoo/one", "zoo/turned", "zoo/wide"]


def test_the_screen_says_who_forces_what_and_what_it_costs(here):
    text = audit_fleet("zoo", "rows.jsonl").to_text(width=200)
    for part in ("4 adapters", "1 of 3", "zoo/wide", "lfs-pointer"):
        assert part in text
    assert "gradience compress rows.jsonl --rank 8 --unchanged link -o smaller" in text
    assert "Next: add -o fleet.jsonl" in audit_fleet("zoo").to_text()


# ---------------------------------------------------------------- where adapters are


def test_recursive_looks_below_adapters_too(here):
    save(here / "zoo" / "one" / "checkpoint-10", random_factors(4, 4))
    save(here / "zoo" / "one" / "checkpoint-9", random_factors(4, 4))
    assert [*discover([Path("zoo")], root=Path("zoo")).paths] == ["broken", "one", "turned", "wide"]
    deep = discover([Path("zoo")], root=Path("zoo"), recursive=True)
    assert [*deep.paths][1:4] == ["one", "one/checkpoint-9", "one/checkpoint-10"]


def test_adapters_of_every_format_get_a_row(here):
    shutil.copytree(FOREIGN, here / "others", ignore=shutil.ignore_patterns("expected.npz"))
    report = audit_fleet("others", "others.jsonl")
    assert (report.failed, report.incomplete, report.elsewhere) == (0, 0, 0)
    formats = {row.path: row.format for row in read_rows(Path("others.jsonl"))}
    files = {"kohya": "kohya/style.safetensors"}
    files |= {name: f"{name}/adapter.gguf" for name in ("gguf-f16", "gguf-f32")}
    assert formats == {
        f"others/{files.get(folder.name, folder.name)}": folder.name.partition("-")[0]
        for folder in FOREIGN.iterdir()
    }
    assert [*discover([Path("others")], root=here, recursive=True).paths] == [*formats]


def test_pickles_get_a_row_where_they_are_allowed(here):
    save_pickled(here / "pickled" / "one")
    assert "Add --allow-pickle" in audit_fleet("pickled", "fleet.jsonl").to_text()
    assert [row.error for row in read_rows(Path("fleet.jsonl"))] == ["pickle"]
    assert run(["fleet", "pickled", "-o", "fleet.jsonl", "--allow-pickle", "--quiet"]) == 0
    (row,) = read_rows(Path("fleet.jsonl"))
    assert (row.status, row.rank) == ("ok", 8)
    assert row.stable_rank_median == pytest.approx(
        np.median([layer.stable_rank for layer in audit_adapter(example_adapter()).layers])
    )


def test_a_folder_that_cannot_be_read_is_a_row():
    """As a user without rights: root may read everything."""
    with tempfile.TemporaryDirectory() as public:  # pytest's own folder is its owner's alone
        os.chmod(public, 0o777)
        save(Path(public, "zoo", "one"), random_factors(1, 4))
        save(Path(public, "zoo", "listed", "inner"), random_factors(1, 4))
        Path(public, "zoo", "locked").mkdir()
        Path(public, "zoo", "link").symlink_to("locked/inside")
        os.chmod(Path(public, "zoo", "locked"), 0)
        os.chmod(Path(public, "zoo", "listed"), 0o444)
        program = (
            "import os, sys\n"
            "from gradience.cli.app import run\n"
            "run(['fleet', 'zoo/one', '--quiet'])\n"  # imports all while the sources can be read
            "if os.geteuid() == 0:\n"
            "    os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
            "for name, *words in (['flat', 'zoo'], ['deep', 'zoo', '--recursive']):\n"
            "    assert run(['fleet', *words, '-o', name + '.jsonl', '--quiet']) == 4, name\n"
        )
        done = python("-c", program, cwd=public)
        for name in ("locked", "listed"):
            os.chmod(Path(public, "zoo", name), 0o755)
        assert done.returncode == 0, done.stderr
        errors = {
            name: {row.path: row.error for row in read_rows(Path(public, f"{name}.jsonl"))}
            for name in ("flat", "deep")
        }
    assert errors["flat"] == {"zoo/locked": "unreadable", "zoo/one": None}
    assert errors["deep"] == {"zoo/listed/inner": "unreadable", **errors["flat"]}


@pytest.mark.parametrize(
    ("arguments", "code", "error"),
    [
        (["zoo/notes"], 3, "no adapters found"),
        (["zoo", "--root", "zoo/notes"], 2, "not inside the root zoo/notes"),
    ],
)
def test_what_is_refused(here, command, arguments, code, error):
    assert error in command("fleet", *arguments, code=code).err


def test_sources_elsewhere_are_named_below_the_folder_above_them(here, tmp_path_factory, monkeypatch, capsys):
    zoo = Path("zoo").absolute()
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    assert run(["fleet", str(zoo), "-o", "fleet.jsonl"]) == 4
    assert f"--root {zoo.parent} " in " ".join(capsys.readouterr().out.split())
    assert set(names()) == {"zoo/broken", "zoo/one", "zoo/turned", "zoo/wide"}
    monkeypatch.chdir(zoo.parent)
    audit_fleet(zoo, "fleet.jsonl")
    assert set(names()) == {"zoo/broken", "zoo/one", "zoo/turned", "zoo/wide"}


# ---------------------------------------------------------------- resuming


def counts(**options):
    report = audit_fleet("zoo", "fleet.jsonl", **options)
    return report.measured, report.reused


def test_unchanged_adapters_are_taken_over_and_failures_tried_again(here):
    assert counts() == (3, 0)
    before = Path("fleet.jsonl").read_bytes()
    assert counts() == (0, 3)
    assert Path("fleet.jsonl").read_bytes() == before
    save(here / "zoo" / "wide", random_factors(9, 2))
    assert counts() == (1, 2)
    shutil.rmtree("zoo/one")
    assert counts() == (0, 2)
    assert names() == ["zoo/broken", "zoo/turned", "zoo/wide"]


class Killed(BaseException):
    """The process ends here."""


def test_what_a_killed_run_has_measured_is_kept(here, monkeypatch):
    written = []

    def killed_at_the_third(self, row):
        if len(written) == 2:
            self._file.write(b'{"schema":"gradience.fleet_row/2","path":"zoo/tur')  # a line cut short
            raise Killed
        written.append(row.path)
        add(self, row)

    add = FleetJournal.add
    monkeypatch.setattr(FleetJournal, "add", killed_at_the_third)
    with pytest.raises(Killed):
        audit_fleet("zoo", "fleet.jsonl")
    monkeypatch.undo()
    os.chdir(here)
    assert written == ["zoo/broken", "zoo/one"]
    assert not Path("fleet.jsonl").exists()
    assert counts() == (2, 1)
    assert names() == ["zoo/broken", "zoo/one", "zoo/turned", "zoo/wide"]
    assert not Path("fleet.jsonl.part").exists()


def test_a_file_of_somebody_else_is_not_replaced(here):
    Path("fleet.jsonl").write_text('{"hello": 1}\n')
    with pytest.raises(InputError, match=r"gradience\.fleet_row/2"):
        audit_fleet("zoo", "fleet.jsonl")
    assert Path("fleet.jsonl").read_text() == '{"hello": 1}\n'


def test_a_journal_is_never_written_through_a_link(here):
    elsewhere = here / "elsewhere"
    elsewhere.write_bytes(b"theirs")
    Path("fleet.jsonl.part").symlink_to(elsewhere)
    with raises(OutputError, "write-failed"):
        audit_fleet("zoo", "fleet.jsonl")
    assert elsewhere.read_bytes() == b"theirs"


def test_a_file_that_is_called_like_the_journal_is_neither_continued_nor_removed(here):
    notes = Path("fleet.jsonl.part")
    for content in (b"my notes\n", b"{\n}\n", b"\n", b'{"schema":"gradience.flee \n'):
        notes.write_bytes(content)
        with raises(InputError, "not-ours", r"fleet\.jsonl\.part: not the unfinished rows"):
            audit_fleet("zoo", "fleet.jsonl")
        assert notes.read_bytes() == content
    notes.write_bytes(b'{"schema":"gradience.flee')  # a first row that a kill cut short
    assert counts() == (3, 0)
    assert not notes.exists()


def test_a_full_disk_names_the_file(here):
    """RLIMIT_FSIZE refuses a write in its middle, as a full disk does."""
    program = (
        "import resource, sys\n"
        "from gradience.cli.app import run\n"
        "run(['fleet', 'zoo', '--quiet'])\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1500, 1500))\n"
        "sys.exit(int(run(['fleet', 'zoo', '-o', 'fleet.jsonl', '--quiet'])))"
    )
    done = python("-c", program)
    assert done.returncode == 5
    assert done.stderr.startswith("error: fleet.jsonl: cannot write: File too large")
    assert counts() == (2, 1)  # and what was written is kept


def test_two_runs_do_not_write_the_same_file(here):
    with open("fleet.jsonl.part", "ab") as file:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX)
        with pytest.raises(LockedError):
            audit_fleet("zoo", "fleet.jsonl")


# ---------------------------------------------------------------- processes


def test_a_process_that_dies_costs_one_row(here, monkeypatch):
    monkeypatch.setattr(processes.sys, "executable", "/bin/false")
    request = {"task": "measure", "name": "zoo/one", "path": str(here / "zoo" / "one"), "options": {}}
    process = processes._Process()
    assert process.ask(request) == "the process that worked on it ended with exit code 1"
    monkeypatch.setattr(processes, "WORTH_A_PROCESS", 1)
    assert audit_fleet("zoo", "fleet.jsonl", workers=2).failures[0].code == "process-died"
    monkeypatch.undo()
    assert json.loads(process.ask(request))["status"] == "ok"
    process.close()


def test_ctrl_c_reaches_no_process_that_measures(here):
    """They are in a group of their own: the one that asked closes their input, and they end."""
    request = {"task": "measure", "name": "zoo/one", "path": str(here / "zoo" / "one"), "options": {}}
    process = processes._Process()
    process.ask(request)
    assert os.getpgid(process._running.pid) != os.getpgid(0)
    process.close()


@pytest.mark.conformance  # two starts of PyTorch
def test_a_fleet_of_pickles_is_compressed(here):
    save_pickled(here / "pickled" / "one")
    audit_fleet("pickled", "fleet.jsonl", allow_pickle=True)
    line = ["compress", "fleet.jsonl", "--rank", "4", "-o", "small", "--quiet"]
    assert run(line) == 4
    assert run([*line, "--allow-pickle"]) == 0
    assert audit_adapter("small/pickled/one").adapter.r == 4


# ---------------------------------------------------------------- what is recommended, and for whom


def test_a_step_is_recommended_only_within_the_error_limit(here):
    (base,) = audit_fleet("zoo", max_error=0.25).bases
    errors = {step.max_lora_rank: step.lost_energy_max**0.5 for step in base.steps}
    within = [rank for rank, error in errors.items() if error <= 0.25]
    assert within == [8]
    assert (base.target, base.recommended, base.above) == (8, True, 1)
    strict = audit_fleet("zoo", max_error=0.9 * errors[8])
    assert (strict.bases[0].target, strict.bases[0].recommended) == (8, False)
    text = strict.to_text(width=200)
    assert "No lower max_lora_rank stays within" in text
    assert "gradience compress" not in text
    assert "--enable-lora --max-loras 8 --max-lora-rank 16" in text
    loose = audit_fleet("zoo", max_error=1.0, slots=3)
    assert (loose.bases[0].target, loose.bases[0].above) == (1, 3)
    text = loose.to_text(width=200)
    assert "--max-loras 3 --max-lora-rank 1" in text
    assert "memory, 3 slots" in text
    assert {row.path for row in loose.bases[0].forcing} == {"zoo/one", "zoo/turned", "zoo/wide"}


def test_adapters_that_the_engine_cannot_load_are_in_no_group(here):
    """The forms of strangers: another format, a model of one's own, GPT-2, and what the runs saw refused."""
    save(
        here / "zoo" / "own",
        random_factors(5, 32),
        auto_mapping={"parent_library": "mine", "base_model_class": "M"},
    )
    bert = {"parent_library": "transformers.models.bert", "base_model_class": "BertForSequenceClassification"}
    save(here / "zoo" / "bert", random_factors(6, 32), auto_mapping=bert)
    gpt2 = {"transformer.h.0.attn.c_attn": next(iter(random_factors(7, 32).values()))}
    save(here / "zoo" / "gpt2", gpt2, fan_in_fan_out=True)
    shutil.copytree(FOREIGN / "mlx", here / "zoo" / "mlx")
    report = audit_fleet("zoo")
    assert [(base.adapters, base.largest_rank) for base in report.bases] == [(3, 12)]
    assert {row.first: row.reason.partition(":")[0] for row in report.not_served} == {
        "zoo/own": "its base model is a class of mine, not of transformers; not tested in vLLM",
        "zoo/bert": "BertForSequenceClassification does not support LoRA yet",
        "zoo/gpt2": "GPT2LMHeadModel does not support LoRA yet",
        "zoo/mlx": "mlx format; vLLM loads only PEFT adapters",
    }
    assert "Not included in server memory" in report.to_text()


def test_a_host_is_compared_with_what_it_documents(here):
    save(here / "zoo" / "large", random_factors(8, 20))
    (base,) = audit_fleet("zoo", host="wandb").bases
    assert (base.target, base.recommended, base.above) == (16, True, 1)
    report = audit_fleet("zoo", host="fireworks")
    assert report.bases[0].target is None
    text = " ".join(report.to_text(width=300).split())
    assert "rank 4 to 64, documented by Fireworks (https://" in text
    assert "; not run)" in text
    with pytest.raises(UsageError, match="no documented limits") as caught:
        audit_fleet("zoo", host="nobody")
    assert "fireworks, sagemaker, together, wandb" in caught.value.hint


# ---------------------------------------------------------------- Rows of a fleet: the figures of the audit


def test_the_figures_are_those_of_the_audit():
    row, report = measure(example_adapter(), "it"), audit_adapter(example_adapter())
    assert (row.path, row.status, row.sha256, row.bytes) == (
        "it",
        "ok",
        report.adapter.sha256,
        report.adapter.bytes,
    )
    assert (row.modules, row.trained, row.params) == (
        report.n_layers,
        report.n_trained,
        report.total_lora_params,
    )
    assert row.stable_rank_median == report.stable_rank_median
    assert (row.energy_rank_90_p50, row.energy_rank_90_p90) == (
        report.energy_rank_90_p50,
        report.energy_rank_90_p90,
    )
    assert row.fro_norm == pytest.approx(report.gain.fro_norm_total, rel=1e-9)
    assert row.base_model == report.adapter.base_model


def test_each_expert_counts(tmp_path):
    """Two experts in one tensor of PEFT: rank 2, not 4."""
    generator = np.random.default_rng(0)
    a, b = generator.standard_normal((4, 6)), generator.standard_normal((5, 4))
    tensors = {
        "base_model.model.m.experts.lora_A.weight": stored(a.astype(np.float32)),
        "base_model.model.m.experts.lora_B.weight": stored(b.astype(np.float32)),
    }
    folder = adapter(
        tmp_path / "a",
        tensors,
        config(r=2, lora_alpha=2, target_parameters=["experts.w"], target_modules=[]),
    )
    row = measure(folder, "a")
    with open_adapter(folder) as opened:
        assert [pair.experts for pair in opened.pairs] == [2]
    stacked = np.einsum("ore,eri->eoi", b.reshape(5, 2, 2), a.reshape(2, 2, 6))
    assert (row.rank, row.modules, row.width) == (2, 2, 2 * 11)
    assert row.fro_norm == pytest.approx(np.linalg.norm(stacked), rel=1e-6)


# ---------------------------------------------------------------- what cannot be measured


def test_untrained_and_nan_are_told_apart(tmp_path):
    zero = {name: (a, 0 * b) for name, (a, b) in random_factors(0, 4).items()}
    row = measure(save(tmp_path / "zero", zero), "zero")
    assert (row.status, row.trained, row.lost_energy_at) == ("untrained", 0, {})
    broken = random_factors(0, 4)
    broken[MODULES[0]][0][0, 0] = np.nan
    row = measure(save(tmp_path / "nan", broken), "nan")
    assert (row.status, row.trained, row.unmeasured) == ("incomplete", 3, 1)


# ---------------------------------------------------------------- `gradience compress fleet.jsonl`: all to


@pytest.fixture
def batched(tmp_path, monkeypatch):
    """Two wide adapters, a narrow one and one with NaN, measured to fleet.jsonl."""
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "zoo" / "a", random_factors(1, 12, decay=0.9))
    save(tmp_path / "zoo" / "deep" / "b", random_factors(2, 9, decay=0.9))
    save(tmp_path / "zoo" / "narrow", random_factors(3, 4))
    broken = random_factors(4, 12)
    next(iter(broken.values()))[0][0, 0] = np.nan
    save(tmp_path / "zoo" / "nan", broken)
    audit_fleet("zoo", "fleet.jsonl", recursive=True)
    return tmp_path


def statuses(report):
    return {adapter.path: adapter.status for adapter in report.adapters}


def test_wide_ones_are_written_and_the_rest_is_listed(batched, capsys):
    assert run(["compress", "fleet.jsonl", "--rank", "8", "-o", "small", "--json"]) == 4
    report = FleetCompression.model_validate_json(capsys.readouterr().out)
    assert statuses(report) == {
        "zoo/a": "written",
        "zoo/deep/b": "written",
        "zoo/nan": "failed",
        "zoo/narrow": "small enough",
    }
    for place in ("zoo/a", "zoo/deep/b"):
        assert {layer.r for layer in audit_adapter(Path("small", place)).layers} == {8}
        said = next(row for row in report.adapters if row.path == place).measured_error
        assert compare_adapters(place, Path("small", place)).relative_difference == pytest.approx(
            said, rel=1e-5
        )
    assert not Path("small/zoo/narrow").exists()
    assert FleetCompression.read("small/fleet_compression.json") == report
    document = Path("small/fleet_compression.md").read_text()
    assert "zoo/nan" in document
    assert document.startswith("#")


def test_what_it_costs_is_what_the_fleet_said(batched):
    forcing = {row.path: row.lost_energy for row in audit_fleet("zoo", recursive=True).bases[0].forcing}
    written = {
        row.path: row.measured_error for row in compress_fleet("fleet.jsonl", "small", rank=8).adapters
    }
    for path in ("zoo/a", "zoo/deep/b"):
        assert written[path] ** 2 == pytest.approx(forcing[path], rel=1e-4)


def test_the_output_is_complete_with_the_unchanged_ones(batched):
    line = ["compress", "fleet.jsonl", "--rank", "8", "-o", "small", "--unchanged", "link", "-q"]
    for expected in ("written", "reused"):
        assert run(line) == 4
        report = FleetCompression.read("small/fleet_compression.json")
        assert statuses(report) == {
            "zoo/a": expected,
            "zoo/deep/b": expected,
            "zoo/nan": "failed",
            "zoo/narrow": "linked",
        }
        assert report.small_enough == 1
        assert compare_adapters("zoo/narrow", "small/zoo/narrow").relative_difference == 0
    assert Path("small/zoo/narrow").is_symlink()
    ranks = {base.largest_rank for base in audit_fleet("small", recursive=True).bases}
    assert ranks == {8}
    # What is not this adapter is neither replaced nor followed.
    Path("small/zoo/narrow").unlink()
    Path("small/zoo/narrow").mkdir()
    assert run(line) == 4
    assert statuses(FleetCompression.read("small/fleet_compression.json"))["zoo/narrow"] == "failed"


def test_after_a_kill_finished_adapters_are_kept(batched, monkeypatch):
    write = verb.compress_adapter

    def killed_at_the_second(source, *arguments, **options):
        if source.name == "b":
            raise Killed
        return write(source, *arguments, **options)

    monkeypatch.setattr(verb, "compress_adapter", killed_at_the_second)
    with pytest.raises(Killed):
        compress_fleet("fleet.jsonl", "small", rank=8)
    monkeypatch.setattr(verb, "compress_adapter", write)
    before = Path("small/zoo/a/adapter_model.safetensors").stat().st_mtime_ns
    report = compress_fleet("fleet.jsonl", "small", rank=8)
    assert (statuses(report)["zoo/a"], statuses(report)["zoo/deep/b"]) == ("reused", "written")
    assert Path("small/zoo/a/adapter_model.safetensors").stat().st_mtime_ns == before
    assert statuses(compress_fleet("fleet.jsonl", "small", rank=4))["zoo/a"] == "failed"
    assert statuses(compress_fleet("fleet.jsonl", "small", rank=4, force=True))["zoo/a"] == "written"


def test_what_is_asked_for_otherwise_is_made_again(batched):
    compress_fleet("fleet.jsonl", "small", rank=8)
    assert statuses(compress_fleet("fleet.jsonl", "small", rank=8, dtype="f32"))["zoo/a"] == "reused"
    for options in ({"dtype": "BF16"}, {"encoding": "padded"}):
        assert statuses(compress_fleet("fleet.jsonl", "small", rank=8, **options))["zoo/a"] == "failed", (
            options
        )
    report = compress_fleet("fleet.jsonl", "small", rank=8, dtype="BF16", force=True)
    assert statuses(report)["zoo/a"] == "written"
    assert statuses(compress_fleet("fleet.jsonl", "small", rank=8, dtype="BF16"))["zoo/a"] == "reused"


def test_an_adapter_that_changed_since_is_not_compressed(batched):
    save(batched / "zoo" / "a", random_factors(7, 12, decay=0.8))
    report = compress_fleet("fleet.jsonl", "small", rank=8)
    (row,) = (row for row in report.adapters if row.path == "zoo/a")
    assert (row.status, row.error) == ("failed", "row-outdated")


def test_adapters_elsewhere_are_refused_with_the_root_to_type(batched, monkeypatch):
    monkeypatch.chdir(batched / "zoo")
    with pytest.raises(InputError, match="none of its adapters is below") as caught:
        compress_fleet("../fleet.jsonl", "small", rank=8)
    assert (caught.value.code, caught.value.hint) == ("not-found", f"set --root {batched.resolve()}")
    assert not Path("small").exists()


@pytest.mark.parametrize("path", ["../zoo/a", "/etc", ".", "a/../../b"])
def test_a_row_cannot_lead_out_of_the_output(batched, path):
    row = json.loads(Path("fleet.jsonl").read_text().splitlines()[0])
    Path("fleet.jsonl").write_text(json.dumps(row | {"path": path}) + "\n")
    (adapter,) = compress_fleet("fleet.jsonl", "small", rank=8).adapters
    assert (adapter.status, adapter.error) == ("failed", "bad-row-path")


@pytest.mark.parametrize("force", [False, True])
def test_nothing_is_written_through_a_link_in_the_output(batched, force):
    outside = batched / "outside"
    save(outside / "a", random_factors(5, 2))
    before = {path: path.read_bytes() for path in outside.rglob("*") if path.is_file()}
    Path("small").mkdir()
    Path("small/zoo").symlink_to(outside, target_is_directory=True)
    report = compress_fleet("fleet.jsonl", "small", rank=8, force=force)
    errors = {row.path: row.error for row in report.adapters}
    assert errors["zoo/a"] == errors["zoo/deep/b"] == "symlink-outside"
    assert {path: path.read_bytes() for path in outside.rglob("*") if path.is_file()} == before
    Path("small/zoo").unlink()
    Path("small/zoo").mkdir()
    Path("small/zoo/a").symlink_to(outside / "a", target_is_directory=True)
    report = compress_fleet("fleet.jsonl", "small", rank=8, force=force)
    errors = {row.path: row.error for row in report.adapters}
    assert (errors["zoo/a"], errors["zoo/deep/b"]) == ("symlink-outside", None)
    assert {path: path.read_bytes() for path in outside.rglob("*") if path.is_file()} == before


def test_a_second_batch_into_the_same_folder_waits_outside(batched, capsys):
    Path("small").mkdir()
    with held(Path("small")):
        assert run(["compress", "fleet.jsonl", "--rank", "8", "-o", "small"]) == 6
        assert "small: another run is writing here" in capsys.readouterr().err
        assert list(Path("small").iterdir()) == [Path("small", LOCK)]
    assert compress_fleet("fleet.jsonl", "small", rank=8).written == 2


def test_an_adapter_inside_another_is_listed(batched):
    save(batched / "zoo" / "a" / "checkpoint-1", random_factors(1, 12, decay=0.9))
    audit_fleet("zoo", "fleet.jsonl", recursive=True)
    errors = {row.path: row.error for row in compress_fleet("fleet.jsonl", "small", rank=8).adapters}
    assert errors["zoo/a/checkpoint-1"] == "nested-adapter"
    assert errors["zoo/a"] is None


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["fleet.jsonl", "-o", "out"], "needs --rank and --output"),
        (["fleet.jsonl", "--rank", "8"], "needs --rank and --output"),
        (["fleet.jsonl", "--rank", "8", "-o", "out", "--energy", "0.9"], "needs --rank and --output"),
        (["--rank", "8", "-o", "out"], "Missing argument"),
        (["fleet.jsonl", "--rank", "0", "-o", "out"], "at least 1"),
    ],
)
def test_usage(batched, command, arguments, error):
    assert error in command("compress", *arguments, code=2).err
    assert not Path("out").exists()
