"""Rows into batches: never cut, and each placeholder finds its frame."""

import numpy as np
import pytest

from mgrd_jax.data import transforms
from tests import toys

A, B = toys.clip(0), toys.clip(1, frames=3)
WIDTH = toys.WIDTH


def test_rows_are_left_aligned_and_padded_right():
  items = [toys.item([1, 2, 3], target=2), toys.item([4], target=1)]
  shape = transforms.Shape(time=5, width=WIDTH)
  batch = transforms.collate(items, shape, rows=3)
  assert batch.tokens_BT.tolist() == [[1, 2, 3, 0, 0], [4, 0, 0, 0, 0], [0] * 5]
  assert batch.valid_BT.sum(1).tolist() == [3, 1, 0]
  assert batch.valid_BT[0].tolist() == [True] * 3 + [False] * 2
  assert np.argwhere(batch.loss_mask_BT).tolist() == [[0, 1], [0, 2], [1, 0]]
  assert (batch.audio_index_BT == -1).all()
  assert batch.enc_BAE.shape == (0, 0, WIDTH)


def test_placeholders_point_to_the_frames_of_their_own_clip():
  items = [toys.item([1], A, [2], B), toys.item([5, 6], B)]
  shape = transforms.Shape(time=9, clips=2, frames=6, width=WIDTH)
  batch = transforms.collate(items, shape)
  # Six states make three audio tokens; each row counts its own.
  assert batch.audio_index_BT.tolist() == [
    [-1, 0, 1, 2, -1, 3, 4, -1, -1],
    [-1, -1, 0, 1, -1, -1, -1, -1, -1],
  ]
  np.testing.assert_array_equal(batch.enc_BAE[0], A)
  np.testing.assert_array_equal(batch.enc_BAE[1, :3], B)
  np.testing.assert_array_equal(batch.enc_BAE[2, :3], B)
  assert not batch.enc_BAE[1, 3:].any() and not batch.enc_BAE[3].any()


def test_an_over_long_row_is_refused_and_never_cut():
  item = toys.item([1, 2], A, [3])
  fits = transforms.Shape(time=6, clips=1, frames=6, width=WIDTH)
  assert transforms.collate([item], fits).valid_BT.all()
  short = transforms.Shape(time=5, clips=1, frames=6, width=WIDTH)
  with pytest.raises(ValueError, match="a row of 6 tokens does not fit 5"):
    transforms.collate([item], short)


@pytest.mark.parametrize("clips, frames", [(0, 6), (1, 5)])
def test_a_clip_that_does_not_fit_is_refused(clips, frames):
  shape = transforms.Shape(time=8, clips=clips, frames=frames, width=WIDTH)
  with pytest.raises(ValueError, match="clip 0 of 6 frames does not fit"):
    transforms.collate([toys.item([1], A)], shape)


def test_clips_that_are_not_those_of_the_spans_are_refused():
  shape = transforms.Shape(time=8, clips=2, frames=6, width=WIDTH)
  row = toys.item([1], A).row
  for enc in ((), (A, A)):
    with pytest.raises(ValueError, match=f"1 audio spans has {len(enc)} clips"):
      transforms.collate([transforms.Item(row, enc)], shape)
  # Three tokens would read on into the next clip's frames.
  with pytest.raises(ValueError, match="clip 0 of 3 frames has no 3 audio"):
    transforms.collate([transforms.Item(row, (B,))], shape)


def test_the_shape_of_items_holds_each_of_them():
  items = [toys.item([1] * 9), toys.item([1], A, B)]
  shape = transforms.shape_of(items, multiple=8, width=WIDTH)
  assert shape == transforms.Shape(time=16, clips=2, frames=8, width=WIDTH)
  assert shape.adapter_frames == 4
  transforms.collate(items, shape)
  text = transforms.shape_of(items[:1], width=WIDTH)
  assert (text.clips, text.frames, text.adapter_frames) == (0, 0, 0)
