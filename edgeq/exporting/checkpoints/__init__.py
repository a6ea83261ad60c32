"""Checkpoints of language models with weights of few bits: Hugging Face folders in the layouts that servers read."""
