"""The YAML of an experiment, typed; the original's keys; the shipped ones."""
