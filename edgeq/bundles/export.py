"""From a local Hugging Face folder to a bundle: every part exported, compared with PyTorch, in its precision."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import edgeq
from edgeq.bundles.chain import Chain, Sample
from edgeq.bundles.contents import BundleFile, BundleMemory, BundlePart, PartName
from edgeq.bundles.families import splitter
from edgeq.bundles.images import image_input
from edgeq.bundles.manifest import Bundle, is_bundle
from edgeq.bundles.precision import HEAD, Precision, precisions_of
from edgeq.bundles.session import PartSession
from edgeq.bundles.source import ModelFolder, load_model, open_folder
from edgeq.bundles.tokens import special_tokens
from edgeq.bundles.torch_part import export_part
from edgeq.bundles.write_part import OPSET, PartJob, write_part
from edgeq.errors import InputError
from edgeq.files import require_writable, umask
from edgeq.memory.families import read_architecture
from edgeq.progress import progress_bar
from edgeq.targets import Target, get_target

if TYPE_CHECKING:
    from edgeq.bundles.families.parts import Split

_ENGINES = ("onnxruntime", "openvino")


@dataclass(frozen=True)
class BundleRequest:
    """A model and what to make of it.

    Attributes:
        model: A Hugging Face folder.
        target: Name of a target; those of x86.
        preset: A name of `edgeq.bundles.precision.PRESETS`; by default everything is FP32.
        parts: Entries `PART=PRECISION`, which come before the preset.
        keep: What stays in float of parts with few bits: names of layers, regular expressions, operator types.
        samples: Returns what to calibrate on, given the folder and the model in parts; `None` for nothing.
        tokenizer: Folder of the tokenizer, if not the model's; `none` for a model of bare numbers.
        threads: CPU threads.
    """

    model: Path
    target: str = "x86-ort"
    preset: str | None = None
    parts: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()
    samples: Callable[[ModelFolder, Split], Sequence[Sample]] | None = None
    tokenizer: str | None = None
    threads: int | None = None


@dataclass
class _Written:
    """Parts that are written, and the entries of `keep` that meant something."""

    parts: list[BundlePart] = field(default_factory=list)
    matched: set[str] = field(default_factory=set)


def export_bundle(request: BundleRequest, out: Path) -> Bundle:
    """Returns the bundle that was written to a folder, whole or not at all.

    Args:
        request: What to export.
        out: The folder: absent, empty, or a bundle, which is replaced.

    Raises:
        InputError: a file is missing, a part, precision or `keep` is unknown, or the folder holds something else.
        ModelError: the model brings code, cannot be exported, or a part computes something else than PyTorch.
        MissingDependencyError: transformers is not installed.
    """
    target = get_target(request.target)
    if target.runtimes[0] not in _ENGINES:
        raise InputError(
            f"target {target.name}: models in parts are exported for x86, x86-ort or x86-openvino, and for jetson-orin "
            "(from Python by edgeq.export_edge_llm); name one of them"
        )
    precisions_of(get_args(PartName), request.preset, request.parts)  # tells of a typing error before the long work
    folder = open_folder(request.model, request.tokenizer)
    split_model, architecture = splitter(folder), read_architecture(folder.config)
    require_ours(out, "bundle", is_bundle)
    split = split_model(load_model(folder), folder)
    samples = [] if request.samples is None else list(request.samples(folder, split))
    names = [str(part.name) for part in split.parts]
    precisions = precisions_of(names, request.preset, request.parts)
    for precision in precisions.values():
        precision.resolved(has_samples=bool(samples))  # tells of a method that has nothing to read
    with whole_folder(out) as temporary:
        written = _write_parts(request, target, split, precisions, samples, temporary)
        tokenizer, processor, configuration = (
            tuple(BundleFile.of(Path(shutil.copyfile(file, temporary / file.name))) for file in files)
            for files in (folder.tokenizer, folder.processor_files, folder.configuration_files)
        )
        cache = split.cache
        bundle = Bundle(
            folder=temporary,
            name=folder.config.name,
            family=folder.config.model_type,
            architecture=folder.config.architecture,
            target=target.name,
            opset=OPSET,
            parts=tuple(written),
            edges=split.edges,
            cache=cache,
            positions=split.positions,
            tokens=special_tokens(folder, split),
            images=image_input(folder) if "vision" in names else None,
            similarity=split.similarity,
            tokenizer=tokenizer,
            processor=processor,
            configuration=configuration,
            memory=BundleMemory(
                parameters=architecture.parameters,
                weight_bytes={part.name: part.size_bytes for part in written},
                cache_bytes_per_token=0 if cache is None else cache.bytes_per_token,
                context=architecture.context,
            ),
            source_digest=folder.digest(),
            tools={"edgeq": edgeq.__version__, **{each: version(each) for each in ("torch", "transformers", "onnx")}},
        )
        bundle.save()
    return Bundle.load(out)


@contextlib.contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """Yields an empty folder next to `out`, which takes its place when the block ends well.

    Raises:
        InputError: it cannot be written.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error.strerror or error}); choose another `out`") from error
    new, old = temporary / "new", temporary / "old"
    try:
        new.mkdir()
        yield new
        # mkdtemp makes folders that only the owner can read; a result should follow the user's umask.
        new.chmod(0o777 & ~umask())
        if out.exists():
            out.replace(old)
        new.replace(out)
    except OSError as error:
        raise InputError(
            f"{out}: cannot be written ({error.strerror or error}); nothing was left behind, choose another `out` or "
            "free space"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_parts(
    request: BundleRequest,
    target: Target,
    split: Split,
    precisions: dict[str, Precision],
    samples: Sequence[Sample],
    folder: Path,
) -> list[BundlePart]:
    chain, written = Chain(split, samples), _Written()
    with progress_bar(len(split.parts), "exporting parts", unit="parts") as advance:
        for part in split.parts:
            feeds = tuple(chain.feeds(part))
            # Texts alone are nothing to a vision part.
            precision = precisions[part.name].resolved(has_samples=bool(feeds))
            head = precisions[HEAD].resolved(has_samples=bool(feeds)) if part.name == "decoder" else precision
            job = PartJob(
                part,
                export_part(part, OPSET),
                precision,
                head,
                target,
                folder,
                request.keep,
                feeds,
                request.threads,
            )
            described, matched = write_part(job)
            written.parts.append(described)
            written.matched |= matched
            if samples:
                session = PartSession(folder / described.model.file, request.threads)
                chain.run(part, session)
            advance(1)
    if unknown := [entry for entry in request.keep if entry not in written.matched]:
        raise InputError(
            f"`keep` {unknown[0]!r}: matches no layer of a part with few bits or FP16; names look like "
            "layers.0.self_attn.q_proj"
        )
    return written.parts


def require_ours(out: Path, kind: str, is_ours: Callable[[Path], bool]) -> None:
    """Refuses a folder that holds something else than what replaces it, before long work goes into a new one.

    Args:
        out: The folder.
        kind: What it may hold, for the error.
        is_ours: Whether a folder holds that.

    Raises:
        InputError: it holds something else, or cannot be written.
    """
    require_writable(out / "a file")
    if out.is_dir() and any(out.iterdir()) and not is_ours(out):
        raise InputError(f"{out}: holds files, and no {kind}; choose another `out`, or empty it")
