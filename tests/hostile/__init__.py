"""What strangers' files may do to us, and what they may not: one list of faults, one sandbox, one table of figures."""
