"""TensorRT: builds engines on the device that runs them, runs them, and looks into them.

What a version of TensorRT can do is asked of its module (`hasattr`), never read out of its version number.
"""
