"""Names under which the public predecessor published the callback. Nothing inside imports from here."""
