"""Bench: real models and data, one training room, one protocol. Everything here may import torch."""
