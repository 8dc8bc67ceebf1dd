"""Comparison of two evaluation logs from any supported tool: scores of the same examples, paired.

A reader turns one format into a `Log` (base.py); verb.py lists the formats, refuses what cannot be compared, and
computes. No torch, no model: scores are taken as they were logged.
"""
