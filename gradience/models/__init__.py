"""A base model by its name: from the hub, a folder, or a package; its tokenizer, device and settings."""
