"""Chat formats of families of models, each as a template and as the text that it must write for a question.

The formats are those of the families' tokenizer configs; the templates are written anew, as short as the tests allow.
"""

from dataclasses import dataclass

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast


@dataclass(frozen=True)
class Family:
    """prompt, close: what stands before an answer to the question QUESTION, and behind it up to the end token."""

    template: str
    tokens: tuple[str, ...]
    end: str
    prompt: str
    close: str = ""
    begin: str | None = None
    before: str = ""
    """What the template writes between what asks for an answer and the answer."""

    def tokenizer(self) -> PreTrainedTokenizerFast:
        """Bytes, the family's own tokens, and its begin token in front of every text where it has one."""
        words = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *self.tokens]
        bytewise = Tokenizer(models.BPE({word: place for place, word in enumerate(words)}, []))
        bytewise.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        bytewise.decoder = decoders.ByteLevel()
        bytewise.add_special_tokens(list(self.tokens))
        if self.begin:
            bytewise.post_processor = TemplateProcessing(
                single=f"{self.begin} $A", special_tokens=[(self.begin, words.index(self.begin))]
            )
        reader = PreTrainedTokenizerFast(
            tokenizer_object=bytewise, eos_token=self.end, bos_token=self.begin, pad_token=self.end
        )
        reader.chat_template = self.template
        return reader


QUESTION = "Which letter?"
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CHATML_TOKENS = ("<|im_start|>", "<|im_end|>", "<|endoftext|>")
ASKED_IN_CHATML = f"<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n"
REFUSES_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"

FAMILIES = {
    "Qwen2.5": Family(
        "{% if messages[0].role != 'system' %}{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}"
        "{% endif %}" + CHATML,
        CHATML_TOKENS,
        "<|im_end|>",
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n" + ASKED_IN_CHATML,
    ),
    "Qwen3": Family(
        "{% for m in messages %}{% set said = m.content.split('</think>')[-1].lstrip('\n') %}"
        "{{ '<|im_start|>' + m.role + '\n' }}"
        "{% if m.role == 'assistant' and loop.last %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
        "{{ said + '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
        (*CHATML_TOKENS, "<think>", "</think>"),
        "<|im_end|>",
        ASKED_IN_CHATML,
        before="<think>\n\n</think>\n\n",
    ),
    "Llama 3": Family(
        "{% for m in messages %}{% set text = '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n'"
        " + m.content | trim + '<|eot_id|>' %}{% if loop.first %}{% set text = bos_token + text %}{% endif %}{{ text }}"
        "{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}",
        ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        "<|eot_id|>",
        f"<|start_header_id|>user<|end_header_id|>\n\n{QUESTION}<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        begin="<|begin_of_text|>",
    ),
    "Gemma": Family(
        "{{ bos_token }}" + REFUSES_SYSTEM + "{% for m in messages %}"
        "{% set role = 'model' if m.role == 'assistant' else m.role %}"
        "{{ '<start_of_turn>' + role + '\n' + m.content | trim + '<end_of_turn>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}",
        ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"),
        "<eos>",
        f"<start_of_turn>user\n{QUESTION}<end_of_turn>\n<start_of_turn>model\n",
        "<end_of_turn>",
        begin="<bos>",
    ),
}
