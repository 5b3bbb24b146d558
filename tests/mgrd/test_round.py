"""A round of distillation: counts, caps, what is kept and what is told."""

import dataclasses

import pytest

from mgrd_jax.mgrd import round as mgrd_round
from tests.mgrd import chains


def swapped(response):
  return dataclasses.replace(response, facts=response.others[0], others=())


@pytest.fixture(scope="module")
def outcome():
  """Two questions: five chains of the first, three of the second."""
  truth = chains.clips()[0][0]
  first = [
    chains.response(0),
    chains.response(0, said=chains.describe(dict(list(truth.items())[:2]))),
    chains.response(0, said=chains.describe(dict(list(truth.items())[:3]))),
    chains.response(0),
    chains.response(0, acc=0.0),
  ]
  second = [
    chains.response(1, said="a lovely dance"),
    chains.response(1, reply="answer: waltz"),
    chains.response(1),
  ]
  return mgrd_round.distil([*first, *second], swapped, per_question=2)


def test_the_funnel_counts_from_left_to_right(outcome):
  funnel = outcome.funnel
  counts = [
    funnel[name]
    for name in ("sampled", "correct", "grounded", "coherent", "kept")
  ]
  assert counts == [8, 7, 6, 5, 3]
  assert funnel["passed"] == 5
  assert counts == sorted(counts, reverse=True)
  assert funnel["reasons"] == {
    "wrong answer": 1,
    "ungrounded: no claim supported": 1,
    "incoherent: reply differs from conclusion": 1,
  }


def test_a_question_keeps_its_longest_different_chains(outcome):
  kept = [e for e in outcome.kept if e.id.endswith("pool-0")]
  assert len(kept) == 2 and kept[0].reasoning != kept[1].reasoning
  assert [e.reasoning.count(",") for e in kept] == [4, 2]


def test_what_is_kept_asks_without_the_hint(outcome):
  source = chains.example(0)
  for example in outcome.kept:
    assert "hint" not in example.meta and example.source == "chain"
    assert example.meta["family"] == "music"
    assert example.question == source.question and example.audio
    assert example.answer in example.reasoning
  assert len({e.id for e in outcome.kept}) == len(outcome.kept)
  assert source.meta["hint"]


def test_rejects_are_kept_with_their_reasons(outcome):
  assert len(outcome.rejects) == 3
  for reject in outcome.rejects:
    assert set(reject) == {"id", "think", "reply", "reasons"}
    assert reject["reasons"] and reject["think"]


def test_the_keep_rate_falls_with_other_clips():
  found = [chains.response(i) for i in range(len(chains.clips()))]
  funnel = mgrd_round.distil(found, swapped).funnel
  assert funnel["keep_rate"] >= 0.9
  assert funnel["swap_keep_rate"] <= 0.2
  # Without the filter another clip is as good as the own one.
  blind = mgrd_round.distil(found, swapped, grounding=False).funnel
  assert blind["swap_keep_rate"] == blind["keep_rate"] == 1


def test_rates_are_of_chains_whose_evidence_is_the_sound():
  spoken = chains.example(
    answer="5",
    answer_type="number",
    options=(),
    transcript="two plus three",
    meta={"family": "sums", "evidence": "words"},
  )
  think = "the words say two plus three. two plus three is 5. so 5"
  words = chains.response(example=spoken, think=think)
  heard = [chains.response(i) for i in range(4)]
  alone = mgrd_round.distil(heard, swapped).funnel
  beside = mgrd_round.distil([*heard, *[words] * 4], swapped).funnel
  for rate in ("keep_rate", "swap_keep_rate"):
    assert beside[rate] == alone[rate]
  assert beside["correct"] == 8


def test_nothing_sampled_is_an_empty_outcome():
  outcome = mgrd_round.distil([], swapped)
  assert outcome.kept == outcome.rejects == []
  assert outcome.funnel["kept"] == 0 and outcome.funnel["keep_rate"] == 0
