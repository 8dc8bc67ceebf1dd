"""The smallest adapter that is shown to be as good: rungs planned beforehand, tested from the largest down."""
