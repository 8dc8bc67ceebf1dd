"""A classifier and a language model on the disk, an adapter each, rows for them, and their calibrations."""

import pytest
import tiny_bench
from calibrated_cases import Case, adapter, texts
from data_files import write_jsonl

from gradience.calibrate.verb import calibrate_adapter


@pytest.fixture(scope="session")
def classifier(tmp_path_factory) -> Case:
    root = tmp_path_factory.mktemp("classifier")
    base = tiny_bench.bert(root / "base")
    trained = adapter(root / "adapter", base, "SEQ_CLS")
    prompts = write_jsonl(root / "rows.jsonl", [{"text": text} for text in texts(60)])
    calibrate_adapter(trained, root / "c.safetensors", prompts=prompts, base_model=base, device="cpu")
    return Case(base, trained, prompts, root / "c.safetensors")


@pytest.fixture(scope="session")
def writer(tmp_path_factory) -> Case:
    root = tmp_path_factory.mktemp("writer")
    base = tiny_bench.llama(root / "base")
    trained = adapter(root / "adapter", base, "CAUSAL_LM")
    rows = [
        {"prompt": f"{place % 20} {place % 7} =", **({"completion": f" {place % 20}"} if place % 2 else {})}
        for place in range(60)
    ]
    prompts = write_jsonl(root / "rows.jsonl", rows)
    options = {"prompts": prompts, "base_model": base, "completion_tokens": 5, "device": "cpu"}
    calibrate_adapter(trained, root / "c.safetensors", **options)
    return Case(base, trained, prompts, root / "c.safetensors")
