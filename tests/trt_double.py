"""A double of TensorRT's Python module, generated for each version from the contract of NVIDIA's own bindings.

It is no TensorRT. Classes, methods, argument names, properties and enums are exactly those of a version: what is not in
`tests/data/trt_api_contract.json` raises AttributeError, a wrong keyword or type TypeError. Behind them is just enough
behaviour to run a build and its engine: the notes on what the real bindings do with failures (None, False, swallowed
exceptions) are followed, "kernels" are ONNX Runtime on the CPU, and which layer gets INT8 follows the scales.
"""

from __future__ import annotations

import json
import numbers
import types
import warnings
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import numpy as np

from tests.fake_cuda import Board
from tests.trt_behaviour import Faults
from tests.trt_rtx_contract import recorded
from tests.trt_running import BEHAVIOUR

CONTRACT: dict[str, Any] = json.loads((Path(__file__).parent / "data" / "trt_api_contract.json").read_text())
VERSIONS = ("8.6.1", "10.3.0", "10.16.1.11", "11.4.0.106")

_OVERRIDABLE = frozenset({"ILogger", "IProfiler", "IProgressMonitor"})


def make_tensorrt(version: str, board: Board, faults: Faults | None = None) -> Any:
    """Returns a module that looks like `tensorrt` of a version.

    Args:
        version: A key of the contract's versions.
        board: The pretended device.
        faults: What goes wrong.
    """
    contract = CONTRACT["versions"][version]
    return Generator(version, contract, int(version.partition(".")[0]), board, faults or Faults()).module


def make_tensorrt_rtx(board: Board, faults: Faults | None = None) -> Any:
    """Returns a module that looks like `tensorrt_rtx`, whose API is that of TensorRT 11.

    Args:
        board: The pretended device.
        faults: What goes wrong.
    """
    contract = recorded()
    return Generator(contract["version"], contract, 11, board, faults or Faults(), "tensorrt_rtx").module


class _Enum:
    """A member of a pybind11 enumeration: it converts to int, and is none."""

    def __init__(self, owner: str, name: str, value: int) -> None:
        self.name, self.value, self._owner = name, value, owner

    def __int__(self) -> int:
        return self.value

    __index__ = __int__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Enum) and (self._owner, self.value) == (other._owner, other.value)

    def __hash__(self) -> int:
        return hash((self._owner, self.value))

    def __repr__(self) -> str:
        return f"<{self._owner}.{self.name}: {self.value}>"


class _Bound:
    """Base of all generated classes; `state` is the double's, everything else the contract's."""

    __slots__ = ("__weakref__", "state")

    def __new__(cls, *_arguments: Any, **_keywords: Any) -> Any:
        made: Any = object.__new__(cls)
        object.__setattr__(made, "state", {})
        return made


class Memory(bytes):
    """IHostMemory: a buffer with a size, and no sequence."""

    @property
    def nbytes(self) -> int:
        return bytes.__len__(self)

    def __len__(self) -> int:
        raise TypeError("object of type 'IHostMemory' has no len()")


class Generator:
    def __init__(
        self, version: str, contract: dict[str, Any], major: int, board: Board, faults: Faults, named: str = "tensorrt"
    ) -> None:
        self.version = version
        self.board = board
        self.faults = faults
        self.contract = contract
        self.major = major
        module: Any = types.ModuleType(named)
        self.module = module
        self.module.__spec__ = ModuleSpec(named, None)
        self.module.__version__ = version
        self.module.init_libnvinfer_plugins = lambda logger, namespace: True
        self.enums: dict[str, type] = {}
        for name, members in self.contract["enums"].items():
            self._add_enum(name, members)
        # Bases first.
        waiting = dict(self.contract["classes"])
        while waiting:
            for name in list(waiting):
                if all(base not in waiting for base in waiting[name]["bases"]):
                    setattr(self.module, name, self._make_class(name, waiting.pop(name)))
        for name in [name for name in self.enums if "." in name]:
            owner, inner = name.split(".")
            setattr(getattr(self.module, owner), inner, self.enums[name])
        self.module.IHostMemory = Memory

    def _add_enum(self, name: str, members: dict[str, int]) -> None:
        values = {member: _Enum(name, member, value) for member, value in members.items()}
        self.enums[name] = type(name.rpartition(".")[2], (), {**values, "__members__": values})
        if "." not in name:
            setattr(self.module, name, self.enums[name])

    def _make_class(self, name: str, spec: dict[str, Any]) -> type:
        bases = tuple(getattr(self.module, base) for base in spec["bases"] if hasattr(self.module, base)) or (_Bound,)
        namespace: dict[str, Any] = {"__slots__": ()}
        for method, overloads in spec["methods"].items():
            namespace[method] = self._make_method(name, method, overloads)
        for attribute, (kind, mode) in spec["properties"].items():
            namespace[attribute] = self._make_property(name, attribute, kind, mode)
        return type(name, bases, namespace)

    def _make_method(self, owner: str, method: str, overloads: list[dict[str, Any]]) -> Callable[..., Any]:
        def call(this: Any, /, *arguments: Any, **keywords: Any) -> Any:
            if not overloads:
                raise TypeError(f"tensorrt.{owner}: No constructor defined!")
            bound = self._bind(f"{owner}.{method}", overloads, arguments, keywords)
            if method == "__init__":
                this.state["initialised"] = True
                if "Calibrator" in owner:
                    self._deprecated(owner)
            found = BEHAVIOUR.get(f"{owner}.{method}")
            if found is None:
                if method == "__init__":
                    return None
                raise NotImplementedError(f"the double does nothing for tensorrt.{owner}.{method}")
            return found(self, this, **bound)

        call.__name__ = method
        return call

    def _make_property(self, owner: str, attribute: str, kind: str, mode: str) -> property:
        def read(this: Any) -> Any:
            found = BEHAVIOUR.get(f"{owner}.{attribute}")
            return found(self, this) if found else this.state.get(attribute)

        def write(this: Any, value: Any) -> None:
            if not self._fits(kind, value):
                raise TypeError(f"tensorrt.{owner}.{attribute}: wanted {kind}, got {value!r}")
            if attribute in ("int8_calibrator", "precision"):
                self._deprecated(f"{owner}.{attribute}")
            this.state[attribute] = value

        return property(read, write if mode == "rw" else None)

    def _bind(self, where: str, overloads: list[dict[str, Any]], positional: Any, keywords: Any) -> dict[str, Any]:
        for overload in overloads:
            names = [argument[0] for argument in overload["args"]]
            given = dict(zip(names, positional, strict=False))
            allowed = {name for name in names if not name.startswith("arg")}
            if len(positional) > len(names) or not keywords.keys() <= allowed - given.keys():
                continue
            given |= keywords
            needed = [argument[0] for argument in overload["args"] if len(argument) == 2]
            kinds = {argument[0]: argument[1] for argument in overload["args"]}
            if all(name in given for name in needed) and all(self._fits(kinds[k], v) for k, v in given.items()):
                return given
        signatures = [overload["args"] for overload in overloads]
        raise TypeError(f"tensorrt.{where}(): incompatible arguments {positional} {keywords}; supported: {signatures}")

    def _fits(self, kind: str, value: Any) -> bool:
        simple = {"str": str, "bool": bool, "tuple": tuple, "list": list}
        name = kind.removeprefix("tensorrt.")
        if kind in simple:
            return isinstance(value, simple[kind]) or (kind == "str" and value is None)
        if kind in ("int", "SupportsInt"):
            return isinstance(value, numbers.Integral | _Enum)
        if kind in ("float", "SupportsFloat"):
            return isinstance(value, numbers.Real)
        if kind in ("buffer", "Buffer"):
            return isinstance(value, bytes | bytearray | memoryview | np.ndarray)
        if kind in ("List[int]", "Sequence[SupportsInt]"):
            return isinstance(value, list | tuple)
        if name == "Dims":
            return isinstance(value, tuple | list)
        if name in self.enums:
            return isinstance(value, _Enum) and value._owner == name
        cls: Any = getattr(self.module, name, None)
        if isinstance(cls, type):
            if isinstance(value, cls) and isinstance(value, _Bound):
                state = getattr(value, "state", {})
                if "__init__" in cls.__dict__ and self._overridable(name) and not state.get("initialised"):
                    raise TypeError(f"tensorrt.{name}.__init__() must be called when overriding __init__")
                return True
            return value is None or isinstance(value, cls)
        return True

    @staticmethod
    def _overridable(name: str) -> bool:
        return name in _OVERRIDABLE or "Calibrator" in name

    def _deprecated(self, what: str) -> None:
        if self.major == 10:
            warnings.warn(f"Use of tensorrt.{what} is deprecated", DeprecationWarning, stacklevel=4)

    def make(self, cls: str, **state: Any) -> Any:
        """Returns an object of a class that Python cannot construct."""
        made: Any = _Bound.__new__(getattr(self.module, cls))
        made.state.update(state)
        return made

    @staticmethod
    def make_enum(owner: str, name: str) -> Any:
        """Returns a member of an enumeration that the contract does not list."""
        return _Enum(owner, name, 0)

    def log(self, logger: Any, severity: str, text: str) -> None:
        logger.log(getattr(self.enums["ILogger.Severity"], severity), text)

    def flag(self, config: Any, name: str) -> bool:
        return hasattr(self.module.BuilderFlag, name) and getattr(self.module.BuilderFlag, name) in config.state["set"]
