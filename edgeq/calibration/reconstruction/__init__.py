"""Learns how weights are rounded, block by block, so that each block gives what the float model gives."""
