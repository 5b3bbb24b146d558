"""CTC against sums over alignments, attributes by hand, and what is absent."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mgrd_jax.losses import recognition

CTC = jax.jit(recognition.ctc)
CTC_GRAD = jax.jit(jax.grad(lambda *args: recognition.ctc(*args).sum()))
ATTRIBUTES = jax.jit(recognition.attributes)
# The scan over frames adds in float32.
assert_close = functools.partial(np.testing.assert_allclose, rtol=1e-5)


def collapse(path):
  """What an alignment says: repeats merged, then blanks (0) dropped."""
  return tuple(word for word, _ in itertools.groupby(path) if word)


def summed(logits_AV, words):
  """-log of the summed probability of every alignment that says `words`."""
  logits_AV = np.asarray(logits_AV, np.float64)
  prob_AV = np.exp(logits_AV)
  prob_AV /= prob_AV.sum(-1, keepdims=True)
  frames, size = prob_AV.shape
  total = sum(
    np.prod(prob_AV[np.arange(frames), path])
    for path in itertools.product(range(size), repeat=frames)
    if collapse(path) == tuple(words)
  )
  return -np.log(total)


def batch(seed=0, frames=(4, 3, 4), words=((1, 2), (2, 0), (1, 1))):
  rng = np.random.default_rng(seed)
  logits_BAV = rng.normal(size=(len(frames), max(frames), 3))
  return (
    jnp.asarray(logits_BAV, jnp.float32),
    jnp.asarray(frames),
    jnp.asarray(words),
  )


@pytest.mark.parametrize("frames, words, ways", [
  (2, (1,), 3),  # aa, a_, _a
  (3, (1, 2), 5),  # aab, abb, ab_, a_b, _ab
  (3, (1, 1), 1),  # a_a: a repeated word needs a blank between
  (4, (1, 1), 5),  # aa_a, a__a, a_aa, a_a_, _a_a
])  # fmt: skip
def test_on_a_flat_lattice_ctc_counts_the_alignments(frames, words, ways):
  flat_BAV = jnp.zeros((1, frames, 3))
  loss_B = CTC(flat_BAV, jnp.array([frames]), jnp.array([words]))
  assert_close(loss_B, [-np.log(ways / 3**frames)])


def test_ctc_is_the_sum_over_all_alignments():
  logits_BAV, frames_B, words_BT = batch()
  want = [
    summed(logits_AV[:frames], words_T[words_T > 0])
    for logits_AV, frames, words_T in zip(
      *map(np.asarray, (logits_BAV, frames_B, words_BT)), strict=True
    )
  ]
  assert_close(CTC(logits_BAV, frames_B, words_BT), want)


def test_neither_padded_frames_nor_padded_words_matter():
  logits_BAV, frames_B, words_BT = batch()
  loss_B = CTC(logits_BAV, frames_B, words_BT)
  noise_BAV = 9 * jax.random.normal(jax.random.key(1), (3, 5, 3))
  longer_BAV = jnp.concatenate([logits_BAV, noise_BAV], axis=1)
  past_BA = jnp.arange(9) >= frames_B[:, None]
  noisy_BAV = jnp.where(past_BA[..., None], 7.0, longer_BAV)
  wider_BT = jnp.pad(words_BT, ((0, 0), (0, 3)))
  for changed in (
    CTC(longer_BAV, frames_B, words_BT),
    CTC(noisy_BAV, frames_B, words_BT),
    CTC(logits_BAV, frames_B, wider_BT),
  ):
    assert_close(changed, loss_B)
  grad_BAV = CTC_GRAD(noisy_BAV, frames_B, wider_BT)
  assert not grad_BAV[past_BA].any() and grad_BAV[~past_BA].all()


def test_a_row_without_words_counts_nothing():
  logits_BAV, frames_B, words_BT = batch()
  silent_BT = words_BT.at[1].set(0)
  loss_B = CTC(logits_BAV, frames_B, silent_BT)
  assert loss_B[1] == 0 and (loss_B[jnp.array([0, 2])] > 0).all()
  grad_BAV = CTC_GRAD(logits_BAV, frames_B, silent_BT)
  assert jnp.isfinite(grad_BAV).all()
  assert not grad_BAV[1].any() and grad_BAV[0].any()


LOGITS_BNV = jnp.log(jnp.array([
  [[1.0, 3, 99], [1, 2, 5]],
  [[7.0, 1, 99], [4, 2, 2]],
]))  # fmt: skip
CLASSES_N = jnp.array([2, 3])


def test_attributes_are_scored_among_the_classes_that_they_have():
  label_BN = jnp.array([[1, 2], [1, 1]])
  loss_BN, hit_BN = ATTRIBUTES(LOGITS_BNV, label_BN, CLASSES_N)
  # The third class of the first attribute does not exist.
  prob_BN = [[3 / 4, 5 / 8], [1 / 8, 2 / 8]]
  assert_close(loss_BN, -np.log(prob_BN))
  np.testing.assert_array_equal(hit_BN, [[1, 1], [0, 0]])


def test_an_absent_label_has_no_loss_no_hit_and_no_gradient():
  label_BN = jnp.array([[1, -1], [-1, 0]])
  loss_BN, hit_BN = ATTRIBUTES(LOGITS_BNV, label_BN, CLASSES_N)
  assert not loss_BN[label_BN < 0].any() and not hit_BN[label_BN < 0].any()
  assert (loss_BN[label_BN >= 0] > 0).all()

  def total(logits_BNV):
    return recognition.attributes(logits_BNV, label_BN, CLASSES_N)[0].sum()

  grad_BNV = jax.jit(jax.grad(total))(LOGITS_BNV)
  assert jnp.isfinite(grad_BNV).all()
  assert not grad_BNV[label_BN < 0].any()
  assert grad_BNV[label_BN >= 0][:, :2].all()
  # Nor does a class that does not exist have one.
  assert not grad_BNV[:, 0, 2].any()
