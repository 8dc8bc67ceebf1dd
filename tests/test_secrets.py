"""47 kinds of secrets, none of which is real, in the places where texts of a user reach files that are shared."""

import importlib
import pkgutil
import random
import string
import time

import pytest

from gradience import redaction
from gradience.files.shared_names import command_text, path_text, sentence_text, values_text
from gradience.redaction import shareable, without_secrets

_random = random.Random(11)
LETTERS, HEX, UPPER = (
    string.ascii_letters + string.digits,
    "0123456789abcdef",
    string.ascii_uppercase + "234567",
)


def drawn(count: int, alphabet: str = LETTERS) -> str:
    return "".join(_random.choices(alphabet, k=count - 1)) + "7"


AWS = drawn(19) + "/" + drawn(20)
SECRETS: dict[str, tuple[str, str]] = {
    "Hugging Face": ("{}", "hf_" + drawn(34)),
    "Hugging Face organization": ("{}", "api_org_" + drawn(34)),
    "Weights & Biases": ("wandb login {}", drawn(40, HEX)),
    "Weights & Biases, variable": ("WANDB_API_KEY={}", drawn(40, HEX)),
    "Weights & Biases, new": ("{}", "wandb_v1_" + drawn(40)),
    "OpenAI": ("{}", "sk-" + drawn(20) + "T3BlbkFJ" + drawn(20)),
    "OpenAI project": ("{}", "sk-proj-" + drawn(48)),
    "Anthropic": ("{}", "sk-ant-api03-" + drawn(93) + "AA"),
    "Groq": ("{}", "gsk_" + drawn(52)),
    "Replicate": ("{}", "r8_" + drawn(37)),
    "NVIDIA": ("{}", "nvapi-" + drawn(64)),
    "LangSmith": ("{}", "lsv2_pt_" + drawn(32, HEX) + "_" + drawn(10, HEX)),
    "Pinecone": ("{}", "pcsk_" + drawn(60)),
    "GitHub": ("{}", "ghp_" + drawn(36)),
    "GitHub, fine-grained": ("{}", "github_pat_" + drawn(22) + "_" + drawn(59)),
    "GitLab": ("{}", "glpat-" + drawn(20)),
    "Slack": ("{}", "xoxb-" + drawn(12, string.digits) + "-" + drawn(24)),
    "Slack webhook": ("https://{}", "hooks.slack.com/services/T" + drawn(8) + "/B" + drawn(8) + "/" + drawn(24)),
    "Discord": ("{}", "M" + drawn(23) + "." + drawn(6) + "." + drawn(27)),
    "Telegram": ("{}", drawn(9, string.digits) + ":" + drawn(35)),
    "AWS key id": ("{}", "AKIA" + drawn(16, UPPER)),
    "AWS secret": ("{}", AWS),
    "AWS secret, variable": ("AWS_SECRET_ACCESS_KEY={}", AWS),
    "login of a storage": ("s3://{}@bucket/run", "AKIA" + drawn(16, UPPER) + ":" + AWS.replace("/", "x")),
    "login of a database": ("postgres://{}@host/db", "alice:" + drawn(9)),
    "Google API": ("{}", "AIza" + drawn(35)),
    "Google OAuth": ("{}", "ya29." + drawn(60)),
    "Azure storage": ("AccountName=a;AccountKey={};EndpointSuffix=x", drawn(86) + "=="),
    "signed link of S3": ("https://b.s3.amazonaws.com/m?X-Amz-Date=1&X-Amz-Signature={}", drawn(64, HEX)),
    "signed link of GCS": ("https://storage.googleapis.com/b/m?X-Goog-Signature={}&x=1", drawn(64, HEX)),
    "signed link of Azure": ("https://a.blob.core.windows.net/c/m?sv=1&sig={}", drawn(43) + "%3D"),
    "JWT": ("{}", "eyJ" + drawn(20) + ".eyJ" + drawn(30) + "." + drawn(43)),
    "Bearer": ("-H 'Authorization: Bearer {}'", drawn(30)),
    "Basic": ("Authorization: Basic {}", drawn(24)),
    "Stripe": ("{}", "sk_" + "live_" + drawn(24)),
    "SendGrid": ("{}", "SG." + drawn(22) + "." + drawn(43)),
    "Twilio": ("{}", "SK" + drawn(32, HEX)),
    "Mailchimp": ("{}", drawn(32, HEX) + "-us12"),
    "npm": ("{}", "npm_" + drawn(36)),
    "PyPI": ("{}", "pypi-AgEIcHlwaS5vcmc" + drawn(80)),
    "Docker": ("{}", "dckr_pat_" + drawn(27)),
    "Databricks": ("{}", "dapi" + drawn(32, HEX)),
    "DigitalOcean": ("{}", "dop_v1_" + drawn(64, HEX)),
    "Vault": ("{}", "hvs." + drawn(90)),
    "HF_TOKEN": ("HF_TOKEN={}", drawn(12)),
    "password": ("{{'password': '{}'}}", "correct horse battery"),
    "private key": ("{}", "-----BEGIN RSA PRIVATE KEY-----\n" + drawn(64) + "\n-----END RSA PRIVATE KEY-----"),
}  # fmt: skip
KEPT = (
    "mistralai/Mistral-7B-v0.1", "TinyLlama/TinyLlama-1.1B-Chat-v1.0-experiment-2024", "https://example.org/data?page=2",
    "base_model.model.model.layers.0.self_attn.q_proj", "6580cec" + "0" * 33, "a" * 63 + "1", "sha256:" + "0f" * 32,
    "f838409d-2c5a-4282-a973-94e0526f9e43", "pad_token=<|endoftext|>", "num_tokens=1234", "hf_hub_download", "sk-learn",
    "models/Llama2/checkpoints/Step1000/Final", "s3://bucket/run/checkpoint-1000", "lora_alpha: 32, r: 16",
    "gradience compress runs/a/adapter --rank 16 -o small --max-kl-per-token 0.01",
    "token classification of the first 30 rows",
    "lm_eval:gsm8k, filter=strict-match", "rank_pattern={'q_proj': 8}", "key=layers.0.self_attn.k_proj", "see k@90",
)  # fmt: skip


@pytest.mark.parametrize(("form", "secret"), SECRETS.values(), ids=SECRETS)
def test_a_secret_reaches_no_file(form, secret, monkeypatch):
    text = form.format(secret)
    monkeypatch.setattr(redaction, "MAX_CHARS", 10_000)
    recorded = redaction.clean({"notes": text, "of": {"list": [f"see {text} there"]}})
    shown = [
        str(recorded),
        without_secrets(f"error: {text} is refused"),
        command_text(["gradience", "bench", "run", "--option", f"x={text}", "--data", text]),
        sentence_text(f"cannot open {text}: no such file"),
        str(values_text({"model": {"name": [text]}})),
        path_text(text),
    ]
    for line in secret.splitlines():
        assert [place for place in shown if line in place] == []


@pytest.mark.parametrize("text", KEPT)
def test_names_and_digests_are_no_secrets(text):
    assert shareable(text) == text
    assert redaction.clean({"notes": text})["notes"] == text


@pytest.mark.parametrize("home", ["/home/alice", "/Users/alice", r"C:\Users\alice", "file:///home/alice"])
def test_a_home_folder_inside_a_text_names_nobody(home):
    text = f"data were read from {home}/data/rows.jsonl (cache: '{home}')"
    for shown in (
        str(redaction.clean({"notes": text})),
        sentence_text(text),
        command_text(["x", f"a='{text}'"]),
    ):
        assert "alice" not in shown
        assert "rows.jsonl" in shown


@pytest.mark.parametrize(
    "part",
    ["a", "a=", "a:'", "eyJ.", "Bearer ", "-----BEGIN RSA PRIVATE KEY-----", "://", "?sig=", "/", "wandb "],
)
def test_time_is_linear(part):
    started = time.process_time()
    without_secrets(part * (200_000 // len(part)))
    assert time.process_time() - started < 5


@pytest.mark.conformance
def test_what_detect_secrets_finds_is_hidden():
    base = pytest.importorskip("detect_secrets.plugins.base")
    plugins = pytest.importorskip("detect_secrets.plugins")
    for module in pkgutil.iter_modules(plugins.__path__):
        importlib.import_module(f"detect_secrets.plugins.{module.name}")
    detectors = [
        kind() for kind in base.RegexBasedDetector.__subclasses__() if "ip_public" not in kind.__module__
    ]
    hits = 0
    for name, (form, secret) in SECRETS.items():
        text = form.format(secret)
        values = {value for detector in detectors for value in detector.analyze_string(text) if value}
        assert [value for value in values if value in without_secrets(text)] == [], name
        hits += bool(values)
    assert hits >= 17  # of 47: 17 at version 1.5.0
