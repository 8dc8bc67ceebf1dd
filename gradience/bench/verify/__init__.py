"""Verification of a finished run from its folder: on any machine, without torch."""
