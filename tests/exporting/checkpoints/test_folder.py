"""Checkpoints as files: what is packed where, which layers are chosen, and what a damaged or odd folder is told."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest

from edgeq.errors import InputError, ModelError
from edgeq.exporting.checkpoints.layouts import LAYOUTS, packed
from edgeq.exporting.checkpoints.selection import select_layers
from edgeq.exporting.checkpoints.shards import Shards, TensorSpec
from edgeq.exporting.checkpoints.stored import stored_tensors
from edgeq.exporting.checkpoints.writer import FinishedLayers, plan_checkpoint, write_checkpoint
from edgeq.quantizers.round_nearest import round_nearest
from edgeq.schemes import PerGroup, Scheme
from tests.exporting import nets

SHAPES = {
    "model.embed_tokens.weight": (40, 32), "model.layers.0.mlp.up.weight": (16, 32),
    "model.layers.1.mlp.up.weight": (16, 32), "model.layers.1.norm.weight": (32,),
    "vision_tower.patch.weight": (16, 3, 2, 2), "vision_tower.layers.0.fc.weight": (16, 32),
    "multi_modal_projector.linear.weight": (32, 32), "lm_head.weight": (40, 32),
}  # fmt: skip


def save(folder, arrays, name="model.safetensors"):
    """Writes arrays as the format's specification says, independently of `Shards`."""
    folder.mkdir(exist_ok=True)
    kinds = {"float32": "F32", "float16": "F16", "int64": "I64", "bfloat16": "BF16"}
    header, body = {}, b""
    for key, array in arrays.items():
        end = len(body) + array.nbytes
        offsets = [len(body), end]
        header[key] = {"dtype": kinds[array.dtype.name], "shape": list(array.shape), "data_offsets": offsets}
        body += array.tobytes()
    text = json.dumps(header).encode()
    (folder / name).write_bytes(struct.pack("<Q", len(text)) + text + body)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "torch_dtype": "float32"}))


@pytest.fixture
def folder(tmp_path):
    save(tmp_path / "model", {name: nets.normal(seed, *shape) for seed, (name, shape) in enumerate(SHAPES.items())})
    return tmp_path / "model"


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_a_word_holds_its_integers_from_the_lowest_bits_on(bits):
    integers = np.random.default_rng(0).integers(0, 2**bits, (3, 64), np.uint8)
    words = packed(integers, bits).view(np.uint32)
    count = 32 // bits
    assert words.shape == (3, 64 // count)
    for row, column in np.ndindex(3, 64):
        assert words[row, column // count] >> (bits * (column % count)) & (2**bits - 1) == integers[row, column]


def test_awq_and_gptq_pack_along_other_axes_and_gptq_holds_one_less():
    scheme = Scheme(bits=4, signed=False, symmetric=False, granularity=PerGroup(16, 1))
    weight = round_nearest(nets.normal(0, 8, 32), scheme, {})
    awq, gptq = (LAYOUTS[name].pack(weight) for name in ("awq", "gptq"))
    for place, column in enumerate((0, 2, 4, 6, 1, 3, 5, 7)):
        assert ((awq["qweight"][:, 0].view(np.uint32) >> (4 * place)) & 15 == weight.integers[column]).all()
    held = np.array(
        [[(word >> (4 * place)) & 15 for place in range(8)] for word in gptq["qzeros"][:, 0].view(np.uint32)]
    )
    np.testing.assert_array_equal((held + 1) % 16, weight.zero_point.T)
    for name, layout in LAYOUTS.items():
        specs = layout.specs(8, 32, 2, 4)
        assert {
            key: TensorSpec(array.dtype.name, array.shape) for key, array in layout.pack(weight).items()
        } == specs, name


def test_by_default_the_decoder_alone_has_few_bits(folder):
    layers = select_layers(stored_tensors(folder))
    assert layers.quantized == ("model.layers.0.mlp.up", "model.layers.1.mlp.up")
    assert layers.left == ("vision_tower", "multi_modal_projector", "lm_head")


@pytest.mark.parametrize(
    ("skip", "quantized"),
    [
        (["vision", "lm_head"], {"model.layers.0.mlp.up", "model.layers.1.mlp.up", "multi_modal_projector.linear"}),
        (["model.layers.0", "multi_modal_projector"], {"model.layers.1.mlp.up", "vision_tower.layers.0.fc", "lm_head"}),
        ([r".*layers\.\d+\.(mlp|fc).*", "lm_head"], {"multi_modal_projector.linear"}),
        (["decoder", "Conv"], {"vision_tower.layers.0.fc", "multi_modal_projector.linear", "lm_head"}),
    ],
)
def test_a_skip_list_takes_parts_names_prefixes_types_and_patterns(folder, skip, quantized):
    assert set(select_layers(stored_tensors(folder), skip).quantized) == quantized


def test_what_cannot_be_skipped_is_said(folder):
    tensors = stored_tensors(folder)
    with pytest.raises(
        InputError, match=r"`skip` 'visoin': no module .* the parts connector, vision, .* such as model"
    ):
        select_layers(tensors, ["visoin"])
    with pytest.raises(InputError, match="leaves no linear layer"):
        select_layers(tensors, ["Linear"])
    with pytest.raises(InputError, match=r"`skip` '\(': is not a regular expression"):
        select_layers(tensors, ["("])


def test_unquantized_tensors_are_copied_in_halves_and_the_rest_is_packed(folder, tmp_path):
    (folder / "tokenizer.json").write_text("{}")
    (folder / "modeling.py").write_text("raise SystemExit")
    plan = plan_checkpoint(folder, "compressed-tensors", 4, 16)
    layers = {name: round_nearest(plan.weight(name).read(), plan.scheme, {}) for name in plan.layers.quantized}
    write_checkpoint(plan, tmp_path / "out", [FinishedLayers({name: each}) for name, each in reversed(layers.items())])
    found = stored_tensors(tmp_path / "out")
    source = stored_tensors(folder)
    for name in SHAPES.keys() - {f"{name}.weight" for name in layers}:
        np.testing.assert_array_equal(found[name].read(), source[name].read().astype(np.float16))
    shape = found["model.layers.0.mlp.up.weight_shape"].read()
    np.testing.assert_array_equal(shape, [16, 32])
    assert not (tmp_path / "out" / "modeling.py").exists() and (tmp_path / "out" / "tokenizer.json").exists()
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["dtype"] == "float16" and "torch_dtype" not in config
    assert config["quantization_config"]["ignore"][0] == r"re:(.*\.)?vision_tower(\..*)?$"
    rows = source["model.embed_tokens.weight"].read_rows([3, 7])
    np.testing.assert_array_equal(rows, source["model.embed_tokens.weight"].read()[[3, 7]])


def test_a_failure_leaves_nothing_and_an_existing_folder_is_kept(folder, tmp_path):
    plan = plan_checkpoint(folder, "gptq", 4, 16)

    def interrupted():
        yield FinishedLayers({})
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_checkpoint(plan, tmp_path / "out", interrupted())
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    with pytest.raises(InputError, match="exists already"):
        write_checkpoint(plan, folder, [])
    save(folder, {"model.layers.0.up.weight": nets.normal(0, 16, 32), "model.norm.weight": np.array([1e9], np.float32)})
    with pytest.raises(ModelError, match=r"model\.norm\.weight: holds values that FP16 cannot"):
        plan = plan_checkpoint(folder, "gptq", 4, 16)
        name = "model.layers.0.up"
        write_checkpoint(
            plan, tmp_path / "out", [FinishedLayers({name: round_nearest(plan.weight(name).read(), plan.scheme, {})})]
        )
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_folders_that_are_not_whole_are_refused(folder, tmp_path):
    with pytest.raises(InputError, match=r"`group_size` 128: .* has 32 inputs, which it does not divide"):
        plan_checkpoint(folder, "gptq", 4, 128)
    with pytest.raises(InputError, match="`precision` w8: readers of awq checkpoints take w4"):
        plan_checkpoint(folder, "awq", 8, 16)
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:-4])
    with pytest.raises(ModelError, match=r"lm_head\.weight does not lie within the file"):
        stored_tensors(folder)
    (folder / "model.safetensors").write_bytes(content[:40])
    with pytest.raises(ModelError, match=r"is not a whole \.safetensors file"):
        stored_tensors(folder)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"its weights are pickled \(pytorch_model\.bin\)"):
        stored_tensors(folder)
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    save(folder, {"a": nets.normal(0, 2, 2)}, "model-00001-of-00002.safetensors")
    with pytest.raises(InputError, match=r"has no model-00002-of-00002\.safetensors, which .* lists"):
        stored_tensors(folder)


def test_shards_hold_what_was_announced_and_all_of_it(tmp_path):
    contents = [{"a": TensorSpec("int32", (2, 3))}, {"b": TensorSpec("float16", (4,))}]
    shards = Shards(tmp_path, contents)
    shards.write("b", np.arange(4, dtype=np.float16))
    with pytest.raises(ValueError, match="announced once"):
        shards.write("a", np.zeros((3, 2), np.int32))
    with pytest.raises(ValueError, match="a was never written"):
        shards.require_whole()
    shards.write("a", np.arange(6, dtype=np.int32).reshape(2, 3))
    shards.require_whole()
    from safetensors.numpy import load_file

    np.testing.assert_array_equal(load_file(tmp_path / "model-00001-of-00002.safetensors")["a"], [[0, 1, 2], [3, 4, 5]])
    assert {name: each.file.name for name, each in stored_tensors(tmp_path).items()}["b"].startswith("model-00002")
