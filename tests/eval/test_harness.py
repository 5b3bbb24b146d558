"""Responses to numbers: what is right, what is surrogate, what follows."""

import numpy as np
import pytest

from mgrd_jax.eval import harness
from tests.mgrd import chains


def full(response, think=None):
  think = response.think if think is None else think
  return f"<think>\n{think}\n</think>\n{response.reply}"


def record(index=0, *, text=None, stopped=True, **fields):
  response = chains.response(index)
  text = full(response) if text is None else text
  values = dict(tokens=20, facts=response.facts)
  return harness.Record(
    fields.pop("example", response.example), text, stopped, **values | fields
  )


def summary(records):
  items = [harness.grade(r, think_tokens=9) for r in records]
  return harness.summary(items, records)


@pytest.mark.parametrize(
  "text, stopped, acc",
  [
    ("<think>\nx. so waltz\n</think>\nanswer: waltz", True, 1.0),
    # Right without a thought earns 0.8 and is right.
    ("<think>\n\n</think>\nanswer: waltz", True, 1.0),
    # Wrong with a thought earns 0.2 and is not.
    ("<think>\nx. so march\n</think>\nanswer: march", True, 0.0),
    # What the chain says does not count, nor what was cut off.
    ("<think>\nx. so waltz\n</think>\nanswer: march", True, 0.0),
    ("<think>\nx. so waltz\n</think>\nanswer: waltz", False, 0.0),
    ("<think>\nx. so waltz", True, 0.0),
  ],
)
def test_rightness_is_read_off_the_reply_and_never_off_the_reward(
  text, stopped, acc
):
  assert harness.grade(record(text=text, stopped=stopped))["acc"] == acc


def test_a_responder_of_all_right_scores_one_and_of_all_wrong_zero():
  right = [record(i) for i in range(8)]
  wrong = [record(i, text=full(chains.response(i + 1))) for i in range(8)]
  assert summary(right)["acc"] == 1 and summary(right)["ci95"] == [1, 1]
  assert summary(wrong)["acc"] == 0 and summary(wrong)["ci95"] == [0, 0]
  both = summary(right + wrong)
  assert both["acc"] == 0.5 and both["ci95"][0] < 0.5 < both["ci95"][1]


def test_a_guesser_scores_chance():
  rng = np.random.default_rng(0)
  records = []
  for i in range(800):
    guess = f"answer: {rng.choice(chains.LABELS)}"
    example = chains.example(i)
    records.append(
      harness.Record(example, f"<think>\n\n</think>\n{guess}", True, 5)
    )
  found = summary(records)
  chance = np.mean([harness.chance(r.example) for r in records])
  assert chance == 0.25
  # Three standard errors.
  assert abs(found["acc"] - chance) < 3 * (0.25 * 0.75 / 800) ** 0.5


def test_chance_of_an_open_question_is_that_of_its_candidates():
  number = dict(answer_type="number", answer="5", options=())
  some = chains.example(**number, meta={"candidates": 19})
  assert harness.chance(some) == 1 / 19
  assert harness.chance(chains.example(**number, meta={})) < 1e-6


def test_claims_stand_with_their_verdicts():
  (truth, _), *_ = chains.clips()
  item = harness.grade(record())
  assert [c["attribute"] for c in item["claims"]] == list(truth)
  assert {c["verdict"] for c in item["claims"]} == {"supported"}
  silent = harness.grade(record(facts=()))
  assert {c["verdict"] for c in silent["claims"]} == {"unverifiable"}


def test_true_chains_have_precision_and_lift_and_boilerplate_no_lift():
  size = len(chains.clips())
  found = summary([record(i) for i in range(size)])
  assert found["claim_precision"] >= 0.95 and found["claim_lift"] >= 0.3
  same = full(chains.response(0))
  plate = summary([record(i, text=same) for i in range(size)])
  assert abs(plate["claim_lift"]) < 0.1


WORDS = "the words say two plus three. two plus three is 5. so 5"


def test_the_surrogate_rate_is_over_questions_whose_evidence_is_the_sound():
  spoken = chains.example(
    answer="5",
    answer_type="number",
    options=(),
    meta={"family": "sums", "evidence": "words"},
  )
  quoting = f"<think>\n{WORDS}\n</think>\nanswer: 5"
  title = "the title says evening gown. that means waltz. so waltz"
  surrogate = full(chains.response(0), think=title)
  found = summary(
    [
      record(text=surrogate),
      record(1),
      *[record(text=quoting, example=spoken)] * 3,
    ]
  )
  assert found["surrogate_rate"] == 0.5
  assert found["acc"] == 1.0


def test_only_words_as_evidence_leaves_grounding_blank():
  spoken = chains.example(
    answer="5", answer_type="number", options=(), meta={"evidence": "words"}
  )
  quoting = f"<think>\n{WORDS}\n</think>\nanswer: 5"
  found = summary([record(text=quoting, example=spoken)])
  for name in ("surrogate_rate", "claim_precision", "claim_lift"):
    assert found[name] is None


def test_an_answer_follows_the_clip_that_was_heard():
  went = record(0, text=full(chains.response(1)), other_answer="march")
  stayed = record(0, other_answer="march")
  astray = record(0, text=full(chains.response(2)), other_answer="march")
  graded = [harness.grade(r) for r in (went, stayed, astray)]
  assert [g["acc"] for g in graded] == [0, 1, 0]
  assert [g["follow"] for g in graded] == [1, 0, 0]
  assert summary([went, stayed, astray])["follow"] == pytest.approx(1 / 3)
  assert "follow" not in summary([record(0)])


def test_subsets_are_the_questions_so_marked():
  meta = {"family": "music", "evidence": "sound"}
  held = chains.example(0, meta=meta | {"heldout": True})
  torn = chains.example(1, meta=meta | {"conflict": True})
  found = summary(
    [record(0, example=held), record(0, example=torn), record(2)]
  )
  assert found["acc_heldout"] == 1 and found["acc_conflict"] == 0
  assert summary([record(2)])["acc_heldout"] is None


def test_empty_and_coherent_shares():
  empty = full(chains.response(0), think="")
  cut = "<think>\nhigh pitch, and"
  found = summary([record(), record(text=empty), record(text=cut)])
  assert found["frac_empty_think"] == pytest.approx(1 / 3, abs=1e-6)
  assert found["frac_coherent"] == pytest.approx(1 / 3, abs=1e-6)
  assert found["think_tokens"] == 9


def test_a_reply_that_is_no_option_is_coherent_but_not_on_offer():
  options = chains.example(0).options
  assert options and "nonsense" not in options
  said = "so nonsense\n</think>\nanswer: nonsense"
  astray = record(text=f"<think>\n{said}")
  found = summary([record(), astray])
  assert found["frac_coherent"] == 1
  assert found["frac_offered"] == 0.5
  free = chains.example(0, options=(), answer_type="text")
  assert summary([record(example=free)])["frac_offered"] is None


def test_without_items_all_numbers_are_there_and_null():
  empty = harness.summary([], [])
  assert empty.keys() == summary([record()]).keys()
  told = {name for name, value in empty.items() if value is not None}
  assert told == {"n", "by_source"}
  assert empty["n"] == 0 and empty["by_source"] == {}


def graded(*rights):
  return [{"id": str(at), "acc": float(r)} for at, r in enumerate(rights)]


def test_thinking_and_direct_answers_are_compared_question_by_question():
  think, direct = graded(1, 1, 1, 1, 0, 1), graded(1, 0, 0, 0, 1, 0)
  found = harness.paired(think, direct)
  assert found["diff"] == 0.5
  low, high = found["ci95"]
  assert low < 0.5 < high
  # Four against one: 2 (1 + 5) / 2^5.
  counts = found["only_think"], found["only_direct"], found["p"]
  assert counts == (4, 1, 12 / 32)
  # As many right answers in other places tell another story.
  apart = harness.paired(think, graded(1, 1, 0, 0, 0, 0))
  assert apart["diff"] == 0.5
  assert (apart["only_think"], apart["only_direct"]) == (3, 0)


def test_answers_to_different_questions_are_not_compared():
  with pytest.raises(ValueError, match="different questions"):
    harness.paired(graded(1, 0), graded(1, 0)[::-1])
  empty = harness.paired([], [])
  assert empty.keys() == harness.paired(graded(1, 0), graded(0, 0)).keys()
  assert set(empty.values()) == {None}
