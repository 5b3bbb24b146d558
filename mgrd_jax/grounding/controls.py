"""Twins of an example that take the evidence away.

  clip -> silence | speech-shaped noise | another item's clip
  example -> the same question about a transcript, without a clip

Every null keeps the length, so that the number of audio tokens is the same.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np


@runtime_checkable
class Question(Protocol):
  """What the controls read of an example; `data.schema.Example` has it."""

  id: str
  question: str
  answer: str
  options: tuple[str, ...]
  audio: tuple[str, ...]
  transcript: str | None
  meta: dict[str, Any]


T = TypeVar("T", bound=Question)


def silence(wave_W: np.ndarray) -> np.ndarray:
  """Digital silence as long as the clip."""
  return np.zeros_like(wave_W)


def noise(
  wave_W: np.ndarray, rng: np.random.Generator, rate: int = 16000
) -> np.ndarray:
  """Speech-shaped noise with the clip's length and RMS.

  The spectrum is one fixed long-term average of speech (flat from 100 to
  500 Hz, 6 dB an octave down below and 9 dB an octave down above; after Byrne
  et al. 1994), not the clip's own, which would tell its timbre.
  """
  size = len(wave_W)
  if size == 0:
    return np.zeros_like(wave_W)
  hz_K = np.fft.rfftfreq(size, 1 / rate)
  gain_K = np.minimum(1, hz_K / 100) * np.minimum(
    1, (500 / np.maximum(hz_K, 1)) ** 1.5
  )
  white = rng.standard_normal(size)
  shaped_W = np.fft.irfft(np.fft.rfft(white) * gain_K, size)
  target = np.sqrt(np.mean(np.square(wave_W, dtype=np.float64)))
  own = np.sqrt(np.mean(shaped_W**2))
  scaled_W = shaped_W * (target / own) if own > 0 else shaped_W
  return scaled_W.astype(wave_W.dtype)


def swap_partners(
  examples: Sequence[Question], rng: np.random.Generator
) -> list[int | None]:
  """For each example the index of one whose clip may stand in for its own.

  A partner has the same question, as many clips, another gold answer, and the
  same set of options; where there is none, one whose gold is at least among
  the options.  None where there is neither.  The choice is random and even.
  """
  alike: dict[tuple, list[int]] = {}
  for index, example in enumerate(examples):
    alike.setdefault((example.question, len(example.audio)), []).append(index)
  partners: list[int | None] = []
  for example in examples:
    peers = [
      index
      for index in alike[example.question, len(example.audio)]
      if examples[index].answer != example.answer
    ]
    options = frozenset(example.options)
    same = [i for i in peers if frozenset(examples[i].options) == options]
    close = same or [i for i in peers if examples[i].answer in options]
    partners.append(int(rng.choice(close)) if close else None)
  return partners


def transcript_twin(example: T) -> T | None:
  """The same question about the transcript in place of the clip.

  None for an example without a transcript: an empty one would be a guess.
  """
  if not example.transcript:
    return None
  question = f'The recording says: "{example.transcript}". {example.question}'
  return dataclasses.replace(example, audio=(), question=question)
