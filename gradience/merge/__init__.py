"""Adapters of one base merged into one: exactly, with the error of truncation, and tested on each parent's data."""
