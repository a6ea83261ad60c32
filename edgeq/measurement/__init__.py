"""Latency, memory and energy of files that take turns."""
