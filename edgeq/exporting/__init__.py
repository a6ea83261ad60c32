"""Artifact and QuantPlan, the graph passes, and one writer a format."""
