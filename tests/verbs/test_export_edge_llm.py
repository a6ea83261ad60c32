"""Folders for Jetson: the contract of TensorRT Edge-LLM's exporter, files for TensorRT, boards, and what is refused.

The contract was read in TensorRT Edge-LLM 0.11: `quant_method` with `group_size` in config.json, layers without
`qweight` in FP16, words of eight integers along the input (GPTQ) or the output in AWQ's order, and a kernel that
computes `(q - 8) * scale` after `q` was shifted by 8 less the zero point and cut at 0 and 15.
"""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest

import edgeq as package
from edgeq.bundles.contents import GridLayout, ImageInput
from edgeq.bundles.cutting import as_grid
from edgeq.bundles.edge_llm import MANIFEST_NAME, EdgeLlmFolder
from edgeq.bundles.precision import Precision
from edgeq.bundles.session import PartSession
from edgeq.bundles.source import ModelFolder
from edgeq.errors import InputError
from edgeq.exporting.checkpoints.stored import stored_tensors
from edgeq.memory.config_file import ConfigFile, read_config
from edgeq.verbs.export_edge_llm import boards_that_hold

transformers = pytest.importorskip("transformers")
torch = pytest.importorskip("torch")

IMAGE, SIDE, GROUP = 200, 28, 128
TEXT = {
    "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 1, "vocab_size": 256, "max_position_embeddings": 512, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2, "initializer_range": 0.1,
}  # fmt: skip
_AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("jetson")
    vision = transformers.CLIPVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, image_size=SIDE, patch_size=7
    )
    config = transformers.LlavaConfig(
        vision_config=vision, text_config=transformers.LlamaConfig(**TEXT), image_token_id=IMAGE,
        vision_feature_layer=-2,
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.LlavaForConditionalGeneration(config).save_pretrained(folder / "model")
    drawn = np.random.default_rng(0)
    pixels = drawn.normal(size=(32, 3, SIDE, SIDE)).astype(np.float32)
    np.savez(folder / "calib.npz", input_ids=drawn.integers(3, IMAGE, (32, 16)), pixel_values=pixels)
    return folder


def _export(edgeq, source, out, *options):
    common = ("--target", "jetson-orin", "--tokenizer", "none", "--threads", "1", "--out", out)
    return edgeq("export", source / "model", *common, *options)


def _nibbles(words, order=range(8)):
    """Returns the integers of 32-bit words along the last axis."""
    found = np.empty((*words.shape[:-1], words.shape[-1], 8), np.int64)
    for place, number in enumerate(order):
        found[..., number] = words.view(np.uint32) >> np.uint32(4 * place) & 15
    return found.reshape(*words.shape[:-1], -1)


def _kernel_weight(tensors, module, layout):
    """Returns the weight `(in, out)` that the kernel computes with, by the contract."""
    words, zeros, scales = (tensors[f"{module}.{name}"].read() for name in ("qweight", "qzeros", "scales"))
    if layout == "gptq":
        q, zero = _nibbles(words.T).T, _nibbles(zeros) + 1
    else:
        q, zero = _nibbles(words, _AWQ_ORDER), _nibbles(zeros, _AWQ_ORDER)
    shifted = q - np.repeat(zero, GROUP, axis=0) + 8
    assert shifted.min() >= 0 and shifted.max() <= 15  # else the kernel would cut it
    return (shifted - 8) * np.repeat(scales.astype(np.float32), GROUP, axis=0)


def test_the_folder_of_a_llava_keeps_the_contract_and_is_checked(source, tmp_path, edgeq):
    out = tmp_path / "folder"
    done = _export(
        *(edgeq, source, out, "--part", "vision=int8", "--part", "decoder=w4g128-gptq"),
        *("--calib", source / "calib.npz", "--json", tmp_path / "folder.json"),
    )
    assert done.code == 0, done.error
    assert "tensorrt-edgellm-export" in done.out
    found = EdgeLlmFolder.load(out)
    assert json.loads((tmp_path / "folder.json").read_text())["checkpoint"] == {
        "format": "gptq", "precision": "w4g128", "method": "gptq", "layers": 7,
    }  # fmt: skip
    # The model is tiny: the smallest board holds it with all tokens that it was made for.
    assert (found.fits[0].board, found.fits[0].most_context) == ("orin-nano-4", 512)
    config = json.loads((out / "decoder" / "config.json").read_text())["quantization_config"]
    assert (config["quant_method"], config["bits"], config["group_size"], config["desc_act"], config["sym"]) == (
        "gptq", 4, GROUP, False, True,
    )  # fmt: skip
    tensors, plain = stored_tensors(out / "decoder"), stored_tensors(source / "model")
    quantized = {name.rpartition(".")[0] for name in tensors if name.endswith(".qweight")}
    assert len(quantized) == 7 and all("language_model.model.layers.0." in name for name in quantized)
    assert {str(each.read().dtype) for name, each in tensors.items() if name.endswith(".weight")} == {"float16"}
    for module in quantized:
        weight = _kernel_weight(tensors, module, "gptq")
        wanted = plain[f"{module}.weight"].read().T
        assert np.linalg.norm(weight - wanted) < 0.2 * np.linalg.norm(wanted)
    vision = onnx.load(out / found.images["vision"].file)
    assert vision.opset_import[0].version <= 17  # what TensorRT 8.6 reads
    assert [dim.dim_value for dim in vision.graph.input[0].type.tensor_type.shape.dim] == [1, 3, SIDE, SIDE]
    assert "QuantizeLinear" in {node.op_type for node in vision.graph.node}
    assert 0 < found.images["vision"].output_error < 0.05
    assert edgeq("check", out).code == 0
    (out / "decoder" / "config.json").write_text("{}")
    said = edgeq("check", out)
    assert said.code == 1
    assert f"config.json: is not the file that {MANIFEST_NAME} describes" in said.out


def test_awq_has_its_zero_points_in_the_middle_so_that_the_kernel_cuts_nothing(source, tmp_path):
    from edgeq.verbs.export_checkpoint import export_checkpoint

    for centred, is_cut in ((False, True), (True, False)):
        out = tmp_path / str(centred)
        export_checkpoint(source / "model", out, layout="awq", centred=centred)
        tensors = stored_tensors(out)
        modules = [name.rpartition(".")[0] for name in tensors if name.endswith(".qweight")]
        if is_cut:
            with pytest.raises(AssertionError):
                [_kernel_weight(tensors, module, "awq") for module in modules]
        else:
            for module in modules:
                assert (_nibbles(tensors[f"{module}.qzeros"].read(), _AWQ_ORDER) == 8).all()
                assert np.isfinite(_kernel_weight(tensors, module, "awq")).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--part", "decoder=w4g32-gptq"), "takes 4 bits in groups of 128"),
        (("--part", "decoder=w8g128"), "takes 4 bits in groups of 128"),
        (("--part", "decoder=w4g128a"), "zero points in the middle"),
        (("--part", "decoder=w4g128-hqq"), "hqq chooses zero points"),
        (("--part", "head=w4g128"), "TensorRT Edge-LLM has it in FP16"),
        (("--part", "vision=w4g128"), "TensorRT runs it in fp16, fp32 or int8"),
        (("--part", "vision=int8"), "precision int8: is calibrated on images"),
        (("--keep", "fc1"), "a Jetson's folder takes none"),
    ],
)
def test_what_a_jetson_does_not_run_is_one_line(source, tmp_path, edgeq, options, message):
    refused = _export(edgeq, source, tmp_path / "out", *options)
    assert message in refused.error
    assert refused.error.count("\n") <= 1
    assert not any(tmp_path.iterdir())


def test_llava_next_is_written_for_one_tile_at_a_time_from_python(tmp_path):
    tower = transformers.CLIPVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, image_size=SIDE, patch_size=7
    )
    config = transformers.LlavaNextConfig(
        vision_config=tower, text_config=transformers.LlamaConfig(**TEXT), image_token_id=IMAGE,
        image_grid_pinpoints=[[SIDE, 2 * SIDE], [2 * SIDE, SIDE]],
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.LlavaNextForConditionalGeneration(config).eval()
    model.save_pretrained(tmp_path / "model")
    out = tmp_path / "folder"
    found = package.export_edge_llm(tmp_path / "model", tokenizer="none", out=out, threads=1)
    assert found == EdgeLlmFolder.load(out)
    assert (found.family, found.checkpoint.layers, list(found.images)) == ("llava_next", 7, ["vision", "connector"])
    (newline,) = (each.read() for name, each in stored_tensors(out / "decoder").items() if "newline" in name)
    size = (SIDE, 3 * SIDE)
    picture = np.random.default_rng(0).integers(0, 255, (*size, 3), np.uint8)
    layout = GridLayout(tile_px=SIDE, tokens=4, grids=tuple(config.image_grid_pinpoints))
    tiles, rows = as_grid(picture, ImageInput(), layout)
    vision, connector = (PartSession(out / found.images[name].file, 1) for name in ("vision", "connector"))
    tables = []
    for tile in tiles:
        (hidden,) = vision.run({"pixel_values": tile[None]})
        tables.append(connector.run({"image_hidden": hidden})[0])
    # The last row of each ends a row of the image.
    assert tables[0].shape == (4 * 4 + 1, TEXT["hidden_size"])
    np.testing.assert_allclose(tables[0][-1], newline, atol=1e-3)
    read = np.concatenate([*(table[:-1] for table in tables), tables[0][-1:]])[rows]
    with torch.no_grad():
        wanted = model.get_image_features(torch.from_numpy(tiles)[None], torch.tensor([size])).pooler_output[0].numpy()
    assert np.abs(read - wanted).max() < 1e-3 * np.abs(wanted).max()


@pytest.mark.parametrize(
    ("family", "kind", "message"),
    [
        ("Qwen2VL", "ForConditionalGeneration", "for Qwen2.5-VL, and none for Qwen2-VL"),
        ("OPT", "ForCausalLM", "has no decoder of the family opt and would compute it as Llama"),
        ("PaliGemma", "ForConditionalGeneration", "family paligemma: TensorRT Edge-LLM 0.11 has no decoder of"),
        ("CLIP", "Model", "family clip: has no decoder"),
    ],
)
def test_families_that_edge_llm_does_not_take_are_refused_before_weights_are_read(
    tmp_path, edgeq, family, kind, message
):
    config = getattr(transformers, f"{family}Config")(architectures=[f"{family}{kind}"])
    config.save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").touch()
    refused = _export(edgeq, tmp_path, tmp_path / "out")
    assert message in refused.error
    assert refused.error.count("\n") <= 1


def test_models_that_no_board_holds_and_layers_that_the_kernel_cannot_take_are_refused(tmp_path, edgeq):
    narrow = transformers.LlamaConfig(**TEXT | {"intermediate_size": 160})
    transformers.LlamaForCausalLM(narrow).save_pretrained(tmp_path / "model")
    refused = _export(edgeq, tmp_path, tmp_path / "out", "--part", "decoder=w4g128")
    assert "160 inputs" in refused.error
    config = ConfigFile(tmp_path / "config.json", narrow.to_dict() | {"num_hidden_layers": 400_000}, {})
    config.path.write_text(json.dumps({**config.document, "architectures": ["LlamaForCausalLM"]}))
    with pytest.raises(InputError, match="more than any Jetson Orin has; see `edgeq plan"):
        boards_that_hold(ModelFolder(tmp_path, read_config(tmp_path), (), (), {}, {}), {"decoder": Precision("fp16")})
