"""A finished run, checked by whoever has its folder: on any machine, without torch."""
