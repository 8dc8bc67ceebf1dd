"""Verification of a result from its folder, of any kind: on any machine, without torch."""
