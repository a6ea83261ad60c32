"""The names of the zoo's models. Without torch, so that the command line can list them at once."""

from __future__ import annotations

from edgeq.models.vit_configs import VITS

SHAPES = "centernet_shapes"
"""The detector whose trained weights ship with the package."""

CENTERNET_DEPTHS = {
    SHAPES: 18,
    "centernet_resnet18": 18,
    "centernet_resnet34": 34,
    "centernet_resnet50": 50,
    "centernet_resnet101": 101,
}
"""Name -> depth of the detector's ResNet."""

CLASSIFIERS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
"""Names in `torchvision.models`."""

CIFAR_DEPTHS = {f"cifar_resnet{depth}": depth for depth in (20, 32, 44, 56, 110)}
"""Name -> depth of the ResNets for CIFAR-10."""


def zoo_names() -> list[str]:
    """Returns the names that `edgeq.models.zoo.load_model` knows, detectors first."""
    return [*CENTERNET_DEPTHS, *CLASSIFIERS, *CIFAR_DEPTHS, *VITS]


def is_zoo_name(name: str) -> bool:
    """Says whether `name` is one of `zoo_names()`."""
    return name in zoo_names()


def zoo_preset(name: str) -> str | None:
    """Returns the preset of a zoo name, or `None` for any other."""
    if name in CENTERNET_DEPTHS:
        return "centernet"
    if name in CIFAR_DEPTHS:
        return "cifar10"
    if name in VITS:
        return VITS[name].preset
    return "imagenet" if name in CLASSIFIERS else None
