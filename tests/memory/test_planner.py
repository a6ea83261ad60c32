"""Plans for devices: what fits, what is left, and advice that holds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

import edgeq
from edgeq.errors import InputError, ModelError
from edgeq.memory.boards import BOARDS, find_board, parse_bytes
from edgeq.memory.config_file import read_config
from edgeq.memory.families import read_architecture
from edgeq.memory.planner import PlanRequest, plan_memory
from tests.memory.named_models import PARTS, write_config


def plan(folder, name="llava-1.5-7b", changes=None, **options):
    return edgeq.plan(write_config(folder, name, **(changes or {})), **options)


def test_13b_fits_a_board_of_16_gb_only_if_its_parts_differ(tmp_path):
    found = plan(tmp_path, "llava-1.5-13b", memory="16GB", context=2048, image="336")
    fits = {each.name: each.fits for each in found.precisions}
    assert fits == {
        "fp16": False, "decoder-8": False, "uniform-8": False, "asymmetric": True, "asymmetric-8": True,
        "uniform-4": True,
    }  # fmt: skip
    assert found.chosen == "asymmetric"
    assert found.shown.precisions == {
        "vision": "fp16", "connector": "fp16", "embedding": "fp16", "decoder": "w4g128", "head": "fp16"
    }  # fmt: skip
    assert found.use.total == next(each.total_bytes for each in found.precisions if each.name == "asymmetric")
    assert found.use.cache == 2048 * 800 * 1024
    assert (found.image_tokens, found.most_context) == (576, 4096)
    assert any("assumed, not measured" in line for line in found.assumptions)


@pytest.mark.parametrize("name", PARTS)
def test_every_model_is_planned(tmp_path, name):
    found = plan(tmp_path, name, device="agx-orin")
    assert found.chosen == "fp16"
    assert sum(found.use.weights.values()) == sum(part.bytes_by_precision["fp16"] for part in found.parts)
    assert (found.cache_type == "") == (found.use.cache == 0)


@pytest.mark.parametrize("memory", ["8.5GB", "8GB", "7.6GB", "7.3GB", "7.0GB", "6.5GB"])
def test_advice_holds(tmp_path, memory):
    """What is advised, given as options, fits."""
    model = write_config(tmp_path, "llava-1.5-7b")
    found = edgeq.plan(model, memory=memory)
    if found.fits:
        assert not found.advice
        return
    assert found.advice
    for advice in found.advice:
        given = {name: values[0] for name, values in advice.options.items()}
        again = edgeq.plan(
            model,
            memory=given.get("memory", memory),
            kv="int8" if "kv" in given else "float",
            context=int(given["context"]) if "context" in given else None,
            part=advice.options.get("part", ()),
        )
        tried = {each.name: each for each in again.precisions}
        fitting = tried.get(advice.precision, again.shown)
        assert fitting.fits, advice
        if "memory" not in given:
            assert fitting.total_bytes == advice.total_bytes


def test_keys_and_values_in_8_bits_come_before_a_shorter_context(tmp_path):
    found = plan(tmp_path, memory="7.4GB")
    assert found.chosen is None
    changes = [each.change for each in found.advice]
    assert changes[0].startswith("a context of ")
    assert (changes[1], found.advice[1].options) == ("keys and values in int8", {"kv": ("int8",)})
    assert changes[-1].startswith("a device with ")
    assert plan(tmp_path / "again", memory="7.4GB", kv="int8").fits


@given(st.integers(700, 4096), st.floats(5e9, 40e9))
def test_a_longer_context_never_takes_less_and_the_longest_fits(tmp_path_factory, context, budget):
    folder = tmp_path_factory.mktemp("model")
    model = read_architecture(read_config(write_config(folder, "llava-1.5-7b")))
    request = PlanRequest(BOARDS["orin-nx"], budget_bytes=int(budget), context=context)
    found = plan_memory("llava", model, request)
    assert (found.use.total <= budget) == found.fits
    if found.most_context is not None:
        assert found.most_context >= context // 64 * 64
    shorter = plan_memory(
        "llava", model, PlanRequest(BOARDS["orin-nx"], budget_bytes=int(budget), context=context - 10)
    )
    assert shorter.use.total <= found.use.total or shorter.chosen != found.chosen


def test_parts_may_be_fixed(tmp_path):
    found = plan(tmp_path, "llava-1.5-13b", part=["decoder=w3g64", "vision=w8"])
    assert {each.precisions["decoder"] for each in found.precisions} == {"w3g64"}
    assert [each.name for each in found.precisions] == ["fp16", "uniform-8", "uniform-4"]


def test_reserved_memory_replaces_the_assumption(tmp_path):
    found = plan(tmp_path, reserved="3GB")
    assert (found.use.system, found.use.engine) == (3 * 10**9, 0)
    assert not any("assumed" in line for line in found.assumptions)


def test_this_machine_is_measured(tmp_path):
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "meminfo").write_text("MemTotal: 8000 kB\nMemFree: 100 kB\nMemAvailable: 6000 kB\n")
    board = find_board("local", tmp_path)
    assert (board.memory_bytes, board.system_bytes, board.floats) == (8000 * 1024, 2000 * 1024, "fp32")
    with pytest.raises(InputError, match="does not report its memory"):
        find_board("local", tmp_path / "nowhere")


@pytest.mark.parametrize(("text", "size"), [("16GB", 16 * 10**9), ("7.4 GiB", 7945689498), ("512mb", 512 * 10**6)])
def test_sizes_have_units(text, size):
    assert parse_bytes(text, "`memory`") == size


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"memory": "16"}, "`memory` '16': wanted a size above 0 with its unit"),
        ({"memory": "-1GB"}, "wanted a size above 0"),
        ({"memory": "0GB"}, "wanted a size above 0"),
        ({"memory": "2GB"}, "leaves nothing for a model"),
        ({"reserved": "20GB"}, "leaves nothing for a model"),
        ({"device": "orin"}, "unknown `device` 'orin'; known: orin-nano-4"),
        ({"context": 5000}, "`context` 5000: the model was made for 1 to 4,096 tokens"),
        ({"context": 0}, "`context` 0"),
        ({"context": 500}, "takes 576 tokens, and the `context` has 500"),
        ({"image": "big"}, "wanted height x width"),
        ({"part": ["decoder"]}, "wanted PART=PRECISION"),
        ({"part": ["audio=w4"]}, "the model has no such part; it has vision, connector, embedding, decoder, head"),
        ({"part": ["decoder=int4"]}, "unknown precision 'int4'"),
        ({"kv": "int4"}, "wanted float or int8"),
    ],
)
def test_what_cannot_be_planned_is_refused(tmp_path, options, complaint):
    with pytest.raises(InputError) as refused:
        plan(tmp_path, **options)
    assert complaint in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_model_without_texts_or_images_takes_no_options_for_them(tmp_path):
    with pytest.raises(InputError, match="reads no images"):
        plan(tmp_path, "bert-base", image="224")


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"model_type": "qwen3_omni"}, "is of the family 'qwen3_omni', which edgeq cannot plan; known: bert, "),
        ({"model_type": "llava_nex"}, "did you mean llava_next or llava?"),
        ({"model_type": None}, "has no 'model_type'"),
        ({"auto_map": {"AutoModel": "modeling.Own"}}, "edgeq never runs code of a model"),
        ({"text_config": {"auto_map": {"AutoModel": "modeling.Own"}}}, "edgeq never runs code of a model"),
        ({"text_config": {"model_type": "t5"}}, "its decoder is of the family 't5'"),
        ({"vision_config": {"model_type": "swin"}}, "its vision part is of the family 'swin'"),
        ({"text_config": {"hidden_size": "wide"}}, "$.text_config.hidden_size is 'wide', wanted a whole number"),
        ({"text_config": {"hidden_size": 0}}, "$.text_config.hidden_size is 0, wanted a whole number from 1"),
        ({"text_config": {"hidden_size": 10**12}}, "$.text_config.hidden_size"),
        ({"text_config": {"hidden_size": 4097}}, "32 heads do not divide 4097 channels"),
        ({"text_config": [1]}, "$.text_config"),
        ({"architectures": ["LlavaForSomethingElse"]}, "is of the class LlavaForSomethingElse, wanted one of"),
    ],
)
def test_what_is_no_description_is_refused(tmp_path, changes, complaint):
    with pytest.raises((InputError, ModelError)) as refused:
        plan(tmp_path, changes=changes)
    assert complaint in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("missing", ["hidden_size", "intermediate_size", "num_hidden_layers", "vocab_size"])
def test_a_model_without_its_own_sizes_is_refused(tmp_path, missing):
    with pytest.raises(InputError, match=f"has no '{missing}'; wanted a config.json of transformers, whole"):
        plan(tmp_path, "llama-3.2-1b", {missing: None})


def test_a_folder_without_a_description_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"holds no config\.json"):
        edgeq.plan(tmp_path)
    with pytest.raises(InputError, match="no such file"):
        edgeq.plan(tmp_path / "absent.json")
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(InputError, match="holds no keys"):
        edgeq.plan(tmp_path / "list.json")


def test_a_description_may_lie_anywhere(tmp_path):
    model = write_config(tmp_path, "opt-2.7b")
    file = (model / "config.json").rename(tmp_path / "opt.json")
    assert (edgeq.plan(file).model, edgeq.plan(file).parameters) == ("opt", 2_651_596_800)
