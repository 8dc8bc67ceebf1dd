"""What several tests of Bench start from."""

import pytest
from tiny_bench import llama


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A tiny causal model on the disk."""
    return llama(tmp_path_factory.mktemp("base"))
