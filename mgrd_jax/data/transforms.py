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
  """Places each item into a row of its own; rows past the last are empty.

  Raises:
    ValueError: an item does not fit; a row is never cut, because a cut could
      go through an audio span.  Or its clips are not those of its spans.
  """
  arrays = _empty(shape, rows or len(items))
  for b, item in enumerate(items):
    _place(arrays, item, shape, row=b)
  del arrays["segment_BT"]
  return Batch(**arrays)


def collate_packed(
  groups: Sequence[Sequence[Item]], shape: Shape, rows: int = 0
) -> Batch:
  """Places each group of items into one row, one behind the other.

  Their columns are numbered in `segment_BT`; `shape.clips` is of a row.

  Raises:
    ValueError: as `collate`, of a group.
  """
  arrays = _empty(shape, rows or len(groups))
  for b, group in enumerate(groups):
    column = clip = 0
    for segment, item in enumerate(group, start=1):
      _place(
        arrays, item, shape, row=b, column=column, clip=clip, segment=segment
      )
      column, clip = column + len(item.row.tokens), clip + len(item.enc)
  return Batch(**arrays)


def _empty(shape: Shape, rows: int) -> dict[str, np.ndarray]:
  """The arrays of a Batch without a token."""
  T = shape.time
  return {
    "tokens_BT": np.zeros((rows, T), np.int32),
    "valid_BT": np.zeros((rows, T), bool),
    "loss_mask_BT": np.zeros((rows, T), bool),
    "audio_index_BT": np.full((rows, T), -1, np.int32),
    "enc_BAE": np.zeros(
      (rows * shape.clips, shape.frames, shape.width), np.float32
    ),
    "segment_BT": np.zeros((rows, T), np.int32),
  }


def _place(
  arrays: dict[str, np.ndarray],
  item: Item,
  shape: Shape,
  *,
  row: int,
  column: int = 0,
  clip: int = 0,
  segment: int = 1,
) -> None:
  """Writes an item into a row from `column` on, its clips from `clip` on."""
  length = len(item.row.tokens)
  if column + length > shape.time:
    raise ValueError(
      f"a row of {column + length} tokens does not fit {shape.time} columns; "
      "raise the sequence length or shorten the question"
    )
  if len(item.enc) != len(item.row.spans):
    raise ValueError(
      f"a row with {len(item.row.spans)} audio spans has "
      f"{len(item.enc)} clips"
    )
  at = row, slice(column, column + length)
  arrays["tokens_BT"][at] = item.row.tokens
  arrays["valid_BT"][at] = True
  arrays["loss_mask_BT"][at] = item.row.loss
  arrays["segment_BT"][at] = segment
  for c, enc_AE in enumerate(item.enc, start=clip):
    if c >= shape.clips or len(enc_AE) > shape.frames:
      raise ValueError(
        f"clip {c} of {len(enc_AE)} frames does not fit "
        f"{shape.clips} clips of {shape.frames}"
      )
    arrays["enc_BAE"][row * shape.clips + c, : len(enc_AE)] = enc_AE
    start, count = item.row.spans[c - clip]
    if count > shape.tokens_of(len(enc_AE)):
      raise ValueError(
        f"clip {c} of {len(enc_AE)} frames has no {count} audio tokens"
      )
    first = column + start
    base = c * shape.adapter_frames
    arrays["audio_index_BT"][row, first : first + count] = (
      base + np.arange(count)
    )
