"""A name on the hub -> files on this disk: addresses, what is fetched, and every way in which that fails."""
