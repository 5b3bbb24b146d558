"""Prompts to samples and samples to rollouts: ids stay what was sampled."""

import jax
import numpy as np
import pytest

from mgrd_jax.rollout import collect
from tests import toys


def drawn(tokens, stopped=True):
  tokens = np.array(tokens, np.int32)
  logp = -0.1 * np.arange(1, len(tokens) + 1, dtype=np.float32)
  return collect.Sample(tokens, logp, stopped)


def pack(items, samples, *, time=10):
  example_B = np.repeat(np.arange(len(items)), len(samples) // len(items))
  return collect.pack(toys.batch(items, time=12), samples, example_B, time=time)


HEARD = toys.item([1, 2], toys.clip(0), [3])
TOLD = toys.item([4, 5, 6, 7])


def test_pack_keeps_the_ids_as_they_were_sampled():
  # 6 after 5 might be one token to a tokenizer; ids never pass through text.
  samples = [drawn([5, 6, toys.STOP]), drawn([9, 9, 9, 9], stopped=False)]
  packed = pack([HEARD, TOLD], samples)
  np.testing.assert_array_equal(
    packed.token_BT, [[5, 6, toys.STOP] + [0] * 7, [9, 9, 9, 9] + [0] * 6]
  )
  np.testing.assert_array_equal(packed.response_len_B, [3, 4])
  np.testing.assert_array_equal(packed.stopped_B, [True, False])
  np.testing.assert_allclose(packed.logp_BT[0, :3], [-0.1, -0.2, -0.3])
  assert not packed.logp_BT[0, 3:].any()


def test_pack_holds_each_prompt_once_as_it_was_sampled_from():
  packed = pack([TOLD, HEARD], [drawn([8, toys.STOP])] * 6)
  want = toys.batch([TOLD, HEARD], time=12)
  jax.tree.map(np.testing.assert_array_equal, packed.prompts, want)
  np.testing.assert_array_equal(packed.example_B, [0, 0, 0, 1, 1, 1])
  assert len(packed.token_BT) == 6


def test_a_generated_placeholder_is_an_error():
  astray, fine = drawn([5, toys.PATCH, toys.STOP]), drawn([5, toys.STOP])
  with pytest.raises(ValueError, match="audio placeholder"):
    pack([HEARD], [astray])
  with pytest.raises(ValueError, match="audio placeholder"):
    pack([TOLD, HEARD], [fine, fine, fine, astray])
  # A prompt without one has nothing that it could be taken for.
  pack([TOLD, HEARD], [fine, astray, fine, fine])


def test_a_response_that_does_not_fit_is_an_error_and_never_cut():
  long = [drawn([9] * 11)]
  with pytest.raises(ValueError, match="11 tokens does not fit 10 columns"):
    pack([HEARD], long)
  assert (pack([HEARD], long, time=11).token_BT == 9).all()


def counted(batch, request_B, *, samples):
  """A generator that says its request and its place: no model."""
  rows = len(request_B) * samples
  token_BT = np.zeros((rows, 4), np.int32)
  token_BT[:, 0] = np.repeat(request_B, samples)
  token_BT[:, 1] = np.tile(np.arange(samples), len(request_B))
  token_BT[:, 2] = np.repeat(np.asarray(batch), samples)
  len_B = np.full(rows, 3)
  return token_BT, token_BT.astype(np.float32), len_B, len_B > 0


@pytest.mark.parametrize("rows", [1, 2, 3, 5, 8])
def test_each_item_gets_its_own_samples_however_they_are_batched(rows):
  items = [30, 31, 32, 33, 34]
  seen = []

  def generate(batch, request_B):
    assert len(batch) == rows
    return counted(batch, request_B, samples=2)

  found = collect.run(
    items,
    generate,
    list,
    rows=rows,
    samples=2,
    progress=lambda *done: seen.append(done),
  )
  want = [[[i, g, 30 + i] for g in range(2)] for i in range(5)]
  assert [[s.tokens.tolist() for s in group] for group in found] == want
  assert seen[-1] == (5, 5)


def test_draws_carry_the_names_they_are_given():
  found = collect.run(
    [30, 31],
    lambda batch, request_B: counted(batch, request_B, samples=1),
    list,
    rows=4,
    samples=1,
    request_ids=[7, 3],
  )
  assert [group[0].tokens[0] for group in found] == [7, 3]
