"""The real thing: the package index, the real model, the real sentences, and the example trained again."""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from gradience.models import embedded
from gradience.tasks import reviews

ROOT = Path(__file__).resolve().parent.parent.parent
pytestmark = pytest.mark.conformance


def test_the_sentences_are_the_ones_the_adapters_were_trained_on() -> None:
    examples = reviews.load().examples
    assert examples.counts == {"rows": 10_605, "duplicates": 2, "conflicts": 0, "neutral": 562}
    assert Counter(example.role for example in examples.all) == {
        "train": 5659,
        "dev": 2196,
        "confirm": 2186,
    }
    assert examples.fingerprint("train").startswith("81aa387f2b5ca14d")
    assert examples.fingerprint("dev").startswith("ae1e0b78ca3826f9")


def test_smollm2_is_converted_once_and_completes_a_sentence() -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    pytest.importorskip("gguf", reason="needs the extra `demo`")
    folder = embedded.smollm2()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    prompt = tokenizer("The capital of France is", return_tensors="pt")
    answer = model.generate(**prompt, max_new_tokens=2, do_sample=False)
    assert tokenizer.decode(answer[0]).startswith("The capital of France is Paris")


def test_the_example_adapter_can_be_trained_again() -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2"}
    done = subprocess.run(
        [sys.executable, "scripts/train_example_adapter.py", "--check"],
        cwd=ROOT,
        env=environment,
        text=True,
        capture_output=True,
        timeout=3600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
