"""Many adapters: a row for each, what holds over all of them, and all of them brought to one rank."""
