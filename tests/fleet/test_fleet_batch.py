"""`gradience compress fleet.jsonl`: all to one rank, whole or not at all, continued after a kill."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path

import numpy as np
import pytest
from fleets import random_factors, save

from gradience import audit_adapter, audit_fleet, compare_adapters, compress_fleet
from gradience.cli.app import run
from gradience.fleet import truncate as one
from gradience.reports.fleet_compression import FleetCompression


@pytest.fixture
def here(tmp_path, monkeypatch):
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


def test_wide_ones_are_written_and_the_rest_is_listed(here, capsys):
    assert run(["compress", "fleet.jsonl", "--rank", "8", "-o", "small", "--json"]) == 4
    report = FleetCompression.model_validate_json(capsys.readouterr().out)
    assert statuses(report) == {
        "zoo/a": "written",
        "zoo/deep/b": "written",
        "zoo/nan": "failed",
        "zoo/narrow": "small enough",
    }
    for adapter in ("zoo/a", "zoo/deep/b"):
        assert {layer.r for layer in audit_adapter(Path("small", adapter)).layers} == {8}
        said = next(row for row in report.adapters if row.path == adapter).measured_error
        assert compare_adapters(adapter, Path("small", adapter)).relative_difference == pytest.approx(
            said, rel=1e-5
        )
    assert not Path("small/zoo/narrow").exists()
    assert FleetCompression.read("small/fleet_compression.json") == report
    document = Path("small/fleet_compression.md").read_text()
    assert "zoo/nan" in document
    assert document.startswith("#")


def test_what_it_costs_is_what_the_fleet_said(here):
    forcing = {row.path: row.lost_energy for row in audit_fleet("zoo", recursive=True).bases[0].forcing}
    written = {
        row.path: row.measured_error for row in compress_fleet("fleet.jsonl", "small", rank=8).adapters
    }
    for path in ("zoo/a", "zoo/deep/b"):
        assert written[path] ** 2 == pytest.approx(forcing[path], rel=1e-4)


@pytest.mark.parametrize(("how", "status"), [("link", "linked"), ("copy", "copied")])
def test_the_output_is_complete_with_the_unchanged_ones(how, status, here):
    (here / "zoo" / "narrow" / "checkpoint-1").mkdir()
    line = ["compress", "fleet.jsonl", "--rank", "8", "-o", "small", "--unchanged", how, "-q"]
    for expected in ("written", "reused"):
        assert run(line) == 4
        report = FleetCompression.read("small/fleet_compression.json")
        assert statuses(report) == {
            "zoo/a": expected,
            "zoo/deep/b": expected,
            "zoo/nan": "failed",
            "zoo/narrow": status,
        }
        assert report.small_enough == 1
        assert compare_adapters("zoo/narrow", "small/zoo/narrow").relative_difference == 0
    assert Path("small/zoo/narrow").is_symlink() == (how == "link")
    ranks = {base.largest_rank for base in audit_fleet("small", recursive=True).bases}
    assert ranks == {8}
    if how == "copy":
        assert not Path("small/zoo/narrow/checkpoint-1").exists()
    # What is not this adapter is neither replaced nor followed.
    other = [word if word != how else {"link": "copy", "copy": "link"}[how] for word in line]
    assert run(other) == 4
    assert statuses(FleetCompression.read("small/fleet_compression.json"))["zoo/narrow"] == (
        "linked" if how == "link" else "failed"
    )


def test_a_file_that_is_elsewhere_is_not_copied(here):
    (here / "secret.txt").write_text("secret", encoding="utf-8")
    (here / "zoo" / "narrow" / "notes.txt").symlink_to(here / "secret.txt")
    report = compress_fleet("fleet.jsonl", "small", rank=8, unchanged="copy")
    assert {row.path: row.error for row in report.adapters}["zoo/narrow"] == "symlink-outside"
    assert not Path("small/zoo/narrow").exists()


class Killed(BaseException):
    """The process ends here."""


def test_after_a_kill_finished_adapters_are_kept(here, monkeypatch):
    write = one.compress_adapter

    def killed_at_the_second(source, *arguments, **options):
        if source.name == "b":
            raise Killed
        return write(source, *arguments, **options)

    monkeypatch.setattr(one, "compress_adapter", killed_at_the_second)
    with pytest.raises(Killed):
        compress_fleet("fleet.jsonl", "small", rank=8)
    monkeypatch.setattr(one, "compress_adapter", write)
    before = Path("small/zoo/a/adapter_model.safetensors").stat().st_mtime_ns
    report = compress_fleet("fleet.jsonl", "small", rank=8)
    assert (statuses(report)["zoo/a"], statuses(report)["zoo/deep/b"]) == ("reused", "written")
    assert Path("small/zoo/a/adapter_model.safetensors").stat().st_mtime_ns == before
    assert statuses(compress_fleet("fleet.jsonl", "small", rank=4))["zoo/a"] == "failed"
    assert statuses(compress_fleet("fleet.jsonl", "small", rank=4, force=True))["zoo/a"] == "written"


def test_what_is_asked_for_otherwise_is_made_again(here):
    compress_fleet("fleet.jsonl", "small", rank=8)
    assert statuses(compress_fleet("fleet.jsonl", "small", rank=8, dtype="f32"))["zoo/a"] == "reused"
    for options in ({"dtype": "BF16"}, {"encoding": "padded"}, {"to": "mlx"}):
        assert statuses(compress_fleet("fleet.jsonl", "small", rank=8, **options))["zoo/a"] == "failed", (
            options
        )
    report = compress_fleet("fleet.jsonl", "small", rank=8, dtype="BF16", force=True)
    assert statuses(report)["zoo/a"] == "written"
    assert statuses(compress_fleet("fleet.jsonl", "small", rank=8, dtype="BF16"))["zoo/a"] == "reused"


def test_an_adapter_that_changed_since_is_not_compressed(here):
    save(here / "zoo" / "a", random_factors(7, 12, decay=0.8))
    report = compress_fleet("fleet.jsonl", "small", rank=8)
    (row,) = (row for row in report.adapters if row.path == "zoo/a")
    assert (row.status, row.error) == ("failed", "row-outdated")


@pytest.mark.parametrize("path", ["../zoo/a", "/etc", ".", "a/../../b"])
def test_a_row_cannot_lead_out_of_the_output(here, path):
    row = json.loads(Path("fleet.jsonl").read_text().splitlines()[0])
    Path("fleet.jsonl").write_text(json.dumps(row | {"path": path}) + "\n")
    (adapter,) = compress_fleet("fleet.jsonl", "small", rank=8).adapters
    assert (adapter.status, adapter.error) == ("failed", "bad-row-path")


@pytest.mark.parametrize("force", [False, True])
def test_nothing_is_written_through_a_link_in_the_output(here, force):
    outside = here / "outside"
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


def test_the_output_itself_may_be_a_link(here):
    Path("real").mkdir()
    Path("small").symlink_to("real", target_is_directory=True)
    assert statuses(compress_fleet("fleet.jsonl", "small", rank=8))["zoo/a"] == "written"


def test_a_second_batch_into_the_same_folder_waits_outside(here, capsys):
    Path("small").mkdir()
    handle = os.open("small", os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    assert run(["compress", "fleet.jsonl", "--rank", "8", "-o", "small"]) == 6
    assert "small: another run is writing here" in capsys.readouterr().err
    assert list(Path("small").iterdir()) == []
    os.close(handle)
    assert compress_fleet("fleet.jsonl", "small", rank=8).written == 2


def test_an_adapter_inside_another_is_listed(here):
    save(here / "zoo" / "a" / "checkpoint-1", random_factors(1, 12, decay=0.9))
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
        (["fleet.jsonl", "--rank", "0", "-o", "out"], "0 is not a rank"),
    ],
)
def test_usage(here, capsys, arguments, error):
    assert run(["compress", *arguments]) == 2
    assert error in capsys.readouterr().err
    assert not Path("out").exists()
