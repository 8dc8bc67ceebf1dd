"""Real, tiny, random models and tokenizers, and adapters that PEFT writes for them."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    set_seed,
)

from gradience.evaluate import fixed_batches
from gradience.evaluate.engines.base import Decoding, Output
from gradience.evaluate.engines.transformers.engine import TransformersEngine
from gradience.evaluate.engines.transformers.forward import classify_batch, generate_batch

WORDS = ["good", "bad", "film", "plot", "very", "a", "dull", "joy"]
LETTERS = [*"abcdefghijklmnopqrstuvwxyz0123456789 \n#=+?"]
SPECIAL = ["</s>", "<s>", "<pad>", "<unk>"]


@dataclass(frozen=True)
class Sentence:
    id: str
    text: str
    label: int
    text_pair: str | None = None


@dataclass(frozen=True)
class Sum:
    id: str
    prompt: str
    response: str
    answer: str


def sentences(count: int) -> list[Sentence]:
    draw = np.random.default_rng(0)
    return [
        Sentence(f"{number:04d}", " ".join(draw.choice(WORDS, size=draw.integers(1, 9))), number % 2)
        for number in range(count)
    ]


def sums(count: int) -> list[Sum]:
    """Prompts and responses of unequal lengths."""
    draw = np.random.default_rng(1)
    rows = []
    for number in range(count):
        terms = draw.integers(0, 10 ** int(draw.integers(1, 6)), size=draw.integers(2, 5))
        prompt = " + ".join(map(str, terms)) + " ="
        rows.append(Sum(f"{number:04d}", prompt, f" {terms.sum()}", str(terms.sum())))
    return rows


def bert() -> BertForSequenceClassification:
    set_seed(0)
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    return BertForSequenceClassification(BertConfig(vocab_size=len(WORDS) + 4, num_labels=2, **shape)).eval()


def words_tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {word: number for number, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A", pair="$A [SEP] $B:1", special_tokens=[("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]")


def llama(seed: int = 0, **changes) -> LlamaForCausalLM:
    set_seed(seed)
    size = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "initializer_range": 0.2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128}
    vocabulary = {"vocab_size": len(LETTERS) + len(SPECIAL)}
    return LlamaForCausalLM(LlamaConfig(**{**size, **heads, **vocabulary, **changes})).eval()


def letters_tokenizer(
    *, eos: str | None = "</s>", bos: bool = False, closes: bool = False, merges=(), **special
) -> PreTrainedTokenizerFast:
    """One token a letter, and one for each of `merges`; `bos` begins every text, `closes` puts the end behind it."""
    joined = [first + second for first, second in merges]
    vocabulary = {token: number for number, token in enumerate([*LETTERS, *SPECIAL, *joined])}
    tokenizer = Tokenizer(models.BPE(vocabulary, list(merges), unk_token="<unk>"))
    tokenizer.decoder = decoders.Fuse()
    if bos or closes:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{'<s> ' if bos else ''}$A{f' {eos}' if closes else ''}",
            special_tokens=[(token, vocabulary[token]) for token in {"<s>", eos or "</s>"}],
        )
    names = {"unk_token": "<unk>", "eos_token": eos, **special}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, **{name: token for name, token in names.items() if token}
    )


def trained(model, seed: int, *, B: bool = True):
    """Factors as training leaves them; without `B`, as it finds them."""
    set_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if (B and "lora_B" in name) or "modules_to_save" in name:
                parameter.normal_(std=0.5)
    return model


def bert_adapter(
    folder: Path, seed: int, r: int = 4, *, B: bool = True, task: str | None = "SEQ_CLS", **lora
) -> Path:
    config = LoraConfig(task_type=task, r=r, target_modules=["query", "value"], **lora)
    trained(get_peft_model(bert(), config), seed, B=B).save_pretrained(folder)
    return folder


def llama_adapter(folder: Path, seed: int, r: int = 4, *, B: bool = True, base=None, **lora) -> Path:
    config = {"task_type": "CAUSAL_LM", "target_modules": ["q_proj", "v_proj", "down_proj"], "r": r, **lora}
    trained(get_peft_model(base or llama(), LoraConfig(**config)), seed, B=B).save_pretrained(
        folder, save_embedding_layers=False
    )
    return folder


def in_batches(texts: list[str], batch_size: int, answer) -> list:
    """What `answer` says of each text, a batch at a time, in the order of the texts."""
    answers = {}
    for places in fixed_batches(texts, batch_size):
        answers.update(zip(places, answer([texts[place] for place in places]), strict=True))
    return [answers[place] for place in range(len(texts))]


def generate(model, tokenizer, prompts: list[str], *, batch_size: int = 32, **options) -> list[Output]:
    return in_batches(
        prompts, batch_size, lambda batch: generate_batch(model, tokenizer, batch, Decoding(**options))
    )


def classify(model, tokenizer, texts: list[str], *, batch_size: int, max_length: int) -> np.ndarray:
    def logits(batch):
        pairs = [(text, None) for text in batch]
        return [answer.logits for answer in classify_batch(model, tokenizer, pairs, max_length=max_length)]

    return np.array(in_batches(texts, batch_size, logits))


def varied_end(model, prompts: list[str], new: int) -> str:
    """A letter that the model writes at many different places: as the end token, it ends rows at different times."""
    tokenizer = letters_tokenizer()
    texts = [output.text for output in generate(model, tokenizer, prompts, max_new_tokens=new)]
    return max(LETTERS, key=lambda letter: len({text.find(letter) for text in texts}))


def memories():
    """Return the class and config of tiny models with different kinds of cache or state."""
    import transformers as t

    size = {"vocab_size": 46, "hidden_size": 32, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "intermediate_size": 48, "pad_token_id": 0}
    gemma = {**size, **heads, "num_key_value_heads": 2, "head_dim": 8, "final_logit_softcapping": 3.0}
    return {
        "absolute positions": (
            t.GPT2LMHeadModel,
            t.GPT2Config(vocab_size=46, n_embd=32, n_layer=2, n_head=4),
        ),
        "alibi": (t.BloomForCausalLM, t.BloomConfig(vocab_size=46, hidden_size=32, n_layer=2, n_head=4)),
        "windows": (t.Gemma2ForCausalLM, t.Gemma2Config(**gemma, sliding_window=4)),
        "wide windows": (t.Gemma2ForCausalLM, t.Gemma2Config(**gemma, sliding_window=64)),
        "no keys and values": (t.MambaForCausalLM, t.MambaConfig(**size, state_size=8, pad_token_id=0)),
    }


MEMORIES = ["absolute positions", "alibi", "windows", "wide windows", "no keys and values"]


def remembering(kind):
    """Return an engine for one of these models."""
    set_seed(0)
    model_type, config = memories()[kind]
    config.initializer_range = 0.5
    return TransformersEngine(model_type(config), letters_tokenizer())
