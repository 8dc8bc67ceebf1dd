"""Original and compressed adapters in PEFT: equal outputs at full rank, and below it just the loss that is reported."""

import json
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from compressing import ENCODINGS, compress
from hypothesis import example, given
from hypothesis import strategies as st
from peft import PeftModel
from peft_cases import (
    CASES,
    LINEAR,
    Case,
    best_errors,
    config,
    load,
    load_strict,
    outputs,
    relative_errors,
    unexpected,
)
from peft_models import bert, gpt2, llama, peft_updates, save, stored_tensors
from raising import raises
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import gradience
from gradience import audit_adapter, compress_adapter
from gradience.adapters.formats import open_adapter
from gradience.compress.adapter import write_rotated
from gradience.compress.layout import ENCODINGS as EVERY_ENCODING
from gradience.compress.layout import Target, alpha_for, encode_modules
from gradience.errors import InputError
from gradience.plan.compression import plan_compression
from gradience.plan.criteria import ToBudget, ToOwnRanks, ToRank
from gradience.reports.compression import CompressionReport

written = [
    (name, encoding)
    for name, case in CASES.items()
    for encoding in ENCODINGS
    if encoding not in (case.refused or {})
]


@pytest.mark.parametrize(("name", "encoding"), written)
def test_full_rank_means_the_same(name, encoding, originals, tmp_path):
    case, folder, known, updates, expected = originals(name)
    report = compress(folder, tmp_path / "out", ToRank(64), encoding=encoding)
    model, messages = load(case, tmp_path / "out")
    assert unexpected(messages, known, report) == []
    assert torch.allclose(outputs(model), expected, rtol=1e-10, atol=1e-12)
    errors = relative_errors(updates, peft_updates(model))
    assert max(errors.values()) < 1e-14
    for row in report.modules:
        assert row.predicted_error == 0.0
        assert row.measured_error < 1e-15


@pytest.mark.parametrize(("name", "encoding"), written)
def test_smaller_ranks_lose_what_the_report_says_and_no_more_than_they_must(
    name, encoding, originals, tmp_path
):
    case, folder, known, updates, expected = originals(name)
    report = compress(folder, tmp_path / "out", ToRank(2), encoding=encoding)
    check(case, report, tmp_path / "out", known, updates)
    model, _ = load(case, tmp_path / "out")
    assert not torch.allclose(outputs(model), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("name", "encoding"), written)
def test_strength_multiplies_the_update_that_peft_applies(name, encoding, originals, tmp_path):
    case, folder, _, updates, _ = originals(name)
    for criterion, folder_out in ((ToOwnRanks(), "whole"), (ToRank(2), "cut")):
        report = compress(folder, tmp_path / folder_out, criterion, encoding=encoding, strength=0.7)
        after = peft_updates(load(case, tmp_path / folder_out)[0])
        assert report.strength == 0.7
        errors = relative_errors(updates, after)
        for row in report.modules:
            assert row.measured_error == pytest.approx(errors[row.name], rel=1e-8, abs=1e-14)
            assert row.predicted_error == pytest.approx(errors[row.name], rel=1e-8, abs=1e-8)
        assert report.measured_error == pytest.approx(total_error(updates, after), rel=1e-8)
        if folder_out == "whole":
            assert max(relative_errors({k: 0.7 * v for k, v in updates.items()}, after).values()) < 1e-13


@pytest.mark.parametrize("encoding", ["patterns", "padded"])
@pytest.mark.parametrize("name", [name for name in CASES if "bias" not in name])
def test_modules_left_out_are_not_missed(name, encoding, originals, tmp_path):
    case, folder, known, updates, _ = originals(name)
    full = plan_compression(audit_adapter(folder), ToRank(64))
    # Room for what has to stay (what target_parameters wraps, an embedding saved with its base weight), and one
    # component more.
    costs = {row.name: row.old_params // row.old_rank for row in full.modules}
    stay = {name for name in costs if re.search(r"experts|mlp\.gate\.|wte", name)}
    others = [cost for name, cost in costs.items() if name not in stay]
    budget = sum(costs[name] for name in stay) + min(others)
    report = compress(folder, tmp_path / "out", ToBudget(max_params=budget), encoding=encoding)
    check(case, report, tmp_path / "out", known, updates)
    assert len(report.dropped) >= len(others) - 1
    assert not stay.intersection(report.dropped)


def check(case: Case, report: CompressionReport, folder: Path, known: list[str], updates: dict) -> None:
    model, messages = load(case, folder)
    assert unexpected(messages, known, report) == []
    after = peft_updates(model)
    written = {module for module, _ in after}
    assert written == {row.name for row in report.modules if row.stored_rank}
    assert set(report.dropped) == {module for module, _ in updates} - written
    errors = relative_errors(updates, after)
    ranks = {row.name: row.new_rank for row in report.modules}
    best = best_errors(updates, ranks)
    for row in report.modules:
        assert row.measured_error == pytest.approx(errors[row.name], rel=1e-8, abs=1e-14)
        assert errors[row.name] == pytest.approx(best[row.name], rel=1e-8, abs=1e-14)
        assert row.predicted_error == pytest.approx(best[row.name], rel=1e-8, abs=1e-8)
        assert row.stored_rank >= row.new_rank
    assert report.measured_error == pytest.approx(total_error(updates, after), rel=1e-8)
    assert report.kept_energy + report.predicted_error**2 == pytest.approx(1.0, abs=1e-11)
    on_disk = stored_tensors(folder)
    assert sum(
        tensor.size for name, tensor in on_disk.items() if ".lora_" in name and "bias" not in name
    ) == (report.new_params)


def total_error(before: dict, after: dict) -> float:
    lost = sum(float(np.square(update - after.get(key, 0.0)).sum()) for key, update in before.items())
    return math.sqrt(lost / sum(float(np.square(update).sum()) for update in before.values()))


@pytest.mark.parametrize(
    ("name", "encoding", "code"),
    [
        (name, encoding, code)
        for name, case in CASES.items()
        for encoding, code in (case.refused or {}).items()
    ],
)
def test_encodings_that_cannot_say_it_are_refused(name, encoding, code, originals, tmp_path):
    with raises(InputError, code) as refusal:
        compress(originals(name)[1], tmp_path / "out", ToRank(2), encoding=encoding)
    assert "--encoding patterns" in refusal.value.hint
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- DoRA


def dora(base, folder: Path, **options) -> tuple[Path, Path]:
    """A DoRA adapter and its base model on disk."""
    base.save_pretrained(folder / "base")
    save(base, config(**({"target_modules": LINEAR, "use_dora": True} | options)), folder / "in")
    return folder / "in", folder / "base"


def layers(model: PeftModel) -> dict[str, torch.Tensor]:
    """W′ of every DoRA layer, by letting PEFT merge them."""
    return {
        name: module.weight.detach().clone()
        for name, module in model.merge_and_unload().named_modules()
        if hasattr(module, "weight") and module.weight is not None
    }


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (llama, {}),
        (gpt2, {"target_modules": ["c_attn", "c_fc", "c_proj"], "fan_in_fan_out": True}),
        (bert, {"target_modules": ["query", "dense"]}),
    ],
    ids=["llama", "gpt2", "bert-prefixed"],
)
@pytest.mark.parametrize("encoding", ["uniform", "folded"])
def test_dora_with_its_base(make, options, encoding, tmp_path):
    torch.manual_seed(7)
    base = make()
    adapter, weights = dora(base, tmp_path, **options)
    report = compress(adapter, tmp_path / "out", ToRank(2), encoding=encoding, base_model=weights)

    def fresh():
        torch.manual_seed(7)
        return make()

    plain = {
        name: module.weight.detach().double()
        for name, module in fresh().named_modules()
        if hasattr(module, "weight")
    }
    before, after = layers(load_strict(fresh(), adapter)), layers(load_strict(fresh(), tmp_path / "out"))
    for row in report.modules:
        lost = torch.linalg.norm(before[row.name] - after[row.name])
        done = torch.linalg.norm(before[row.name] - plain[row.name])
        assert row.output_error == pytest.approx(float(lost / done), rel=1e-5)
        assert 0 < row.output_error < 1
    stored, kept = stored_tensors(adapter), stored_tensors(tmp_path / "out")
    magnitudes = [name for name in stored if "magnitude" in name]
    assert magnitudes
    assert all(np.array_equal(stored[name], kept[name]) for name in magnitudes)


def refused(adapter: Path, output: Path, **options) -> InputError:
    with pytest.raises(InputError) as refusal:
        compress(adapter, output, ToRank(2), **options)
    return refusal.value


def test_dora_refusals(tmp_path):
    adapter, weights = dora(llama(), tmp_path)
    out = tmp_path / "out"
    error = refused(adapter, out)
    assert error.code == "dora"
    assert "--base-model" in error.hint
    assert refused(adapter, out, base_model=tmp_path / "nowhere").code == "no-base-weights"
    stronger = refused(adapter, out, base_model=weights, strength=0.8)
    assert (stronger.code, "not proportional" in str(stronger)) == ("dora", True)
    other = tmp_path / "other"
    torch.manual_seed(7)
    bert().save_pretrained(other)
    assert refused(adapter, out, base_model=other).code == "base-mismatch"
    shutil.rmtree(other)
    tensors = load_file(weights / "model.safetensors")
    other.mkdir()
    wrong = {name: tensor.T.contiguous() if "down" in name else tensor for name, tensor in tensors.items()}
    save_file(wrong, other / "model.safetensors")
    assert refused(adapter, out, base_model=other).code == "base-mismatch"
    packed = {name: tensor.to(torch.uint8) if "proj" in name else tensor for name, tensor in tensors.items()}
    save_file(packed, other / "model.safetensors")
    assert refused(adapter, out, base_model=other).code == "base-quantized"
    gptq = {name.replace("proj.weight", "proj.qweight"): tensor for name, tensor in tensors.items()}
    save_file(gptq, other / "model.safetensors")
    assert refused(adapter, out, base_model=other).code == "base-quantized"
    (other / "model.safetensors.index.json").write_text("[]")
    assert refused(adapter, out, base_model=other).code == "bad-config"
    assert not out.exists()


def test_dora_on_a_sharded_base(tmp_path):
    torch.manual_seed(7)
    base = llama()
    base.save_pretrained(tmp_path / "shards", max_shard_size="8KB")
    assert (tmp_path / "shards" / "model.safetensors.index.json").exists()
    adapter, weights = dora(base, tmp_path)
    one = compress(adapter, tmp_path / "one", ToRank(2), base_model=weights)
    many = compress(adapter, tmp_path / "many", ToRank(2), base_model=tmp_path / "shards")
    assert [row.output_error for row in one.modules] == [row.output_error for row in many.modules]


def test_without_dora_the_base_model_only_names_the_architecture(tmp_path):
    base = llama()
    base.config.save_pretrained(tmp_path / "base")
    save(base, config(target_modules=LINEAR), tmp_path / "in")
    fields = json.loads((tmp_path / "base" / "config.json").read_text(encoding="utf-8"))
    (tmp_path / "base" / "config.json").write_text(
        json.dumps({**fields, "architectures": ["LlamaForCausalLM"]})
    )
    report = compress(tmp_path / "in", tmp_path / "out", ToRank(2), base_model=tmp_path / "base")
    assert report.architecture == "LlamaForCausalLM"
    verdicts = {row.runtime: row.verdict for row in report.runtimes}
    assert verdicts == dict.fromkeys(("PEFT", "PEFT hotswap", "vLLM", "llama.cpp"), "loads")
    with raises(InputError, "no-model-config"):
        compress(tmp_path / "in", tmp_path / "no", ToRank(2), base_model=tmp_path / "nowhere")
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize(
    ("text", "code"), [("{", "bad-json"), ("[]", "bad-config"), ('{"a": NaN}', "bad-json")]
)
@pytest.mark.parametrize("dry_run", [True, False])
def test_a_damaged_config_of_the_base_that_was_named_is_refused(tmp_path, text, code, dry_run):
    base = llama()
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text(text)
    save(base, config(target_modules=LINEAR), tmp_path / "in")
    with raises(InputError, code, re.escape(str(tmp_path / "base" / "config.json"))):
        compress_adapter(
            tmp_path / "in", tmp_path / "out", rank=2, base_model=tmp_path / "base", dry_run=dry_run
        )
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------- Encodings


scales = st.one_of(
    st.sampled_from(
        [2.0, 1.0, 0.5, 0.25, 32.0, 16 / 7, 9 / 6, 16 / math.sqrt(8), 0.031, -2.0, 0.0, 1e-30, 1e30]
    ),
    # A config with an α below 1e-30 is refused, so no scale is smaller than this but 0.
    st.floats(1e-36, 1e3).flatmap(lambda size: st.sampled_from([size, -size])),
)
names = st.from_regex(r"\Amodel\.layers\.[0-9]{1,2}\.(self_attn\.)?[a-z]_proj(-[x+*])?\Z")


@st.composite
def target_lists(draw):
    drawn = draw(st.lists(names, min_size=1, max_size=7, unique=True))
    ranks = draw(st.sampled_from([st.just(4), st.integers(1, 600)]))
    shared = draw(st.sampled_from([st.just(draw(scales)), scales]))
    return [Target(name, draw(ranks), draw(shared)) for name in drawn]


def peft_reads(fields: dict, name: str) -> tuple[int, float]:
    """Rank and scale by PEFT's own rule, spelled out: the first key that matches wins, then the global value."""
    values = {}
    for field, default in (("rank_pattern", "r"), ("alpha_pattern", "lora_alpha")):
        hits = (value for key, value in fields[field].items() if re.match(rf"(.*\.)?({key})$", name))
        values[default] = next(hits, fields[default])
    assert fields["use_rslora"] is False
    return values["r"], values["lora_alpha"] / values["r"]


@given(target_lists(), st.sampled_from([None, *EVERY_ENCODING]))
@example(
    [Target("a", 4, 2.3e-308), Target("b", 4, 2.0), Target("c", 4, 32.0)], "uniform"
)  # 32 / 2.3e-308 is infinite
def test_rank_and_scale_are_kept(targets, encoding):
    encoded = encode_modules(targets, encoding)
    for name, rank, scale in targets:
        read_rank, read_scale = peft_reads(dict(encoded.fields), name)
        assert read_rank == encoded.stored_rank[name] >= rank
        assert read_scale == encoded.scale[name]
        assert encoded.fold[name] * read_scale == pytest.approx(scale, rel=1e-12, abs=0)


@given(target_lists(), st.sampled_from([None, *EVERY_ENCODING]))
def test_what_an_encoding_is(targets, encoding):
    encoded = encode_modules(targets, encoding)
    fields = encoded.fields
    largest = max(target.rank for target in targets)
    assert fields["r"] == largest
    equal_ranks = len({target.rank for target in targets}) == 1
    match encoded.encoding:
        case "uniform" | "padded":
            assert not fields["rank_pattern"]
            assert not fields["alpha_pattern"]
            assert set(encoded.stored_rank.values()) == {largest}
            assert equal_ranks or encoded.encoding == "padded"
        case "patterns":
            assert set(encoded.fold.values()) == {1.0}
            assert encoded.stored_rank == {target.name: target.rank for target in targets}
        case "folded":
            assert set(encoded.scale.values()) == {1.0}
            assert encoded.stored_rank == {target.name: target.rank for target in targets}
            assert fields["alpha_pattern"] == fields["rank_pattern"]
    if encoding is not None:
        assert encoded.encoding == encoding or (encoding, encoded.encoding) == ("uniform", "padded")
    elif not equal_ranks:
        assert encoded.encoding == "patterns"
    assert encoded.reason


@given(st.integers(1, 512), st.integers(1, 512), st.integers(1, 4096))
def test_alpha_is_an_integer_where_it_can_be(old, new, alpha):
    """s = α/r is a rounded quotient, so s·r′ misses integers by a bit or two."""
    new_alpha = alpha_for(alpha / old, new)
    if (alpha * new) % old == 0:
        assert new_alpha == alpha * new // old
        assert isinstance(new_alpha, int)
    else:
        assert isinstance(new_alpha, float)
    assert new_alpha / new == pytest.approx(alpha / old, rel=1e-12)


def test_patterns_name_what_differs_and_nothing_else():
    targets = [
        Target("m.0.q", 16, 2.0),
        Target("m.1.q", 16, 2.0),
        Target("m.10.q", 4, 2.0),
        Target("m.2.q", 16, 1.0),
    ]
    encoded = encode_modules(targets, None)
    assert encoded.encoding == "patterns"
    assert encoded.fields == {
        "r": 16,
        "lora_alpha": 32,
        "use_rslora": False,
        "rank_pattern": {r"^m\.10\.q": 4},
        "alpha_pattern": {r"^m\.10\.q": 8, r"^m\.2\.q": 16},
    }
    assert encoded.reason == "ranks and scales differ between modules"


# ---------------------------------------------------------------- An adapter in other factors


EXAMPLE = Path(gradience.__file__).parent / "examples" / "minilm-reviews-r8"
WEIGHTS = "adapter_model.safetensors"


@pytest.mark.parametrize(("dtype", "close"), [("F32", 1e-6), ("BF16", 1e-2)])
def test_only_the_factors_differ_and_their_product_does_not(tmp_path, dtype, close):
    source, rotated = tmp_path / "source", tmp_path / "rotated"
    compress_adapter(EXAMPLE, source, rank=4, dtype=dtype)
    with open_adapter(source) as opened:
        write_rotated(opened, rotated)
    before, after = load_file(source / WEIGHTS), load_file(rotated / WEIGHTS)
    assert before.keys() == after.keys()
    assert {name: tensor.dtype for name, tensor in before.items()} == {
        name: tensor.dtype for name, tensor in after.items()
    }
    for name, tensor in before.items():
        same = tensor.equal(after[name])
        assert same == ("lora_" not in name)
        if "lora_A" in name:
            b = name.replace("lora_A", "lora_B")
            old, new = (files[b].double() @ files[name].double() for files in (before, after))
            assert (old - new).norm() < close * old.norm()
    np.testing.assert_allclose(
        [layer.sigma_max for layer in audit_adapter(rotated).layers],
        [layer.sigma_max for layer in audit_adapter(source).layers],
        rtol=close,
    )
    assert (source / "adapter_config.json").read_bytes() == (rotated / "adapter_config.json").read_bytes()
    with safe_open(rotated / WEIGHTS, "np") as file:
        assert file.metadata() == {"format": "pt"}


def test_the_factors_are_the_same_each_time(tmp_path):
    with open_adapter(EXAMPLE) as opened:
        for name in "ab":
            write_rotated(opened, tmp_path / name)
    a, b = ((tmp_path / name / WEIGHTS).read_bytes() for name in "ab")
    assert a == b
