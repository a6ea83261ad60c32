"""The pretended Jetson for every test in this folder."""

from tests.trt_fixtures import board, faults, old_trt, trt, trt10

__all__ = ["board", "faults", "old_trt", "trt", "trt10"]
