"""Bytes of weights, of keys and values, and of images as tokens, against figures obtained elsewhere."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeq.errors import InputError
from edgeq.memory.architecture import Architecture, Decoder
from edgeq.memory.config_file import read_config
from edgeq.memory.families import read_architecture
from edgeq.memory.image_sizes import best_grid, in_whole_steps, smallest_canvas, tiles_of_longest_edge, unpadded
from edgeq.memory.run_time import activation_bytes, cache_bytes
from edgeq.memory.storage import scheme_of, stored_bytes
from edgeq.memory.weights import Weights, linear, table, values
from tests.memory.named_models import write_config

GIB = 1 << 30
# GiB in FP16, INT8 and INT4 with a scale per 128, and INT4 with a scale and a zero point per 32; embeddings in FP16.
WHOLE = {
    "llava-1.5-7b": (13.16, 6.80, 3.58, 3.98),
    "qwen2-vl-2b": (4.12, 2.31, 1.39, 1.50),
    "qwen2-vl-7b": (15.44, 8.34, 4.74, 5.19),
    "blip2-opt-2.7b": (6.98, 3.67, 1.99, 2.20),
}
KIB_PER_TOKEN = {
    "llava-1.5-7b": 512, "llava-1.5-13b": 800, "qwen2-vl-2b": 28, "qwen2-vl-7b": 56, "blip2-opt-2.7b": 320,
    "llama-3.2-11b-vision": 128, "gemma-2-2b": 104,
}  # fmt: skip
SIZES = [(336, 336), (672, 672), (480, 640), (1080, 1920), (333, 1001), (900, 300), (100, 90)]


def model(folder, name, **changes) -> Architecture:
    return read_architecture(read_config(write_config(folder, name, **changes)))


def decoder_of(folder, name, **changes) -> Decoder:
    found = model(folder, name, **changes).decoder
    assert found is not None
    return found


@pytest.mark.parametrize("name", WHOLE)
def test_whole_models_take_what_another_program_counted(tmp_path, name):
    parts = model(tmp_path, name).parts
    sizes = [
        sum(stored_bytes(each.weights, "fp16" if each.name == "embedding" else precision, "fp16") for each in parts)
        / GIB
        for precision in ("fp16", "w8g128", "w4g128", "w4g32a")
    ]
    assert sizes == pytest.approx(WHOLE[name], abs=0.008)


def test_bytes_are_counted_as_stored():
    weights = linear(100, 3) + table(5, 100) + values(7)
    floats = 2 * (3 + 7)
    assert stored_bytes(weights, "fp16", "fp16") == 2 * 800 + floats
    assert stored_bytes(weights, "w8", "fp16") == 800 + 8 * 2 + floats
    # Groups of 32: four per row, the last of 4 inputs. Zero points are as wide as the weights.
    assert stored_bytes(weights, "w4g32", "fp16") == 8 * (50 + 4 * 2) + floats
    assert stored_bytes(weights, "w4g32a", "fp16") == 8 * (50 + 4 * 2) + 16 + floats
    assert stored_bytes(weights, "w3", "fp32") == 8 * (38 + 2) + 2 * floats
    # Scales of 64 values in a byte each, and a float32 for all sixteen of them.
    assert stored_bytes(weights, "nf4", "fp16") == 8 * (50 + 2) + 4 + floats


@pytest.mark.parametrize("precision", ["int4", "w1", "w9", "w4g4", "w4g512", "w4g", "W4", ""])
def test_unknown_precision_is_refused(precision):
    with pytest.raises(InputError, match="unknown precision"):
        scheme_of(precision)


@given(st.integers(2, 8), st.integers(8, 256), st.integers(1, 2000), st.integers(1, 300))
def test_more_bits_and_smaller_groups_take_more(bits, group, inputs, outputs):
    weights = Weights({(outputs, inputs): 2}, 3)
    symmetric = stored_bytes(weights, f"w{bits}g{group}", "fp16")
    assert symmetric <= stored_bytes(weights, f"w{bits}g{group}a", "fp16")
    assert symmetric <= stored_bytes(weights, f"w{bits}g{max(8, group // 2)}", "fp16")
    assert symmetric >= weights.quantizable * bits / 8
    if bits < 8:
        assert symmetric <= stored_bytes(weights, f"w{bits + 1}g{group}", "fp16")


@pytest.mark.parametrize("name", KIB_PER_TOKEN)
def test_keys_and_values_of_a_token(tmp_path, name):
    decoder = decoder_of(tmp_path, name)
    assert cache_bytes(decoder, 2, 0, "fp16") - cache_bytes(decoder, 1, 0, "fp16") == KIB_PER_TOKEN[name] * 1024


def test_sliding_windows_keep_their_last_tokens(tmp_path):
    mistral, gemma = decoder_of(tmp_path, "mistral-7b"), decoder_of(tmp_path, "gemma-2-2b")
    assert cache_bytes(mistral, 30_000, 0, "fp16") == cache_bytes(mistral, 4096, 0, "fp16") == 512 << 20
    # Every second of 26 layers keeps everything.
    assert (gemma.full_layers, gemma.sliding_layers) == (13, 13)
    longer = cache_bytes(gemma, 8192, 0, "fp16") - cache_bytes(gemma, 4096, 0, "fp16")
    assert longer == 4096 * 13 * 2 * 4 * 256 * 2


def test_qwen_uses_its_window_only_if_it_says_so(tmp_path):
    plain = decoder_of(tmp_path / "a", "qwen2-0.5b")
    used = decoder_of(tmp_path / "b", "qwen2-0.5b", use_sliding_window=True, sliding_window=64, max_window_layers=20)
    listed = decoder_of(
        tmp_path / "c", "qwen2-0.5b", use_sliding_window=True, layer_types=["sliding_attention"] * 3 + ["full"] * 21
    )
    assert [each.sliding_layers for each in (plain, used, listed)] == [0, 4, 3]


def test_cross_attention_keeps_the_image_instead_of_the_context(tmp_path):
    decoder = decoder_of(tmp_path, "llama-3.2-11b-vision")
    assert (decoder.full_layers, decoder.cross_layers) == (32, 8)
    image = cache_bytes(decoder, 2048, 6404, "fp16") - cache_bytes(decoder, 2048, 0, "fp16")
    assert image == 6404 * 8 * 2 * 8 * 128 * 2


def test_keys_and_values_of_8_bits_have_scales(tmp_path):
    decoder = decoder_of(tmp_path, "qwen2-vl-2b")
    assert cache_bytes(decoder, 100, 0, "int8") == 100 * 28 * 2 * 2 * (128 + 2)


# What the processors of transformers 5.24 make of images of `SIZES`.
PROMPTS = {
    "llava-1.5-7b": [576] * 7,
    "llava-v1.6-mistral-7b": [1176, 2928, 2340, 1948, 2328, 2376, 1128],
    "qwen2-vl-2b": [144, 576, 391, 1222, 432, 352, 12],
    "blip2-opt-2.7b": [32] * 7,
    "smolvlm-256m": [64 * tiles for tiles in (17, 17, 13, 13, 9, 9, 17)],
    "paligemma-3b-224": [256] * 7,
    "llama-3.2-11b-vision": [0] * 7,
}


@pytest.mark.parametrize("name", PROMPTS)
def test_images_take_the_tokens_of_the_processors(tmp_path, name):
    vision = model(tmp_path, name).vision
    assert vision is not None
    assert [vision.tokens(size).prompt for size in SIZES] == PROMPTS[name]


def test_processors_of_the_folder_are_followed(tmp_path):
    path = write_config(tmp_path, "smolvlm-256m") / "preprocessor_config.json"
    path.write_text(json.dumps({"do_image_splitting": False, "size": {"longest_edge": 2048}}))
    qwen = write_config(tmp_path, "qwen2-vl-2b") / "preprocessor_config.json"
    qwen.write_text(json.dumps({"min_pixels": 784, "max_pixels": 28 * 28 * 100}))
    found = [read_architecture(read_config(each.parent)).vision for each in (path, qwen)]
    assert [each.tokens((1080, 1920)).prompt for each in found if each] == [64, 7 * 13]


def test_tiles_of_a_cross_attending_model(tmp_path):
    vision = model(tmp_path, "llama-3.2-11b-vision").vision
    assert vision is not None
    found = vision.tokens((480, 640))
    assert (found.tiles, found.patches, found.attended) == (4, 1601, 6404)
    assert found.note.startswith("laid on 1 x 2 tiles of 560 pixels")
    assert [smallest_canvas(size, 560, 4) for size in SIZES] == [
        (1, 1), (2, 2), (1, 2), (2, 2), (1, 2), (2, 1), (1, 1)
    ]  # fmt: skip


SIDES = st.tuples(st.integers(20, 3000), st.integers(20, 3000))


@given(SIDES)
def test_sizes_are_those_of_transformers(size):
    """The processors' own functions, on sizes that nobody chose."""
    qwen = pytest.importorskip("transformers.models.qwen2_vl.image_processing_qwen2_vl")
    mllama = pytest.importorskip("transformers.models.mllama.image_processing_pil_mllama")
    idefics = pytest.importorskip("transformers.models.idefics3.image_processing_idefics3")
    shared = pytest.importorskip("transformers.image_processing_utils")
    grids = [(336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008)]
    assert best_grid(size, grids) == shared.select_best_resolution(size, grids)
    assert in_whole_steps(size, 28, 3136, 28 * 28 * 1280) == qwen.smart_resize(*size)
    canvas = mllama.get_optimal_tiled_canvas(*size, 4, 560)
    assert smallest_canvas(size, 560, 4) == (canvas[0] // 560, canvas[1] // 560)
    processor = idefics.Idefics3ImageProcessor(size={"longest_edge": 2048}, max_image_size={"longest_edge": 512})
    assert tiles_of_longest_edge(size, 2048, 512) == processor.get_number_of_image_patches(*size)[1:]


@given(SIDES, st.integers(1, 40), st.integers(1, 40))
def test_what_is_unpadded_is_within_the_grid(size, rows, columns):
    kept_rows, kept_columns = unpadded(size, rows, columns)
    assert 0 <= kept_rows <= rows
    assert 0 <= kept_columns <= columns
    assert kept_rows == rows or kept_columns == columns


def test_a_strip_is_refused():
    with pytest.raises(InputError, match="over 200 times"):
        in_whole_steps((10, 2001), 28, 3136, 10**6)


def test_activations_grow_with_context_and_image(tmp_path):
    llava = model(tmp_path, "llava-1.5-7b")
    assert llava.vision is not None
    image = llava.vision.tokens((336, 336))
    # Reading 2,048 tokens: the stream, its norm, three outputs inside the feed-forward layer; the image; the logits.
    inside = 2 * 4096 + 3 * 11008
    expected = (2048 * inside + 576 * 4096) * 2 + 32064 * 4
    assert activation_bytes(llava, 2048, image, 2) == expected
    # A text of one token: the peak is the vision part's.
    assert activation_bytes(llava, 1, image, 2) == 577 * (2 * 1024 + 8192) * 2
    assert activation_bytes(llava, 2048, image, 4) == 2 * (expected - 32064 * 4) + 32064 * 4
