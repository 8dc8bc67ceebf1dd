"""Stages on disk, one seed, a whole run."""
