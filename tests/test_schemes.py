"""Schemes: their integers, their names, and what contradicts itself."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeq.schemes import (
    DYNAMIC_INT8,
    FLOAT,
    FLOAT32,
    FP4,
    INT8,
    INT8_WEIGHT,
    INT16,
    INT32,
    INT64,
    UINT8,
    LayerScheme,
    PerGroup,
    Scheme,
)

INT8_LAYER = LayerScheme(INT8_WEIGHT, UINT8, INT32)


@given(bits=st.integers(1, 16), signed=st.booleans())
def test_a_scheme_has_two_to_the_bits_integers_that_its_type_holds(bits: int, signed: bool) -> None:
    scheme = Scheme(bits=bits, signed=signed)
    assert scheme.qmax - scheme.qmin + 1 == 2**bits
    limits = np.iinfo(scheme.dtype)
    assert limits.min <= scheme.qmin and scheme.qmax <= limits.max
    assert Scheme(bits=bits, signed=signed, narrow_range=True).qmin == scheme.qmin + 1


@pytest.mark.parametrize(
    ("scheme", "qmin", "qmax", "dtype", "name"),
    [
        (INT8, -128, 127, "int8", "INT8"),
        (UINT8, 0, 255, "uint8", "UINT8"),
        (INT8_WEIGHT, -127, 127, "int8", "INT8"),
        (Scheme(bits=4), -8, 7, "int8", "INT4"),
        (Scheme(bits=2, signed=False), 0, 3, "uint8", "UINT2"),
        (INT16, -32768, 32767, "int16", "INT16"),
        (INT32, -(2**31), 2**31 - 1, "int32", "INT32"),
    ],
)
def test_integers_and_names(scheme: Scheme, qmin: int, qmax: int, dtype: str, name: str) -> None:
    assert (scheme.qmin, scheme.qmax, scheme.dtype, scheme.type_name) == (qmin, qmax, dtype, name)


@pytest.mark.parametrize(
    ("scheme", "name", "compute", "static"),
    [
        (FLOAT, "float", "float32", False),
        (INT8_LAYER, "int8", "integer", True),
        (INT8_LAYER.without_weight, "int8", "integer", True),
        (DYNAMIC_INT8, "dynamic", "integer", False),
        (LayerScheme(INT8_WEIGHT, INT16, INT64), "int16x8", "integer", True),
        (INT8_LAYER.with_bits(4, 8), "w4a8", "integer", True),
        (LayerScheme(Scheme(bits=4, granularity=PerGroup(32)), Scheme("float16", 16)), "w4", "float16", False),
        (FP4, "fp4", "float16", False),
    ],
)
def test_layers_are_called_by_what_they_are(scheme: LayerScheme, name: str, compute: str, static: bool) -> None:
    assert (scheme.name, scheme.compute, scheme.is_static) == (name, compute, static)


def test_fewer_bits_leave_the_bias_in_float_and_floats_alone() -> None:
    assert INT8_LAYER.with_bits(8, 8) is not FLOAT and INT8_LAYER.with_bits(8, 8) == INT8_LAYER
    assert INT8_LAYER.with_bits(4, 8).bias == FLOAT32
    assert FLOAT.with_bits(4, 4) == FLOAT


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Scheme(bits=0), "0 bits: wanted 1 to 16"),
        (lambda: Scheme(bits=17), "17 bits"),
        (lambda: Scheme("float16", 8), "float16 of 8 bits: it has 16"),
        (lambda: Scheme("float32", 32, codebook="nf4"), "has no codebook"),
        (lambda: PerGroup(0), "groups of 0"),
    ],
)
def test_what_contradicts_itself_is_refused(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()  # type: ignore[operator]
