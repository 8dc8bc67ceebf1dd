"""What reaches run.jsonl and what does not."""

import pytest

from gradience.telemetry import TelemetryReader, TelemetryWriter

HIDDEN = {
    "prompt": ("prompt", "Summarize this letter", "data"),
    "messages": ("messages", [{"role": "user", "content": "hello"}], "data"),
    "nested": ("inputs", {"row": {"a": "secret words"}}, None),
    "token ids": ("input_ids", [1, 2, 3], "data"),
    "token by name": ("hub_token", "short", "secret"),
    "api key by name": ("openai_api_key", "short", "secret"),
    "token by form": ("notes", "use hf_AbCdEfGhIjKlMnOpQrStUvWx please", "secret"),
    "hex key by name": ("wandb_key", "0123456789abcdef0123456789abcdef01234567", "secret"),
    "short key by name": ("mlflow_key", "a1b2c3d4e5f6a7b8", "secret"),
    "private key": ("private_key", "MIIE", "secret"),
    "login inside a sentence": ("notes", "the data are at https://alice:pw@example.org/x today", "secret"),
    "login after a bracket": ("notes", "(postgres://alice:pw@db/x)", "secret"),
    "login in a URL": ("dataset", "https://alice:secret@example.org/data", "secret"),
    "long": ("notes", "x y " * 100, "long"),
    "several lines": ("notes", "line one\nline two", "text"),
    "e-mail": ("author", "alice@example.org", "e-mail"),
    "opaque": ("x", "a8f5f167f44f4964e6c998dee827110cZZZZ", "opaque"),
}

KEPT = {
    "model id": ("model_name", "mistralai/Mistral-7B-v0.1"),
    "long model id": ("model_name", "TinyLlama/TinyLlama-1.1B-Chat-v1.0-experiment-2024"),
    "module": ("name", "base_model.model.model.layers.0.self_attn.q_proj"),
    "digest": ("sha256", "a" * 63 + "1"),
    "commit": ("revision", "6580cec" + "0" * 33),
    "uuid": ("id", "f838409d-2c5a-4282-a973-94e0526f9e43"),
    "number called tokens": ("num_tokens", 1234),
    "pad token": ("pad_token_id", 0),
    "a number in a data field": ("labels", 2),
    "measures of a module called query": ("by_family", {"attention.self.query": {"modules": 6, "r": 2.5}}),
    "url": ("dataset", "https://example.org/data"),
    "url in a sentence": ("notes", "see https://example.org/a@b and k@90 of it"),
    "name of a column": ("sort_key", "stable_rank_mean_2"),
    "module under key": ("key", "layers.0.self_attn.k_proj"),
    "sentence": ("notes", "second try with a smaller rank"),
}


def written(tmp_path, **payload):
    with TelemetryWriter(tmp_path / "run.jsonl") as run:
        run.write("metrics", 1, kind="x", metrics=payload)
    return next(iter(TelemetryReader(run.path))).mapping("metrics")


@pytest.mark.parametrize(("field", "value", "reason"), HIDDEN.values(), ids=HIDDEN)
def test_hidden(tmp_path, field, value, reason):
    mark = written(tmp_path, **{field: value})[field]
    assert reason is None or mark.startswith(f"[REDACTED {reason}")
    assert "secret words" not in str(mark)
    assert str(value) not in (tmp_path / "run.jsonl").read_text()


@pytest.mark.parametrize(("field", "value"), KEPT.values(), ids=KEPT)
def test_kept(tmp_path, field, value):
    assert written(tmp_path, **{field: value})[field] == value


@pytest.mark.parametrize(
    ("path", "kept"),
    [
        ("/home/alice/models/mistral", "[path]/mistral"),
        ("/home/alice", "[path]"),
        ("~/models/mistral", "[path]/mistral"),
        (r"C:\Users\alice\mistral", "[path]/mistral"),
        (r"C:\Users\alice", "[path]"),
        ("file:///Users/alice/x/y", "[path]/y"),
        ("/data", "[path]"),
    ],
)
def test_paths_lose_the_folders_above(tmp_path, path, kept):
    assert written(tmp_path, model_name=path)["model_name"] == kept
    assert "alice" not in (tmp_path / "run.jsonl").read_text()
