"""Trains the weights of a planned file for a short while, so that its outputs come closer to the float model's."""
