"""A base by its name on the hub: one commit of it, out of a cache without a network; neither pickles nor code."""

import shutil
from pathlib import Path

import pytest
from chat_families import FAMILIES, QUESTION
from factory import edit_config
from hypothesis import given
from hypothesis import strategies as st
from raising import raises
from tiny_bench import llama

from gradience.errors import InputError, NetworkError
from gradience.files.hub import fetch_folder
from gradience.models.chat import chat_template
from gradience.models.load import fingerprint_of, load_base, load_tokenizer
from gradience.models.local_only import local_only
from gradience.models.locate import locate, recorded_base
from gradience.models.settings import ModelSettings

COMMIT, OLDER = "0123456789" * 4, "fedcba9876" * 4
NAMED = ModelSettings(name="org/tiny", type="causal_lm")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return llama(tmp_path_factory.mktemp("base") / "llama")


@pytest.fixture
def snapshot(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files of `org/tiny` at COMMIT, which is its main branch, as huggingface_hub keeps them."""
    repository = tmp_path / "hub" / "models--org--tiny"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    fetch_folder.cache_clear()  # a name means one commit for a process; here every test has a cache of its own
    return shutil.copytree(base, repository / "snapshots" / COMMIT)


def test_a_name_on_the_hub_is_one_commit_of_it(snapshot: Path) -> None:
    assert locate(NAMED) == (snapshot, "org/tiny", COMMIT)
    loaded = load_base(NAMED, device="cpu")
    assert loaded.name == loaded.model.config._name_or_path == "org/tiny"
    assert loaded.fingerprint == COMMIT
    assert fingerprint_of(NAMED) == COMMIT
    with local_only():
        assert load_tokenizer(NAMED).vocab_size == loaded.tokenizer.vocab_size


def test_a_pinned_revision_is_the_one_that_is_read(snapshot: Path) -> None:
    older = shutil.copytree(snapshot, snapshot.with_name(OLDER))
    pinned = NAMED.model_copy(update={"revision": OLDER})
    assert locate(pinned).folder == older
    assert load_base(pinned, device="cpu").fingerprint == OLDER
    with raises(NetworkError, "hub-offline"):
        locate(NAMED.model_copy(update={"revision": "1" * 40}))


def test_a_pickle_of_the_hub_is_not_opened(snapshot: Path) -> None:
    (snapshot / "model.safetensors").rename(snapshot / "pytorch_model.bin")
    with raises(InputError, "model-unreadable") as caught:
        load_base(NAMED, device="cpu")
    assert "safetensors" in caught.value.hint


def test_code_of_the_hub_is_not_run(snapshot: Path) -> None:
    code = {"AutoConfig": "mine.C", "AutoModelForCausalLM": "mine.M"}
    edit_config(snapshot, model_type="mine", auto_map=code)
    ran = snapshot.parent / "ran"
    (snapshot / "mine.py").write_text(f"open({str(ran)!r}, 'w').close()\n")
    with raises(InputError, "model-unreadable"):
        load_base(NAMED, device="cpu")
    assert not ran.exists()


# ---------------------------------------------------------------- Turns in the chat formats of model families


EDGES = (
    "",
    " ",
    "ENDOFTHISTURN",
    "ENDOFTHISTURNX",
    "xENDOFTHIS",
    "{{ x }}",
    "a\n\nb",
    "é✓",
    "</think",
    "\\n",
)


def pieces(tokens):
    """Every substring of the tokens and of the names of roles that a template writes, as far as it is an answer."""
    texts = {*tokens, "user", "model", "assistant"}
    parts = {text[a:b] for text in texts for a in range(len(text)) for b in range(a + 1, len(text) + 1)}
    return sorted({part.strip() for part in parts} - {*tokens, ""})


def asked(answer):
    return [("user", QUESTION), ("assistant", answer)]


def check(family, template, answer):
    turn = template.last_turn(asked(answer))
    assert turn.prompt == family.prompt
    assert turn.close == family.close
    assert turn.response == family.before + answer + family.close
    assert template.prompt_before(asked(answer)[:1]) == family.prompt


@pytest.mark.parametrize("name", FAMILIES)
def test_a_turn_ends_where_its_answer_ends(name):
    family = FAMILIES[name]
    answers = [*pieces(family.tokens), *filter(str.strip, EDGES)]
    assert len(answers) > 60
    letters = "".join({*"".join(family.tokens), *"aé{}% \n"})
    with chat_template(family.tokenizer()) as template:
        for answer in answers:
            check(family, template, answer)

        @given(st.text(st.sampled_from(letters), min_size=1, max_size=12).map(str.strip))
        def holds(answer):
            if answer and not any(token in answer for token in (*family.tokens, "</think>")):
                check(family, template, answer)

        holds()


@pytest.mark.parametrize(
    ("name", "recorded"),
    [
        ("w/base", "base"),
        ("./w/base/", "base"),
        ("org/name", "name"),
        ("hf://org/name@v1", "name"),
        ("embedded:minilm", "all-MiniLM-L6-v2"),
    ],
)
def test_records_hold_the_last_part_of_a_base(name: str, recorded: str) -> None:
    assert recorded_base(name) == recorded
