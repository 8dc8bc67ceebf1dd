"""The engine of transformers and PEFT: one loaded base, adapters switched by name, batches in torch."""
