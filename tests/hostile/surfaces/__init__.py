"""One module for each surface with its hostile inputs; `hostile.surface` says how to write one, and runs them."""
