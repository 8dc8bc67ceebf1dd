"""Names under which the original project published the callback. Nothing inside imports from here."""
