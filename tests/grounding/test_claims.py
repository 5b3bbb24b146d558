"""The lexicon: what counts as a claim, and what it says."""

import pytest

from mgrd_jax.grounding import claims


def said(text):
  return [(c.attribute, c.value) for c in claims.parse(text)]


def test_the_recipe_chains_parse_to_one_claim_a_clause():
  assert said(
    "high pitch, rising contour, slow rate, soft volume, breathy voice"
  ) == [
    ("pitch", "high"),
    ("contour", "rising"),
    ("rate", "slow"),
    ("loudness", "soft"),
    ("quality", "breathy"),
  ]
  assert said(
    "minor mode, fast tempo, falling contour, dark timbre, fading dynamics"
  ) == [
    ("mode", "minor"),
    ("tempo", "fast"),
    ("contour", "falling"),
    ("timbre", "dark"),
    ("dynamics", "fading"),
  ]
  assert said("3 events, low pitch, irregular spacing") == [
    ("count", 3),
    ("pitch", "low"),
    ("regularity", "irregular"),
  ]


def test_two_clips_are_told_apart():
  found = claims.parse(
    "first clip: high pitch, loud volume, second clip: low pitch, soft volume"
  )
  assert [(c.clip, c.value) for c in found] == [
    (0, "high"),
    (0, "loud"),
    (1, "low"),
    (1, "soft"),
  ]


@pytest.mark.parametrize(
  ("text", "attribute", "value"),
  [
    ("the pitch is very low", "pitch", "low"),
    ("a low-pitched voice", "pitch", "low"),
    ("high beeps", "pitch", "high"),
    ("the intonation rises", "contour", "rising"),
    ("the melody goes down", "contour", "falling"),
    ("rising pitch", "contour", "rising"),
    ("she speaks very slowly", "rate", "slow"),
    ("a fast speaking rate", "rate", "fast"),
    ("the voice is quiet", "loudness", "soft"),
    ("high volume", "loudness", "loud"),
    ("the voice sounds breathy", "quality", "breathy"),
    ("it is in a minor key", "mode", "minor"),
    ("C major", "mode", "major"),
    ("the tempo is slow", "tempo", "slow"),
    ("about 120 bpm", "tempo", 120),
    ("a muffled sound", "timbre", "dark"),
    ("it gets louder", "dynamics", "swelling"),
    ("the music fades out", "dynamics", "fading"),
    ("three knocks", "count", 3),
    ("a single beep", "count", 1),
    ("unevenly spaced", "regularity", "irregular"),
    ("a two-second pause", "pause", 2),
    ("it lasts about 3 seconds", "duration", 3),
    ("with a Scottish accent", "unverifiable", "scottish accent"),
    ("it sounds angry", "unverifiable", "sounds angry"),
    ("played on a piano", "unverifiable", "piano"),
  ],
)
def test_english_variants_are_one_claim(text, attribute, value):
  assert said(text) == [(attribute, value)]


@pytest.mark.parametrize(
  ("text", "value"),
  [
    ("the voice is not loud", "soft"),
    ("not a loud voice", "soft"),
    ("no rising contour", "falling"),
    ("the tempo isn't fast", "slow"),
    ("the voice isn't breathy", "clear"),
    ("never a high pitch", "low"),
    ("not dull, but high pitch", "high"),
  ],
)
def test_negation_flips_its_own_clause_only(text, value):
  assert [c.value for c in claims.parse(text)] == [value]


def test_spans_and_text_point_into_the_chain():
  text = "I hear a high pitch and three knocks."
  for claim in claims.parse(text):
    assert text[slice(*claim.span)] == claim.text


def test_counts_of_two_kinds_cannot_be_checked():
  assert [a for a, _ in said("three knocks and two beeps")] == [
    "unverifiable",
    "unverifiable",
  ]


@pytest.mark.parametrize(
  "text",
  ["", "two plus three is five", "the answer is B", "so the option is happy"],
)
def test_text_without_acoustics_has_no_claims(text):
  assert claims.parse(text) == []


def test_surrogates_are_text_talk_without_acoustic_claims():
  assert claims.surrogate("the words say i won, so that sounds happy")
  assert claims.surrogate("based on the lyrics it is sad")
  assert claims.surrogate("the title mentions rain")
  assert not claims.surrogate("high pitch, slow rate")
  assert not claims.surrogate("the words say i won but a low pitch")
  assert claims.talks_of_text("the words say i won but a low pitch")
  assert not claims.talks_of_text("high pitch, slow rate")


def test_denials_of_hearing_are_found():
  assert claims.denies_hearing("I'm sorry, I cannot hear the clip.")
  assert claims.denies_hearing("As a text-based language model I guess.")
  assert claims.denies_hearing("No audio was provided.")
  assert not claims.denies_hearing("I hear a high pitch; it cannot be sad.")


def test_a_long_hostile_text_is_parsed_in_time():
  text = "not very very high " * 5000 + "a" * 50000
  assert isinstance(claims.parse(text), list)
