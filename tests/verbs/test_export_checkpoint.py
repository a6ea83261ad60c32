"""Checkpoints of a decoder, read by onnxruntime-genai's loaders and transformers, and rounded for what layers read."""

from __future__ import annotations

import json

import numpy as np
import pytest

from edgeq.errors import InputError, ModelError
from edgeq.exporting.checkpoints.layouts import LAYOUTS
from edgeq.exporting.checkpoints.stored import stored_tensors
from edgeq.quantizers.error_feedback import drawn_to_mean
from edgeq.quantizers.gptq import gptq_act_order
from edgeq.quantizers.round_nearest import round_nearest
from edgeq.schemes import PerGroup, Scheme
from edgeq.verbs.export_checkpoint import export_checkpoint

transformers = pytest.importorskip("transformers")
torch = pytest.importorskip("torch")

HIDDEN, INNER, WORDS, GROUP = 32, 64, 64, 32
TOKENS = np.random.default_rng(0).integers(0, WORDS, (24, 16))
SEEN, OTHERS = TOKENS[:16], TOKENS[16:]


@pytest.fixture(scope="module")
def model():
    """A decoder whose layers matter: random weights of four times the usual size."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=WORDS, hidden_size=HIDDEN, intermediate_size=INNER, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, initializer_range=0.2,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("llama") / "model"
    model.save_pretrained(path, max_shard_size="60KB")
    return path


def scheme(layout, bits=4):
    return Scheme(bits=bits, signed=False, symmetric=LAYOUTS[layout].symmetric, granularity=PerGroup(GROUP, 1))


def in_halves(weight):
    """Returns what a reader that multiplies in FP32 gets of a quantized weight."""
    zero, scale = (np.repeat(each.astype(np.float32), GROUP, axis=1) for each in (
        weight.zero_point, weight.scale.astype(np.float16)))  # fmt: skip
    return (weight.integers.astype(np.float32) - zero) * scale


def read_by_genai(path, layout, bits=4):
    """Returns module -> weight `(out, in)`, as onnxruntime-genai's loader gives it to MatMulNBits: in blocks."""
    loaders = pytest.importorskip("onnxruntime_genai.models.loaders.quant_model")
    config = json.loads((path / "config.json").read_text())["quantization_config"]
    model = loaders.QuantModel.from_pretrained(
        layout, input_path=str(path), quant_attrs={"config": config, "use_g_idx": False}, q_size=HIDDEN,
        kv_size=HIDDEN // 2, intermediate_size=INNER, num_layers=2,
    )  # fmt: skip
    found = {}
    for number, layer in enumerate(model.layers):
        for part, owner in (("self_attn", layer.self_attn), ("mlp", layer.mlp)):
            for name, module in vars(owner).items():
                if hasattr(module, "qweight") and module.qweight is not None:
                    found[f"model.layers.{number}.{part}.{name}"] = _from_blocks(module, bits)
    return found


def _from_blocks(module, bits):
    def unpacked(array):
        steps = np.arange(0, 8, bits)
        return (array[..., None] >> steps & (2**bits - 1)).reshape(*array.shape[:-1], -1)

    blocks = unpacked(module.qweight.numpy()).astype(np.float32)
    outputs, groups = blocks.shape[:2]
    scale = module.scales.numpy().astype(np.float32).reshape(outputs, groups, 1)
    zero = unpacked(module.qzeros.numpy().reshape(outputs, -1))[:, :groups, None]
    return ((blocks - zero) * scale).reshape(outputs, -1)


@pytest.mark.parametrize(("layout", "bits"), [("gptq", 4), ("gptq", 8), ("awq", 4)])
def test_genai_reads_the_same_weights(folder, tmp_path, layout, bits):
    out = tmp_path / "out"
    result = export_checkpoint(folder, out, layout=layout, precision=f"w{bits}", group_size=GROUP)
    found = read_by_genai(out, layout, bits)
    assert len(found) == result.layers == 14 and result.left == ("lm_head",)
    source = stored_tensors(folder)
    for name, weight in found.items():
        wanted = in_halves(round_nearest(source[f"{name}.weight"].read(), scheme(layout, bits), {}))
        np.testing.assert_array_equal(weight, wanted)


@pytest.mark.filterwarnings("ignore:You passed .quantization_config.")
def test_transformers_reads_the_same_weights_as_compressed_tensors(folder, tmp_path):
    pytest.importorskip("compressed_tensors")
    export_checkpoint(folder, tmp_path / "out", layout="compressed-tensors", group_size=GROUP)
    dequantized = transformers.CompressedTensorsConfig(dequantize=True)
    read = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "out", quantization_config=dequantized, dtype=torch.float32
    )
    source = stored_tensors(folder)
    found = {name: value.numpy() for name, value in read.state_dict().items() if "proj.weight" in name}
    assert len(found) == 14
    for name, weight in found.items():
        wanted = round_nearest(source[name].read(), scheme("compressed-tensors"), {})
        # This reader multiplies in FP16.
        np.testing.assert_array_equal(weight, in_halves(wanted).astype(np.float16).astype(np.float32))


def logits(model, weights=None, norms=None):
    """Returns a model's logits for the tokens that nothing was calibrated on, with other weights."""
    import copy

    changed = copy.deepcopy(model)
    arrays = {f"{name}.weight": each for name, each in (weights or {}).items()} | (norms or {})
    for name, array in arrays.items():
        changed.get_parameter(name).data = torch.from_numpy(np.asarray(array, np.float32))
    with torch.no_grad():
        return changed(torch.from_numpy(OTHERS)).logits.numpy()


def test_each_layer_is_rounded_for_what_it_reads_behind_quantized_ones(model, folder, tmp_path):
    export_checkpoint(folder, tmp_path / "gptq", layout="gptq", group_size=GROUP, calib=SEEN)
    export_checkpoint(folder, tmp_path / "rtn", layout="gptq", group_size=GROUP)
    found, nearest = (read_by_genai(tmp_path / name, "gptq") for name in ("gptq", "rtn"))
    name = "model.layers.0.self_attn.q_proj"
    read = []
    hook = model.get_submodule(name).register_forward_pre_hook(lambda _, inputs: read.append(inputs[0]))
    with torch.no_grad():
        model(torch.from_numpy(SEEN))
    hook.remove()
    rows = read[0].reshape(-1, HIDDEN).numpy().astype(np.float64)
    moments = {"second_moments": drawn_to_mean(rows.T @ rows, len(rows))}
    wanted = gptq_act_order(model.get_submodule(name).weight.detach().numpy(), scheme("gptq"), moments)
    assert (np.abs(found[name] - in_halves(wanted)) < 1e-6).mean() > 0.98
    exact = logits(model)
    errors = [np.square(logits(model, weights) - exact).mean() for weights in (found, nearest)]
    assert errors[0] < 0.8 * errors[1]


def test_awqs_scales_are_folded_into_the_norms_before(model, folder, tmp_path):
    export_checkpoint(
        folder, tmp_path / "out", layout="gptq", precision="w8", group_size=GROUP, weight_method="awq", calib=SEEN
    )
    tensors = stored_tensors(tmp_path / "out")
    norms = {name: tensors[name].read() for name in tensors if "layernorm" in name}
    assert any(not np.array_equal(array, np.ones(HIDDEN)) for array in norms.values())
    exact, found = logits(model), logits(model, read_by_genai(tmp_path / "out", "gptq", 8), norms)
    # In 8 bits the rounding is small, and so is what halves lose: anything unfolded would show.
    assert np.abs(found - exact).max() < 0.05 * np.abs(exact).max()


def test_texts_are_read_by_the_folders_own_tokenizer(folder, tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    import shutil

    copied = tmp_path / "model"
    shutil.copytree(folder, copied)
    text = tmp_path / "text.txt"
    text.write_text(" ".join(f"t{number}" for number in SEEN.ravel()))
    with pytest.raises(InputError, match=r"has no tokenizer\.json to read"):
        export_checkpoint(copied, tmp_path / "out", layout="awq", group_size=GROUP, calib=text)
    words = tokenizers.models.WordLevel({f"t{number}": number for number in range(WORDS)}, unk_token="t0")  # noqa: S106
    tokenizer = tokenizers.Tokenizer(words)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.save(str(copied / "tokenizer.json"))
    export_checkpoint(copied, tmp_path / "out", layout="awq", group_size=GROUP, calib=text)
    export_checkpoint(folder, tmp_path / "same", layout="awq", group_size=GROUP, calib=SEEN.reshape(1, -1)[:, :256])
    one, other = (stored_tensors(tmp_path / name) for name in ("out", "same"))
    assert all(np.array_equal(one[name].read(), other[name].read()) for name in other)


def test_what_contradicts_itself_is_refused_before_anything_is_written(folder, tmp_path):
    def refused(**options):
        options = {"layout": "gptq", "group_size": GROUP, **options}
        with pytest.raises((InputError, ModelError)) as found:
            export_checkpoint(folder, tmp_path / "out", **options)
        assert not (tmp_path / "out").exists()
        return str(found.value)

    assert "goes by what the layers read" in refused(weight_method="gptq")
    assert "rtn reads no inputs" in refused(weight_method="rtn", calib=SEEN)
    assert "hqq: chooses zero points, and gptq has none" in refused(weight_method="hqq")
    assert "is written as gptq, awq, compressed-tensors" in refused(layout="onnx")
    assert "`precision` fp16" in refused(precision="fp16")
    assert "wanted numbers of tokens (sequences, length)" in refused(calib=SEEN.astype(np.float32))
    assert f"knows {WORDS} tokens, and `calib` holds number 99" in refused(calib=np.full((1, 4), 99))
