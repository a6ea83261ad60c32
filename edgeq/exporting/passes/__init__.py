"""Exact rewrites of a float graph, one per module."""
