"""Weights of torch modules in few bits: those of the same network as an ONNX graph."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import edgeq
from edgeq.calibration.quantize_layers import quantize_layers
from edgeq.errors import InputError
from edgeq.exporting.graphs.graph import weight_of
from edgeq.exporting.jobs import PlannedWeight
from edgeq.exporting.planning.low_bit import as_matrix
from edgeq.schemes import PerGroup, Scheme
from tests.exporting import nets

TEXT = """g (float[1,3,8,8] x) => (float[1,8] y) {
    a = Conv<pads=[1,1,1,1]>(x, w0, b0) r = Relu(a) b = Conv<strides=[2,2], group=4>(r, w1, b1) s = Relu(b)
    f = Flatten(s) u = Gemm<transB=1>(f, wu, bu) v = Gemm<transB=1>(f, wv, bv) t = Mul(u, v)
    y = Gemm<transB=1>(t, wy, by) }"""
LAYERS = {"first": "w0", "second": "w1", "up": "wu", "gate": "wv", "last": "wy"}
GROUP = 16


class Net(torch.nn.Module):
    """The network of `TEXT`; the table knows no other use than to share the last layer's weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Conv2d(3, 8, 3, padding="same")
        self.second = torch.nn.Conv2d(8, 8, 2, stride=2, groups=4)
        self.up, self.gate = torch.nn.Linear(128, 32), torch.nn.Linear(128, 32)
        self.last, self.unused = torch.nn.Linear(32, 8), torch.nn.Linear(4, 4)
        self.table = torch.nn.Embedding(8, 32)
        self.table.weight = self.last.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = torch.relu(self.second(torch.relu(self.first(x)))).flatten(1)
        scores: torch.Tensor = self.last(input=self.up(flat) * self.gate(flat))
        return scores


@pytest.fixture(scope="module")
def net() -> Net:
    torch.manual_seed(0)
    return Net().eval()


FEEDS = [nets.normal(seed, 1, 3, 8, 8) for seed in range(24)]
INPUTS = [torch.from_numpy(each) for each in FEEDS]


@pytest.fixture(scope="module")
def graph(net):
    layers = [net.first, net.second, net.up, net.gate, net.last]
    constants: dict[str, np.ndarray] = {}
    for key, layer in zip("01uvy", layers, strict=True):
        constants |= {f"w{key}": layer.weight.detach().numpy(), f"b{key}": layer.bias.detach().numpy()}
    return nets.graph(TEXT, constants)


@pytest.mark.parametrize("bits", [4, 2])
@pytest.mark.parametrize("method", ["rtn", "hqq", "gptq", "gptq-act-order", "awq", "awq+gptq"])
def test_weights_are_those_of_the_graph(net, graph, method, bits, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    kept = ("first", "last") if bits < 4 else ()
    found = edgeq.quantize_weights(net, INPUTS, bits, group_size=GROUP, weight_method=method, threads=1)
    assert sorted(found.left) == sorted(("unused", *kept))
    scheme = Scheme(bits=bits, signed=False, symmetric=False, granularity=PerGroup(GROUP, 1))
    nodes = {str(node.inputs[1].name): node for node in graph.graph if node.op_type in ("Conv", "Gemm")}
    named = {name: nodes[constant] for name, constant in LAYERS.items() if name not in kept}
    planned = {}
    for node in named.values():
        weight = weight_of(node)
        assert weight is not None
        planned[str(node.name)] = PlannedWeight(as_matrix(node, weight), scheme)
    wanted = quantize_layers(graph, planned, method=method, feeds=[{"x": each} for each in FEEDS], threads=1)
    scales = {layer: each.scales for each in wanted.inputs for layer in each.layers}
    for name, node in named.items():
        expected = wanted.weights[str(node.name)]
        # torch and ONNX Runtime add in another order: a weight in the middle of a step may fall either way, and of two
        # ranges for a row that are as good either may be chosen.
        assert (found.weights[name].integers == expected.integers).mean() > 0.9, name
        assert np.isclose(found.weights[name].scale, expected.scale, rtol=1e-3).mean() > 0.9, name
        assert (name in found.scales) == (str(node.name) in scales)
        held = found.module.get_parameter(f"{name}.weight").numpy(force=True).reshape(expected.integers.shape)
        by = found.scales.get(name, np.ones(1))
        divided = np.repeat(by, np.size(held, -1) // len(by))
        np.testing.assert_allclose(held, found.weights[name].dequantize() / divided, rtol=1e-5, atol=1e-7)
    if method == "rtn":
        assert all(
            np.array_equal(found.weights[n].integers, wanted.weights[str(e.name)].integers) for n, e in named.items()
        )


def test_the_given_module_and_what_shares_a_weight_stay_as_they_are(net):
    before = {name: each.clone() for name, each in net.state_dict().items()}
    found = edgeq.quantize_weights(net, INPUTS[:1], 4, group_size=GROUP, weight_method="rtn", keep="Conv2d")
    assert all(torch.equal(each, before[name]) for name, each in net.state_dict().items())
    assert sorted(found.weights) == ["gate", "last", "up"] and found.left["first"] == "kept by 'Conv2d'"
    assert torch.equal(found.module.get_parameter("table.weight"), net.last.weight)
    assert not torch.equal(found.module.get_parameter("last.weight"), net.last.weight)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"bits": 9}, "`bits` 9: wanted 2 to 8"),
        ({"inputs": []}, "`inputs`: holds none"),
        ({"keep": "nothing"}, "`keep` 'nothing': matches no layer; names look like first"),
        ({"keep": "("}, "is not a regular expression"),
        ({"keep": ".*"}, "no linear layer or 2-D convolution is left"),
        ({"weight_method": "best"}, "`weight_method` best: wanted one of"),
        ({"group_size": 0}, "`group_size` is 0"),
    ],
)
def test_what_cannot_be_done_is_one_line(net, arguments, said):
    with pytest.raises(InputError, match=said.replace("(", r"\(")):
        edgeq.quantize_weights(net, **{"inputs": INPUTS[:1], **arguments})
