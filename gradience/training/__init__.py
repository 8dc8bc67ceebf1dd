"""Trains one adapter, so that the same seed gives the same bytes through kills as well."""
