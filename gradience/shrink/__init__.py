"""The smallest adapter that is shown to be as good: candidates planned beforehand, tested from the largest down."""
