"""Language and vision-language models in parts: exported for x86 or a Jetson, scored and timed."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from edgeq.api.arguments import FilePath, names, optional_path, path, paths, require_positive
from edgeq.bundles.edge_llm import EdgeLlmFolder
from edgeq.bundles.export import BundleRequest
from edgeq.bundles.export import export_bundle as write_bundle
from edgeq.bundles.manifest import Bundle
from edgeq.generation.answers import AnswerOptions
from edgeq.generation.benchmark import GenerationSampling
from edgeq.generation.samples import read_samples
from edgeq.results.measurement import BenchResult
from edgeq.targets import for_runtime
from edgeq.verbs.bundles import evaluate_bundles as answer_and_score
from edgeq.verbs.bundles import time_bundles
from edgeq.verbs.export_edge_llm import export_edge_llm as write_edge_llm
from edgeq.verbs.score import ScoredAnswers


def export_bundle(
    model: FilePath,
    target: str = "x86",
    *,
    runtime: str | None = None,
    preset: str | None = None,
    part: Sequence[str] = (),
    keep: Sequence[str] = (),
    calib: FilePath | None = None,
    tokenizer: FilePath | None = None,
    out: FilePath = "artifacts",
    threads: int | None = None,
) -> Bundle:
    """Returns a language or vision-language model in parts, each compared with PyTorch and in its own precision.

    The files are those that `edgeq export` writes of a Hugging Face folder.

    Args:
        model: A local Hugging Face folder. Nothing is downloaded, and its code is never run.
        target: `x86`, `x86-openvino` or `x86-ort`.
        runtime: For `x86`, the engine that files are planned for: `openvino` (the default) or `onnxruntime`.
        preset: `asymmetric`, `uniform-8` or `uniform-4`; by default everything is FP32.
        part: Precisions of single parts, `PART=PRECISION` each, such as `vision=int8` or `decoder=w4g128-gptq`.
        keep: Layers of parts with few bits that stay in float: names, regular expressions, or operator types.
        calib: What to calibrate on: JSON lines of questions with images and answers, a folder of images for the vision
            part alone, a text file, or an `.npz` of arrays by input.
        tokenizer: Folder of the tokenizer, if it is not the model's; `none` for a model without.
        out: Folder for the bundle; one that is there is replaced.
        threads: CPU threads; by default all.

    Raises:
        InputError: a file is missing, or an argument cannot be used; nothing is written.
        ModelError: the model brings code, or cannot be exported.
        MissingDependencyError: transformers is not installed.
    """
    request = _request(model, for_runtime(target, runtime), preset, part, keep, calib, tokenizer, threads)
    return write_bundle(request, path(out, "out"))


def export_edge_llm(
    model: FilePath,
    target: str = "jetson-orin",
    *,
    preset: str | None = None,
    part: Sequence[str] = (),
    calib: FilePath | None = None,
    tokenizer: FilePath | None = None,
    out: FilePath = "artifacts",
    threads: int | None = None,
) -> EdgeLlmFolder:
    """Returns a model for a Jetson: ONNX files of what reads images, and the checkpoint for TensorRT Edge-LLM.

    The folder is the one that `edgeq export FOLDER --target jetson-orin` writes with the same arguments.

    Args:
        model: A local Hugging Face folder, such as `edgeq.download_model` returns. Its code is never run.
        target: `jetson-orin` or `jetson-orin-trt11`.
        preset: By default vision and connector are FP16 and the decoder has 4 bits in groups of 128.
        part: Precisions of single parts, `PART=PRECISION` each, such as `vision=int8` or `decoder=w4g128-gptq`.
        calib: What to calibrate on, as for `edgeq.export_bundle`.
        tokenizer: Folder of the tokenizer, if it is not the model's; `none` for a model without.
        out: The folder; one that is there is replaced.
        threads: CPU threads; by default all.

    Raises:
        InputError: a file is missing, an argument cannot be used, the engine takes no such model or precision, or no
            board holds the model; nothing is written.
        ModelError: the model brings code, or cannot be exported.
        MissingDependencyError: transformers is not installed.
    """
    return write_edge_llm(_request(model, target, preset, part, (), calib, tokenizer, threads), path(out, "out"))


def _request(
    model: FilePath,
    target: str,
    preset: str | None,
    part: Sequence[str],
    keep: Sequence[str],
    calib: FilePath | None,
    tokenizer: FilePath | None,
    threads: int | None,
) -> BundleRequest:
    require_positive(threads, "threads")
    samples = optional_path(calib, "calib")
    return BundleRequest(
        path(model, "model"),
        target,
        preset,
        tuple(part),
        tuple(keep),
        None if samples is None else partial(read_samples, samples, ""),
        None if tokenizer is None else str(path(tokenizer, "tokenizer")),
        threads,
    )


def evaluate_bundles(
    bundles: FilePath | Sequence[FilePath],
    task: str,
    data: FilePath,
    *,
    images: FilePath | None = None,
    runtime: str | None = None,
    threads: int | None = None,
    prompt: str = "",
    max_tokens: int = 32,
    beams: int = 1,
    batch: int = 8,
    stride: int | None = None,
    answers: FilePath = "answers",
) -> list[ScoredAnswers]:
    """Returns the score of what each bundle answers, with intervals; the first is what the others are compared with.

    Args:
        bundles: Folders of `edgeq.export_bundle`.
        task: `transcription`, `vqa`, `captioning`, `object-presence`, `last-word` or `perplexity`.
        data: The questions: JSON lines of `id`, `image` and `answers`, COCO captions, or a data set of Hugging Face's
            form on disk.
        images: Folder of the images that the questions are about; by default that of `data`.
        runtime: `onnxruntime` or `openvino`; by default that of the bundle's target.
        threads: CPU threads; by default all.
        prompt: Prompt with `{question}` and `<image>` in their places; by default the image, then the question.
        max_tokens: Maximum tokens of an answer.
        beams: Texts that beam search follows; 1 for greedy search.
        batch: Questions per greedy run of the model.
        stride: How far windows of long texts move on, for perplexity; by default half of the model's context.
        answers: Folder for the answers of each bundle, `NAME.jsonl`.

    Raises:
        InputError: a folder is no bundle, a file or an argument cannot be used, or a prompt is too long.
        EngineError: an engine cannot run a part.
    """
    require_positive(threads, "threads")
    return answer_and_score(
        paths(bundles, "bundles"),
        task,
        path(data, "data"),
        images=optional_path(images, "images"),
        answers=path(answers, "answers"),
        runtime=runtime,
        threads=threads,
        template=prompt,
        options=AnswerOptions(max_tokens, beams, batch, stride),
    )


def benchmark_bundles(
    bundles: FilePath | Sequence[FilePath],
    *,
    runtime: str | Sequence[str] | None = None,
    threads: int | None = None,
    seconds: float = 3.0,
    prompt_tokens: int = 128,
    new_tokens: int = 32,
) -> list[BenchResult]:
    """Returns time of the prompt in ms, ms per token and memory of each bundle in each engine, measured in turns.

    Args:
        bundles: Folders of `edgeq.export_bundle`; ratios are taken to the first.
        runtime: `onnxruntime`, `openvino` or both; by default that of the bundle's target.
        threads: CPU threads; by default all.
        seconds: Minimum measuring time per bundle, in seconds.
        prompt_tokens: Tokens of the prompt, those of an image included.
        new_tokens: Tokens that follow it, at least 2.

    Raises:
        InputError: a folder is no bundle, or an argument cannot be used.
        EngineError: an engine cannot run a part.
    """
    require_positive(threads, "threads")
    sampling = GenerationSampling(prompt_tokens, new_tokens, seconds=seconds)
    return time_bundles(paths(bundles, "bundles"), names(runtime), threads=threads, sampling=sampling)
