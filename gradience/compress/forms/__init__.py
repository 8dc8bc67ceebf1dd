"""Formats beside PEFT's in which an adapter is written: names, order of axes, settings; one file each."""
