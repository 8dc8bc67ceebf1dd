"""What is outside: the action and the hook, a new environment, the package index, the real model and sentences."""

import json
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from running import python

from gradience.cli.demo import example_adapter
from gradience.models import embedded
from gradience.tasks import reviews

pytestmark = pytest.mark.conformance

ROOT = Path(__file__).parents[2]
WORKFLOWS = [ROOT / "examples" / "adapter_gate.yml", *(ROOT / ".github" / "workflows").glob("*.yml")]


def succeeds(*words: str | Path, folder: Path = ROOT) -> bool:
    return subprocess.run(list(map(str, words)), cwd=folder, check=False).returncode == 0


@pytest.mark.parametrize(
    ("schema", "files"),
    [("vendor.github-actions", [ROOT / "action.yml"]), ("vendor.github-workflows", WORKFLOWS)],
    ids=["action", "workflows"],
)
def test_the_files_have_githubs_schema(schema, files):
    assert succeeds(sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, *files)


def test_actionlint_finds_nothing():
    if shutil.which("actionlint") is None:  # its package on the index downloads the program from elsewhere
        pytest.skip("actionlint is not installed")
    assert succeeds("actionlint", *WORKFLOWS)


def test_pre_commit_installs_and_runs_the_hook(tmp_path):
    config = shutil.copytree(example_adapter(), tmp_path / "adapter") / "adapter_config.json"
    run = (sys.executable, "-m", "pre_commit", "try-repo", ROOT, "gradience-check", "--files", config)
    assert succeeds("git", "init", "-q", folder=tmp_path)
    assert succeeds(*run, folder=tmp_path)
    config.write_text(config.read_text().replace('"r": 8', '"r": 0'))
    assert not succeeds(*run, folder=tmp_path)


# ---------------------------------------------------------------- `pip install .` in a new environment: what


LIMIT_MB = 150


def test_the_core_is_small_and_runs_alone(tmp_path):
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    pip = [python, "-m", "pip", "--disable-pip-version-check"]
    before = installed(pip)
    empty = size(tmp_path / "venv")
    subprocess.run([*pip, "install", "--quiet", str(ROOT)], check=True)
    brought = installed(pip) - before
    heavy = {"torch", "transformers", "peft", "scipy", "safetensors", "huggingface-hub", "huggingface_hub"}
    assert not brought & heavy
    assert size(tmp_path / "venv") - empty < LIMIT_MB * 1e6
    gradience = tmp_path / "venv" / "bin" / "gradience"
    done = subprocess.run([gradience, "demo"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def installed(pip: list[object]) -> set[str]:
    listed = subprocess.run([*pip, "list", "--format=json"], capture_output=True, text=True, check=True)
    return {package["name"] for package in json.loads(listed.stdout)}


def size(folder: Path) -> int:
    """Bytes of the files, as `du --apparent-size` counts them."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


# ---------------------------------------------------------------- The real thing: the package index, the


def test_the_sentences_are_the_ones_the_adapters_were_trained_on():
    examples = reviews.load().examples
    assert examples.counts == {"rows": 10_605, "duplicates": 2, "conflicts": 0, "neutral": 562}
    assert Counter(example.role for example in examples.all) == {
        "train": 5659,
        "dev": 2196,
        "confirm": 2186,
    }
    assert examples.fingerprint("train").startswith("81aa387f2b5ca14d")
    assert examples.fingerprint("dev").startswith("ae1e0b78ca3826f9")


def test_smollm2_is_converted_once_and_completes_a_sentence():
    from transformers import AutoModelForCausalLM, AutoTokenizer

    pytest.importorskip("gguf", reason="needs the extra `demo`")
    folder = embedded.smollm2()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    prompt = tokenizer("The capital of France is", return_tensors="pt")
    answer = model.generate(**prompt, max_new_tokens=2, do_sample=False)
    assert tokenizer.decode(answer[0]).startswith("The capital of France is Paris")


def test_the_example_adapter_can_be_trained_again():
    two = {"OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2"}
    done = python("scripts/train_example_adapter.py", "--check", cwd=ROOT, environment=two)
    assert done.returncode == 0, done.stdout + done.stderr
