"""Hypothesis strategies for calibration data."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

any_float32 = st.floats(width=32, allow_nan=True, allow_infinity=True, allow_subnormal=True)
ordinary = st.floats(-100, 100, width=32)
# Mixed magnitudes make histograms grow; ties at bin borders come from the powers of two.
growing = st.builds(lambda sign, power: np.float32(sign * 2.0**power), st.sampled_from([-1, 1]), st.integers(-149, 127))
zeros = st.sampled_from([np.float32(0.0), np.float32(-0.0)])


def float32_arrays(max_size: int = 200) -> st.SearchStrategy[np.ndarray]:
    """Returns arrays of shape `(n,)`, float32, with everything that a tensor may hold, and some with less of it."""
    everything = st.one_of(any_float32, ordinary, growing, zeros)
    small = st.one_of(zeros, st.floats(-0.375, 0.375, width=32), st.floats(-(2.0**-100), 2.0**-100, width=32))
    return st.sampled_from([everything, ordinary, small]).flatmap(
        lambda elements: hnp.arrays(np.float32, st.integers(0, max_size), elements=elements)
    )
