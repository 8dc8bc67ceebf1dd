"""Hosts: every documented limit has its source and date, and `--for` truncates to it."""

from __future__ import annotations

import datetime
import shutil

import pytest

from gradience import InputError, UsageError, audit_adapter, compress_adapter, plan_compression
from gradience.cli.demo import example_adapter
from gradience.plan.criteria import ToHost
from gradience.plan.hosts import HostLimit, host_limits, limit_of

LIMITED = {
    "host": "here",
    "name": "Here",
    "model": None,
    "source": "https://example.org",
    "date": "2026-11-29",
}


def test_each_row_has_its_source_and_its_date_and_each_host_a_limit_for_other_models():
    assert len({(row.host, row.model) for row in host_limits()}) == len(host_limits())
    for row in host_limits():
        assert row.source.startswith("https://")
        assert datetime.date.fromisoformat(row.date) <= datetime.date.today()
        assert 1 <= row.min_rank <= row.max_rank
        assert [other.model for other in host_limits() if other.host == row.host].count(None) == 1
        assert row.words.endswith(f"documented by {row.name} ({row.source}, read {row.date}; not run)")


@pytest.mark.parametrize(
    ("target", "rank"),
    [("wandb", 16), ("wandb:openai/gpt-oss-120b", 64), ("together:moonshotai/Kimi-K2-Instruct", 16),
     ("together:qwen", 64), ("together:deepseek-ai/DeepSeek-R1-Distill-Qwen-14B", 64),
     ("together:deepseek-ai/DeepSeek-V3", 16), ("Fireworks", 64), ("sagemaker", 256)],
)  # fmt: skip
def test_a_model_with_a_limit_of_its_own_has_that(target, rank):
    assert limit_of(target).max_rank == rank


def test_a_plan_names_the_source(monkeypatch, tmp_path):
    adapter = shutil.copytree(example_adapter(), tmp_path / "adapter")
    monkeypatch.setattr("gradience.plan.hosts.host_limits", lambda: (HostLimit(**LIMITED, max_rank=4),))
    report = compress_adapter(adapter, tmp_path / "small", host="here")
    assert {module.new_rank for module in report.modules} == {4}
    assert (
        "rank at most 4, documented by Here (https://example.org, read 2026-11-29; not run)"
        in report.to_text(width=300)
    )
    with pytest.raises(UsageError, match="--for"):
        compress_adapter(adapter, dry_run=True, host="here", rank=4)


@pytest.mark.parametrize(
    ("limits", "words"), [({"modules": ("q_proj",)}, "only on q_proj"), ({"min_rank": 9}, "rank 9")]
)
def test_what_a_host_does_not_take_is_refused(limits, words):
    criterion = ToHost(HostLimit(**LIMITED, max_rank=16, **limits))
    with pytest.raises(InputError, match=words) as caught:
        plan_compression(audit_adapter(example_adapter()), criterion)
    assert caught.value.code == "host-limit"


def test_an_unknown_host_is_answered_with_the_known_ones():
    with pytest.raises(UsageError, match="no documented limits") as caught:
        limit_of("nobody")
    assert "fireworks, sagemaker, together, wandb" in caught.value.hint
