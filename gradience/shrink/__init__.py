"""Find the smallest candidate shown to stay within the margin: planned beforehand, tested from the largest down."""
