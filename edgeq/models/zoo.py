"""Models by name, with weights of a file: architectures that fit the weights, and one clear line where they do not."""

from __future__ import annotations

import inspect
import logging
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
from torch import Tensor, nn

from edgeq.errors import EdgeqError, InputError, ModelError
from edgeq.models.centernet import CenterNet
from edgeq.models.cifar_resnet import CifarResNet
from edgeq.models.names import CENTERNET_DEPTHS, CIFAR_DEPTHS, CLASSIFIERS, SHAPES, zoo_names
from edgeq.models.vit import VisionTransformer
from edgeq.models.vit_configs import VITS
from edgeq.models.vit_weights import fit_config, translate_weights
from edgeq.registry import load_object

_log = logging.getLogger(__name__)

_RANDOM_SEED = 0
_SHOWN_KEYS = 3

_DOWNLOADS = {"weights": None, "weights_backbone": None, "pretrained": False, "pretrained_backbone": False}
"""Parameters by which factories of torchvision and timm fetch weights -> the value that fetches nothing."""


def load_model(reference: str, weights: Path | None = None) -> nn.Module:
    """Returns a model in eval mode, in float32 on the CPU.

    The number of classes, a CenterNet's widths and all sizes of a vision transformer except width and heads follow from
    the weights. `centernet_shapes` has weights of its own; other models of the zoo and of torchvision without weights
    are initialised at random (the same each time), which a warning in the log says. Nothing is downloaded for weights
    that are given or that torchvision has no part in.

    Args:
        reference: A name of `edgeq.models.names.zoo_names()`, or `package.module:factory`; the factory is called
            without arguments and may load its weights itself.
        weights: A `.safetensors`, `.pth` or `.pt` file.

    Raises:
        InputError: the reference is unknown or the weights file cannot be read.
        ModelError: the weights belong to another architecture, or the factory gives no `torch.nn.Module`.
    """
    weights = weights or shipped_weights(reference)
    state = {} if weights is None else read_weights(weights)
    if reference in VITS:
        state = translate_weights(state, VITS[reference].key_names)
    # A forked generator: building a model leaves the caller's random numbers alone.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_RANDOM_SEED)
        model = _build(reference, state)
    if weights is not None:
        _load_state(model, state, reference, weights)
    elif ":" not in reference or reference.startswith("torchvision."):
        _log.warning("%s has random weights: its speed is real, its outputs are not; give `weights` FILE", reference)
    return model.float().eval()


def shipped_weights(reference: str) -> Path | None:
    """Returns the weights file that the package holds for a zoo name, or `None`."""
    return Path(__file__).parent / "weights" / f"{SHAPES}.safetensors" if reference == SHAPES else None


def read_metadata(path: Path) -> dict[str, str]:
    """Returns the metadata of a weights file: name -> text; empty where there are none, as in `.pth` files.

    `edgeq.models.train_shapes` writes `labels` (with commas between), `input_size` (`HxW`), `architecture` and more.

    Raises:
        InputError: the file is missing, truncated or of another kind.
    """
    if _weights_suffix(path) != ".safetensors":
        return {}
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise _unreadable(path, error) from error


def read_weights(path: Path) -> dict[str, Tensor]:
    """Returns key -> tensor of a weights file on the CPU; floating-point tensors are float32.

    A training checkpoint's `state_dict` or `model` entry is taken, and DataParallel's `module.` prefix removed.

    Raises:
        InputError: the file is missing, truncated, of another kind, or holds Python objects besides tensors.
    """
    content = _read_safetensors(path) if _weights_suffix(path) == ".safetensors" else _read_pickled_tensors(path)
    for wrapper in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping) or not content:
        raise InputError(f"{path}: holds {_describe(content)}; wanted named tensors (a model's state_dict)")
    for key, value in content.items():
        if not isinstance(value, Tensor):
            raise InputError(f"{path}: its entry {key!r} is {_describe(value)}; wanted tensors only (a state_dict)")
        if value.layout == torch.strided and value.nbytes > value.untyped_storage().nbytes():
            raise InputError(f"{path}: {key!r} repeats its values to {value.nbytes:,} bytes; save a contiguous tensor")
    return {
        str(key).removeprefix("module."): value.float() if value.is_floating_point() else value
        for key, value in content.items()
    }


def _build(reference: str, state: Mapping[str, Tensor]) -> nn.Module:
    if reference in CENTERNET_DEPTHS:
        return CenterNet(CENTERNET_DEPTHS[reference], **_centernet_sizes(state))
    if reference in CIFAR_DEPTHS:
        return CifarResNet(CIFAR_DEPTHS[reference], len(state.get("linear.bias", range(10))))
    if reference in VITS:
        return VisionTransformer(fit_config(VITS[reference].config, state))
    if reference in CLASSIFIERS:
        import torchvision

        classes = len(state["fc.bias"]) if "fc.bias" in state else 1000
        model: nn.Module = getattr(torchvision.models, reference)(weights=None, num_classes=classes)
        return model
    if ":" not in reference:
        raise InputError(
            f"unknown model {reference!r}; wanted package.module:factory or one of: {', '.join(zoo_names())}"
        )
    return _call_factory(reference, has_weights=bool(state))


def _centernet_sizes(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Returns the arguments of `CenterNet` that fit the weights; those of absent keys are left to their defaults.

    The shapes of the tensors tell them all, so that no file's metadata needs to be believed.
    """
    lengths = {key: len(value) for key, value in state.items() if value.ndim and value.numel()}
    stages = ("conv1.weight", *(f"layer{stage}.0.conv1.weight" for stage in (2, 3, 4)))
    deconvolutions = tuple(f"deconv_layers.{index}.weight" for index in (1, 4, 7))  # their BatchNorms
    sizes: dict[str, Any] = {}
    if "hm.2.bias" in lengths:
        sizes["num_classes"] = lengths["hm.2.bias"]
    if "hm.0.bias" in lengths:
        sizes["head_channels"] = lengths["hm.0.bias"]
    for name, keys in (("widths", stages), ("deconv_channels", deconvolutions)):
        if all(key in lengths for key in keys):
            sizes[name] = tuple(lengths[key] for key in keys)
    return sizes


def _call_factory(reference: str, *, has_weights: bool) -> nn.Module:
    factory = load_object("model", reference)
    if not callable(factory):
        raise ModelError(f"{reference} is {_describe(factory)}; wanted a function without arguments")
    # torchvision's detectors fetch a trained backbone by default, which is of no use below heads without training.
    fetches = not has_weights and not reference.startswith("torchvision.")
    try:
        model = factory() if fetches else factory(**_without_downloads(factory))
    except EdgeqError:
        raise
    except URLError as error:
        raise ModelError(
            f"{reference}() could not download what it needs ({error.reason}); give `weights` FILE, or a factory that "
            "builds the model without a download"
        ) from error
    except Exception as error:  # it is the user's code: whatever it raises is its answer
        raise ModelError(f"{reference}() failed: {type(error).__name__}: {error}") from error
    if not isinstance(model, nn.Module):
        raise ModelError(f"{reference}() returned {_describe(model)}; wanted a torch.nn.Module")
    return model


def _without_downloads(factory: Callable[..., Any]) -> dict[str, Any]:
    """Returns the arguments with which a factory fetches no weights, of those that would fetch some by default."""
    try:
        parameters = inspect.signature(factory).parameters
    except (TypeError, ValueError):  # a callable written in C
        return {}
    return {name: value for name, value in _DOWNLOADS.items() if name in parameters and parameters[name].default}


def _load_state(model: nn.Module, state: Mapping[str, Tensor], reference: str, weights: Path) -> None:
    expected = model.state_dict()
    # torch counts batches in each BatchNorm; old checkpoints lack the counter, and inference never reads it.
    missing = [key for key in expected if key not in state and not key.endswith("num_batches_tracked")]
    unexpected = [key for key in state if key not in expected]
    misshapen = [
        f"{key} {tuple(state[key].shape)} instead of {tuple(expected[key].shape)}"
        for key in expected
        if key in state and state[key].shape != expected[key].shape
    ]
    differences = [
        f"{len(keys)} {kind} ({', '.join(keys[:_SHOWN_KEYS])}{', ...' if len(keys) > _SHOWN_KEYS else ''})"
        for kind, keys in (("missing", missing), ("unexpected", unexpected), ("of another shape", misshapen))
        if keys
    ]
    if differences:
        raise ModelError(
            f"{weights} does not fit {reference}: of its {len(state)} tensors, for the model's {len(expected)}, "
            f"{'; '.join(differences)}. Name the model that it was trained as ({', '.join(zoo_names())}), or your own "
            "as package.module:factory"
        )
    model.load_state_dict(dict(state), strict=False)


def _weights_suffix(path: Path) -> str:
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected weights (.safetensors, .pth or .pt)")
    suffix = path.suffix.lower()
    if suffix not in (".safetensors", ".pth", ".pt"):
        raise InputError(f"{path}: is not a weights file that edgeq reads; wanted .safetensors, .pth or .pt")
    return suffix


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError) as error:
        raise _unreadable(path, error) from error
    return tensors


def _read_pickled_tensors(path: Path) -> Any:
    from pickle import UnpicklingError

    _require_stored(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # what torch warns of is refused below
            return torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        if "global" not in str(error).lower():
            raise _unreadable(path, error) from error
        raise InputError(
            f"{path}: holds Python objects besides tensors, and loading those can run any code, so edgeq does not; "
            "save model.state_dict() alone where the file comes from, best as .safetensors"
        ) from error
    # A damaged file makes torch's reader trip over anything: RuntimeError, EOFError, KeyError, ...
    except Exception as error:
        raise _unreadable(path, error) from error


def _require_stored(path: Path) -> None:
    """Checks that an archive holds no code and is not compressed, as none of a state_dict() is: much could be in it.

    Raises:
        InputError: it is compressed, TorchScript's, or no whole archive.
    """
    if not zipfile.is_zipfile(path):
        return  # of torch before 1.6
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError, NotImplementedError, ValueError) as error:
        raise _unreadable(path, error) from error
    if any(Path(member.filename).name == "constants.pkl" for member in members):
        raise InputError(
            f"{path}: is a TorchScript archive, which holds code besides tensors; open it where you trust it, with "
            "torch.jit.load, and save its state_dict() alone, best as .safetensors"
        )
    if not all(member.compress_type == zipfile.ZIP_STORED for member in members):
        raise InputError(f"{path}: is a compressed archive, which torch does not write; save the weights again")


def _unreadable(path: Path, error: Exception) -> InputError:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return InputError(
        f"{path}: cannot be read as weights ({reason}); it is truncated or of another kind, so fetch or save it again"
    )


def _describe(value: object) -> str:
    return f"an object of type {type(value).__qualname__}"
