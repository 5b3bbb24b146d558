"""Verdicts, and the four self-tests of lift."""

import dataclasses
import math

import numpy as np
import pytest

from mgrd_jax.audio import measure, synth
from mgrd_jax.grounding import claims, verify
from mgrd_jax.grounding.claims import OPPOSITE, Claim

AXES = dict(
  mode=synth.MODE,
  tempo=synth.TEMPO,
  contour=synth.CONTOUR,
  timbre=synth.TIMBRE,
  dynamics=synth.DYNAMICS,
)
NOUN = dict(
  mode="mode",
  tempo="tempo",
  contour="contour",
  timbre="timbre",
  dynamics="dynamics",
)


def chain(truth):
  return ", ".join(f"{value} {NOUN[name]}" for name, value in truth.items())


@pytest.fixture(scope="module")
def corpus():
  """64 pieces of music: their truths, true chains parsed, and facts."""
  truths, parsed, facts = [], [], []
  for index in range(64):
    rng = np.random.default_rng(index)
    truth = {name: str(rng.choice(v)) for name, v in AXES.items()}
    instrument = list(synth.INSTRUMENTS)[index % len(synth.INSTRUMENTS)]
    wave_W = synth.music(**truth, instrument=instrument, rng=rng)
    truths.append(truth)
    parsed.append(claims.parse(chain(truth)))
    facts.append(measure.facts(wave_W))
  return truths, parsed, facts


def measured(**changes):
  """Facts of an imagined clip."""
  facts = measure.facts(np.zeros(16000, np.float32))
  return facts | {"level_dbfs": -20.0, "chroma_share": 0.6} | changes


def verdict(text, facts):
  (claim,) = claims.parse(text)
  return verify.verdict(claim, facts)


def total(parsed, facts):
  pairs = zip(parsed, facts, strict=True)
  counts = [dataclasses.astuple(verify.judge(*pair)) for pair in pairs]
  return verify.Verdicts(*np.sum(counts, axis=0).tolist())


def test_boilerplate_on_random_clips_has_no_lift(corpus):
  _, parsed, facts = corpus
  for one in parsed[:8]:
    same = [one] * len(facts)
    value = verify.lift(same, facts, rng=np.random.default_rng(0), others=99)
    assert value == pytest.approx(0, abs=1e-9)
    value = verify.lift(same, facts, rng=np.random.default_rng(0))
    assert abs(value) < 0.05


def test_chains_permuted_across_clips_lose_precision_and_lift(corpus):
  _, parsed, facts = corpus
  moved = parsed[1:] + parsed[:1]
  assert total(parsed, facts).precision - total(moved, facts).precision > 0.3
  rng = np.random.default_rng
  own = verify.lift(parsed, facts, rng=rng(0))
  assert own > 0.4
  assert abs(verify.lift(moved, facts, rng=rng(0))) < 0.12


def test_true_chains_of_synthetic_clips_are_supported(corpus):
  _, parsed, facts = corpus
  counts = total(parsed, facts)
  assert counts.supported + counts.contradicted == 64 * 5
  assert counts.precision >= 0.98


def test_sign_flipped_claims_are_contradicted(corpus):
  truths, _, facts = corpus
  flipped = [
    claims.parse(chain({name: OPPOSITE[v] for name, v in truth.items()}))
    for truth in truths
  ]
  assert total(flipped, facts).precision <= 0.02


def test_half_true_chains_lift_in_proportion(corpus):
  _, parsed, facts = corpus
  half = [one if i % 2 else [] for i, one in enumerate(parsed)]
  # Items without claims are left out, so that the value is that of the rest.
  value = verify.lift(half, facts, rng=np.random.default_rng(0))
  assert value > 0.4
  none = verify.lift([[]] * 64, facts, rng=np.random.default_rng(0))
  assert math.isnan(none)


def test_groups_keep_families_from_passing_for_listening():
  high, low = measured(f0_hz=240.0), measured(f0_hz=110.0)
  facts = [high] * 4 + [low] * 4
  parsed = [claims.parse("high pitch")] * 4 + [claims.parse("low pitch")] * 4
  rng = np.random.default_rng(0)
  assert verify.lift(parsed, facts, rng=rng) > 0.4
  groups = ["a"] * 4 + ["b"] * 4
  assert verify.lift(parsed, facts, rng=rng, groups=groups) == 0


def test_pitch_is_that_of_the_voice_or_of_the_tones():
  assert verdict("high pitch", measured(f0_hz=230.0)) == "supported"
  assert verdict("high pitch", measured(f0_hz=110.0)) == "contradicted"
  tones = measured(f0_hz=110.0, tone_share=0.9, tone_hz=1500.0)
  assert verdict("high pitch", tones) == "supported"


def test_a_flat_pitch_neither_rises_nor_falls():
  flat = measured(f0_rise_st=1.0)
  assert verdict("rising contour", flat) == "contradicted"
  assert verdict("falling contour", flat) == "contradicted"


@pytest.mark.parametrize(
  ("bpm", "expected"),
  [(120, "supported"), (60, "supported"), (240, "supported"),
   (112, "supported"), (100, "contradicted")],
)  # fmt: skip
def test_stated_tempo_allows_eight_percent_and_octaves(bpm, expected):
  assert verdict("about 120 bpm", measured(tempo_bpm=float(bpm))) == expected


def test_small_counts_are_exact_and_large_ones_within_one():
  assert verdict("3 events", measured(onset_count=3)) == "supported"
  assert verdict("3 events", measured(onset_count=4)) == "contradicted"
  assert verdict("10 events", measured(onset_count=11)) == "supported"


def test_seconds_are_checked_within_three_tenths():
  clip = measured(duration=2.9, pauses=(0.5, 1.8))
  assert verdict("it lasts 3 seconds", clip) == "supported"
  assert verdict("it lasts 2 seconds", clip) == "contradicted"
  assert verdict("a two-second pause", clip) == "supported"


def test_what_cannot_be_measured_is_unverifiable():
  assert verdict("high pitch", measured()) == "unverifiable"
  assert verdict("regular spacing", measured()) == "unverifiable"
  assert verdict("it sounds happy", measured()) == "unverifiable"
  odd = Claim((0, 1), "flavour", "sweet", "s")
  assert verify.verdict(odd, measured()) == "unverifiable"


def test_silence_contradicts_every_claim_of_a_sound():
  silent = measure.facts(np.zeros(32000, np.float32))
  texts = [f"{OPPOSITE[v]} {NOUN[k]}" for k, (_, v) in AXES.items()]
  for text in [*texts, "high pitch", "3 events", "soft volume", "120 bpm"]:
    assert verdict(text, silent) == "contradicted"
  assert verdict("it lasts 2 seconds", silent) == "supported"


def test_claims_on_a_clip_that_is_not_there_are_unverifiable():
  text = "second clip: low pitch"
  low = measured(f0_hz=110.0)
  assert verdict(text, low) == "unverifiable"
  assert verdict(text, (measured(f0_hz=240.0), low)) == "supported"


def test_every_claim_gets_a_verdict_on_every_family(corpus):
  _, _, facts = corpus
  texts = ["high pitch", "slow rate", "breathy voice", "2 events"]
  texts += ["regular spacing", "loud volume", "minor mode", "a 1 second pause"]
  for text in texts:
    assert verdict(text, facts[0]) in (
      "supported",
      "contradicted",
      "unverifiable",
    )


def test_precision_is_of_the_claims_that_were_decided():
  assert verify.Verdicts(3, 1, 4).precision == 0.75
  assert math.isnan(verify.Verdicts(0, 0, 4).precision)


def test_lists_of_different_length_are_refused():
  with pytest.raises(ValueError, match="2 lists"):
    verify.lift([[], []], [measured()], rng=np.random.default_rng(0))
