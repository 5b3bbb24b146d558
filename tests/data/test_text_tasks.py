"""Text examples: every chain concludes, rules hold, hints are shared out."""

import collections

import numpy as np
import pytest

from mgrd_jax.data import lexicon, schema, text_tasks
from mgrd_jax.rewards import answers

WORLD = lexicon.draw_world(0)


def build(source, count=400, seed=0, hint_share=0.8):
  return text_tasks.build(
    WORLD, source, count, seed=seed, hint_share=hint_share
  )


ROWS = {source: build(source) for source in text_tasks.SOURCES}
each_source = pytest.mark.parametrize("source", text_tasks.SOURCES)


@each_source
def test_every_chain_ends_in_its_answer(source):
  chains = [(r.reasoning, r.answer) for r in ROWS[source] if r.reasoning]
  assert len(chains) > 250
  for chain, answer in chains:
    assert chain.endswith(f"so {answer}"), chain


@each_source
def test_every_row_is_a_sound_example_and_its_answer_scores(source):
  ids = set()
  for row in ROWS[source]:
    assert not schema.problems(schema.to_json(row)), row
    ids.add(row.id)
    verdict = answers.match(
      row.answer, row.answer, answer_type=row.answer_type, options=row.options
    )
    assert verdict, row
  assert len(ids) == len(ROWS[source])


@each_source
def test_rows_depend_on_the_seed_alone(source):
  assert build(source, 20) == ROWS[source][:20]
  assert build(source, 20, seed=1) != ROWS[source][:20]


@each_source
def test_a_fifth_has_no_reasoning_but_conclusions_always_have(source):
  share = np.mean([row.reasoning is None for row in ROWS[source]])
  if source in ("rule", "both"):
    assert share == 0
  else:
    # Four standard deviations of 400 draws.
    assert share == pytest.approx(0.2, abs=0.08)


@each_source
def test_hints_are_asked_of_descriptions_that_lead_to_a_label(source):
  share = np.mean([row.meta.get("hint", False) for row in ROWS[source]])
  labels = {f.question for f in lexicon.FAMILIES.values()}
  if source in ("describe", "rule", "order", "compared"):
    rest = []
    for row in ROWS[source] + build(source, 400, hint_share=0.0):
      if row.question.endswith(tuple(labels)):
        assert row.meta["hint"]
      else:
        rest.append(row.meta.get("hint", False))
    # Half of these were built with a share of 0.8, half with none.
    assert np.mean(rest) == pytest.approx(0.4, abs=0.1)
  elif source in ("both", "sums", "logic"):
    assert share == pytest.approx(0.5, abs=0.1)
  else:
    assert share == 0
  for row in ROWS["both"]:
    # Where words and description are at odds, the hint decides.
    speaks = row.reasoning.startswith(("the words", "the title", "the label"))
    assert speaks != row.meta.get("hint", False)


def test_a_conclusion_follows_a_given_chain_that_is_not_its_target():
  for row in ROWS["rule"]:
    assert row.reasoning == f" so {row.answer}"
    assert row.meta["given"].endswith(".")
  others = [r for s in ROWS if s != "rule" for r in ROWS[s]]
  assert not any("given" in row.meta for row in others)


def facts_of(text, family):
  """The attributes that a list of claims names."""
  facts = {}
  assert text.startswith(f"{lexicon.HEARD} ")
  listed = text.removeprefix(lexicon.HEARD).strip(" .")
  for claim in listed.split(", "):
    for name, (values, noun) in family.attributes.items():
      value, _, rest = claim.partition(" ")
      if rest == noun and value in values:
        facts[name] = value
  return facts


@pytest.mark.parametrize("source", ["rule", "describe"])
def test_described_attributes_lead_to_the_label_of_the_rule(source):
  checked = 0
  for row in ROWS[source]:
    family = lexicon.FAMILIES[row.meta["family"]]
    if not row.question.endswith(family.question):
      continue
    text = row.meta.get("given") or (row.reasoning or "").rpartition(". so ")[0]
    if text:
      facts = facts_of(text, family)
      assert set(facts) == set(family.attributes)
      assert WORLD.label(family, facts) == row.answer
      checked += 1
  assert checked > 150


def test_held_out_combinations_are_taught_in_text():
  seen = set()
  for row in ROWS["rule"]:
    family = lexicon.FAMILIES[row.meta["family"]]
    facts = facts_of(row.meta["given"], family)
    seen.add(WORLD.is_heldout(family, facts))
  assert seen == {True, False}


def test_chains_over_words_claim_nothing_about_sound():
  nouns = {
    noun for f in lexicon.FAMILIES.values() for _, noun in f.attributes.values()
  }
  for row in ROWS["words"]:
    chain = (row.reasoning or "").split(". so ")[0]
    said = row.question.split(": ", 1)[1].split(".")[0]
    left = chain.replace(said, "")
    assert not nouns & set(left.replace(".", "").split()), row


def test_sums_and_premises_are_right():
  for row in ROWS["sums"]:
    said = row.question.split("what is ")[1].split(".")[0]
    left, sign, right = said.split()
    a, b = lexicon.NUMBERS.index(left), lexicon.NUMBERS.index(right)
    assert int(row.answer) == (a + b if sign == "plus" else a - b) >= 0
  counts = collections.Counter(row.answer for row in ROWS["logic"])
  assert set(counts) == {"yes", "no"}
  assert counts["yes"] == pytest.approx(200, abs=40)
  for row in ROWS["logic"]:
    words = row.question.split(": ")[1].split(".")[0].split()
    if "more" in words:
      a, b = lexicon.NUMBERS.index(words[1]), lexicon.NUMBERS.index(words[-1])
      assert row.answer == ("yes" if a > b else "no")
    else:
      assert row.answer == ("yes" if words[3] == words[-1] else "no")


def test_all_answers_are_on_offer_in_any_order():
  rng = np.random.default_rng(0)
  places = collections.Counter()
  for _ in range(400):
    options = text_tasks.shuffled(rng, ("a", "b", "c", "d"))
    assert sorted(options) == ["a", "b", "c", "d"]
    places[options.index("c")] += 1
  assert min(places.values()) > 60 and len(places) == 4


def test_an_unknown_source_is_refused_by_name():
  with pytest.raises(ValueError, match="'none such'; have"):
    build("none such")


def test_no_words_begin_as_a_description_of_sound_does():
  """Who transcribes must not slip into describing, nor the other way."""
  voice = lexicon.VOICE.labels
  said = [
    phrase
    for label in voice
    for part in ("train", "test")
    for phrase in lexicon.phrases(label, part)
  ]
  titles = "|".join(lexicon.TITLES.values()).split("|")
  assert len(said) == 6 * len(voice) and len(titles) == 24
  assert not [s for s in said + titles if s.startswith(lexicon.HEARD)]
