"""`README.md` of a deployment folder: what is in it, how it is checked, run and served, and what to expect."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from edgeq.deploying.base import DeployJob, Deployment, Section
from edgeq.deploying.deepstream import express
from edgeq.deploying.packed import Packed
from edgeq.deploying.quoting import code_span, one_line
from edgeq.exporting.artifact import Preprocessing
from edgeq.exporting.quantization_facts import SpeedFacts
from edgeq.exporting.tensor_spec import TensorSpec
from edgeq.results.table import to_markdown
from edgeq.wording import compared_with_fp32

_RESIZED = {
    "center": "scaled to fit, centred by an affine warp (OpenCV's `warpAffine`)",
    "letterbox": "scaled to fit, in the top left corner",
    "letterbox_center": "scaled to fit, to whole pixels, and centred",
    "fit": "scaled to fit, in the top left corner; boxes are mapped by the whole sizes",
    "stretch": "stretched to the input, whatever its aspect ratio",
    "crop": "scaled by its short side, the centre cut out",
}


def readme(job: DeployJob, deployment: Deployment) -> str:
    """Returns the README."""
    sections = [
        Section("Models", _models(job)),
        Section(
            "Check what arrived",
            "    sha256sum -c SHA256SUMS\n\nThe digests cover every file of this folder; engines and results that the "
            "scripts add are not among them.",
        ),
        *deployment.sections(job),
        Section("What to expect", _expected(job)),
        Section("Limits", _limits(job)),
        *_contracts(job.models),
    ]
    title = (
        f"# Deployment for {job.target}\n\n{deployment.title} Written by `edgeq deploy`; nothing here was run on the "
    )
    parts = [f"{title}device yet, unless a figure below says so."]
    parts += [f"## {section.title}\n\n{section.text}" for section in sections if section.text]
    return "\n\n".join(parts) + "\n"


def _models(job: DeployJob) -> str:
    lines = ["| file | precision | runtime | size MB | layers in INT8 |", "|---|---|---|---:|---:|"]
    renamed = []
    for model in job.models:
        facts = model.artifact.quantization_facts
        layers = "-" if facts.int8_nodes is None else str(facts.int8_nodes)
        cells = (
            f"`{model.path}`",
            code_span(model.artifact.precision),
            model.runtime,
            f"{model.artifact.size_bytes / 1e6:.2f}",
        )
        lines.append(f"| {' | '.join((*cells, layers))} |")
        if model.file != model.artifact.name:
            renamed.append(f"`{model.file}` was exported as {code_span(model.artifact.name)}.")
    return "\n".join([*lines, *(["", *renamed] if renamed else [])])


def _expected(job: DeployJob) -> str:
    parts = []
    if job.rows:
        parts.append(to_markdown(job.rows))
    speeds = [(model, speed) for model in job.models if (speed := model.artifact.quantization_facts.speed) is not None]
    if speeds:
        parts.append("Measured when the files were exported, INT8 compared with FP32 in the same engine and run:")
        parts.append("\n".join(_speed(model, speed) for model, speed in speeds))
    signals = [(model, signal) for model in job.models if (signal := model.artifact.quantization_facts.signal)]
    if signals:
        parts.append("Signal that the files keep, least over the outputs, stated by their manifests:")
        parts.append(
            "\n".join(f"- {model.name}: {found.snr_db:.1f} dB, {one_line(found.how)}" for model, found in signals)
        )
    if not job.rows:
        parts.append(
            "No result was given. Run `edgeq bench` and `edgeq eval` on the files and repeat `edgeq deploy` with "
            "`--results`: their scores and times then stand here."
        )
    return "\n\n".join(each.strip("\n") for each in parts)


def _speed(model: Packed, speed: SpeedFacts) -> str:
    return (
        f"- {model.name}: {compared_with_fp32(speed.ratio, speed.low, speed.high)}, {speed.rounds} rounds, "
        f"{one_line(speed.engine)}, {speed.threads} threads, {one_line(speed.cpu)}"
    )


def _limits(job: DeployJob) -> str:
    scores, times = job.limits.options
    if not job.can_gate:
        return (
            "`edgeq gate` compares a file with its FP32 file in the same runtime, and this folder does not hold both: "
            "add the FP32 file to `edgeq deploy` to have limits checked on the device."
        )
    return (
        f"`./run.sh` ends with `edgeq gate {' '.join(times)}`, and with images also `{' '.join(scores)}`: at most "
        f"{scores[1]} points below FP32's score, and at most {times[1]} times FP32's latency. Exit code 1: a limit is "
        "exceeded or was not measured."
    )


def _contracts(models: Sequence[Packed]) -> Iterator[Section]:
    """Yields one section for all models with the same input and output."""
    texts: dict[str, list[Packed]] = {}
    for model in models:
        texts.setdefault("\n".join(_contract(model)), []).append(model)
    for text, alike in texts.items():
        labels = "".join(
            f"\n- Class names of {model.name}: `{model.labels_path}`, one per line from class 0."
            for model in alike
            if model.labels_path is not None
        )
        yield Section(f"Input and output of {' and '.join(model.name for model in alike)}", text + labels)


def _contract(model: Packed) -> Iterator[str]:
    artifact = model.artifact
    yield "| | tensor | type | shape | layout | quantization |"
    yield "|---|---|---|---|---|---|"
    for role, specs in (("input", artifact.inputs), ("output", artifact.outputs)):
        for spec in specs:
            cells = (role, code_span(spec.name), spec.dtype, _shape(spec), _layout(spec), _scale(spec))
            yield f"| {' | '.join(cells)} |"
    yield ""
    if artifact.preprocessing is None:
        yield "The manifest does not say how images are prepared."
    else:
        yield from _preparation(artifact.preprocessing)
        if model.runtime == "tensorrt":
            yield from _deepstream(model)
    if artifact.postprocessing is not None:
        decoder = code_span(artifact.postprocessing.decoder)
        yield f"- Outputs are read by the decoder {decoder} with the options in the manifest."


def _preparation(spec: Preprocessing) -> Iterator[str]:
    yield f"- An image is {_RESIZED[spec.resize]}: {spec.width_px} wide, {spec.height_px} high."
    if spec.resize != "stretch":
        yield f"- Outside the image: pixel value {', '.join(f'{fill:g}' for fill in spec.fill_colour)}."
    sampling = "averaging over the source pixels (antialiasing)" if spec.antialias else "bilinear, without antialiasing"
    yield f"- Sampling: {sampling}. Channels: {spec.channel_order.upper()}."
    mean, std = (", ".join(f"{value:g}" for value in values) for values in (spec.mean, spec.std))
    formula = f"`(pixel * {spec.scale:g} - mean) / std`"
    yield f"- {formula}, pixels 0 to 255, mean ({mean}), std ({std}), in the order of the channels."


def _deepstream(model: Packed) -> Iterator[str]:
    expressed = express(model.artifact.preprocessing, model.artifact.inputs)
    for reason in expressed.impossible:
        yield f"- **DeepStream cannot prepare these images**: {reason}. Its configuration asks for prepared tensors."
    for reason in expressed.differs:
        yield f"- **DeepStream differs**: {reason}. Measure the score in your pipeline."


def _shape(spec: TensorSpec) -> str:
    return " x ".join("free" if length is None else str(length) for length in spec.shape) or "scalar"


def _layout(spec: TensorSpec) -> str:
    return spec.layout if len(spec.shape) == 4 else "-"


def _scale(spec: TensorSpec) -> str:
    return "-" if spec.scale is None else f"(integer - {spec.zero_point}) * {spec.scale:g}"
