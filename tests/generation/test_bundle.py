"""Bundles of tiny models that generate: the tokens of transformers, here and in the programs they are deployed for."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import json
import shutil
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from edgeq.bundles.chain import Chain
from edgeq.bundles.contents import BundleFile
from edgeq.bundles.export import BundleRequest, export_bundle
from edgeq.bundles.families import splitter
from edgeq.bundles.manifest import MANIFEST_NAME, Bundle
from edgeq.bundles.session import PartSession
from edgeq.bundles.source import open_folder
from edgeq.bundles.static_part import static_graph
from edgeq.cli.app import app
from edgeq.errors import InputError, MismatchError
from edgeq.exporting.graphs.graph import read_onnx, save_onnx
from edgeq.generation.answers import AnswerOptions, answered
from edgeq.generation.model import GeneratingModel, Prompt
from edgeq.generation.parts import OpenParts
from edgeq.generation.prompts import PromptMaker
from edgeq.generation.samples import read_samples
from edgeq.generation.search import Limits
from edgeq.generation.tokenizer import tokenizer_of
from edgeq.inputs.items import MemoryItem
from edgeq.studying import bundle_model
from edgeq.studying.bundle_model import BundleModel
from edgeq.studying.space import Space
from edgeq.targets import get_target
from edgeq.tasks import get_task
from edgeq.tasks.language.questions import Question
from edgeq.tuning.executors import Executor
from edgeq.tuning.workers_server import WorkerServer, worker_facts
from edgeq.verbs import study_bundle as study_verb
from edgeq.verbs.deploy_bundle import deploy_bundle
from edgeq.verbs.study import StudyOptions
from edgeq.verbs.study_bundle import BundleSubject, open_bundle_study
from tests.generation.models import IMAGE_TOKEN, PER_IMAGE, SIDE, save_llama, save_llava
from tests.tasks.language.written import write_lines

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

_TEXTS = ([1, 5, 17, 42, 8, 11], [1, 9, 33], [1, 20, 3, 4])
_NEW = 32


@dataclasses.dataclass
class Pair:
    """A torch model and its bundle."""

    torch: Any
    bundle: Bundle

    def generated(self, ids, images=None, **options):
        ids = torch.tensor([ids])
        given = {} if images is None else {"pixel_values": torch.tensor(images)}
        found = self.torch.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=_NEW, **given, **options
        )
        return found[0, ids.shape[1] :].tolist()


@pytest.fixture(scope="module", params=["llama", "llava"])
def pair(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    (folder / "hf").mkdir()
    model = (save_llama if request.param == "llama" else save_llava)(folder / "hf")
    return Pair(model, export_bundle(BundleRequest(folder / "hf", threads=1), folder / "bundle"))


def _sees(pair):
    return pair.bundle.part("vision") is not None


def _prompts(pair):
    if not _sees(pair):
        return [Prompt(str(ids), tuple(ids)) for ids in _TEXTS]
    rng = np.random.default_rng(0)
    block = [1, *[IMAGE_TOKEN] * PER_IMAGE]
    shape = (1, 3, SIDE, SIDE)
    return [
        Prompt(str(ids), (*block, *ids[1:]), {"pixel_values": rng.standard_normal(shape).astype(np.float32)})
        for ids in _TEXTS
    ]


def _until_end(tokens):
    return tuple(tokens[: tokens.index(2)] if 2 in tokens else tokens)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_batch_of_prompts_gives_the_32_tokens_of_transformers(pair, runtime):
    prompts = _prompts(pair)
    with OpenParts.open(pair.bundle, runtime, 1) as parts:
        found = GeneratingModel(parts).generate(prompts, Limits(pair.bundle.tokens.eos, _NEW))
    wanted = [pair.generated(prompt.ids, prompt.images.get("pixel_values")) for prompt in prompts]
    assert found == [_until_end(each) for each in wanted]
    assert len({*found}) == len(found)


def test_beams_starts_and_probabilities_are_those_of_the_model(pair):
    first = _prompts(pair)[0]
    with OpenParts.open(pair.bundle, "onnxruntime", 1) as parts:
        model = GeneratingModel(parts)
        best = model.beams(first, Limits(pair.bundle.tokens.eos, _NEW), 3)[0].tokens
        starts = model.starts(first, Limits(pair.bundle.tokens.eos, 4), 3)
        logprobs = model.log_probabilities(first)
    assert best == _until_end(pair.generated(first.ids, first.images.get("pixel_values"), num_beams=3))
    ids = torch.tensor([first.ids])
    given = {"pixel_values": torch.tensor(first.images["pixel_values"])} if first.images else {}
    with torch.no_grad():
        logits = pair.torch(input_ids=ids, **given).logits[0]
    assert [start[0] for start in starts] == logits[-1].topk(3).indices.tolist()
    assert starts[0] == _until_end(pair.generated(first.ids, first.images.get("pixel_values")))[:4]
    wanted = logits[:-1].log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]
    np.testing.assert_allclose(logprobs, wanted.numpy(), atol=1e-4)


def test_a_prompt_beyond_the_context_is_refused_before_anything_runs(pair):
    with OpenParts.open(pair.bundle, "onnxruntime", 1) as parts:
        model = GeneratingModel(parts)
        with pytest.raises(InputError, match=r"q1: 6 tokens and `max_tokens` 60 are more than the 64 .* shorten"):
            model.generate([Prompt("q1", (1, 5, 6, 7, 8, 9))], Limits((2,), 60))
        with pytest.raises(InputError, match="q2: its prompt has no tokens"):
            model.generate([Prompt("q2", ())], Limits((2,), 4))
        if _sees(pair):
            pixels = np.zeros((1, 3, SIDE, SIDE), np.float32)
            with pytest.raises(MismatchError, match="q3: its prompt has 1 image tokens, and the images give 4 rows"):
                model.generate([Prompt("q3", (1, IMAGE_TOKEN, 5), {"pixel_values": pixels})], Limits((2,), 4))


def test_a_question_becomes_a_prompt_with_as_many_image_tokens_as_the_model_wants(pair):
    maker = PromptMaker.of(pair.bundle, tokenizer_of(pair.bundle), "w4 <image> {question} w6")
    pixels = MemoryItem("grey", np.full((40, 30, 3), 255, np.uint8))
    question = Question("q", "", ("w9",), "w5 w8")
    if not _sees(pair):
        assert maker.make(question, None).ids == (1, 4, 5, 8, 6)
        with pytest.raises(InputError, match="takes no images"):
            maker.make(question, pixels)
        return
    prompt = maker.make(question, pixels)
    assert prompt.ids == (1, 4, *[IMAGE_TOKEN] * PER_IMAGE, 5, 8, 6)
    np.testing.assert_allclose(prompt.images["pixel_values"], np.ones((1, 3, SIDE, SIDE)), atol=1e-6)
    with pytest.raises(InputError, match=r"holds neither \{question\} nor <image>"):
        PromptMaker.of(pair.bundle, tokenizer_of(pair.bundle), "what?")


def _questions(pair, folder, count=6):
    """Writes questions whose answers are those of the model in FP32, as texts of at most 5 tokens."""
    rng = np.random.default_rng(1)
    tokenizer, lines = tokenizer_of(pair.bundle), []
    for number in range(count):
        asked: dict[str, Any] = {"id": number, "prompt": f"w{number + 4} w9"}
        item = None
        if _sees(pair):
            pixels = rng.integers(0, 255, (SIDE, SIDE, 3), np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.png")
            asked["image"], item = f"{number}.png", MemoryItem("image", pixels)
        prompt = PromptMaker.of(pair.bundle, tokenizer).make(Question("q", "", (), asked["prompt"]), item)
        tokens = _until_end(pair.generated(prompt.ids, prompt.images.get("pixel_values"))[:5])
        lines.append(asked | {"answer": tokenizer.decode(tokens)})
    return write_lines(folder / "questions.jsonl", lines)


def _with_int8_vision(bundle, samples, folder):
    """Returns a copy of a bundle whose vision part is in INT8, as `vision=int8` writes it of the same samples."""
    copied = shutil.copytree(bundle.folder, folder / "int8")
    static = static_graph(read_onnx(copied / "vision.onnx"), get_target("x86-ort"), "lp", samples, threads=1)
    save_onnx(static.graph, copied / "vision.onnx")
    described = BundleFile.of(copied / "vision.onnx")
    vision = dataclasses.replace(bundle.require_part("vision"), model=described, precision="int8", method="lp")
    changed = dataclasses.replace(bundle, folder=copied, parts=(vision, *bundle.parts[1:]))
    changed.save()
    return changed


def test_questions_calibrate_a_vision_part_in_int8_and_the_bundle_is_checked_scored_and_reported(pair, tmp_path, edgeq):
    questions = _questions(pair, tmp_path)
    source = open_folder(pair.bundle.folder.parent / "hf")
    split = splitter(source)(pair.torch, source)
    samples = read_samples(questions, "", source, split)
    asked = [json.loads(line) for line in questions.read_text().splitlines()]
    tokens = tokenizer_of(pair.bundle)
    marks = f"<image>{' ' if _sees(pair) else ''}" * (PER_IMAGE * _sees(pair))
    for sample, line in zip(samples, asked, strict=True):
        assert sample["input_ids"][0].tolist() == tokens.encode(f"{marks}{line['prompt']} {line['answer']}")
    if not _sees(pair):
        with pytest.raises(InputError, match="a text to calibrate on"):
            read_samples(tmp_path, "", source, split)
        return
    alone = read_samples(tmp_path, "", source, split)
    assert [set(each) for each in (samples[0], alone[0])] == [{"input_ids", "pixel_values"}, {"pixel_values"}]
    np.testing.assert_array_equal(alone[0]["pixel_values"], samples[0]["pixel_values"])
    chain = Chain(split, alone)
    assert [len(chain.feeds(part)) for part in split.parts] == [6, 0, 0, 0]
    bundle = _with_int8_vision(pair.bundle, samples, tmp_path)
    assert "open in ONNX Runtime" in edgeq("check", bundle.folder).out
    shown = {"pixel_values": np.concatenate([each["pixel_values"] for each in alone])}
    wanted, found = (PartSession(each.path("vision"), 1).run(shown)[0] for each in (pair.bundle, bundle))
    assert 0 < np.linalg.norm(found - wanted) / np.linalg.norm(wanted) < 0.05
    scored = tmp_path / "scored.json"
    done = edgeq(
        *("eval", pair.bundle.folder, bundle.folder, "--task", "transcription", "--data", questions, "--threads", "1"),
        *("--max-tokens", "5", "--answers", tmp_path / "answers", "--json", scored),
    )
    assert done.code == 0, done.error
    plain, changed = json.loads(scored.read_text())
    assert plain["exact_match"] == 1.0
    assert changed["precision"] == "vision=int8,connector=fp32,embedding=fp32,decoder=fp32"
    assert edgeq("report", scored, "--out", tmp_path / "report.html").code == 0
    assert "vision=int8" in (tmp_path / "report.html").read_text()


def test_eval_and_bench_take_the_folder(pair, tmp_path):
    questions = _questions(pair, tmp_path, 3)
    lines = list(map(json.loads, questions.read_text().splitlines()))
    # The last answer is wrong.
    write_lines(questions, [*lines[:2], lines[2] | {"answer": "w0"}])
    folder, results = str(pair.bundle.folder), tmp_path / "results.json"
    answers = str(tmp_path / "answers")
    arguments = ["--data", str(questions), "--max-tokens", "5", "--answers", answers, "--threads", "1"]
    printed = CliRunner().invoke(app, ["eval", folder, "--task", "transcription", *arguments, "--json", str(results)])
    assert printed.exit_code == 0, printed.output
    result = json.loads(results.read_text())
    assert result["exact_match"] == pytest.approx(2 / 3)
    assert (result["artifact"], result["precision"], result["source_digest"]) == (
        "bundle", "fp32", pair.bundle.source_digest,
    )  # fmt: skip
    head, *said = map(json.loads, (tmp_path / "answers" / "bundle.jsonl").read_text().splitlines())
    assert head == {"model": pair.bundle.name, "precision": "fp32", "runtime": "onnxruntime"}
    assert [line["answer"] for line in said[:2]] == [line["answer"] for line in lines[:2]]

    timed = tmp_path / "timed.json"
    printed = CliRunner().invoke(
        app,
        ["bench", folder, "--seconds", "0", "--threads", "1", "--prompt-tokens", "100", "--new-tokens", "8",
         "--json", str(timed)],
    )  # fmt: skip
    assert printed.exit_code == 0, printed.output
    measured = json.loads(timed.read_text())
    # 64 tokens of context leave 56 for the prompt; 7 steps follow the first token, in each of 3 turns.
    assert (measured["generation"]["prompt_tokens"], measured["runs"]) == (56, 21)
    assert measured["digest"] == result["digest"]
    assert measured["generation"]["part_bytes"].keys() == {part.name for part in pair.bundle.parts}
    assert ("images_ms" in measured["generation"]) and (measured["generation"]["images_ms"] is not None) == _sees(pair)
    reported = CliRunner().invoke(app, ["report", str(results), str(timed), "--out", str(tmp_path / "report.html")])
    assert reported.exit_code == 0, reported.output


def test_a_trial_of_a_study_answers_as_the_torch_model_with_its_weights(pair, tmp_path):
    part = "vision" if _sees(pair) else "decoder"
    subject = BundleSubject(pair.bundle.folder, "transcription", _questions(pair, tmp_path), max_tokens=5)
    space = Space(bits=(2,), granularity=("tensor",), component=(part,), layer=("attention",))
    options = StudyOptions(threads=1)
    with open_bundle_study(subject, space, tmp_path, options=options) as opened:
        run, (_, trial, _) = opened.run, opened.planned.trials
        run.model.bank.fill(run.model.bank.wanted([trial]))
        run.outcomes([trial])
        said = run.journal.predictions(run.entry(trial), run.numbers)
        assert isinstance(run.model, BundleModel)
        asked = [run.model._prompt(number) for number in run.numbers]
    changed = copy.deepcopy(pair.torch)
    originals = dict(pair.torch.named_modules())
    tower = changed.model.vision_tower if _sees(pair) else changed.model
    with torch.no_grad():
        for module in changed.modules():
            if isinstance(module, (torch.nn.Linear, torch.nn.Conv2d)):
                module.weight.copy_(module.weight.half().float())
        for name, module in tower.named_modules():
            if isinstance(module, torch.nn.Linear) and "self_attn" in name:
                weight = originals[next(key for key, each in changed.named_modules() if each is module)].weight
                low, high = weight.min(), weight.max()
                module.weight.copy_(((weight - low) / (high - low) * 3).round() / 3 * (high - low) + low)
    torch_pair = Pair(changed, pair.bundle)
    wanted = [torch_pair.generated(each.ids, each.images.get("pixel_values"))[:5] for each in asked]
    tokenizer = tokenizer_of(pair.bundle)
    assert list(said.values()) == [tokenizer.decode(_until_end(tokens)) for tokens in wanted]


class _Worker:
    """What a worker's process does, in this one: it starts in seconds elsewhere."""

    is_lost = False

    def __init__(self, folder):
        self._server = WorkerServer(folder)
        self.units = 0

    def opened(self):
        return self

    def facts(self, runtime):
        return worker_facts(runtime)

    def predict(self, unit):
        self.units += 1
        asked = self._ask(unit.command)
        if asked["missing"]:
            self._ask({"command": "know", "files": {each: str(unit.files[each]) for each in asked["missing"]}})
        return self._ask(unit.command)["found"]

    def close(self):
        """Has nothing to leave."""

    def _ask(self, command):
        answer = self._server.answer(json.dumps(command).encode())
        assert answer["ok"], answer
        return {"missing": [], "found": [], **answer}


@contextlib.contextmanager
def _executing(workers):
    with Executor("workers here") as found:
        for number, each in enumerate(workers):
            found.add(f"worker {number}", each.opened)
        yield found


def test_study_takes_the_folder_and_resumes(pair, tmp_path, monkeypatch):
    # Six questions are three batches, and two units of work.
    monkeypatch.setattr(study_verb, "BATCH", 2)
    monkeypatch.setattr(bundle_model, "BATCHES", 2)
    questions, out = _questions(pair, tmp_path), tmp_path / "study"
    parts = [part.name for part in pair.bundle.parts if part.name in ("vision", "connector", "decoder")]
    arguments = [
        *("study", str(pair.bundle.folder), "--task", "transcription", "--data", str(questions), "--max-tokens", "5"),
        *("--calib", str(questions), "--axis", "bits=2,8", "--axis", "granularity=8", "--axis", "method=gptq"),
        *("--mixed", "--axis", "component=each", "--out", str(out), "--threads", "1", "--max-drop", "100"),
    ]
    told = CliRunner().invoke(app, [*arguments, "--dry-run"])
    assert told.exit_code == 0, told.output
    results = []
    for number in range(2):
        if number:
            (out / "trials.csv").unlink()
        printed = CliRunner().invoke(app, [*arguments, "--json", str(tmp_path / f"{number}.json")])
        assert printed.exit_code == 0, printed.output
        results.append((out / "report.html").read_bytes())
    assert results[0] == results[1]
    if _sees(pair):
        workers = [_Worker(tmp_path / str(number)) for number in range(2)]
        monkeypatch.setattr("edgeq.tuning.workers.executing", lambda *_: _executing(workers))
        elsewhere = [*arguments[: arguments.index("--out")], "--out", str(tmp_path / "elsewhere"), "--threads", "1"]
        printed = CliRunner().invoke(app, [*elsewhere, "--max-drop", "100", "--workers", "2"])
        assert printed.exit_code == 0, printed.output
        assert (tmp_path / "elsewhere" / "report.html").read_bytes() == results[0]
        assert sum(each.units for each in workers) == 2 * (2 ** len(parts) + 3)
        assert not list((tmp_path / "elsewhere").glob("*.onnx"))
    result = json.loads((tmp_path / "0.json").read_text())
    assert result["float_score"] == 1.0 and result["images"] == 6
    # Each part in 2 or in 8 bits, and the two marks.
    assert len(result["points"]) == 2 ** len(parts) + 2
    assert {each.partition("/")[0] for layers in result["cells"].values() for each in layers} == set(parts)
    smallest = next(each["command"] for each in result["advice"] if each["command"])
    assert f"--part {parts[0]}=w2g8a-gptq" in smallest


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["eval", "{bundle}"], "a bundle answers questions; give --task, and --data"),
        (["eval", "{bundle}", "--task", "depth", "--data", "q.jsonl"], "'depth' is not about questions"),
        (["eval", "{bundle}", "x.onnx", "--task", "vqa", "--data", "{data}"], "x.onnx: is not a bundle"),
        (["bench", "{bundle}", "--new-tokens", "64"], "`new_tokens` 64: wanted 2 to 63"),
        (["deploy", "{bundle}", "--target", "arm"], "`target` arm: has no folder for bundles"),
        (["study", "{bundle}", "--data", "{data}"], "a bundle answers questions; give `task`"),
        (["study", "{bundle}", "--data", "{data}", "--task", "vqa", "--split", "val"], "is not for a"),
        (["study", "{bundle}", "--data", "{data}", "--task", "perplexity"], "scores answers in words; wanted transcr"),
        (["study", "{bundle}", "--data", "{data}", "--task", "vqa", "--axis", "method=gptq"], "`calib`: a method"),
    ],
)
def test_what_cannot_be_done_is_one_line(pair, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    data = write_lines(tmp_path / "q.jsonl", [{"id": 1, "answers": ["w5"]}])
    filled = [each.format(bundle=pair.bundle.folder, data=data) for each in arguments]
    printed = CliRunner().invoke(app, filled)
    assert printed.exit_code == 1
    assert message in str(printed.exception)
    assert "\n" not in str(printed.exception)
    assert [path.name for path in tmp_path.iterdir()] == ["q.jsonl"]


def test_texts_are_foreseen_in_windows_and_last_words_offered(pair, tmp_path):
    if _sees(pair):
        pytest.skip("of a model of texts")
    text = " ".join(f"w{4 + 7 * number % 80}" for number in range(100))
    questions = write_lines(tmp_path / "q.jsonl", [{"id": "t", "answer": text, "prompt": "w5 w8"}])
    with OpenParts.open(pair.bundle, "onnxruntime", 1) as parts:
        model, maker = GeneratingModel(parts), PromptMaker.of(pair.bundle, tokenizer_of(pair.bundle))
        perplexity: Any = get_task("perplexity").from_files(questions, tmp_path, "")
        lines = list(answered(perplexity, model, maker, AnswerOptions(stride=20)))
        last_word: Any = get_task("last-word").from_files(questions, tmp_path, "")
        (offered,) = answered(last_word, model, maker, AnswerOptions())
    # 101 tokens with the one that begins them, 64 of context.
    assert [(line["start"], len(line["logprobs"])) for line in lines] == [(1, 63), (21, 63), (41, 60)]
    ids = torch.tensor([tokenizer_of(pair.bundle).encode(text)[:64]])
    with torch.no_grad():
        logits = pair.torch(input_ids=ids).logits[0, :-1].log_softmax(-1)
    np.testing.assert_allclose(lines[0]["logprobs"], logits.gather(1, ids[0, 1:, None])[:, 0].numpy(), atol=1e-4)
    assert 1 <= len(offered["answers"]) <= 5
    assert all(" " not in word for word in offered["answers"])


def test_onnxruntime_genai_writes_the_same_tokens(pair, tmp_path):
    genai = pytest.importorskip("onnxruntime_genai")
    found = deploy_bundle(pair.bundle.folder, "onnxruntime-genai", tmp_path / "folder")
    assert found.changed and not deploy_bundle(pair.bundle.folder, "onnxruntime-genai", tmp_path / "folder").changed
    model = genai.Model(str(tmp_path / "folder"))
    for prompt in _prompts(pair):
        options = genai.GeneratorParams(model)
        options.set_search_options(max_length=len(prompt.ids) + _NEW, do_sample=False)
        generator = genai.Generator(model, options)
        ids = np.array([prompt.ids], np.int32)
        if prompt.images:
            given = genai.NamedTensors()
            given["input_ids"], given["pixel_values"] = ids, prompt.images["pixel_values"]
            given["num_image_tokens"] = np.array([PER_IMAGE], np.int64)
            generator.set_inputs(given)
        else:
            generator.append_tokens(ids)
        tokens = []
        while not generator.is_done():
            generator.generate_next_token()
            tokens.append(int(generator.get_next_tokens()[0]))
        assert _until_end(tokens) == _until_end(pair.generated(prompt.ids, prompt.images.get("pixel_values")))


def test_openvino_genai_writes_the_same_text(pair, tmp_path):
    genai = pytest.importorskip("openvino_genai")
    if _sees(pair):
        with pytest.raises(InputError, match="reads images, for which edgeq writes no folder of OpenVINO GenAI"):
            deploy_bundle(pair.bundle.folder, "openvino-genai", tmp_path / "folder")
        assert not (tmp_path / "folder").exists()
        return
    deploy_bundle(pair.bundle.folder, "openvino-genai", tmp_path / "folder")
    exact = {"ATTENTION_BACKEND": "SDPA", "INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32"}
    pipeline = genai.LLMPipeline(str(tmp_path / "folder"), "CPU", **exact)
    wanted = _until_end(pair.generated([1, 5, 17, 42]))
    said = pipeline.generate("w5 w17 w42", max_new_tokens=_NEW, do_sample=False, apply_chat_template=False)
    assert said.split() == tokenizer_of(pair.bundle).decode(wanted).split()


def test_a_bundle_of_another_model_in_parts_is_refused_by_the_programs(pair, tmp_path):
    bundle = dataclasses.replace(pair.bundle, tokenizer=(), positions="multimodal")
    manifest = pair.bundle.folder / MANIFEST_NAME
    before = manifest.read_bytes()
    try:
        bundle.save()
        with pytest.raises(InputError, match=r"gives lla(ma|va) no positions"):
            deploy_bundle(pair.bundle.folder, "onnxruntime-genai", tmp_path / "folder")
        if not _sees(pair):
            with pytest.raises(InputError, match=r"has no tokenizer\.json, without which OpenVINO GenAI opens"):
                deploy_bundle(pair.bundle.folder, "openvino-genai", tmp_path / "folder")
    finally:
        manifest.write_bytes(before)
