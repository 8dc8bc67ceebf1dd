"""A base model without a tokenizer, converted by llama.cpp's own code.

python convert_base_to_gguf.py LLAMA_CPP_SOURCE MODEL_FOLDER OUT.gguf ARCHITECTURE
"""

import sys
from pathlib import Path


def main(source: Path, folder: Path, out: Path, name: Path) -> None:
    """Write `out`, in float32."""
    sys.path[:0] = [str(source), str(source / "gguf-py")]
    import gguf
    import torch
    from conversion import get_model_class

    architecture = get_model_class(str(name))

    class WithoutTokenizer(architecture):  # type: ignore[misc, valid-type]
        """The prompts are token ids."""

        model_arch = architecture.model_arch

        def set_vocab(self) -> None:
            self._set_vocab_none()

        def set_gguf_parameters(self) -> None:
            """With the size of the vocabulary, which some architectures leave to the tokenizer."""
            super().set_gguf_parameters()
            written = [key for data in self.gguf_writer.kv_data for key in data]
            if not any(key.endswith(".vocab_size") for key in written):
                self.gguf_writer.add_vocab_size(self.hparams["vocab_size"])

    with torch.inference_mode():
        WithoutTokenizer(folder, gguf.LlamaFileType.ALL_F32, out).write()


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
