"""The manifest of a bundle: what it keeps, and how folders are refused whose files do not belong together."""

from __future__ import annotations

import dataclasses
import json

import pytest

from edgeq.bundles.contents import (
    BundleFile,
    BundleMemory,
    BundlePart,
    Edge,
    ImageInput,
    KeyValueCache,
    PartTensor,
    SpecialTokens,
)
from edgeq.bundles.manifest import MANIFEST_NAME, Bundle, is_bundle
from edgeq.cli.model_parts import print_bundle
from edgeq.errors import InputError, MismatchError
from edgeq.exporting.artifact import Preprocessing

_CACHE = KeyValueCache(layers=2, kv_heads=2, head_dim=8)


def _tensor(name, *shape, dtype="float32"):
    return PartTensor(name=name, dtype=dtype, shape=shape)


def _part(folder, name, inputs, outputs):
    file = folder / f"{name}.onnx"
    file.write_bytes(name.encode())
    return BundlePart(
        name=name, model=BundleFile.of(file), inputs=tuple(inputs), outputs=tuple(outputs), max_difference=1e-6
    )


def _bundle(folder):
    """Returns the bundle of an embedding and a decoder, whose files hold their names."""
    words = _tensor("inputs_embeds", "batch", "seq", 32)
    past = [_tensor(name, "batch", 2, "past", 8) for name in _CACHE.past_names]
    present = [_tensor(name, "batch", 2, "total", 8) for name in _CACHE.present_names]
    parts = (
        _part(folder, "embedding", [_tensor("input_ids", "batch", "seq", dtype="int64")], [words]),
        _part(folder, "decoder", [words, *past], [_tensor("logits", "batch", "seq", 20), *present]),
    )
    return Bundle(
        folder=folder, name="tiny", family="llama", architecture="LlamaForCausalLM", target="x86-ort", opset=20,
        parts=parts,
        edges=(Edge(source="embedding", output="inputs_embeds", target="decoder", input="inputs_embeds"),),
        cache=_CACHE, positions="sequential", tokens=SpecialTokens(bos=1, eos=(2,), pad=-1),
        images=ImageInput(preprocessing=Preprocessing(32, 32, resize="stretch")),
        memory=BundleMemory(
            parameters=1, weight_bytes={"decoder": 7}, cache_bytes_per_token=_CACHE.bytes_per_token, context=128
        ),
        source_digest="0" * 64,
    )  # fmt: skip


@pytest.fixture
def bundle(tmp_path):
    found = _bundle(tmp_path)
    found.save()
    return found


def _changed(folder, change):
    document = json.loads((folder / MANIFEST_NAME).read_text())
    change(document)
    (folder / MANIFEST_NAME).write_text(json.dumps(document))


def test_a_saved_bundle_is_read_back_as_it_was(bundle, tmp_path):
    assert Bundle.load(tmp_path) == Bundle.load(tmp_path / MANIFEST_NAME) == bundle
    assert is_bundle(tmp_path)
    assert not is_bundle(tmp_path.parent)


def test_cache_names_and_bytes():
    assert _CACHE.past_names[:3] == ("past_key_values.0.key", "past_key_values.0.value", "past_key_values.1.key")
    # Two layers, keys and values, two heads of eight channels, four bytes each.
    assert _CACHE.bytes_per_token == 2 * 2 * 2 * 8 * 4


def test_an_exchanged_part_is_refused_by_its_digest(bundle, tmp_path):
    (tmp_path / "decoder.onnx").write_bytes(b"another")
    with pytest.raises(MismatchError, match=r"decoder\.onnx: is not the file .* exchanged with a part of another"):
        Bundle.load(tmp_path)


def test_a_missing_file_is_named(bundle, tmp_path):
    (tmp_path / "embedding.onnx").unlink()
    with pytest.raises(MismatchError, match=r"embedding\.onnx: is missing"):
        Bundle.load(tmp_path)


def test_an_edge_between_models_of_other_widths_is_refused(bundle):
    words = dataclasses.replace(bundle.parts[0].outputs[0], shape=("batch", "seq", 64))
    exchanged = dataclasses.replace(bundle.parts[0], outputs=(words,))
    with pytest.raises(ValueError, match=r"joins float32 \['batch', 'seq', 64\] .* were exchanged"):
        dataclasses.replace(bundle, parts=(exchanged, bundle.parts[1]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda document: document.update(manifest_version=2), "manifest version 2, this edgeq reads 1"),
        (lambda document: document["parts"].pop(0), "embedding.inputs_embeds .* leads from something"),
        (lambda document: document["parts"].append(document["parts"][0]), "a part occurs twice"),
        (lambda document: document["cache"].update(layers=3), r"decoder has no 'past_key_values\.2\.key'"),
        (lambda document: document["parts"][0]["model"].update(file="../x.onnx"), "is not the name of a file"),
        (lambda document: document.pop("family"), "has no 'family'"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_one_line(bundle, tmp_path, change, message):
    _changed(tmp_path, change)
    with pytest.raises(InputError, match=message) as refused:
        Bundle.load(tmp_path)
    assert "\n" not in str(refused.value)


def test_a_manifest_with_a_number_of_tiles_is_read_unless_it_does_not_say_how_patches_are_scaled(bundle, tmp_path):
    """Earlier bundles have the number 0 in `tiles`, and neither scale nor mean of what is cut."""

    def older(document):
        images = document["images"]
        document["images"] = {"preprocessing": images["preprocessing"], "resample": images["resample"], "tiles": 0}

    def of_patches(document):
        older(document)
        patches = {"patch_px": 14, "frames": 2, "merge": 2, "min_pixels": 1, "max_pixels": 9}
        document["images"].update(preprocessing=None, patches=patches)

    _changed(tmp_path, older)
    assert Bundle.load(tmp_path) == bundle
    _changed(tmp_path, of_patches)
    with pytest.raises(InputError, match=r"`tiles` in `images` is a number, .*; export the model again$") as refused:
        Bundle.load(tmp_path)
    assert "\n" not in str(refused.value)


def test_a_folder_without_manifest_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"holds no edgeq-bundle\.json"):
        Bundle.load(tmp_path)


def test_printed_parts_say_what_is_simulated_and_what_is_slower_than_fp32(bundle, capsys):
    embedding, decoder = bundle.parts
    for precision, simulated, said in (
        ("w4g128", False, None),
        ("w2g16", False, "decoder: slower than FP32 in ONNX Runtime, by edgeq's table: 2 bits in groups of 16 take"),
        ("w3g16", True, "decoder: w3g16 is simulated, because the engine of x86-ort has no kernel"),
    ):
        part = dataclasses.replace(decoder, precision=precision, method="rtn", simulated=simulated)
        print_bundle(dataclasses.replace(bundle, parts=(embedding, part)))
        printed = " ".join(capsys.readouterr().out.split())
        assert ("slower than FP32" in printed) == (precision == "w2g16")
        assert said is None or said in printed
