"""Prompts -> what each component of an adapter does to the model's output: moments and scores in r-space."""
