"""Rows of ids -> fixed-shape Batches.

    Row, enc_AE of its clips --place--> tokens_BT, audio_index_BT, enc_BAE
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from mgrd_jax.audio import features
from mgrd_jax.text.chat import Row
from mgrd_jax.types import Batch


@dataclasses.dataclass(frozen=True)
class Shape:
  """The shape of a batch: columns, clips a row, 25 Hz frames a clip.

  `stride` is how many of those frames an audio token covers: 2 behind
  Step-Audio's adapter, 1 behind Qwen2-Audio's projector.
  """

  time: int
  clips: int = 0
  frames: int = 0
  width: int = 0
  stride: int = 2

  @property
  def adapter_frames(self) -> int:
    return self.tokens_of(self.frames)

  def tokens_of(self, frames: int) -> int:
    """Audio tokens of a clip of `frames` states."""
    if self.stride == 1 or not frames:
      return frames
    return features.adapter_frames(frames)


@dataclasses.dataclass(frozen=True)
class Item:
  """A row with the encoder's states of its clips, ready to collate."""

  row: Row
  enc: tuple[np.ndarray, ...] = ()


def shape_of(items: Sequence[Item], *, multiple: int = 8, width: int) -> Shape:
  """The smallest shape, in multiples, that holds every item."""

  def up(n: int) -> int:
    return -(-n // multiple) * multiple

  clips = max(len(i.enc) for i in items)
  return Shape(
    time=up(max(len(i.row.tokens) for i in items)),
    clips=clips,
    frames=up(max((len(e) for i in items for e in i.enc), default=0)),
    width=width,
  )


def collate(items: Sequence[Item], shape: Shape, rows: int = 0) -> Batch:
  """Places items into a Batch; rows past the last item are empty.

  Raises:
    ValueError: an item does not fit; a row is never cut, because a cut could
      go through an audio span.  Or its clips are not those of its spans.
  """
  rows = rows or len(items)
  T, C = shape.time, shape.clips
  tokens_BT = np.zeros((rows, T), np.int32)
  valid_BT = np.zeros((rows, T), bool)
  loss_mask_BT = np.zeros((rows, T), bool)
  audio_index_BT = np.full((rows, T), -1, np.int32)
  enc_BAE = np.zeros((rows * C, shape.frames, shape.width), np.float32)
  for b, item in enumerate(items):
    length = len(item.row.tokens)
    if length > T:
      raise ValueError(
        f"a row of {length} tokens does not fit {T} columns; "
        "raise the sequence length or shorten the question"
      )
    if len(item.enc) != len(item.row.spans):
      raise ValueError(
        f"a row with {len(item.row.spans)} audio spans has "
        f"{len(item.enc)} clips"
      )
    tokens_BT[b, :length] = item.row.tokens
    valid_BT[b, :length] = True
    loss_mask_BT[b, :length] = item.row.loss
    for c, enc_AE in enumerate(item.enc):
      if c >= C or len(enc_AE) > shape.frames:
        raise ValueError(
          f"clip {c} of {len(enc_AE)} frames does not fit "
          f"{C} clips of {shape.frames}"
        )
      slot = b * C + c
      enc_BAE[slot, : len(enc_AE)] = enc_AE
      start, count = item.row.spans[c]
      if count > shape.tokens_of(len(enc_AE)):
        raise ValueError(
          f"clip {c} of {len(enc_AE)} frames has no {count} audio tokens"
        )
      base = slot * shape.adapter_frames
      audio_index_BT[b, start : start + count] = base + np.arange(count)
  return Batch(tokens_BT, valid_BT, loss_mask_BT, audio_index_BT, enc_BAE)
