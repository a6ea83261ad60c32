"""The double itself: it has to refuse what NVIDIA's bindings refuse, or the other tests prove nothing."""

from __future__ import annotations

from typing import Any

import pytest


class Quiet:
    """Makes loggers of a module."""

    @staticmethod
    def of(trt, called=True):
        base: Any = trt.ILogger

        class Logger(base):  # type: ignore[misc]
            def __init__(self):
                if called:
                    base.__init__(self)

            def log(self, severity, msg):
                pass

        return Logger()


def test_what_a_version_lacks_is_an_attribute_error(trt):
    config = trt.Builder(Quiet.of(trt)).create_builder_config()
    with pytest.raises(AttributeError):
        config.max_workspace = 1
    old, new = trt.__version__.startswith("8"), trt.__version__.startswith("11")
    assert hasattr(trt, "IInt8EntropyCalibrator2") is not new
    assert hasattr(trt.BuilderFlag, "INT8") is not new
    assert hasattr(trt, "IProgressMonitor") is not old
    assert hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED") is not old


def test_wrong_keywords_types_and_constructors_are_type_errors(trt):
    builder = trt.Builder(logger=Quiet.of(trt))
    config = builder.create_builder_config()
    with pytest.raises(TypeError, match="incompatible"):
        config.set_memory_pool_limit(pool=trt.MemoryPoolType.WORKSPACE, size=1)
    with pytest.raises(TypeError, match="incompatible"):
        config.set_memory_pool_limit(pool=trt.MemoryPoolType.WORKSPACE, pool_size=1.0)
    with pytest.raises(TypeError, match="No constructor"):
        trt.IBuilderConfig()
    with pytest.raises(TypeError, match="must be called when overriding"):
        trt.Runtime(Quiet.of(trt, called=False))
    with pytest.raises(TypeError):
        len(trt.IHostMemory(b"12"))


def test_a_bad_plan_is_none(trt):
    assert trt.Runtime(Quiet.of(trt)).deserialize_cuda_engine(b"no plan") is None
