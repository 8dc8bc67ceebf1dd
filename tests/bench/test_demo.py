"""The config of `make demo`: its stages on a model scaled down, and its last screen."""

from scaled_down import scaled_down

from gradience.bench.config import load_config
from gradience.bench.settings import find_config
from gradience.cli.app import run
from gradience.reports.bench import Bench


def test_it_says_what_it_does_and_ends_with_its_result(tmp_path, capsys):
    changes = scaled_down(load_config(find_config("minilm_reviews_demo")), tmp_path)
    code = run(
        ["bench", "run", "--config", "minilm_reviews_demo", "--output", str(tmp_path / "demo"), *changes]
    )
    said, result = capsys.readouterr(), Bench.read(tmp_path / "demo" / "bench.json")
    assert code in (0, 1), said.err
    assert said.out == f"{result}\n"
    for doing in ("training probe", "evaluating probe", "auditing probe", "making uniform_r8.truncate"):
        assert f": {doing}\n" in said.err
    assert f"written: {tmp_path / 'demo' / 'bench.json'}" in said.err
