"""Counts -> verdicts: the policy, one seed, all seeds together."""
