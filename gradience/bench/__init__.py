"""Bench: the protocol over seeds, on real models and data. Everything here may import torch."""
