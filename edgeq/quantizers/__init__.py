"""Quantizers: from a float weight or bias to the integers that a file stores. numpy only."""
