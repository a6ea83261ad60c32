"""What exporters put around the softmax of an attention: out where it does nothing, looked through where it does."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import Tensor, nn

from edgeq.exporting.graphs.transformer import find_transformer
from edgeq.exporting.passes.order import SIMPLIFYING, reading, run_passes
from edgeq.exporting.passes.softmax_guards import drop_softmax_guards
from edgeq.sources.torch_export import export_torch
from tests.exporting import nets
from tests.exporting.test_masks import WEIGHTS

ATTENTION = """g (float[2,5,8] x) => (float[2,5,8] y) {{
    q = MatMul(x, wq) k = MatMul(x, wk) v = MatMul(x, wv) kt = Transpose<perm=[0,2,1]>(k)
    product = MatMul(q, kt) {logits} p = Softmax<axis=-1>(logits) nan = IsNaN(p) w = Where(nan, zero, p)
    context = MatMul(w, v) y = MatMul(context, wq) }}"""
LATER = np.where(np.triu(np.ones((5, 5), np.bool_), 1), np.float32(-100), np.float32(0))
BLIND = np.where(np.arange(5)[:, None] == 2, np.float32(-np.inf), np.zeros((5, 5), np.float32))


def attention(logits: str, **constants: np.ndarray) -> ir.Model:
    return nets.graph(ATTENTION.format(logits=logits), WEIGHTS | {"zero": np.zeros((), np.float32)} | constants)


@pytest.mark.parametrize(
    ("logits", "constants", "gone"),
    [
        ("logits = Add(product, mask)", {"mask": np.zeros((1, 5, 5), np.float32)}, {"Add", "IsNaN", "Where"}),
        ("s = Div(product, two) logits = Add(mask, s)", {"two": np.float32(2), "mask": LATER}, {"IsNaN", "Where"}),
        # Its third row is NaN without the guard.
        ("logits = Add(product, mask)", {"mask": BLIND}, set()),
        ("s = Mul(product, inf) logits = Tanh(s)", {"inf": np.float32(np.inf)}, set()),
        # The sum has more rows than the product.
        ("s = ReduceMax<keepdims=1>(product, ax) logits = Add(s, mask)",
         {"ax": np.array([1]), "mask": np.zeros((5, 5), np.float32)}, set()),
    ],
)  # fmt: skip
def test_only_what_does_nothing_goes(logits: str, constants: dict[str, np.ndarray], gone: set[str]) -> None:
    model, x = attention(logits, **constants), nets.normal(9, 2, 5, 8)
    before, operators = nets.run(model, x)[0], set(nets.ops(model))
    drop_softmax_guards(model)
    assert operators - set(nets.ops(model)) == gone
    np.testing.assert_allclose(nets.run(model, x)[0], before, rtol=1e-6)


def test_an_attention_is_known_behind_a_guard_that_stays() -> None:
    model = attention("logits = Add(product, mask)", mask=BLIND)
    found = find_transformer(model)
    assert (found.blocks, found.unknown) == (1, ())
    assert {role.part for role in found.roles.values()} >= {"logits", "context", "projection"}


class _Masked(nn.Module):
    """What transformers makes of a model without padding: a mask of zeros, given to torch's own attention."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(16, 16) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (layer(x).view(1, 6, 2, 8).transpose(1, 2) for layer in list(self.layers)[:3])
        mask = torch.zeros(1, 1, 6, 6)
        y: Tensor = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        stream: Tensor = x + self.layers[3](y.transpose(1, 2).reshape(1, 6, 16))
        return stream


def test_torchs_own_attention_with_a_mask_is_known() -> None:
    torch.manual_seed(0)
    module, x = _Masked().eval(), torch.randn(1, 6, 16)
    model = export_torch(module, x, ["y"], opset=18)
    run_passes(model, (*reading(18), *SIMPLIFYING))
    assert not {"IsNaN", "Where"} & set(nets.ops(model))
    found = find_transformer(model)
    assert (found.blocks, found.unknown) == (1, ())
    assert "residual" in {role.part for role in found.roles.values()}
    np.testing.assert_allclose(nets.run(model, x.numpy())[0], module(x).detach().numpy(), atol=1e-6)
