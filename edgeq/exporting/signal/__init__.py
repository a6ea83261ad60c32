"""How much of a model's signal a file keeps: ratios, groups of channels, layers, exact arithmetic."""
