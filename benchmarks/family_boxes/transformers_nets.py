"""Detectors of transformers, small and with random weights, against its `post_process_object_detection`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from benchmarks.family_boxes.pairs import Boxes, Pair, Setting, decode, package
from edgeq.models.outputs import tensor_outputs

_QUERIES = 100
_SMALL = {
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
}
_RESNET = {"embedding_size": 16, "hidden_sizes": [16, 32, 32, 64], "depths": [1, 1, 1, 1], "layer_type": "basic"}


def _detr(kind: str, stages: tuple[str, ...] = ("stage4",), **more: Any) -> Any:
    """Returns a detector of DETR's kin on a small ResNet."""
    library = package("transformers")
    backbone = library.ResNetConfig(**_RESNET, out_features=list(stages))
    own = {"use_timm_backbone": False, "backbone": None, "use_pretrained_backbone": False, "backbone_config": backbone}
    config = getattr(library, f"{kind}Config")(**own, num_queries=_QUERIES, num_labels=91, **_SMALL, **more)
    return getattr(library, f"{kind}ForObjectDetection")(config)


def _rtdetr(kind: str) -> Any:
    """Returns a detector of RT-DETR's kin on its small ResNet."""
    library = package("transformers")
    config = getattr(library, f"{kind}Config")(
        backbone_config=library.RTDetrResNetConfig(**_RESNET, out_features=["stage2", "stage3", "stage4"]),
        encoder_hidden_dim=32,
        encoder_in_channels=[32, 32, 64],
        feat_strides=[8, 16, 32],
        encoder_layers=1,
        encoder_ffn_dim=32,
        encoder_attention_heads=2,
        d_model=32,
        num_queries=_QUERIES,
        decoder_in_channels=[32, 32, 32],
        decoder_ffn_dim=32,
        decoder_layers=2,
        decoder_attention_heads=2,
        num_labels=80,
    )
    return getattr(library, f"{kind}ForObjectDetection")(config)


def _yolos() -> Any:
    library = package("transformers")
    config = library.YolosConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        image_size=[160, 224],
        num_detection_tokens=_QUERIES,
        num_labels=91,
    )
    return library.YolosForObjectDetection(config)


def _pairs(network: Any, processor: str, preset: str, size: tuple[int, int], setting: Setting) -> Iterator[Pair]:
    """Yields the boxes of a detector whose weights are drawn so that its queries differ."""
    for name, value in network.named_parameters():
        if value.ndim >= 2:
            nn.init.normal_(value, std=1.6 / value[0].numel() ** 0.5)
        elif name.endswith("bias"):
            nn.init.normal_(value, std=0.3)
    network.eval()
    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.train()
            part.momentum = None
    first = dataclasses.replace(setting, images=setting.images[:8]).opened(preset, size)
    inputs = torch.cat([torch.from_numpy(each.input) for each in first])
    with torch.no_grad():
        network(inputs)
    network.eval()
    exported = tensor_outputs(network, inputs[:1])
    origin = getattr(package("transformers"), processor)()
    for each in setting.opened(preset, size):
        taken = torch.from_numpy(each.input)
        options = {"top_k": _QUERIES} if preset == "deformable_detr" else {}
        with torch.no_grad():
            said = network(taken)
            logits, boxes = (value.numpy() for value in exported(taken))
        (wanted,) = origin.post_process_object_detection(
            said, threshold=0.001, target_sizes=[each.image.shape[:2]], **options
        )
        post = dataclasses.replace(each.post, options={**each.post.options, "top_k": _QUERIES})
        found = decode({"logits": logits, "pred_boxes": boxes}, post, each.placement)
        places, scores, labels = (wanted[key].numpy() for key in ("boxes", "scores", "labels"))
        yield found, Boxes(places, scores, labels).cut(each.image)


def detr(setting: Setting) -> Iterator[Pair]:
    torch.manual_seed(setting.seed)
    yield from _pairs(_detr("Detr"), "DetrImageProcessor", "detr", (160, 224), setting)


def yolos(setting: Setting) -> Iterator[Pair]:
    torch.manual_seed(setting.seed)
    yield from _pairs(_yolos(), "YolosImageProcessor", "detr", (160, 224), setting)


def deformable_detr(setting: Setting) -> Iterator[Pair]:
    torch.manual_seed(setting.seed)
    network = _detr("DeformableDetr", ("stage2", "stage3", "stage4"), num_feature_levels=4)
    yield from _pairs(network, "DeformableDetrImageProcessor", "deformable_detr", (160, 224), setting)


def conditional_detr(setting: Setting) -> Iterator[Pair]:
    torch.manual_seed(setting.seed)
    network = _detr("ConditionalDetr")
    yield from _pairs(network, "ConditionalDetrImageProcessor", "deformable_detr", (160, 224), setting)


def rtdetr(setting: Setting) -> Iterator[Pair]:
    torch.manual_seed(setting.seed)
    yield from _pairs(_rtdetr("RTDetr"), "RTDetrImageProcessor", "rtdetr", (160, 160), setting)


def rtdetr_v2(setting: Setting) -> Iterator[Pair]:
    torch.manual_seed(setting.seed)
    yield from _pairs(_rtdetr("RTDetrV2"), "RTDetrImageProcessor", "rtdetr", (160, 160), setting)


def d_fine(setting: Setting) -> Iterator[Pair]:
    torch.manual_seed(setting.seed)
    yield from _pairs(_rtdetr("DFine"), "RTDetrImageProcessor", "rtdetr", (160, 160), setting)
