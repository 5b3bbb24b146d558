"""Heard chains: music with known attributes, what it measures, what is said."""

import functools

import numpy as np

from mgrd_jax.audio import measure, synth
from mgrd_jax.data.schema import Example
from mgrd_jax.mgrd import filters

AXES = {
  "mode": synth.MODE,
  "tempo": synth.TEMPO,
  "contour": synth.CONTOUR,
  "timbre": synth.TIMBRE,
  "dynamics": synth.DYNAMICS,
}
LABELS = ("waltz", "march", "tango", "hymn")


@functools.cache
def clips(count: int = 24) -> list[tuple[dict, dict]]:
  """(truth, facts) of random pieces of music."""
  found = []
  for index in range(count):
    rng = np.random.default_rng((5, index))
    truth = {name: str(rng.choice(words)) for name, words in AXES.items()}
    instrument = list(synth.INSTRUMENTS)[index % len(synth.INSTRUMENTS)]
    wave_W = synth.music(**truth, instrument=instrument, rng=rng)
    found.append((truth, measure.facts(wave_W)))
  return found


def example(index: int = 0, **fields) -> Example:
  """A question whose answer changes with the clip."""
  values = dict(
    id=f"pool-{index}",
    question="which dance is this?",
    answer=LABELS[index % len(LABELS)],
    answer_type="choice",
    audio=(f"{index}.wav",),
    options=LABELS,
    split="pool",
    source="label",
    meta={"family": "music", "evidence": "sound", "hint": True},
  )
  return Example(**values | fields)


def describe(truth: dict) -> str:
  return ", ".join(f"{word} {name}" for name, word in truth.items())


def others(index: int, count: int = 8) -> list[list[dict]]:
  """Facts of the clips that follow, round the end."""
  every = clips()
  return [[every[(index + k) % len(every)][1]] for k in range(1, count + 1)]


def response(index: int = 0, *, said: str | None = None, **fields):
  """A kept response to clip `index`, unless a field spoils it."""
  truth, facts = clips()[index]
  question = fields.pop("example", example(index))
  said = describe(truth) if said is None else said
  values = dict(
    example=question,
    think=f"{said}. so {question.answer}",
    reply=f"answer: {question.answer}",
    closed=True,
    acc=1.0,
    facts=[facts],
    others=others(index),
  )
  return filters.Response(**values | fields)
