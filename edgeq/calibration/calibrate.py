"""`edgeq calibrate`: one pass over representative images, for every target and every method.

Method `best` takes a second look at a few of them (`edgeq.calibration.layerwise`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from edgeq.calibration.collector import Collector, digests_of
from edgeq.calibration.layer_inputs import channel_maxima, extreme_requests
from edgeq.calibration.layerwise import HELD_OUT, Search, part_images
from edgeq.calibration.observed_model import ObservedOnnxModel, observed_model
from edgeq.calibration.output_strength import OutputStrength
from edgeq.calibration.sample_keeper import DEFAULT_KEPT, SampleKeeper
from edgeq.calibration.statistics import Request
from edgeq.calibrators import BEST, Histogram
from edgeq.calibrators.grid import check_bits
from edgeq.calibrators.ranges import Provenance, Ranges
from edgeq.errors import InputError, ModelError
from edgeq.exporting.onnx.writer import FloatModel
from edgeq.exporting.tflite.writer import TfliteModel
from edgeq.files import require_writable
from edgeq.inputs import ImageFile, Item, UnreadableImages
from edgeq.inputs.coverage import Pick, picked_items
from edgeq.notes import log_of
from edgeq.targets import Target
from edgeq.wording import counted

DEFAULT_METHOD = "lp"
"""Least loss on the detectors of the benchmarks; see benchmarks/methods.py."""

DEFAULT_NUM = 512
"""The most images that are taken."""

SENSIBLE_IMAGES = 32
"""Below this many images the tails of the ranges are luck; published practice is 100 to 500."""

_log = log_of(__name__)


@dataclass(frozen=True)
class Calibration:
    """Ranges and what it took to collect them.

    Attributes:
        ranges: The result.
        images: Images that were counted.
        resumed: How many of them an earlier, interrupted run had counted.
        skipped: Unreadable images and what is wrong with them.
    """

    ranges: Ranges
    images: int
    resumed: int
    skipped: dict[Path, str] = field(default_factory=dict)


def calibrate(
    model: FloatModel | TfliteModel,
    images: Sequence[Path] | Iterable[Any],
    out: Path | None = None,
    *,
    tensors: Sequence[str] | None = None,
    method: str = DEFAULT_METHOD,
    options: dict[str, float] | None = None,
    num: int = DEFAULT_NUM,
    threads: int | None = None,
    targets: Sequence[Target] = (),
    keep_samples: int = DEFAULT_KEPT,
    pick: Pick = "even",
) -> Calibration:
    """Returns the ranges of a model over images, and writes them to `out`.

    An interrupted run leaves `<out>.partial` behind, and the next run resumes from there if it takes the same images
    with the same model and pre-processing; only image files can be resumed. Method `best` measures its held-out images,
    at most 32 by default, again. The result does not depend on the order of the images, nor on where a run was
    interrupted.

    Args:
        model: The float model, as an ONNX graph or a TFLite file.
        images: Paths of image files; or an array or an iterable of arrays, which are images `(H, W, 3)` of uint8 or
            inputs `(C, H, W)` or `(N, C, H, W)` that are pre-processed already. Copies of one image are counted once.
        out: Where to write the ranges.
        tensors: Names of the tensors to observe; by default all that some target of edgeq or precision quantizes.
        method: A name of `edgeq.calibrators.METHODS`, or `best`, which measures the layers of an ONNX graph on held-out
            images (`edgeq.calibration.layerwise`). It can be changed later without the images, to any but `best`.
        options: Options of the method; of `best` they are `bits` (8) and `held_out` (32 images).
        num: The most images to take: evenly spaced from files, an array or a list, the first ones of any other
            iterable.
        threads: CPU threads of the engine.
        targets: Further targets, for example installed ones, that the ranges have to serve.
        keep_samples: The most inputs to keep with the ranges (`edgeq.calibrators.kept_samples`), chosen at random: what
            a file of another format needs, and no tensor of this graph has, is measured on them. As many again, those
            with the strongest outputs, are kept to judge files on.
        pick: How `num` of the images are chosen, see `edgeq.inputs.coverage.pick_items`.

    Raises:
        InputError: there are no images, more than 5 % of them cannot be read, an array does not fit the model, an
            iterable raises, there is no such method or it does not take such options, `best` has no ONNX graph, a
            single image or an iterable that is consumed, `keep_samples` is negative, or `out` cannot be written.
        ModelError: an activation is NaN or infinite.
        EngineError: the engine cannot run the graph.
    """
    chosen = picked_items(images, num, len(model.preprocessing.input_shape), pick)
    options = options or {}
    _check_method(method, options)
    if keep_samples < 0:
        raise InputError(f"`keep_samples` {keep_samples}: wanted 0 or more")
    if out is not None:
        require_writable(out)
    items, held_out = chosen, list[Item]()
    if method == BEST:
        if not isinstance(model, FloatModel):
            raise InputError(f"method {BEST} measures the layers of an ONNX graph, not of a TFLite file; choose lp")
        if not isinstance(chosen, list):
            raise InputError(f"method {BEST} reads some images twice; give files or a list of arrays, or choose lp")
        items, held_out = _part(chosen, int(options.get("held_out", HELD_OUT)))
    # Arrays that do not fit are an error of the caller's program: there is nothing to resume.
    files = isinstance(chosen, list) and all(isinstance(item, ImageFile) for item in chosen)
    channels = extreme_requests(model.graph) if isinstance(model, FloatModel) and tensors is None else []
    strength = OutputStrength(model.graph) if isinstance(model, FloatModel) and keep_samples else None
    outputs = [] if strength is None else strength.names
    further = [*(request.tensor for request in channels), *outputs]
    observed = observed_model(model, tensors, threads, targets, further)
    keeper = SampleKeeper(keep_samples, strength)
    requests = [*(Request(name, "histogram") for name in observed.names), *channels]
    collector = Collector(observed, out if files else None, requests, keeper=keeper)
    if isinstance(items, list):
        collector.resume(items)
    unreadable = UnreadableImages(len(chosen) if isinstance(chosen, list) else 0)
    try:
        collector.run(items, unreadable.add)
        if isinstance(model, FloatModel) and method == BEST:
            collector.keep()  # the search takes long, and a kill in it loses only the search
            ranges, done = _search(model, collector, held_out, unreadable, options, threads, keeper, outputs)
        else:
            ranges, done = collector.ranges(method, options), collector.done
            ranges = replace(ranges, channel_maxima=channel_maxima(collector.statistics()))
        used = frozenset(done)
        ranges = replace(ranges, samples=keeper.samples(used), strongest=keeper.strongest(used))
        if out is not None:
            ranges.save(out)
    except ModelError:
        raise  # what was counted is of no use
    except BaseException:
        again = counted(len(held_out), "held-out image")
        collector.save_partial(f"; method {BEST} then measures all of its {again}" if held_out else "")
        raise
    collector.forget_partial()
    if ranges.provenance.images < SENSIBLE_IMAGES:
        _log.warning(
            "calibrated on %s only: the ranges depend on which, take at least %d different ones",
            counted(ranges.provenance.images, "image"),
            SENSIBLE_IMAGES,
        )
    return Calibration(ranges, ranges.provenance.images, collector.resumed, unreadable.errors)


def _part(items: Sequence[Item], num: int) -> tuple[list[Item], list[Item]]:
    """Returns the images to count and those to hold out, the latter ordered by content; no copies of these."""
    by_digest: dict[str, list[Item]] = {}
    for digest, item in digests_of(items):
        by_digest.setdefault(digest, []).append(item)
    digests = part_images(by_digest, num)[1]
    held_out = {id(item) for digest in digests for item in by_digest[digest]}
    return [item for item in items if id(item) not in held_out], [by_digest[digest][-1] for digest in digests]


def _search(
    model: FloatModel,
    earlier: Collector,
    images: Sequence[Item],
    unreadable: UnreadableImages,
    options: Mapping[str, float],
    threads: int | None,
    keeper: SampleKeeper,
    outputs: Sequence[str],
) -> tuple[Ranges, list[str]]:
    """Returns the ranges of method `best`, and the digests of all images that were used.

    Args:
        model: The float model.
        earlier: What the other images have shown.
        images: The held-out images, in an order that depends on nothing but their content.
        unreadable: Where images that cannot be read are named.
        options: `bits`.
        threads: CPU threads.
        keeper: Where inputs are kept that belong to the ranges.
        outputs: Tensors that it looks at.
    """
    bits = check_bits(int(options.get("bits", 8)))
    gathered, most = earlier.statistics(), earlier.histograms()
    channels = [request for request in gathered if request.statistic != "histogram"]
    search = Search(model.graph, most, bits, threads)
    further = [*search.tensors, *(request.tensor for request in channels), *outputs]
    requests = [*(Request(name, "histogram") for name in most), *channels]
    observed = ObservedOnnxModel(model, list(most), threads, further)
    held_out = Collector(observed, None, requests, then=search.add, keeper=keeper)
    held_out.run(images, unreadable.add, label="search")
    if not held_out.done:
        raise InputError(f"no image could be used to measure layers on, of {counted(len(images), 'image')} held out")
    choices = search.choose()
    rest = held_out.histograms()
    histograms = {name: histogram + rest[name] for name, histogram in most.items()}
    found = {"bits": bits, "held_out": len(held_out.done)}
    provenance = earlier.provenance(held_out.done)
    ranges = search.ranges(choices, histograms)
    maxima = channel_maxima(gathered, held_out.statistics())
    best = Ranges(BEST, found, provenance, ranges, histograms, choices, channel_maxima=maxima)
    return best, [*earlier.done, *held_out.done]


def _check_method(method: str, options: Mapping[str, float]) -> None:
    """Raises what the method would raise of its options, before an image is read."""
    if method == BEST:
        if unknown := sorted(options.keys() - {"bits", "held_out"}):
            raise InputError(f"method {BEST!r} cannot take the options {unknown}; it takes bits and held_out")
        check_bits(int(options.get("bits", 8)))
        return
    nothing = Provenance.of(model_digest="", preprocessing_digest="", image_digests=(), tool_version="")
    Ranges.from_histograms({"": Histogram()}, nothing, method, **options)
