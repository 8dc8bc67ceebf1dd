"""What a config says of the length of texts."""

import pytest
from transformers import BertConfig, LlamaConfig, LlavaConfig, MambaConfig, XLNetConfig

from gradience.models.load import context_of


@pytest.mark.parametrize(
    ("config", "context"),
    [
        (LlamaConfig(max_position_embeddings=512), 512),
        (BertConfig(), 512),
        (LlavaConfig(text_config=LlamaConfig(max_position_embeddings=64)), 64),
        (XLNetConfig(), None),
        (MambaConfig(), None),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_context_is_that_of_the_text_model_and_none_where_there_is_no_limit(config, context):
    assert context_of(config) == context
