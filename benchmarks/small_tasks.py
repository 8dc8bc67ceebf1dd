"""Small models with tokenizers and tasks of their own, for comparisons of speed. Never for judging quality.

`write_generation`: arithmetic in words, in the form of GSM8K (the answer ends in `#### N`), and a Llama.
`write_classification`: sentences of praise and blame, in the form of SST-2, and a DistilBERT.
The weights are random. Everything is drawn from the seed.
"""

import csv
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    DistilBertConfig,
    DistilBertModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

NAMES = ("Ada", "Bo", "Cleo", "Dan", "Eva", "Finn", "Gita", "Hal", "Ines", "Jon", "Kim", "Lena")
THINGS = ("apples", "books", "coins", "eggs", "marbles", "pencils", "shells", "stamps", "tickets", "walnuts")
BOXES = ("bags", "boxes", "baskets", "jars", "trays")

FILMS = ("film", "plot", "story", "acting", "script", "music", "ending", "cast", "dialogue", "pace")
GOOD = ("moving", "funny", "charming", "clever", "gripping", "tender", "fresh", "brilliant", "warm", "honest")
BAD = ("dull", "clumsy", "tired", "shallow", "noisy", "cold", "lazy", "hollow", "flat", "tedious")


def write_generation(folder: Path, train: int, test: int, *, layers: int, width: int, seed: int = 0) -> Path:
    """Write train.jsonl and test.jsonl into `folder`, and a random Llama with its tokenizer; returns its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    questions = _distinct(_question, train + test, random.Random(seed), key=lambda row: row["question"])
    for name, rows in (("train", questions[:train]), ("test", questions[train:])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    texts = (f"Question: {row['question']}\nAnswer: {row['answer']}" for row in questions[:train])
    tokenizer = _byte_pairs(texts)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=width * 5 // 2,
        num_hidden_layers=layers,
        num_attention_heads=width // 32,
        num_key_value_heads=width // 64,
        max_position_embeddings=1024,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return _save(folder / "llama", LlamaForCausalLM(config), tokenizer)


def write_classification(
    folder: Path, train: int, validation: int, *, layers: int, width: int, seed: int = 0
) -> Path:
    """Write train.csv and validation.csv into `folder`, and a random DistilBERT with its tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = _distinct(_review, train + validation, random.Random(seed), key=lambda row: row["sentence"])
    for name, part in (("train", rows[:train]), ("validation", rows[train:])):
        with open(folder / f"{name}.csv", "w", newline="") as file:
            writer = csv.DictWriter(file, ["sentence", "label"])
            writer.writeheader()
            writer.writerows(part)
    tokenizer = _words(row["sentence"] for row in rows)
    torch.manual_seed(seed)
    config = DistilBertConfig(
        vocab_size=len(tokenizer),
        dim=width,
        hidden_dim=4 * width,
        n_layers=layers,
        n_heads=width // 32,
        pad_token_id=tokenizer.pad_token_id,
    )
    return _save(folder / "distilbert", DistilBertModel(config), tokenizer)


def _distinct(
    draw: Callable[[random.Random], dict[str, Any]],
    count: int,
    rng: random.Random,
    key: Callable[[dict[str, Any]], str],
) -> list[dict[str, Any]]:
    """`count` rows, no two with the same text."""
    rows: dict[str, dict[str, Any]] = {}
    while len(rows) < count:
        row = draw(rng)
        rows.setdefault(key(row), row)
    return list(rows.values())


def _question(rng: random.Random) -> dict[str, Any]:
    """A word problem of three steps, and its solution step by step: 60 to 128 tokens."""
    name, thing = rng.choice(NAMES), rng.choice(THINGS)
    held = rng.randint(10, 90)
    question, solved = [f"{name} has {held} {thing}."], [f"{name} starts with {held} {thing}."]
    for _ in range(3):
        kind, number, each, before = (
            rng.choice(("buys", "gets", "loses")),
            rng.randint(2, 9),
            rng.randint(2, 9),
            held,
        )
        if kind == "buys":
            box, bought = rng.choice(BOXES), number * each
            held += bought
            question.append(f"{name} buys {number} {box} with {each} {thing} in each of them.")
            solved.append(f"The {box} hold <<{number}*{each}={bought}>>{bought} {thing}.")
            solved.append(f"Now there are <<{before}+{bought}={held}>>{held} {thing}.")
        elif kind == "gets" or held <= number:
            friend = rng.choice(NAMES)
            held += number
            question.append(f"{friend} brings {number} more {thing}.")
            solved.append(f"Now there are <<{before}+{number}={held}>>{held} {thing}.")
        else:
            held -= number
            question.append(f"{name} loses {number} {thing} on the way home.")
            solved.append(f"Now there are <<{before}-{number}={held}>>{held} {thing}.")
    question.append(f"How many {thing} are there in the end?")
    return {"question": " ".join(question), "answer": "\n".join([*solved, f"#### {held}"])}


def _review(rng: random.Random) -> dict[str, Any]:
    """Three things said of a film; the label is what the most of them say."""
    liked = [rng.random() < 0.5 for _ in range(3)]
    said = [
        f"the {film} is {'rather ' * rng.randint(0, 2)}{rng.choice(GOOD if good else BAD)}"
        for film, good in zip(rng.sample(FILMS, 3), liked, strict=True)
    ]
    return {"sentence": f"{said[0]} , {said[1]} and {said[2]} .", "label": int(sum(liked) >= 2)}


def _byte_pairs(texts: Iterator[str]) -> PreTrainedTokenizerFast:
    """Byte pairs in the way of GPT-2, every digit on its own."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<pad>", "<s>", "</s>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=1024, special_tokens=special, initial_alphabet=alphabet)
    )
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )


def _words(texts: Iterator[str]) -> PreTrainedTokenizerFast:
    """A token for each word."""
    tokenizer = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    tokenizer.train_from_iterator(texts, trainers.WordLevelTrainer(special_tokens=special))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
    )


def _save(folder: Path, model: Any, tokenizer: PreTrainedTokenizerFast) -> Path:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
