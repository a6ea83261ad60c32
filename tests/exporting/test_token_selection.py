"""What only the class token is read of is computed for the class token alone: the same numbers from less work."""

from __future__ import annotations

import functools
import re

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import nn

pytest.importorskip("torchvision")

from edgeq.exporting.graphs.transformer import find_transformer
from edgeq.exporting.passes.attention_scale import fold_attention_scale
from edgeq.exporting.passes.layernorm import fold_layernorm_affine
from edgeq.exporting.passes.packed_projection import split_projections
from edgeq.exporting.passes.token_selection import move_selections_up
from edgeq.models.vit import VisionTransformer
from edgeq.models.vit_configs import VitConfig
from edgeq.sources.torch_export import export_torch
from tests.exporting import encoders, nets

ZOO = "zoo"
OPSETS = (17, 18, 19, 20)
FREED = {"logits", "context", "projection", "fc1", "fc2"}
"""Parts of the last block that give one row a token."""


@functools.cache
def zoo() -> VisionTransformer:
    torch.manual_seed(1)
    return VisionTransformer(VitConfig(24, 2, 3, 48, 4, image_px=16, outputs=5)).eval()


@functools.cache
def _zoo_graph(opset: int, dynamic_batch: bool) -> ir.Model:
    return export_torch(zoo(), torch.zeros(encoders.IMAGE), ["out"], opset=opset, dynamic_batch=dynamic_batch)


def graph(name: str, opset: int = 18, *, dynamic_batch: bool = False) -> ir.Model:
    if name == ZOO:
        return nets.copy(_zoo_graph(opset, dynamic_batch))
    return encoders.exported(name, opset, dynamic_batch=dynamic_batch)


def parts(model: ir.Model) -> dict[str, str]:
    return {name: f"{role.block}.{role.part}" for name, role in find_transformer(model).roles.items()}


def rows(model: ir.Model) -> dict[str, int]:
    """Returns how many rows each part computes; those of the attention's products are per head."""
    found = parts(model)
    shapes = {found[node.name]: node.outputs[0].shape for node in model.graph if node.name in found}
    return {
        part: int(np.prod([dim for dim in list(shape)[:-1] if isinstance(dim, int)]))
        for part, shape in shapes.items()
        if shape is not None
    }


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("name", [*encoders.ENCODERS, ZOO])
def test_the_last_block_runs_for_the_class_token(name: str, opset: int) -> None:
    before, model = graph(name, opset), graph(name, opset)
    last = str(find_transformer(model).blocks - 1)
    queries = {"q"} if name == "clip" else set()
    layers = move_selections_up(model).done
    assert {parts(model)[layer] for layer in layers} == {f"{last}.{part}" for part in FREED | queries}
    assert parts(model) == parts(before)
    tokens = 16 if name == "deit" else 17
    computed = rows(model)
    for part, count in rows(before).items():
        short = part[0] == last and part[2:] in FREED | queries | {"softmax", "residual"}
        assert count % tokens == 0 and computed[part] == (count // tokens if short else count), part
    encoders.assert_computes_the_same(model, before)
    assert not move_selections_up(model).changed


@pytest.mark.parametrize("name", [*encoders.ENCODERS, ZOO])
def test_a_free_batch_stays_free(name: str) -> None:
    before, model = (graph(name, dynamic_batch=True) for _ in range(2))
    freed = {parts(model)[layer][2:] for layer in move_selections_up(model).done}
    # Torch's own module mixes tokens and batch in one axis between its products and its projection.
    assert freed >= ({"fc1", "fc2"} if name == "torchvision" else FREED)
    encoders.assert_computes_the_same(model, before, batch=3)


@pytest.mark.parametrize("name", ["deit", "torchvision", ZOO])
def test_queries_follow_once_the_projection_is_split(name: str) -> None:
    before, model = graph(name), graph(name)
    move_selections_up(model)
    assert split_projections(model).left == {}
    (queries,) = move_selections_up(model).done
    last = find_transformer(model).blocks - 1
    assert parts(model)[queries] == f"{last}.q"
    computed = rows(model)
    assert computed[f"{last}.q"] == 1 and computed[f"{last}.k"] == computed[f"{last}.v"] > 1
    encoders.assert_computes_the_same(model, before)


@pytest.mark.parametrize("name", [*encoders.ENCODERS, ZOO])
def test_the_other_rewrites_find_what_they_found(name: str) -> None:
    model, early = graph(name), graph(name)
    move_selections_up(early)
    for rewrite in (fold_layernorm_affine, fold_attention_scale):
        assert rewrite(early) == rewrite(model)
    encoders.assert_computes_the_same(early, model)


def test_tensors_keep_their_names() -> None:
    before, model = graph(ZOO), graph(ZOO)
    move_selections_up(model)
    names = {str(value.name) for node in before.graph for value in node.outputs}
    kept = {str(value.name) for node in model.graph for value in node.outputs}
    assert names <= kept and all("_selected_" in name for name in kept - names | {"_selected_"})


class Pooled(nn.Module):
    """An encoder that is read in another way."""

    def __init__(self, read: str) -> None:
        super().__init__()
        self.encoder, self.read = zoo(), read

    def forward(self, image: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        patches = self.encoder.patch_embed(image)
        tokens = self.encoder.norm(self.encoder.blocks(patches))
        scores: torch.Tensor = self.encoder.head(tokens.mean(1) if self.read == "mean" else tokens[:, 0])
        if self.read == "two tokens":
            return scores, self.encoder.head(tokens[:, 1])
        return (scores, tokens) if self.read == "all tokens too" else scores


@pytest.mark.parametrize("read", ["mean", "all tokens too", "two tokens"])
def test_where_all_or_other_tokens_are_read_nothing_is_done(read: str) -> None:
    model = export_torch(Pooled(read), torch.zeros(encoders.IMAGE), ["out", "more"], opset=18)
    before = nets.copy(model)
    assert not move_selections_up(model).changed
    assert ir.to_proto(model).SerializeToString(deterministic=True) == ir.to_proto(before).SerializeToString(
        deterministic=True
    )


CONSTANTS = {
    "w": nets.normal(3, 6, 6), "b": nets.normal(4, 6), "table": nets.normal(5, 8, 6), "one_row": nets.normal(6, 1, 6),
    "batched": nets.normal(7, 8, 6, 6), "none": np.array(0), "zero": np.array([0]), "one": np.array([1]),
    "two": np.array([2]), "three": np.array([3]), "six": np.array([6]), "last": np.array([-1]), "big": np.array([999]),
    "back": np.array([-2]), "some": np.array([5, -8, 5]), "apart": np.array([8, 2, 3]), "keep": np.array([0, 0, -1]),
    "mixed": np.array([4, 12]), "halves": np.array([3, 3]),
}  # fmt: skip

MOVED = {
    "a token": "m = MatMul(x, w) y = Gather<axis=0>(m, none)",
    "some tokens, one of them twice": "m = MatMul(x, w) y = Gather<axis=0>(m, some)",
    "a run": "m = MatMul(x, w) y = Slice(m, three, six, zero)",
    "the last": "m = MatMul(x, w) y = Slice(m, last, big, zero)",
    "every fourth": "m = MatMul(x, w) f = Slice(m, two, big, zero, three) y = Relu(f)",
    "backwards": "m = MatMul(x, w) y = Slice(m, last, two, zero, back)",
    "chosen twice": "m = MatMul(x, w) a = Gather<axis=0>(m, none) c = Slice(m, zero, one, zero) y = Add(a, c)",
    "constants of all tokens": "m = MatMul(x, w) a = Add(table, m) c = Mul(a, one_row) y = Gather<axis=0>(c, none)",
    "Gemm": "m = Gemm<transA=1>(t, w, table) y = Gather<axis=0>(m, none)",
    "columns that stand in rows": "m = Gemm(x, w, b) t2 = Transpose(m) y = Gather<axis=1>(t2, none)",
    "axes added, apart, taken away":
        "m = MatMul(x, w) a = Reshape(m, apart) p = Transpose<perm=[1,0,2]>(a) c = Reshape<allowzero=0>(p, keep) "
        "d = Unsqueeze(c, zero) e = Squeeze(d, zero) y = Gather<axis=1>(e, none)",
    "halves of the channels":
        "m = MatMul(x, w) a, c = Split<axis=1>(m, halves) d = Mul(a, c) y = Gather<axis=0>(d, none)",
    "both of a Concat": "m = MatMul(x, w) a = Concat<axis=1>(m, x) y = Gather<axis=0>(a, none)",
    "a weight for each token": "u = Unsqueeze(x, one) m = MatMul(u, batched) y = Gather<axis=0>(m, none)",
    "variance by hand":
        "m = MatMul(x, w) a = ReduceMean(m, last) c = Sub(m, a) d = Mul(c, c) e = ReduceMean(d, last) f = Sqrt(e) "
        "g2 = Div(c, f) y = Gather<axis=0>(g2, none)",
}  # fmt: skip
LEFT = {
    "two choices": "m = MatMul(x, w) a = Gather<axis=0>(m, none) c = Slice(m, three, six, zero) y = Add(a, c)",
    "more than half": "m = MatMul(x, w) y = Slice(m, one, big, zero)",
    "features": "m = MatMul(x, w) y = Gather<axis=1>(m, none)",
    "softmax over tokens": "m = MatMul(x, w) s = Softmax<axis=0>(m) y = Gather<axis=0>(s, none)",
    "mean over tokens": "m = MatMul(x, w) s = ReduceMean(m, zero) a = Sub(x, s) y = Gather<axis=0>(a, none)",
    "tokens mixed with features": "m = MatMul(x, w) a = Reshape(m, mixed) y = Gather<axis=0>(a, none)",
    "norm over tokens": "m = MatMul(x, w) a = LayerNormalization<axis=0>(m, table) y = Gather<axis=0>(a, none)",
    "no layer": "m = Relu(x) y = Gather<axis=0>(m, none)",
}  # fmt: skip


def small(body: str) -> ir.Model:
    used = {name: array for name, array in CONSTANTS.items() if name in re.findall(r"\w+", body)}
    return nets.graph(f"g (float[8,6] x, float[6,8] t) => (float y) {{ {body} }}", used)


@pytest.mark.parametrize("name", [*MOVED, *LEFT])
def test_every_spelling(name: str) -> None:
    body = (MOVED | LEFT)[name]
    model, before = small(body), small(body)
    assert move_selections_up(model).changed == (name in MOVED)
    x = nets.normal(0, 8, 6)
    for wanted, found in zip(nets.run(before, x, x.T.copy()), nets.run(model, x, x.T.copy()), strict=True):
        assert wanted.shape == found.shape
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)
    for node in model.graph:
        if node.op_type in ("MatMul", "Gemm"):
            shape = node.outputs[0].shape
            assert shape is not None and (shape[0] != 8) == (name in MOVED)
    assert [value.name for value in model.graph.outputs] == ["y"]
