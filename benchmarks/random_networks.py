"""Networks of `timm` and `transformers` with random weights, as factories for MODEL: nothing is downloaded.

Their sizes are those of the published small models, or smaller; the packages are no dependencies of edgeq.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edgeq.files import write_bytes
from edgeq.models.outputs import tensor_outputs
from edgeq.models.zoo import load_model

_UNTRAINED = 1e-5
_DETR_SIZES = {"layers": 2, "attention_heads": 4, "ffn_dim": 256}


def levit() -> Any:
    """Returns LeViT-128S of timm: BatchNorm behind linear layers, a bias for each attention, hard-swish."""
    return importlib.import_module("timm").create_model("levit_128s", pretrained=False)


def mobilevit() -> Any:
    """Returns MobileViT-XXS of timm: convolutions and, on unfolded patches, attention."""
    return importlib.import_module("timm").create_model("mobilevit_xxs", pretrained=False)


def detr() -> Any:
    """Returns a small DETR of transformers: sine positions from a mask, queries that look at a ResNet's map."""
    transformers = importlib.import_module("transformers")
    backbone = transformers.ResNetConfig(
        embedding_size=32,
        hidden_sizes=[32, 64, 128, 256],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=["stage4"],
    )
    sides = {f"{side}_{name}": size for side in ("encoder", "decoder") for name, size in _DETR_SIZES.items()}
    config = transformers.DetrConfig(
        use_timm_backbone=False, backbone_config=backbone, d_model=128, num_queries=20, num_labels=10, **sides
    )
    return transformers.DetrForObjectDetection(config)


def segformer() -> Any:
    """Returns SegFormer-B0 of transformers: attention over fewer keys, and maps of four sizes resized and joined."""
    transformers = importlib.import_module("transformers")
    return transformers.SegformerForSemanticSegmentation(transformers.SegformerConfig(num_labels=19))


def vit() -> Any:
    """Returns ViT-Tiny of transformers."""
    transformers = importlib.import_module("transformers")
    config = transformers.ViTConfig(hidden_size=192, num_attention_heads=3, intermediate_size=768, num_labels=100)
    return transformers.ViTForImageClassification(config)


def dinov2() -> Any:
    """Returns four blocks of DINOv2 of transformers, with SwiGLU and layer scales."""
    transformers = importlib.import_module("transformers")
    config = transformers.Dinov2Config(
        hidden_size=192,
        num_attention_heads=3,
        num_hidden_layers=4,
        use_swiglu_ffn=True,
        layerscale_value=0.5,
        image_size=224,
        num_labels=100,
    )
    return transformers.Dinov2ForImageClassification(config)


def write_settled(reference: str, inputs: Sequence[Any], path: Path) -> None:
    """Writes random weights with activations of the size of a trained network's, as a `.safetensors` file.

    BatchNorm statistics are those of the inputs, or activations would vanish or grow from layer to layer. Gains and
    position biases that training starts at zero are drawn from 0.25 to 0.75, or their blocks would do nothing.

    Args:
        reference: `package.module:factory`.
        inputs: Prepared images `(1, C, H, W)`.
        path: The file.
    """
    from safetensors.torch import save

    module = load_model(reference)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in module.named_parameters():
        if not name.endswith("bias") and parameter.detach().abs().max() <= _UNTRAINED:
            nn.init.uniform_(parameter, 0.25, 0.75, generator)
    images = torch.cat([torch.from_numpy(array) for array in inputs])
    network = tensor_outputs(module, images[:1])
    norms = [part for part in network.modules() if isinstance(part, (nn.BatchNorm1d, nn.BatchNorm2d))]
    for norm in norms:
        norm.momentum = 1.0
        norm.train()
    with torch.no_grad():
        network(images)
    state: dict[str, Tensor] = {name: value.clone().contiguous() for name, value in module.state_dict().items()}
    write_bytes(path, save(state))
