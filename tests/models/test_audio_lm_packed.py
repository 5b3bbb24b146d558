"""Several examples in a row are what each is in a row of its own."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mgrd_jax.models import audio_lm, decoder
from mgrd_jax.types import Batch
from tests import toys

A, B = toys.clip(0), toys.clip(1)
ITEMS = (
  toys.item([1, 2], A, [3, 4, 5], target=3),
  toys.item([6, 7, 8, 9], target=2),
  toys.item([1], B, [2, 12], target=1),
)


def by_hand() -> tuple[Batch, list[slice]]:
  """All items in the one row of a batch, and where each of them lies."""
  alone = [toys.batch([item]) for item in ITEMS]
  lengths = [int(b.valid_BT.sum()) for b in alone]
  ends = np.cumsum(lengths)
  places = [slice(e - n, e) for e, n in zip(ends, lengths, strict=True)]
  audio = [b.audio_index_BT[0, :n] for b, n in zip(alone, lengths, strict=True)]
  per_clip = 3  # audio tokens
  audio[2] = jnp.where(audio[2] >= 0, audio[2] + per_clip, -1)

  def row(parts, fill=0):
    flat = jnp.concatenate([*parts, jnp.full((24 - ends[-1],), fill)])
    return flat[None]

  def cut(name):
    return [
      getattr(b, name)[0, :n] for b, n in zip(alone, lengths, strict=True)
    ]

  segment_BT = row([jnp.full(n, i + 1) for i, n in enumerate(lengths)])
  return Batch(
    tokens_BT=row(cut("tokens_BT")),
    valid_BT=segment_BT > 0,
    loss_mask_BT=row(cut("loss_mask_BT")) > 0,
    audio_index_BT=row(audio, -1),
    enc_BAE=jnp.concatenate([alone[0].enc_BAE, alone[2].enc_BAE]),
    segment_BT=segment_BT,
  ), places


def test_logits_of_a_packed_row_are_those_of_its_examples():
  batch, places = by_hand()
  together = toys.APPLY(toys.params(), batch)[0]
  for item, at in zip(ITEMS, places, strict=True):
    alone = toys.APPLY(toys.params(), toys.batch([item]))[0]
    np.testing.assert_allclose(
      together[at], alone[: at.stop - at.start], atol=1e-5
    )


def test_positions_begin_anew_with_each_example():
  batch, places = by_hand()
  pos_T = np.asarray(audio_lm.positions(batch))[0]
  for at in places:
    np.testing.assert_array_equal(pos_T[at], np.arange(at.stop - at.start))


@pytest.mark.parametrize("name", sorted(set(decoder.REMAT) - {"none"}))
def test_what_a_layer_keeps_changes_no_gradient(name):
  config = dataclasses.replace(
    toys.CONFIG, decoder=dataclasses.replace(toys.CONFIG.decoder, remat=name)
  )
  batch = toys.batch(ITEMS, clips=1)

  def gradient(config):
    apply = functools.partial(audio_lm.apply, config=config)
    return toys.jit(
      jax.grad(lambda params: jnp.square(apply(params, batch)).mean())
    )(toys.trained_parts(noise=0.1))

  assert toys.difference(gradient(config), gradient(toys.CONFIG)) < 1e-6


def test_an_unknown_remat_policy_names_those_there_are():
  with pytest.raises(ValueError, match="'half'; have .*'attention'"):
    decoder.rematerialised(lambda carry, x: (carry, None), "half")
