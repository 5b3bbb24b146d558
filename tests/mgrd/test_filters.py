"""Each reason to reject, and that grounding is decided on the waveform."""

import dataclasses

import pytest

from mgrd_jax.grounding.claims import OPPOSITE
from mgrd_jax.mgrd import filters
from tests.mgrd import chains


def denied(truth):
  return chains.describe({n: OPPOSITE[w] for n, w in truth.items()})


def with_facts_of(response, index):
  return dataclasses.replace(response, facts=[chains.clips()[index][1]])


def keep_rate(responses):
  kept = [not filters.ungrounded(r) for r in responses]
  return sum(kept) / len(kept)


def test_a_right_grounded_coherent_chain_has_no_reason_against_it():
  assert filters.reasons(chains.response()) == ()


TRUTH = chains.describe(chains.clips(1)[0][0])


@pytest.mark.parametrize(
  "fields, reason",
  [
    ({"acc": 0.0}, "wrong answer"),
    ({"closed": False}, "incoherent: not closed"),
    ({"think": "  \n"}, "incoherent: empty"),
    # No manifest could hold it, and a resumed round reads its chains back.
    ({"said": f"<think> {TRUTH}"}, "incoherent: special token inside"),
    ({"said": "high pitch and then " * 8}, "incoherent: repetitive"),
    ({"said": f"i cannot hear it, {TRUTH}"}, "incoherent: denies hearing"),
    ({"think": TRUTH}, "incoherent: no conclusion"),
    (
      {"reply": "answer: hymn"},
      "incoherent: reply differs from conclusion",
    ),
    (
      {"said": "the title says evening gown. that means waltz"},
      "ungrounded: speaks of text, not sound",
    ),
    ({"said": "a lovely dance"}, "ungrounded: no claim supported"),
    (
      {"said": denied(chains.clips()[0][0])},
      "ungrounded: no claim supported",
    ),
  ],
)
def test_each_fault_is_named(fields, reason):
  assert reason in filters.reasons(chains.response(**fields))


def test_one_contradicted_claim_among_true_ones_is_enough():
  truth = dict(chains.clips()[0][0])
  truth["tempo"] = OPPOSITE[truth["tempo"]]
  response = chains.response(said=chains.describe(truth))
  assert filters.reasons(response) == ("ungrounded: claim contradicted",)


def test_a_comparison_needs_a_claim_on_each_clip():
  first, second = (truth["mode"] for truth, _ in chains.clips()[:2])
  pair = dataclasses.replace(chains.example(), audio=("0.wav", "1.wav"))
  facts = [facts for _, facts in chains.clips()[:2]]
  heard = {"example": pair, "facts": facts, "others": ()}
  one = chains.response(said=f"{first} mode", **heard)
  assert filters.ungrounded(one) == "a clip without a claim"
  said = f"first clip {first} mode, second clip {second} mode"
  assert filters.ungrounded(chains.response(said=said, **heard)) is None


def test_all_faults_are_told_in_the_order_right_grounded_coherent():
  response = chains.response(acc=0.0, said="a dance", reply="answer: hymn")
  kinds = [r.split(":")[0] for r in filters.reasons(response)]
  assert kinds == ["wrong answer", "ungrounded", "incoherent"]


def test_without_grounding_only_the_ungrounded_are_forgiven():
  false = chains.response(said=denied(chains.clips()[0][0]))
  assert filters.reasons(false) and not filters.reasons(false, grounding=False)
  wrong = dataclasses.replace(false, acc=0.0)
  assert filters.reasons(wrong, grounding=False) == ("wrong answer",)


@pytest.mark.parametrize(
  "think, reason",
  [
    ("the words say two plus three. two plus three is 5. so 5", None),
    ("the words say two plus four. two plus four is 5. so 5", "misquotes"),
    ("high pitch, loud volume. so 5", "quotes no words"),
  ],
)
def test_where_the_words_are_the_evidence_they_must_be_quoted(think, reason):
  spoken = chains.example(
    answer="5",
    answer_type="number",
    options=(),
    transcript="two plus three",
    meta={"family": "sums", "evidence": "words"},
  )
  response = chains.response(example=spoken, think=think)
  found = filters.ungrounded(response)
  assert (found is None) if reason is None else (reason in found)


def test_permuted_audio_is_kept_far_less_than_its_own():
  size = len(chains.clips())
  true = [chains.response(i) for i in range(size)]
  permuted = [with_facts_of(r, (i + 5) % size) for i, r in enumerate(true)]
  assert keep_rate(true) >= 0.9
  assert keep_rate(permuted) <= 0.2


def test_a_chain_that_holds_on_every_clip_does_not_pass():
  seconds = chains.clips()[0][1]["duration"]
  alike = [chains.clips()[0][1] | {"duration": seconds}]
  response = chains.response(
    said=f"lasting {seconds:.1f} seconds", others=[alike] * 8
  )
  assert filters.ungrounded(response) == "holds as well on other clips"


def test_boilerplate_does_not_pass_for_listening():
  # One sentence of five claims, right about the label each time.
  sentence = chains.describe({name: w[0] for name, w in chains.AXES.items()})
  size = len(chains.clips())
  said = [chains.response(i, said=sentence) for i in range(size)]
  assert keep_rate(said) <= 0.1


def test_repetition_counts_four_word_phrases_said_again():
  assert filters.repetition("a b c") == 0
  assert filters.repetition("a b c d e f g") == 0
  assert filters.repetition("a b c d a b c d") == pytest.approx(1 / 5)


@pytest.mark.parametrize("end", [
  "so waltz", "so waltz.", "So, waltz.\n", "so the waltz",
])  # fmt: skip
def test_a_conclusion_is_read_in_any_case_and_with_or_without_a_stop(end):
  response = chains.response(think=f"{TRUTH}. {end}")
  assert filters.incoherent(response) is None


def test_the_point_of_a_number_ends_no_sentence():
  number = chains.example(answer="2.5", answer_type="number", options=())
  for end, reason in (
    ("so 2.5", None),
    ("so 2.5.", None),
    ("so 2.4", "reply differs from conclusion"),
    ("so 2.5. that is all", "no conclusion"),
  ):
    response = chains.response(
      example=number, think=f"{TRUTH}. {end}", reply="answer: 2.5"
    )
    assert filters.incoherent(response) == reason, end


def told(at, reasoning, **fields):
  return chains.example(at, id=f"q{at}", reasoning=reasoning, **fields)


def test_reasoning_that_no_round_would_keep_is_doubted_by_reason():
  silent = [told(at, "it turns and turns", split="train") for at in range(5)]
  rows = [
    told(5, "it turns. so waltz"),  # the answer is march
    told(6, "it turns. so tango"),
    told(8, "so waltz", meta={"given": "it turns."}),
    told(9, "it turns", split="test"),
    told(10, "it turns", split="dev"),
    told(11, None),
  ]
  none, other = filters.doubts(silent + rows)
  assert none.reason.endswith("no conclusion") and none.rows == 5
  assert none.fix.startswith("'q0', 'q1', 'q2', ...; end it in \"so X\"")
  assert other.reason.endswith("reply differs from conclusion")
  assert other.rows == 1 and other.fix.startswith("'q5'; end it")
  assert filters.doubts(rows[1:]) == []
