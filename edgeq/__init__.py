"""edgeq: one calibration, every edge engine, and each file carries the proof of what it costs."""

__version__ = "0.1.0"
