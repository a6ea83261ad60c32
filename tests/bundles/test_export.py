"""Models in parts: equality with PyTorch, few bits in one part, and what is written if an export fails."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import shutil
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from PIL import Image
from typer.testing import CliRunner

from benchmarks.bundles import TOKENS, compare
from benchmarks.tiny_language_models import IMAGE_TOKEN, SIDE, TINY_MODELS
from edgeq.bundles.chain import Chain
from edgeq.bundles.contents import BundleFile
from edgeq.bundles.export import BundleRequest, export_bundle, whole_folder
from edgeq.bundles.families import splitter
from edgeq.bundles.families.idefics3 import split_idefics3
from edgeq.bundles.images import image_input
from edgeq.bundles.manifest import Bundle
from edgeq.bundles.precision import Precision
from edgeq.bundles.session import PartSession
from edgeq.bundles.source import ModelFolder, load_model, open_folder
from edgeq.bundles.torch_part import export_part
from edgeq.bundles.write_part import OPSET, PartJob, write_part
from edgeq.cli.app import app
from edgeq.errors import InputError, MismatchError, ModelError
from edgeq.memory.config_file import ConfigFile
from edgeq.targets import get_target
from tests.tasks.language.written import write_lines

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("transformers") is None, reason="transformers, of the extra language, is not installed"
)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Returns a tiny LLaVA of random weights, and its bundle in FP32, written by the command line."""
    folder = tmp_path_factory.mktemp("llava")
    model = TINY_MODELS["llava"].save(folder / "model")
    options = ["--target", "x86-ort", "--tokenizer", "none", "--threads", "1", "--out", str(folder / "bundle")]
    done = CliRunner().invoke(app, ["export", str(folder / "model"), *options])
    assert done.exit_code == 0, done.output
    assert "keys and values 128 bytes per token (1 layers, 2 heads of 8), at most 128 tokens" in done.output
    return model, Bundle.load(folder / "bundle")


def _copied(bundle, folder):
    return shutil.copytree(bundle.folder, folder / "copy")


def test_llava_in_parts_writes_the_tokens_of_transformers(exported):
    model, bundle = exported
    found = compare(TINY_MODELS["llava"], model, bundle)
    assert found.same_tokens == TOKENS
    assert found.difference < 1e-4
    assert max(part.max_difference for part in bundle.parts) < 1e-4


def test_the_manifest_says_how_parts_are_run(exported):
    _, bundle = exported
    assert [part.name for part in bundle.parts] == ["vision", "connector", "embedding", "decoder"]
    # Its penultimate layer is read, without the class token: 16 patches.
    assert bundle.require_part("vision").outputs[0].shape == ("images", 16, 32)
    assert bundle.require_part("decoder").input("attention_mask").shape == ("batch", "total")
    assert (bundle.tokens.bos, bundle.tokens.eos, bundle.tokens.image, bundle.tokens.per_image) == (1, (2,), 200, 16)
    # One layer, keys and values, two heads of eight channels, in float32.
    assert bundle.memory.cache_bytes_per_token == 2 * 2 * 8 * 4
    assert bundle.memory.parameters == sum(each.numel() for each in exported[0].parameters())
    assert {"config.json", "generation_config.json"} == {file.file for file in bundle.configuration}


def test_a_text_without_images_takes_no_rows(exported):
    model, bundle = exported
    ids = np.array([[1, 5, 6]])
    rows = np.zeros((0, 32), np.float32)
    (found,) = PartSession(bundle.path("embedding"), 1).run({"input_ids": ids, "image_features": rows})
    np.testing.assert_array_equal(found[0], model.get_input_embeddings().weight.detach().numpy()[ids[0]])


def test_later_parts_are_calibrated_on_what_earlier_ones_give(exported):
    import torch

    model, bundle = exported
    folder = open_folder(bundle.folder.parent / "model", "none")
    split = splitter(folder)(model, folder)
    tiny = TINY_MODELS["llava"]
    pixels = tiny.images()["pixel_values"]
    samples = [
        {"input_ids": np.array([tiny.prompt()]), "pixel_values": pixels.numpy()},
        {"input_ids": np.array([[1, 7]])},
    ]
    chain = Chain(split, samples)
    counts = []
    for part in split.parts:
        feeds = chain.feeds(part)
        counts.append(len(feeds))
        session = PartSession(bundle.path(part.name), 1)
        chain.run(part, session)
    assert counts == [1, 1, 2, 2]  # a text alone is nothing to a vision part
    for sample, feed in zip(samples, feeds, strict=True):
        given = {name: torch.from_numpy(array) for name, array in sample.items()}
        with torch.no_grad():
            wanted = model(**given).logits.numpy()
        np.testing.assert_allclose(session.run(feed)[0], wanted, atol=1e-4)


_TILE_MARKS = (
    "<fake_token_around_image>",
    "<global-img>",
    *(f"<row_{row}_col_{column}>" for row in (1, 2) for column in (1, 2)),
)


@pytest.fixture(scope="module")
def tiled(exported, tmp_path_factory):
    """Returns a SmolVLM, and its bundle, whose embedding and decoder are those of the LLaVA."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    llava, bundle = exported
    model = TINY_MODELS["smolvlm"].save(tmp_path_factory.mktemp("smolvlm"))
    model.model.text_model.load_state_dict(llava.model.language_model.state_dict())
    model.lm_head.load_state_dict(llava.lm_head.state_dict())
    folder = shutil.copytree(bundle.folder, tmp_path_factory.mktemp("tiled") / "bundle")
    images = [
        write_part(PartJob(part, export_part(part, OPSET), Precision("fp32"), Precision("fp32"), get_target("x86-ort"),
                           folder, threads=1))[0]
        for part in split_idefics3(model, open_folder(bundle.folder.parent / "model", "none")).parts[:2]
    ]  # fmt: skip
    special = {"<s>": 1, "</s>": 2, "<unk>": 3, "<image>": IMAGE_TOKEN}
    special |= {mark: IMAGE_TOKEN + 1 + number for number, mark in enumerate(_TILE_MARKS)}
    words = special | {"\n": 4} | {f"w{each}": each for each in range(5, 256) if each not in special.values()}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))  # noqa: S106 - a word, no secret
    split = pre_tokenizers.Split
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split(" ", "removed"), split("\n", "isolated")])
    tokenizer.add_special_tokens(list(special))
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer.save(str(folder / "tokenizer.json"))
    written = dataclasses.replace(
        bundle, folder=folder, name="smolvlm", parts=(*images, *bundle.parts[2:]),
        tokens=dataclasses.replace(bundle.tokens, per_image=4), tokenizer=(BundleFile.of(folder / "tokenizer.json"),),
    )  # fmt: skip
    return model, written, transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer)


@pytest.mark.parametrize("family", ["smolvlm", "idefics3"])
def test_eval_of_images_in_tiles_gives_the_answers_of_transformers(tiled, tmp_path, edgeq, family):
    import torch
    import transformers

    smolvlm, bundle, tokenizer = tiled
    tiny = TINY_MODELS[family]
    model = getattr(transformers, tiny.kind)(getattr(transformers, tiny.config)(**tiny.options)).eval()
    model.load_state_dict(smolvlm.state_dict())
    processor = getattr(transformers, f"{tiny.title}ImageProcessorPil")(
        size={"longest_edge": 2 * SIDE}, max_image_size={"longest_edge": SIDE}, return_row_col_info=True
    )
    described = ConfigFile(tmp_path, {"model_type": family}, {})
    images = image_input(ModelFolder(tmp_path, described, (), (), {}, processor.to_dict()))
    dataclasses.replace(bundle, family=family, images=images).save()
    frame, whole = _TILE_MARKS[:2]
    texts = SimpleNamespace(
        fake_image_token=frame,
        global_image_tag=whole,
        image_token="<image>",  # noqa: S106 - a word, no secret
        image_seq_len=4,
    )
    drawn, lines = np.random.default_rng(0), []
    for number, size in enumerate([(40, 30), (30, 97), (120, 33)]):  # four, two and two tiles, and the whole
        pixels = drawn.integers(0, 255, (*size, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        given = processor(pixels, return_tensors="pt")
        grid = {"rows": given.pop("rows"), "cols": given.pop("cols")}
        stands = transformers.Idefics3Processor.replace_image_token(texts, grid, 0)
        ids = torch.tensor([tokenizer(f"{stands}w{number + 5} w9")["input_ids"]])
        written = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **given, max_new_tokens=8)
        answer = tokenizer.decode(written[0, ids.shape[1] :], skip_special_tokens=True).strip()
        lines.append({"id": number, "image": f"{number}.png", "prompt": f"w{number + 5} w9", "answer": answer})
    assert len({line["answer"] for line in lines}) == 3
    questions = write_lines(tmp_path / "questions.jsonl", lines)
    done = edgeq(
        *("eval", bundle.folder, "--task", "transcription", "--data", questions, "--max-tokens", "8"),
        *("--threads", "1", "--answers", tmp_path, "--json", tmp_path / "scored.json"),
    )
    assert done.code == 0, done.error
    assert json.loads((tmp_path / "scored.json").read_text())["exact_match"] == 1.0


def test_check_and_inspect_take_a_bundle(exported, tmp_path, edgeq):
    _, bundle = exported
    assert "open in ONNX Runtime" in edgeq("check", bundle.folder).out
    assert "connector.image_features feeds embedding.image_features" in edgeq("inspect", bundle.folder).out
    copy = _copied(bundle, tmp_path)
    shutil.copyfile(copy / "connector.onnx", copy / "decoder.onnx")
    said = edgeq("check", copy)
    problems = said.out.splitlines()
    assert (said.code, len(problems)) == (1, 2)
    assert "decoder.onnx: is not the file that edgeq-bundle.json describes" in problems[0]
    assert "decoder.onnx: has no input inputs_embeds, which the manifest lists; it has image_hidden" in problems[1]
    with pytest.raises(MismatchError, match="exchanged with a part of another bundle"):
        Bundle.load(copy)


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    """Returns a tiny Llama in parts that are not exported yet."""
    folder = tmp_path_factory.mktemp("llama") / "model"
    TINY_MODELS["llama"].save(folder)
    opened = open_folder(folder, "none")
    return splitter(opened)(load_model(opened), opened)


def test_gptq_loses_less_than_rounding_and_names_of_layers_are_kept(llama, tmp_path):
    decoder = llama.parts[1]
    drawn = np.random.default_rng(0)
    feeds = []
    for _ in range(8):
        feed = {name: tensor.numpy()[:, :, :0] for name, tensor in decoder.inputs.items() if "past" in name}
        feed = {name: array[:1] for name, array in feed.items()}
        vectors = drawn.normal(size=(1, 24, 32)) * drawn.lognormal(size=32)
        feed |= {"inputs_embeds": vectors.astype(np.float32), "attention_mask": np.ones((1, 24), np.int64)}
        feeds.append(feed | {"position_ids": np.arange(24)[None]})

    graph = export_part(decoder, OPSET)

    def written(method, precision="w3g32a", target="x86-ort"):
        job = PartJob(
            decoder, graph, Precision(precision, method), Precision("fp16"), get_target(target), tmp_path,
            keep=(r"layers\.0\.mlp\..*", "vision_tower"), feeds=tuple(feeds), threads=1,
        )  # fmt: skip
        return write_part(job)

    gptq, matched = written("gptq")
    rounded, _ = written("rtn")
    assert gptq.output_error < rounded.output_error
    assert gptq.simulated  # no engine has a kernel for 3 bits
    assert set(gptq.kept) == {f"layers.0.mlp.{name}_proj" for name in ("gate", "up", "down")}
    assert matched == {r"layers\.0\.mlp\..*"}
    assert (gptq.precision, gptq.method, gptq.head) == ("w3g32a", "gptq", "fp16")
    # In halves are the weights of seven layers and the head, and no frequencies of rotary positions.
    halves, _ = written("", "fp16")
    held = onnx.load(tmp_path / "decoder.onnx").graph.initializer
    assert sum(each.data_type == onnx.TensorProto.FLOAT16 for each in held) == 8
    assert halves.output_error < 1e-3
    # Four bits have kernels in both engines; ONNX Runtime reads the form that OpenVINO wants, too.
    for target in ("x86-ort", "x86"):
        four, _ = written("rtn", "w4g32", target)
        assert not four.simulated
        assert four.output_error < rounded.output_error


def test_weights_that_are_missing_are_named(tmp_path):
    from safetensors.numpy import load_file, save_file

    TINY_MODELS["llama"].save(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"its weights have no 'model\.norm\.weight', which LlamaForCausalLM needs"):
        load_model(open_folder(tmp_path, "none"))


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    out = tmp_path / "bundle"
    with pytest.raises(ModelError), whole_folder(out) as folder:
        (folder / "vision.onnx").write_bytes(b"half")
        raise ModelError("the decoder cannot be exported")
    assert list(tmp_path.iterdir()) == []
    with whole_folder(out) as folder:
        (folder / "vision.onnx").write_bytes(b"whole")
    assert (out / "vision.onnx").read_bytes() == b"whole"
    assert list(tmp_path.iterdir()) == [out]


def test_a_folder_with_other_files_is_left_alone(tmp_path):
    TINY_MODELS["llama"].save(tmp_path / "model")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("x")
    with pytest.raises(InputError, match="holds files, and no bundle"):
        export_bundle(BundleRequest(tmp_path / "model", tokenizer="none"), tmp_path / "out")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "holds no tokenizer"),
        (("--tokenizer", "none", "--preset", "yolox"), "--preset 'yolox': for a model in parts wanted"),
        (("--tokenizer", "none", "--part", "eyes=fp16"), "--part 'eyes=fp16': wanted PART=PRECISION"),
        (("--precision", "w4"), "precisions are set by --part and --preset"),
        (("--target", "arm"), "models in parts are exported for x86"),
    ],
)  # fmt: skip
def test_a_refused_command_is_one_line_and_writes_nothing(tmp_path, edgeq, options, message):
    TINY_MODELS["llama"].save(tmp_path / "model")
    refused = edgeq("export", tmp_path / "model", "--target", "x86-ort", "--out", tmp_path / "out", *options)
    assert message in refused.error
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]


def test_a_part_is_for_a_folder(edgeq):
    assert "--part: is for a Hugging Face folder" in edgeq("export", "vit_b_16", "--part", "vision=fp16").error
