"""Four tones, and questions that only an ear can answer.

    which of "low soft is k, low loud is m, …?" + a tone -> its letter

The map of tones to letters is in the question, and another in each; questions
of one map differ in nothing but the clip.
"""

import itertools

import jax
import numpy as np

from experiments import assembly
from mgrd_jax.audio import features, measure
from mgrd_jax.data import clips as clips_lib
from mgrd_jax.data import schema
from mgrd_jax.models import adapter, audio_encoder, audio_lm, decoder

LETTERS = ("k", "m", "p", "t")
TONES = tuple(itertools.product(("low", "high"), ("soft", "loud")))
HZ = {"low": 400.0, "high": 1600.0}
LEVEL = {"soft": 0.02, "loud": 0.3}
SECONDS = 0.4  # five audio tokens
WIDTH = 32
MAPS = tuple(itertools.permutations(LETTERS))[::4]


class Waves:
  """ref "split/tone/take" -> a tone of its own pitch, level and phase."""

  def wave(self, ref):
    split, tone, take = ref.split("/")
    rng = np.random.default_rng((len(split), int(tone), int(take)))
    pitch, level = TONES[int(tone)]
    hz = HZ[pitch] * rng.uniform(0.9, 1.1)
    time_W = np.arange(round(SECONDS * features.RATE)) / features.RATE
    phase = rng.uniform(0, 2 * np.pi)
    wave_W = np.sin(2 * np.pi * hz * time_W + phase)
    return (LEVEL[level] * rng.uniform(0.8, 1.2) * wave_W).astype(np.float32)


def examples() -> list[schema.Example]:
  """A question for each split, map, tone and take; some of them hinted."""
  found = []
  takes = {"train": range(4), "pool": range(1), "test": range(1)}
  for split, (at, letters) in itertools.product(takes, enumerate(MAPS)):
    told = ", ".join(
      f"{pitch} {level} is {letter}"
      for (pitch, level), letter in zip(TONES, letters, strict=True)
    )
    for (tone, (pitch, level)), take in itertools.product(
      enumerate(TONES), takes[split]
    ):
      found.append(
        schema.Example(
          id=f"{split}-{at}-{tone}-{take}",
          question=f"{told}. which letter?",
          answer=letters[tone],
          answer_type="choice",
          options=LETTERS,
          audio=(f"{split}/{tone}/{take}",),
          reasoning=f"{pitch} pitch, {level} volume. so {letters[tone]}",
          split=split,
          source="tone",
          meta={"family": "tone", "evidence": "sound", "hint": take % 2 > 0},
        )
      )
  return found


def context() -> assembly.Context:
  """The tones as a run has them: log-mels, measured facts, a small model."""
  every = examples()
  waves, refs = Waves(), sorted({r for e in every for r in e.audio})
  tokenizer = assembly.build_tokenizer(every)
  silent = np.zeros(round(SECONDS * features.RATE), np.float32)
  facts = {ref: measure.facts(waves.wave(ref)) for ref in refs}
  facts |= {f"silent/{ref}": measure.facts(silent) for ref in refs}
  model = audio_lm.Config(
    encoder=audio_encoder.EncoderConfig(
      mels=128, width=WIDTH, heads=2, layers=1, ffn=WIDTH, positions=64
    ),
    adapter=adapter.AdapterConfig(WIDTH, WIDTH, WIDTH),
    decoder=decoder.DecoderConfig(
      vocab=tokenizer.vocab_size, width=WIDTH, layers=2, heads=4, kv_heads=2,
      head_dim=16, ffn=2 * WIDTH, rope_theta=1e4,
    ),
  )  # fmt: skip
  return assembly.Context(
    config=None,
    mesh=None,
    tokenizer=tokenizer,
    model=model,
    examples=every,
    clips=clips_lib.load(waves, refs, jax.jit(features.log_mel)),
    enc={},
    facts=facts,
    skipped=[],
  )
