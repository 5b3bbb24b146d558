"""Claims against measurements: supported, contradicted, or unverifiable.

  claims × facts -> verdicts -> precision
  claims_i × facts_j -> lift: own support minus support on other clips

Precision alone rewards safe, vague chains; lift is what boilerplate cannot
have, since its claims hold on other clips as often as on its own.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Hashable, Sequence

import numpy as np

from mgrd_jax.audio.measure import Facts
from mgrd_jax.grounding.claims import Claim

SUPPORTED = "supported"
CONTRADICTED = "contradicted"
UNVERIFIABLE = "unverifiable"

# Calibrated on the clips of `audio.synth`: each binary threshold is in the
# empty middle between the two classes (1st and 99th percentiles in brackets).
F0_HIGH_HZ = 165.0  # low 94..145, high 192..281
TONE_HIGH_HZ = 800.0  # low 340..620, high 1300..2900
RISE_ST = 2.0  # a just noticeable phrase contour; synthesis has 4 or more
MELODY_RISE_OCT = 0.35  # falling at most 0.3 with strong overtones, rising 1.2
SYLLABLES_FAST = 4.5  # slow up to 4.2, fast from 4.8
LOUD_DBFS = -25.5  # soft -37..-30, loud -21..-14
HARMONICITY_CLEAR = 0.5  # breathy up to 0.40, clear 0.60
MODE_MARGIN = 0.0  # minor at most -0.1, major at least 0.1
TEMPO_FAST_BPM = 110.0  # slow 60..82, fast 150..190
BRIGHT_SHARE = 0.03  # dark up to 0.01, bright from 0.1
LEVEL_CHANGE_DB = 3.0  # a smaller change passes for steady
IOI_IRREGULAR = 0.18  # regular up to 0.06, irregular from 0.28
# Tolerances of numbers: human-made statements, not measurement error.
TEMPO_TOLERANCE = 0.08
SECONDS_TOLERANCE = 0.3
EXACT_COUNT = 8  # above, an onset more or less is no contradiction
# What tells a series of tones or a chord from a voice.
TONE_SHARE = 0.1
LINE_SHARE = 0.97


def verdict(claim: Claim, facts: Facts | Sequence[Facts]) -> str:
  """One claim against the facts of its clip.

  `facts` is that of one clip or a sequence over the clips of an item.  A word
  is supported when the measured quantity is on its side of the threshold and
  contradicted otherwise, the undecided middle of signed quantities included
  (a flat pitch neither rises nor falls).  What cannot be measured on this
  clip (no voiced frame, one onset), a clip that is not there, and what no
  measurement tells (emotion, accent) are unverifiable.  On a silent clip
  every claim of a sound is contradicted; durations are measured.
  """
  clips = (facts,) if isinstance(facts, dict) else facts
  if claim.attribute == "unverifiable" or claim.clip >= len(clips):
    return UNVERIFIABLE
  clip = clips[claim.clip]
  if claim.attribute in _NUMERIC and not isinstance(claim.value, str):
    holds = _NUMERIC[claim.attribute](float(claim.value), clip)
  elif claim.attribute in _WORDS:
    if math.isnan(clip["level_dbfs"]):
      return CONTRADICTED
    word = _WORDS[claim.attribute](clip)
    if word is None:
      return UNVERIFIABLE
    holds = word == claim.value
  else:
    return UNVERIFIABLE
  return SUPPORTED if holds else CONTRADICTED


@dataclasses.dataclass(frozen=True)
class Verdicts:
  """Counts of verdicts."""

  supported: int = 0
  contradicted: int = 0
  unverifiable: int = 0

  @property
  def precision(self) -> float:
    """supported / (supported + contradicted); `nan` where none is decided."""
    decided = self.supported + self.contradicted
    return self.supported / decided if decided else math.nan


def judge(
  claims: Sequence[Claim], facts: Facts | Sequence[Facts]
) -> Verdicts:
  """Verdicts of all claims of one chain."""
  given = [verdict(claim, facts) for claim in claims]
  return Verdicts(
    given.count(SUPPORTED),
    given.count(CONTRADICTED),
    given.count(UNVERIFIABLE),
  )


def lift(
  claims_per_item: Sequence[Sequence[Claim]],
  facts_per_item: Sequence[Facts | Sequence[Facts]],
  *,
  rng: np.random.Generator,
  others: int = 8,
  groups: Sequence[Hashable] | None = None,
) -> float:
  """How much more the claims hold on their own clip than on other clips.

    lift = mean_i [ s(c_i, x_i) - mean_{x' != x_i} s(c_i, x') ]

  s is the supported share of an item's claims, the unverifiable kinds left
  out.  Items without such a claim have no s and are left out of the mean.
  The other clips are `others` random ones, or all where there are fewer;
  `groups` keeps them within the item's own group (a question family), or the
  difference between a voice and a melody would pass for listening.  `nan` if
  no item counts.
  """
  size = len(facts_per_item)
  if len(claims_per_item) != size:
    raise ValueError(f"{len(claims_per_item)} lists of claims, {size} of facts")
  members: dict[Hashable, list[int]] = {}
  labels = list(groups) if groups is not None else [0] * size
  for index, label in enumerate(labels):
    members.setdefault(label, []).append(index)
  holds: dict[tuple, np.ndarray] = {}

  def support(claim):
    """Whether the claim holds, on every item at once; bool [items]."""
    key = (claim.attribute, claim.value, claim.clip)
    if key not in holds:
      given = [verdict(claim, facts) == SUPPORTED for facts in facts_per_item]
      holds[key] = np.array(given, float)
    return holds[key]

  gains = []
  for index, item in enumerate(claims_per_item):
    checkable = [c for c in item if c.attribute != "unverifiable"]
    peers = np.array([j for j in members[labels[index]] if j != index], int)
    if not checkable or peers.size == 0:
      continue
    if peers.size > others:
      peers = rng.choice(peers, others, replace=False)
    s = np.mean([support(claim) for claim in checkable], axis=0)
    gains.append(s[index] - s[peers].mean())
  return float(np.mean(gains)) if gains else math.nan


def _side(value, threshold, above, below):
  if math.isnan(value):
    return None
  return above if value > threshold else below


def _sign(value, margin, above, below):
  if math.isnan(value):
    return None
  return above if value > margin else below if value < -margin else "neither"


def _pitch(facts):
  if facts["tone_share"] > TONE_SHARE:
    return _side(facts["tone_hz"], TONE_HIGH_HZ, "high", "low")
  return _side(facts["f0_hz"], F0_HIGH_HZ, "high", "low")


def _contour(facts):
  # Lines on three pitch classes are a chord, and no voice has them.
  if facts["chroma_share"] > LINE_SHARE:
    rise = facts["melody_rise_oct"]
    return _sign(rise, MELODY_RISE_OCT, "rising", "falling")
  return _sign(facts["f0_rise_st"], RISE_ST, "rising", "falling")


def _binary(key, threshold, above, below):
  return lambda facts: _side(facts[key], threshold, above, below)


_WORDS = {
  "pitch": _pitch,
  "contour": _contour,
  "rate": _binary("syllable_rate", SYLLABLES_FAST, "fast", "slow"),
  "loudness": _binary("level_dbfs", LOUD_DBFS, "loud", "soft"),
  "quality": _binary("harmonicity", HARMONICITY_CLEAR, "clear", "breathy"),
  "mode": _binary("mode_score", MODE_MARGIN, "major", "minor"),
  "tempo": _binary("tempo_bpm", TEMPO_FAST_BPM, "fast", "slow"),
  "timbre": _binary("bright_share", BRIGHT_SHARE, "bright", "dark"),
  "dynamics": lambda facts: _sign(
    facts["level_change_db"], LEVEL_CHANGE_DB, "swelling", "fading"
  ),
  "regularity": _binary("ioi_cv", IOI_IRREGULAR, "irregular", "regular"),
}


def _count_holds(value, facts):
  slack = 0 if facts["onset_count"] <= EXACT_COUNT else 1
  return abs(facts["onset_count"] - value) <= slack


def _tempo_holds(value, facts):
  # Beat or half beat: both are ways to count the same music.
  measured = facts["tempo_bpm"]
  return any(
    abs(measured * octave - value) <= TEMPO_TOLERANCE * value
    for octave in (0.5, 1, 2)
  )


def _near(value, seconds):
  return abs(seconds - value) <= SECONDS_TOLERANCE


_NUMERIC = {
  "count": _count_holds,
  "tempo": _tempo_holds,
  "duration": lambda value, facts: _near(value, facts["duration"]),
  "pause": lambda value, facts: any(
    _near(value, pause) for pause in facts["pauses"]
  ),
}
