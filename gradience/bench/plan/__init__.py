"""Decisions made before training: the plan on disk, the variants, the cost."""
