"""Clips in memory: log-mels for the encoder, and its states afterwards.

    refs --Waves--> wave_W --log_mel--> mel_RM (float16) --encode--> enc_AE

The encoder is frozen after its own training, so each clip is encoded once
and every later stage reads its states.
"""

import concurrent.futures
import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from mgrd_jax.audio import features

Progress = Callable[[int, int], None]


@runtime_checkable
class Waves(Protocol):
  """Where refs lead: a `sources.ClipStore`, or several under one roof."""

  def wave(self, ref: str) -> np.ndarray: ...


@dataclasses.dataclass(frozen=True)
class Clip:
  """One clip: its log-mel and its number of samples."""

  mel_RM: np.ndarray
  samples: int

  @property
  def input_len(self) -> int:
    return features.encoder_input_len(self.samples)

  @property
  def tokens(self) -> int:
    return features.token_count(self.samples)


def bucketed(
  lengths: Sequence[int], size: int, step: int
) -> Iterable[tuple[int, list[int]]]:
  """Groups indices of similar length: (padded length, at most `size`)."""
  groups: dict[int, list[int]] = {}
  for index in np.argsort(lengths, kind="stable"):
    padded = -(-int(lengths[index]) // step) * step
    groups.setdefault(padded, []).append(int(index))
  for padded, indices in groups.items():
    for start in range(0, len(indices), size):
      yield padded, indices[start : start + size]


def _pad(rows: list[np.ndarray], count: int, length: int) -> np.ndarray:
  shape = (count, length, *rows[0].shape[1:])
  out = np.empty(shape, np.float32)
  for at, row in enumerate(rows):
    out[at, : len(row)] = row
    out[at, len(row) :] = 0
  out[len(rows) :] = 0
  return out


def log_mels(
  waves: Sequence[np.ndarray],
  log_mel: Callable,
  *,
  batch: int = 32,
  workers: int | None = None,
) -> Iterator[tuple[int, np.ndarray]]:
  """(index, mel_RM) of every clip, batch by batch, in the order of lengths.

  The front end is many operations on little data, of which XLA gives each one
  core: as many batches are in work at a time as there are cores.

  Args:
    waves: 16 kHz clips of any lengths.
    log_mel: (wave_BW, len_B) -> mel_BRM.
    batch: clips a call; shapes are few, padded to whole seconds.
    workers: batches at a time; by default one a core.
  """
  lengths = [len(w) for w in waves]

  def one(bucket):
    padded, indices = bucket
    wave_BW = _pad([waves[i] for i in indices], batch, padded)
    len_B = np.full(batch, features.RATE, np.int32)
    len_B[: len(indices)] = [lengths[i] for i in indices]
    mel_BRM = np.asarray(log_mel(wave_BW, len_B))
    return [
      (i, mel_RM[: features.mel_frames(lengths[i])])
      for i, mel_RM in zip(indices, mel_BRM, strict=False)
    ]

  with concurrent.futures.ThreadPoolExecutor(workers or os.cpu_count()) as pool:
    for found in pool.map(one, bucketed(lengths, batch, features.RATE)):
      yield from found


def load(
  store: Waves,
  refs: Sequence[str],
  log_mel: Callable,
  *,
  batch: int = 32,
  progress: Progress = lambda done, total: None,
) -> dict[str, Clip]:
  """Decodes clips and computes their log-mels.

  Args:
    store: where the refs lead.
    refs: distinct refs.
    log_mel, batch: of `log_mels`.

  Raises:
    AudioError: a clip cannot be read; names it.
  """
  waves = [store.wave(ref) for ref in refs]
  found: dict[str, Clip] = {}
  for index, mel_RM in log_mels(waves, log_mel, batch=batch):
    found[refs[index]] = Clip(mel_RM.astype(np.float16), len(waves[index]))
    progress(len(found), len(refs))
  return found


def encode(
  clips: dict[str, Clip],
  encode_fn: Callable,
  *,
  batch: int = 32,
  progress: Progress = lambda done, total: None,
) -> dict[str, np.ndarray]:
  """The frozen encoder's states of every clip, float32 [A, E].

  Args:
    encode_fn: (mel_BRM, len_B) -> (enc_BAE, enc_len_B).
  """
  refs = list(clips)
  states: dict[str, np.ndarray] = {}
  lengths = [len(clips[r].mel_RM) for r in refs]
  for padded, indices in bucketed(lengths, batch, 100):
    rows = [clips[refs[i]] for i in indices]
    mel_BRM = _pad([c.mel_RM for c in rows], batch, padded)
    len_B = np.full(batch, 48, np.int32)
    len_B[: len(rows)] = [c.input_len for c in rows]
    enc_BAE, _ = encode_fn(mel_BRM, len_B)
    enc_BAE = np.asarray(enc_BAE)
    for row, index in enumerate(indices):
      keep = features.pooled_frames(lengths[index])
      states[refs[index]] = enc_BAE[row, :keep].copy()
    progress(len(states), len(refs))
  return states
