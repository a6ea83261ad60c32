"""The studies that ship with edgeq, on real models: what they find, and what they take."""
