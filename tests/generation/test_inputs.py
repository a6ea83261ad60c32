"""What a model is given: numbers for models without a tokenizer, resized images, and positions."""

from __future__ import annotations

import numpy as np
import pytest

from edgeq.bundles.resizing import resized
from edgeq.errors import InputError
from edgeq.exporting.artifact import Preprocessing
from edgeq.generation.tokenizer import NumberTokens


def test_a_model_without_a_tokenizer_speaks_numbers():
    tokens = NumberTokens()
    assert tokens.encode("5 17  42") == [5, 17, 42]
    assert tokens.decode([5, 17, 42]) == "5 17 42"
    assert tokens.encode(f"5{tokens.written([9, 9])}6") == [5, 9, 9, 6]
    with pytest.raises(InputError, match=r'"what is it": the model has no tokenizer\.json; write prompts'):
        tokens.encode("what is it")


@pytest.mark.parametrize(("size", "short", "side"), [((40, 30), 20, 16), ((30, 41), 24, 24), ((16, 16), 16, 16)])
def test_images_are_resized_and_cut_as_clips_processor_does(size, short, side):
    transformers = pytest.importorskip("transformers")
    pixels = np.random.default_rng(0).integers(0, 255, (*size, 3), np.uint8)
    processor = transformers.CLIPImageProcessorPil(
        size={"shortest_edge": short}, crop_size={"height": side, "width": side}, do_rescale=False, do_normalize=False
    )
    wanted = np.asarray(processor(pixels)["pixel_values"][0]).transpose(1, 2, 0)
    found = resized(pixels, Preprocessing(side, side, "crop", crop_fraction=side / short), "bicubic")
    np.testing.assert_array_equal(found, wanted)
