"""Comparison of two evaluation logs from any supported tool: scores of the same examples, paired.

A reader turns one format into a `Log` (base.py); formats.py lists them; pairing.py refuses what cannot be compared;
outcome.py computes; verb.py is the verb. No torch, no model: scores are taken as they were logged.
"""
