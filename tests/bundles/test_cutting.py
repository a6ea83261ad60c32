"""Images that are cut: the same arrays, tokens and positions as transformers' image processors and models."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.tiny_language_models import IMAGE_TOKEN, SIDE, TINY_MODELS
from edgeq.bundles.contents import SpecialTokens
from edgeq.bundles.cutting import as_grid, as_patches, as_tiles
from edgeq.bundles.families import splitter
from edgeq.bundles.families.parts import HIDDEN, PIXELS, ROWS
from edgeq.bundles.images import image_input
from edgeq.bundles.source import ModelFolder, load_model, open_folder
from edgeq.bundles.vision_inputs import VisionInputs
from edgeq.errors import InputError
from edgeq.generation.image_positions import image_positions
from edgeq.inputs.items import MemoryItem
from edgeq.memory.config_file import ConfigFile

transformers = pytest.importorskip("transformers")
torch = pytest.importorskip("torch")

_SIZES = [(40, 30), (30, 97), (120, 33), (64, 64)]


def _picture(size):
    return np.random.default_rng(sum(size)).integers(0, 255, (*size, 3), np.uint8)


def _images(family, processor, **config):
    described = ConfigFile(Path("config.json"), {"model_type": family, **config}, {})
    return image_input(ModelFolder(Path(), described, (), (), {}, processor.to_dict()))


@pytest.mark.parametrize("size", _SIZES)
def test_patches_are_those_of_qwen2_vl(size):
    processor = transformers.Qwen2VLImageProcessorPil(
        patch_size=7, merge_size=2, size={"shortest_edge": 600, "longest_edge": 2800}
    )
    images = _images("qwen2_vl", processor, vision_config={"patch_size": 7})
    found, grid = as_patches(_picture(size), images, images.patches)
    wanted = processor(_picture(size))
    np.testing.assert_allclose(found, wanted["pixel_values"], atol=1e-5)
    assert [1, *grid] == np.asarray(wanted["image_grid_thw"])[0].tolist()


@pytest.mark.parametrize("size", [*_SIZES, (14, 14)])
@pytest.mark.parametrize("cut", [True, False])
def test_tiles_and_their_text_are_those_of_smolvlm(size, cut):
    from transformers.models.smolvlm.processing_smolvlm import get_image_prompt_string

    longest = 14 if size == (14, 14) else 40
    processor = transformers.SmolVLMImageProcessorPil(
        size={"longest_edge": longest}, max_image_size={"longest_edge": 14}, do_image_splitting=cut,
        return_row_col_info=True,
    )  # fmt: skip
    images = _images("smolvlm", processor)
    tiles = as_tiles(_picture(size), images, images.tiles)
    wanted = processor(_picture(size))
    np.testing.assert_allclose(tiles.pixels, np.asarray(wanted["pixel_values"])[0], atol=1e-5)
    assert (tiles.rows, tiles.columns) == (wanted["rows"][0][0], wanted["cols"][0][0])
    tokens = SpecialTokens(image=7, per_image=3)
    vision = VisionInputs(Path("model"), "smolvlm", images, {PIXELS: "float32"}, tokens)
    prepared = vision.prepare(MemoryItem("picture", _picture(size)), lambda ids: "<image>" * len(ids))
    assert prepared.text == get_image_prompt_string(
        tiles.rows, tiles.columns, 3, "<fake_token_around_image>", "<image>", "<global-img>"
    )


@pytest.fixture(scope="module")
def next_model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("next")
    TINY_MODELS["llava_next"].save(folder)
    opened = open_folder(folder, "none")
    model = load_model(opened)
    return model, splitter(opened)(model, opened)


@pytest.mark.parametrize("size", [(20, 60), (60, 20), (28, 41), (97, 90)])
def test_grids_and_what_a_decoder_reads_of_them_are_those_of_llava_next(next_model, size):
    model, split = next_model
    pinpoints = model.config.image_grid_pinpoints
    processor = transformers.LlavaNextImageProcessorPil(
        size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}, image_grid_pinpoints=pinpoints
    )
    images = _images(
        "llava_next", processor, vision_config={"patch_size": 7, "image_size": SIDE}, image_grid_pinpoints=pinpoints
    )
    tiles, rows = as_grid(_picture(size), images, images.grid)
    wanted = np.asarray(processor(_picture(size))["pixel_values"])
    np.testing.assert_allclose(tiles, wanted[0], atol=1e-5)
    vision, connector = split.parts[:2]
    (hidden,) = vision.run({PIXELS: torch.from_numpy(tiles)})
    (found,) = connector.run({HIDDEN: hidden, ROWS: torch.from_numpy(rows)})
    with torch.no_grad():
        given = model.get_image_features(torch.from_numpy(wanted), torch.tensor([size])).pooler_output
    np.testing.assert_allclose(found.numpy(), given[0].numpy(), atol=1e-5)


def test_positions_of_images_are_those_of_qwen2_vl():
    tiny = TINY_MODELS["qwen2_vl"]
    with torch.device("meta"):
        model = transformers.Qwen2VLForConditionalGeneration(transformers.Qwen2VLConfig(**tiny.options))
    ids, grids = tiny.prompt(), tiny.images()["image_grid_thw"]
    tokens = torch.tensor([ids])
    wanted, delta = model.model.get_rope_index(
        input_ids=tokens, mm_token_type_ids=(tokens == IMAGE_TOKEN).long(), image_grid_thw=grids
    )
    found = image_positions(ids, IMAGE_TOKEN, grids.numpy(), 2)
    np.testing.assert_array_equal(found, wanted[:, 0].numpy())
    assert found.max() + 1 == len(ids) + int(delta)
    assert image_positions([1, 5, 6], IMAGE_TOKEN, None, 2).tolist() == [[0, 1, 2]] * 3


def test_prepared_arrays_cannot_be_cut():
    images = _images("smolvlm", transformers.SmolVLMImageProcessorPil())
    vision = VisionInputs(Path("model"), "smolvlm", images, {PIXELS: "float32"}, SpecialTokens(image=7, per_image=3))
    ready = MemoryItem("ready", np.zeros((1, 3, 14, 14), np.float32))
    with pytest.raises(InputError, match="ready: is prepared already; images of the family smolvlm are cut here"):
        vision.arrays(ready)
