"""Bundles that answer: prompts through the parts of a model, token by token, to score and to time it."""
