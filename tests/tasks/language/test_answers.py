"""Scores of answers against their published definitions, independent programs, and cases that people can count."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeq.errors import InputError, MismatchError
from edgeq.tasks.language.ngrams import bleu, cider, words_of
from edgeq.tasks.language.presence import says_yes
from edgeq.tasks.language.vqa import normalised, soft_accuracy
from tests.tasks.language.written import score_all, write_lines, write_pair


def scored(folder, task, questions, answers):
    given_file, truth = write_pair(folder, questions, answers)
    (found,) = score_all(given_file, task, truth)
    return found


def test_transcription_strips_and_upper_cases(tmp_path):
    people = {"1": ["Miller"], "2": ["Schmidt", "SCHMITT"], "3": ["Ng"], "4": ["Lee"]}
    found = scored(tmp_path, "transcription", people, {"1": " miller\n", "2": "schmit", "3": "", "4": "kitten"})
    score = found.result.score
    # Distances 0, 1 to the nearer one, 2, and 5 (one of the letters of "Lee" is kept).
    assert (score.exact_match, score.levenshtein) == (0.25, 2.0)
    assert score.likeness == pytest.approx((1 + (1 - 1 / 7) + 0 + (1 - 5 / 6)) / 4)
    assert found.low == 0
    assert found.high == 0.75


@pytest.mark.parametrize(("agreeing", "accuracy"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)])
def test_ten_people_give_a_soft_accuracy(agreeing, accuracy):
    assert soft_accuracy("Red.", ["red"] * agreeing + ["blue"] * (10 - agreeing)) == pytest.approx(accuracy)


def test_a_single_answer_is_the_right_one():
    assert [soft_accuracy(each, ["2"]) for each in ("Two", "the 2!", "3")] == [1, 1, 0]


@pytest.mark.parametrize(
    ("text", "plain"),
    [("The cat.", "cat"), ("An apple, a pear", "apple pear"), ("1,000.5", "1,000.5"), ("ten", "10"), ("None", "0"),
     ("yes!", "yes"), ("black/white", "black white"), ("don't", "don't"), ("  Two \n dogs", "2 dogs")],
)  # fmt: skip
def test_answers_are_compared_without_what_does_not_matter(text, plain):
    assert normalised(text) == plain


def test_vqa_takes_answers_as_its_annotations_have_them(tmp_path):
    people = [{"answer": word, "answer_id": number} for number, word in enumerate(["yes"] * 2 + ["no"] * 8, start=1)]
    truth = write_lines(tmp_path / "q.jsonl", [{"question_id": 7, "image": "a.jpg", "answers": people}])
    answers = write_lines(tmp_path / "a.jsonl", [{"question_id": 7, "answer": "Yes"}])
    (found,) = score_all(answers, "vqa", truth)
    assert (found.result.score.vqa_accuracy, found.result.score.agreeing) == (pytest.approx(0.6), 1.0)


@pytest.mark.parametrize(
    ("answer", "yes"),
    [("Yes", True), ("No.", False), ("There is not a dog. Yes, really", False), ("A dog sits there. No cat.", True),
     ("NO!", False), ("I know it", True), ("", True)],
)  # fmt: skip
def test_an_answer_is_no_if_its_first_sentence_says_so(answer, yes):
    assert says_yes(answer) is yes


def test_objects_that_are_seen_although_they_are_not_there(tmp_path):
    truth = {str(number): ["yes" if number < 4 else "no"] for number in range(8)}
    said = dict(zip(truth, ["yes", "yes", "yes", "no", "yes", "no", "no", "No, there is none"], strict=True))
    score = scored(tmp_path, "object-presence", truth, said).result.score
    assert (score.presence_accuracy, score.yes_precision, score.yes_recall, score.yes_ratio) == (0.75, 0.75, 0.75, 0.5)
    assert score.yes_f1 == 0.75


def test_a_blind_model_is_suspected(tmp_path):
    truth = {str(number): ["yes" if number % 2 else "no"] for number in range(40)}
    blind = scored(tmp_path, "object-presence", truth, dict.fromkeys(truth, "Yes, I see it clearly"))
    (suspicion,) = blind.result.suspicions
    assert suspicion.text.startswith(
        "says yes to 100% of the questions, and yes is right for 50%: it may be fluent but"
    )
    assert (
        scored(tmp_path, "object-presence", truth, {key: each[0] for key, each in truth.items()}).result.suspicions
        == ()
    )


def test_the_same_answer_to_everything_is_suspected_and_one_without_an_end_too(tmp_path):
    truth = {str(number): [f"plate {number}"] for number in range(40)}
    same = scored(tmp_path, "transcription", truth, dict.fromkeys(truth, "A dented door"))
    assert "100% of the answers are 'a dented door', whatever was asked" in same.result.suspicions[0].text
    endless = scored(tmp_path, "transcription", truth, {key: each[0] * 10 for key, each in truth.items()})
    assert "may not end its answers" in endless.result.suspicions[0].text


def test_last_words(tmp_path):
    truth = {"a": ["Gabriel"], "b": ["tea"], "c": ["door"]}
    offered = {"a": ["gabriel.", "he"], "b": ["coffee", "milk", "Tea"], "c": ["x", "x", "x", "x", "x", "door"]}
    score = scored(tmp_path, "last-word", truth, offered).result.score
    assert (score.first_word, score.five_words) == (pytest.approx(1 / 3), pytest.approx(2 / 3))


PEOPLE = [
    ["a man rides a brown horse on the beach", "man riding a horse along the sea", "a person on a horse at the beach"],
    ["two dogs play with a red ball in the grass", "dogs playing with a ball", "two brown dogs run after a ball"],
    ["a plate of pasta with tomato sauce", "a dish of spaghetti on a table"],
    ["a cracked tile on a wall", "the tile on the wall has a crack", "a wall with one cracked tile", "crack in a tile"],
]
CAPTIONS = [
    "a man riding a horse on the beach", "two dogs play with a ball in the grass", "a bowl of soup on a table",
    "a wall with a cracked tile",
]  # fmt: skip


def test_captions_are_scored_as_by_the_evaluation_of_coco(tmp_path):
    """The golden numbers are those of pycocoevalcap 1.2."""
    people = [[words_of(text) for text in each] for each in PEOPLE]
    found = cider({number: words_of(text) for number, text in enumerate(CAPTIONS)}, people)
    np.testing.assert_allclose(found, [3.53706382, 3.64217349, 1.41702272, 2.81900197], atol=1e-8)
    assert bleu([words_of(each) for each in CAPTIONS], people) == pytest.approx(
        (0.9027350270563567, 0.839778746137725, 0.7386827922930806, 0.5736523020856671), abs=1e-8
    )
    coco = {
        "images": [{"id": number, "file_name": f"{number}.jpg"} for number in range(4)],
        "annotations": [
            {"image_id": number, "caption": text.capitalize() + "."}
            for number, each in enumerate(PEOPLE)
            for text in each
        ],
    }
    (tmp_path / "captions.json").write_text(json.dumps(coco))
    results = [{"image_id": number, "caption": text} for number, text in enumerate(CAPTIONS)]
    (tmp_path / "results.json").write_text(json.dumps(results))
    (scored_file,) = score_all(tmp_path / "results.json", "captioning", tmp_path / "captions.json")
    score = scored_file.result.score
    assert score.cider == pytest.approx(2.8538155006104606)
    assert score.bleu_4 == pytest.approx(0.5736523020856671, abs=1e-8)


def test_words_are_split_as_in_a_treebank():
    assert words_of("A man's dog doesn't bark - it's OK!") == (
        "a", "man", "'s", "dog", "does", "n't", "bark", "it", "'s", "ok"
    )  # fmt: skip


TEXTS = st.lists(st.sampled_from("abcde"), min_size=1, max_size=9).map(tuple)


@given(st.lists(st.lists(TEXTS, min_size=1, max_size=3), min_size=2, max_size=4))
def test_captions_of_people_are_the_best_captions(people):
    """A caption that is the only reference has every n-gram of it, and no other text scores more."""
    single = [each[:1] for each in people]
    own = cider({number: each[0] for number, each in enumerate(single)}, single)
    other = cider({number: each[-1] for number, each in enumerate(people)}, single)
    assert (own >= other - 1e-9).all()
    assert (own <= 10 + 1e-9).all()
    assert bleu([each[0] for each in single], single)[0] == pytest.approx(1)


@pytest.mark.parametrize(
    ("truth", "answers", "complaint"),
    [
        ([{"id": 1}], [], "'1' has no answer"),
        ([{"answers": ["a"]}], [], "line 1 has no 'id'"),
        ([], [], "holds no questions"),
        ([{"id": 1, "answer": "a"}] * 2, [], "states '1' twice"),
        ([{"id": 1, "answer": 3}], [], "line 1: $.answer is 3, wanted text"),
        ([{"id": 1, "answer": "a"}], [{"id": 1, "answer": "a"}] * 2, "answers '1' again"),
        ([{"id": 1, "answer": "a"}], [{"id": 1}], "has no 'answer'"),
        ([{"id": 1, "answer": "a"}], [{"answer": "a"}], "has no 'id'"),
        ([{"id": 1, "answer": "a"}], [], "does not answer '1'; wanted an answer to each of 1 questions"),
        ([{"id": 1, "answer": "a"}], [{"id": 1, "answer": ""}, {"id": 2, "answer": ""}], "does not ask: '2'"),
    ],
)
def test_files_that_do_not_fit_are_refused(tmp_path, truth, answers, complaint):
    files = write_lines(tmp_path / "a.jsonl", answers), write_lines(tmp_path / "t.jsonl", truth)
    with pytest.raises((InputError, MismatchError)) as refused:
        score_all(files[0], "transcription", files[1])
    assert complaint in str(refused.value)
    assert "\n" not in str(refused.value)


def test_other_tasks_and_questions_of_more_than_yes_and_no_are_refused(tmp_path):
    answers, truth = write_pair(tmp_path, {"1": ["red"]}, {"1": "red"})
    with pytest.raises(InputError, match="`task` 'detection' is not about questions; known: transcription, vqa"):
        score_all(answers, "detection", truth)
    with pytest.raises(InputError, match="'1' is answered 'red'; wanted yes or no"):
        score_all(answers, "object-presence", truth)
    with pytest.raises(InputError, match="no answers to score"):
        score_all([], "vqa", truth)
