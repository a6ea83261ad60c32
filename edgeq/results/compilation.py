"""What NVIDIA's compiler makes of a file, compared with what the file plans."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

_VERDICTS = {
    "built": "built",
    "parser": "its parser refused the file",
    "builder": "its builder refused the file",
    "memory": "not compiled",
    "time": "not compiled",
    "died": "not compiled",
}


@dataclass(frozen=True)
class NodePrecision:
    """A layer with weights, or a product of two activations, as planned and as compiled.

    Attributes:
        node: Name of the ONNX node.
        operator: Its operator.
        planned: What the file's Q/DQ pairs mean it to multiply in: `int8` or `fp8`; or `float`, and `weights` if it
            multiplies floats by a weight that is stored in integers.
        compiled: Type that it multiplies in: `int8`, `fp16`, `fp32`, ...; empty if no kernel names it.
        stored: Type of 8 bits or fewer that its kernel's constants are stored in; empty for floats.
        agrees: Whether it multiplies `int8` or `fp8` as planned, or floats as planned, by a weight that is still stored
            in few bits if the file stores it so.
        reason: Why it does not, if that is known.
    """

    node: str
    operator: str
    planned: Literal["int8", "fp8", "float", "weights"]
    compiled: str
    stored: str
    agrees: bool
    reason: str = ""


@dataclass(frozen=True)
class LayerGroup:
    """Layers of one operator that were planned and compiled alike.

    Attributes:
        operator: Their operator.
        planned: What the file means them to multiply in, as in `NodePrecision`.
        compiled: Type that they multiply in; empty if no kernel names them.
        stored: Type that their weights are stored in; empty for floats.
        count: How many they are.
    """

    operator: str
    planned: str
    compiled: str
    stored: str
    count: int


@dataclass(frozen=True)
class Compilation:
    """A file compiled by TensorRT for RTX, or refused by it. It is not the TensorRT of a Jetson.

    Attributes:
        library: Name and version of the compiler.
        sm: Compute capability that was compiled for, `SM86`.
        stage: `built`; who refused the file (`parser`, `builder`); what there was too little of (`memory`, `time`); or
            `died`, the compiler itself.
        node: Node that the parser refused.
        reason: Why no engine was built, in a sentence.
        note: What is uncertain about the figures.
        parse_s: Time of the parser, seconds.
        build_s: Time of the builder, seconds.
        kernels: Kernels of the engine.
        conversions: Those that only convert, quantize or move values.
        float_epilogues: INT8 layers that write floats, so that another kernel adds the bias and quantizes again.
        fused_attention: Types read and written (`int8 to int8`) -> number of attentions that are one kernel.
        plan_bytes: Size of the serialized engine.
        weights_bytes: Memory of its weights.
        activation_bytes: Memory of its activations.
        nodes: Every layer with weights and every product of activations.
    """

    library: str
    sm: str
    stage: Literal["built", "parser", "builder", "memory", "time", "died"]
    node: str = ""
    reason: str = ""
    note: str = ""
    parse_s: float = 0.0
    build_s: float = 0.0
    kernels: int = 0
    conversions: int = 0
    float_epilogues: int = 0
    fused_attention: Mapping[str, int] = field(default_factory=dict)
    plan_bytes: int = 0
    weights_bytes: int = 0
    activation_bytes: int = 0
    nodes: tuple[NodePrecision, ...] = ()

    @property
    def is_built(self) -> bool:
        """Whether there is an engine."""
        return self.stage == "built"

    @property
    def disagreements(self) -> tuple[NodePrecision, ...]:
        """The layers that are computed in another type than planned."""
        return tuple(each for each in self.nodes if not each.agrees)

    @property
    def is_wrong(self) -> bool:
        """Whether there is no engine, or one that computes a layer in another type than planned for no known reason."""
        return not self.is_built or any(not each.reason for each in self.disagreements)

    @property
    def by_precision(self) -> dict[str, int]:
        """Type that layers multiply in -> how many, the most frequent first."""
        return dict(Counter(each.compiled or "unknown" for each in self.nodes).most_common())

    @property
    def verdict(self) -> str:
        """Whether there is an engine, and if not, who refused the file, in words."""
        return _VERDICTS[self.stage]

    @property
    def agreeing(self) -> int:
        """How many layers are computed as planned."""
        return len(self.nodes) - len(self.disagreements)

    @property
    def groups(self) -> tuple[LayerGroup, ...]:
        """The layers, counted by operator and by what they were planned and compiled to."""
        counts = Counter((each.operator, each.planned, each.compiled, each.stored) for each in self.nodes)
        return tuple(LayerGroup(*kind, count) for kind, count in sorted(counts.items()))


@dataclass(frozen=True)
class CompiledFile:
    """A file, and what TensorRT for RTX made of it.

    Attributes:
        name: File name.
        digest: SHA-256 of the file; empty if the result does not say.
        target: Target whose rules it was checked against, or that it was written for.
        compiled: What became of it.
    """

    name: str
    digest: str
    target: str
    compiled: Compilation
