"""Vision transformers: others' checkpoints compute here what they compute there, and a trained one keeps its score."""

from __future__ import annotations

import collections
import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmarks.image_sets import unpack_fashionmnist
from benchmarks.json_results import evaluate_artifacts
from edgeq.errors import ModelError
from edgeq.exporting.graphs.graph import save_onnx
from edgeq.inputs.preprocessing import preprocess
from edgeq.inputs.presets import load_preset
from edgeq.models.vit import VisionTransformer
from edgeq.models.vit_configs import VITS
from edgeq.models.vit_weights import translate_weights
from edgeq.models.zoo import load_model, read_weights
from edgeq.sources.model import ModelRequest, open_model
from edgeq.verbs.export import export_model
from tests.golden import FASHIONMNIST_VIT

WEIGHTS = "vit_d128_l6_fashionmnist.safetensors"


def random_state(module: nn.Module) -> dict[str, Tensor]:
    """Returns weights and biases that all count, and with which tokens attend to few others."""
    generator = torch.Generator().manual_seed(0)

    def draw(shape: torch.Size) -> Tensor:
        values = torch.randn(shape, generator=generator)
        # Linear layers and convolutions; embeddings have three dimensions, or one, as biases have.
        return 2 * values / math.sqrt(shape[1:].numel()) if len(shape) in (2, 4) else 0.5 + values / 2

    return {key: draw(value.shape) for key, value in module.state_dict().items()}


def saved(path, state, suffix):
    """Returns the file of a checkpoint in one of the two formats."""
    from safetensors.torch import save_file

    path = path / f"weights{suffix}"
    if suffix == ".safetensors":
        save_file({key: value.contiguous() for key, value in state.items()}, path)
    else:
        torch.save(state, path)
    return path


def images(side_px, channels=3, count=2):
    return torch.randn(count, channels, side_px, side_px, generator=torch.Generator().manual_seed(1))


def close(model: nn.Module, reference: nn.Module, batch: Tensor) -> None:
    with torch.inference_mode():
        expected = reference.eval()(batch)
        torch.testing.assert_close(model(batch), expected, rtol=1e-4, atol=1e-4 * float(expected.std()))


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("old_mlp", [False, True])
def test_torchvisions_weights_compute_what_torchvision_computes(tmp_path, suffix, old_mlp):
    from torchvision.models import VisionTransformer as Torchvision

    reference = Torchvision(
        image_size=32, patch_size=8, num_layers=2, num_heads=12, hidden_dim=768, mlp_dim=40, num_classes=5
    )
    state = random_state(reference)
    reference.load_state_dict(state)
    if old_mlp:
        names = {".mlp.0.": ".mlp.linear_1.", ".mlp.3.": ".mlp.linear_2."}
        for new, old in names.items():
            state = {key.replace(new, old): value for key, value in state.items()}
    model = load_model("vit_b_16", saved(tmp_path, state, suffix))
    assert isinstance(model, VisionTransformer)
    assert model.config == dataclasses.replace(
        VITS["vit_b_16"].config, depth=2, mlp_dim=40, patch_px=8, image_px=32, outputs=5
    )
    close(model, reference, images(32))


class TimmVit(nn.Module):
    """timm's key names around torch's own encoder layers."""

    def __init__(self, dim: int, heads: int, classes: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, dim, 4, 4)
        self.cls_token, self.pos_embed = nn.Parameter(torch.rand(1, 1, dim)), nn.Parameter(torch.rand(1, 17, dim))
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(dim, heads, 24, 0.0, "gelu", 1e-6, batch_first=True, norm_first=True)
            for _ in range(2)
        )
        self.norm, self.head = nn.LayerNorm(dim, 1e-6), nn.Linear(dim, classes)

    def forward(self, image):
        patches = self.patches(image).flatten(2).mT
        tokens = torch.cat([self.cls_token.expand(len(image), -1, -1), patches], 1) + self.pos_embed
        for block in self.blocks:
            tokens = block(tokens)
        return self.head(self.norm(tokens)[:, 0])

    def checkpoint(self) -> dict[str, Tensor]:
        names = {
            "patches.": "patch_embed.proj.",
            "self_attn.in_proj_": "attn.qkv.",
            "self_attn.out_proj.": "attn.proj.",
            "linear1.": "mlp.fc1.",
            "linear2.": "mlp.fc2.",
        }
        state = dict(self.state_dict())
        for torchs, timms in names.items():
            state = {key.replace(torchs, timms): value for key, value in state.items()}
        return state


def test_deits_published_key_names_load_as_they_are(tmp_path):
    reference = TimmVit(192, 3, 7)
    reference.load_state_dict(random_state(reference))
    model = load_model("deit_tiny_patch16_224", saved(tmp_path, {"model": reference.checkpoint()}, ".pth"))
    close(model, reference, images(16))


class ClipTower(nn.Module):
    """CLIP's image tower (Radford et al., 2021) with OpenAI's key names, by torch's own attention."""

    def __init__(self, activation: str) -> None:
        super().__init__()
        dim = 768
        self.conv1 = nn.Conv2d(3, dim, 4, 4, bias=False)
        self.class_embedding = nn.Parameter(torch.rand(dim))
        self.positional_embedding = nn.Parameter(torch.rand(17, dim))
        self.ln_pre, self.ln_post = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.transformer = nn.ModuleDict({"resblocks": nn.Sequential(*(ClipBlock(dim, activation) for _ in range(2)))})
        self.proj = nn.Parameter(torch.rand(dim, 10))

    def forward(self, image):
        tokens = self.conv1(image).flatten(2).permute(2, 0, 1)
        token = self.class_embedding.expand(1, len(image), -1)
        tokens = self.ln_pre(torch.cat([token, tokens]) + self.positional_embedding[:, None])
        return self.ln_post(self.transformer["resblocks"](tokens)[0]) @ self.proj


class ClipBlock(nn.Module):
    def __init__(self, dim: int, activation: str) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(dim, 12)
        self.ln_1, self.ln_2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.mlp = nn.ModuleDict({"c_fc": nn.Linear(dim, 20), "c_proj": nn.Linear(20, dim)})
        self.activation = activation

    def forward(self, tokens):
        normed = self.ln_1(tokens)
        tokens = tokens + self.attn(normed, normed, normed, need_weights=False)[0]
        hidden = self.mlp["c_fc"](self.ln_2(tokens))
        hidden = hidden / (1 + torch.exp(-1.702 * hidden)) if self.activation == "quick" else nn.functional.gelu(hidden)
        return tokens + self.mlp["c_proj"](hidden)


@pytest.mark.parametrize(("name", "activation"), [("clip_vit_b_16", "quick"), ("clip_vit_b_32_gelu", "exact")])
@pytest.mark.parametrize("whole_clip", [False, True])
def test_clips_towers_load_alone_and_out_of_a_whole_clip(tmp_path, name, activation, whole_clip):
    reference = ClipTower(activation)
    state = random_state(reference)
    reference.load_state_dict(state)
    if whole_clip:
        text = {"positional_embedding": torch.zeros(77, 512), "logit_scale": torch.ones(()), "proj": torch.zeros(3)}
        state = {f"visual.{key}": value for key, value in state.items()} | text
    model = load_model(name, saved(tmp_path, state, ".safetensors"))
    assert model.output_names == ("embedding",)
    close(model, reference, images(16))


def test_weights_of_another_width_are_refused_because_heads_cannot_be_told(tmp_path):
    reference = TimmVit(128, 2, 7)
    path = saved(tmp_path, reference.checkpoint(), ".safetensors")
    with pytest.raises(ModelError, match=r"does not fit deit_tiny_patch16_224: .* of another shape \(cls_token"):
        load_model("deit_tiny_patch16_224", path)


def test_other_architectures_and_broken_tensors_are_one_clear_line(tmp_path, shared_data):
    weights = shared_data / "weights"
    with pytest.raises(ModelError, match=r"does not fit vit_b_16: .* missing .* unexpected"):
        load_model("vit_b_16", weights / WEIGHTS)
    with pytest.raises(ModelError, match=r"does not fit vit_fashionmnist: .* missing .* unexpected"):
        load_model("vit_fashionmnist", weights / "resnet20_cifar10.safetensors")
    state = read_weights(weights / WEIGHTS)
    for key, shape in {"pos_embed": (0,), "patch_embedding.patch_embed.weight": (3,), "mlp_head.1.weight": ()}.items():
        path = saved(tmp_path, state | {key: torch.zeros(shape)}, ".pth")
        with pytest.raises(ModelError, match=r"does not fit vit_fashionmnist: .* of another shape"):
            load_model("vit_fashionmnist", path)


@pytest.mark.parametrize(
    ("name", "millions"),
    [("vit_b_16", 86.57), ("vit_b_32", 88.22), ("deit_tiny_patch16_224", 5.72), ("clip_vit_b_32", 87.85)],
)
def test_parameters_are_as_many_as_published(name, millions):
    with torch.device("meta"):
        model = VisionTransformer(VITS[name].config)
    assert sum(each.numel() for each in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.006)


def test_attention_and_normalisation_stay_what_engines_know():
    opened = open_model(ModelRequest("vit_fashionmnist"))
    kinds = collections.Counter(node.op_type for node in opened.model.graph.graph)
    assert (kinds["LayerNormalization"], kinds["Softmax"], kinds["Conv"]) == (13, 6, 1)
    assert kinds["Shape"] == 0


def test_a_free_batch_gives_what_single_images_give(tmp_path):
    ort = pytest.importorskip("onnxruntime")
    opened = open_model(ModelRequest("vit_fashionmnist", dynamic_batch=True))
    save_onnx(opened.model.graph, tmp_path / "free.onnx")
    session = ort.InferenceSession(str(tmp_path / "free.onnx"), providers=["CPUExecutionProvider"])
    batch, module = images(28, channels=1, count=3), opened.module
    assert module is not None
    (found,) = session.run(None, {"image": batch.numpy()})
    with torch.inference_mode():
        expected = torch.cat([module(image[None]) for image in batch])
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)


@pytest.fixture(scope="module")
def fashionmnist(shared_data, tmp_path_factory):
    """Every 25th of the 10,000 test images as files, and their labels."""
    folder = tmp_path_factory.mktemp("fashionmnist")
    return folder, unpack_fashionmnist(shared_data, "fashionmnist_test10k", folder, every=25)


@pytest.fixture(scope="module")
def request_(shared_data):
    return ModelRequest("vit_fashionmnist", shared_data / "weights" / WEIGHTS)


def test_exported_files_score_as_torch_does(shared_data, fashionmnist, request_, tmp_path):
    with np.load(shared_data / "classification" / "fashionmnist_test10k.npz", allow_pickle=False) as stored:
        pixels, classes = stored["x"][::25], stored["y"][::25]
    with torch.inference_mode():
        batch = (torch.from_numpy(pixels)[:, None] / 255 - 0.5) / 0.5
        scores = load_model(request_.reference, request_.weights)(batch).numpy()
    expected = float((scores.argmax(1) == classes).mean())
    assert expected == pytest.approx(FASHIONMNIST_VIT["every_25th"], abs=0.0025)
    paths = []
    for target in ("x86", "arm", "jetson-orin"):
        files = export_model(request_, target, ["fp32"], tmp_path / target, formats=["onnx"]).files
        paths += [file.artifact.path for file in files]
    folder, labels = fashionmnist
    results = evaluate_artifacts(paths, labels, folder, runtimes=["onnxruntime"], threads=1)
    assert [result["images"] for result in results] == [400] * 3
    # One image may lie on the edge between two classes, and kernels round otherwise.
    assert [result["top1"] for result in results] == pytest.approx([expected] * 3, abs=0.0025)
    assert {entry["name"] for entry in results[0]["per_class"]} == set(load_preset("fashionmnist").labels)


def test_the_tflite_file_takes_gray_images_too(fashionmnist, request_, tmp_path):
    pytest.importorskip("litert_torch")
    (file,) = export_model(request_, "arm", ["fp32"], tmp_path, formats=["tflite"]).files
    assert file.artifact.inputs[0].shape == (1, 28, 28, 1)
    folder, labels = fashionmnist
    (result,) = evaluate_artifacts([file.artifact.path], labels, folder, threads=1)
    assert result["top1"] == pytest.approx(FASHIONMNIST_VIT["every_25th"], abs=0.0025)


@pytest.mark.slow
def test_the_trained_vit_reaches_what_it_was_published_with(shared_data, request_):
    spec = load_preset("fashionmnist").preprocessing
    model = load_model(request_.reference, request_.weights)
    with np.load(shared_data / "classification" / "fashionmnist_test10k.npz", allow_pickle=False) as stored:
        pixels, classes = stored["x"][::5], stored["y"][::5]
    inputs = np.concatenate([preprocess(np.repeat(image[:, :, None], 3, 2), spec)[0] for image in pixels])
    with torch.inference_mode():
        scores = torch.cat([model(part) for part in torch.from_numpy(inputs).split(250)])
    # One image may lie on the edge between two classes.
    found = (scores.argmax(1).numpy() == classes).mean()
    assert found == pytest.approx(FASHIONMNIST_VIT["every_fifth"], abs=0.0006)


def test_a_translation_leaves_unknown_keys_alone():
    state = {"fc.bias": torch.zeros(1), "head.weight": torch.zeros(1)}
    for name in ("torchvision", "timm", "clip", "fashionmnist"):
        assert translate_weights(state, name).keys() == state.keys()
