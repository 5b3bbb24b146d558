"""Samples: their endings, their independence, and the trainer's view."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mgrd_jax.losses import logprobs, ppo
from mgrd_jax.rewards import combine
from mgrd_jax.rollout import sampling
from tests import toys

PARAMS = toys.trained_parts(noise=0.1)
# The start of every distribution is flat when the head is zero.
FLAT = PARAMS | {
  "decoder": PARAMS["decoder"]
  | {"head_DV": jnp.zeros_like(PARAMS["decoder"]["head_DV"])}
}
KEY = jax.random.key(1)
RESERVED = (toys.PATCH, 21, 20)
BAN_V = sampling.ban(toys.VOCAB, RESERVED)
A, B = toys.clip(0), toys.clip(1)
ITEMS = (toys.item([1, 2], A, [3]), toys.item([4, 5, 6, 7], B, [8]))
G, NEW = 16, 6


def generate(
  params,
  items=ITEMS,
  requests=(5, 9),
  *,
  temperature=1.0,
  max_new=NEW,
  ban_V=BAN_V,
  key=KEY,
):
  program = toys.generator(
    samples=G, max_new=max_new, temperature=temperature
  )
  batch = toys.batch(items, time=10)
  return [
    np.asarray(x)
    for x in program(params, batch, np.array(requests), key, ban_V)
  ]


def allow(*ids):
  return sampling.ban(toys.VOCAB, set(range(toys.VOCAB)) - set(ids))


@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.5])
def test_the_trainer_scores_a_sample_as_the_sampler_did(temperature):
  drawn = generate(PARAMS, temperature=temperature)
  rollout = toys.packed(ITEMS, drawn, samples=G)
  logits_BTV = toys.CONTINUATIONS(PARAMS, rollout.prompts, rollout.token_BT)
  mask_BT = jnp.arange(NEW) < rollout.response_len_B[:, None]

  def gap(temperature, ban_V):
    logp_BT = logprobs.choice_logprobs(
      logits_BTV, rollout.token_BT, temperature=temperature, ban_V=ban_V
    )
    return ppo.mismatch(logp_BT, rollout.logp_BT, mask_BT)

  same = gap(temperature, BAN_V)
  # Traps 22 and 24.  Two programs of the same sums: log-probabilities of up to
  # 8 nats are 4.8e-7 apart in float32, and differ by four such steps at most;
  # a temperature divides what rounding there was before it.
  assert same["k3"] < 1e-11
  assert same["max_abs"] < 4 * np.spacing(np.float32(4)) / temperature
  # A trainer that forgets the bans, or the temperature, is seen.
  assert gap(temperature, None)["k3"] > 1e-4
  assert gap(temperature * 1.3, BAN_V)["k3"] > 1e-4


def test_trainer_ids_are_sampler_ids():
  token_BT, _, len_B, stopped_B = drawn = generate(PARAMS)
  rollout = toys.packed(ITEMS, drawn, samples=G)
  for row, item in enumerate(ITEMS):
    valid_T = np.asarray(rollout.prompts.valid_BT[row])
    tokens_T = np.asarray(rollout.prompts.tokens_BT[row])[valid_T]
    np.testing.assert_array_equal(tokens_T, item.row.tokens)
  for b, n in enumerate(len_B):
    np.testing.assert_array_equal(rollout.token_BT[b, :n], token_BT[b, :n])
  np.testing.assert_array_equal(rollout.response_len_B, len_B)
  np.testing.assert_array_equal(rollout.stopped_B, stopped_B)
  np.testing.assert_array_equal(rollout.example_B, np.repeat([0, 1], G))


def test_sixteen_samples_of_a_flat_distribution_are_distinct():
  # Without the end of turn: two samples may well stop at once.
  token_BT = generate(FLAT, ban_V=BAN_V.at[toys.STOP].set(-1e9))[0]
  for rows in token_BT.reshape(2, G, NEW):
    assert len({tuple(row) for row in rows}) == G


def test_a_sample_does_not_depend_on_its_batch_neighbours_or_their_order():
  here = generate(PARAMS)
  turned = generate(PARAMS, ITEMS[::-1], (9, 5))
  other = generate(PARAMS, (ITEMS[0], toys.item([9], B)), (5, 77))
  for mine, theirs, third in zip(here, turned, other, strict=True):
    np.testing.assert_allclose(mine[:G], theirs[G:], atol=1e-5)
    np.testing.assert_allclose(mine[G:], theirs[:G], atol=1e-5)
    np.testing.assert_allclose(mine[:G], third[:G], atol=1e-5)


def test_another_request_or_key_gives_other_samples():
  token_BT = generate(FLAT)[0]
  renamed = generate(FLAT, requests=(6, 9))[0]
  assert (token_BT[:G] != renamed[:G]).any(1).all()
  np.testing.assert_array_equal(token_BT[G:], renamed[G:])
  rekeyed = generate(FLAT, key=jax.random.key(2))[0]
  assert (token_BT != rekeyed).any(1).all()


def test_reserved_ids_are_never_generated():
  free = generate(FLAT, ban_V=jnp.zeros(toys.VOCAB), temperature=1.5)[0]
  assert set(free.ravel()) & set(RESERVED)
  banned = generate(FLAT, temperature=1.5)[0]
  assert not set(banned.ravel()) & set(RESERVED)


def test_the_length_includes_the_end_of_turn_and_ids_do_not_decide_it():
  # Id 0 is also the padding; it may be generated and it counts.
  token_BT, logp_BT, len_B, stopped_B = generate(
    FLAT, ban_V=allow(0, 1, 2, toys.STOP)
  )
  assert 0 < stopped_B.sum() < len(stopped_B)
  at_T = np.arange(NEW)
  for b, n in enumerate(len_B):
    ends = np.flatnonzero(token_BT[b] == toys.STOP)
    if stopped_B[b]:
      assert ends.tolist() == [n - 1]
    else:
      assert n == NEW and not len(ends)
    assert (token_BT[b, n:] == 0).all() and (logp_BT[b, n:] == 0).all()
    np.testing.assert_allclose(logp_BT[b, at_T < n], np.log(1 / 4), rtol=1e-5)
  assert (token_BT[~stopped_B] == 0).any()


def test_rows_that_stop_at_once_have_length_one():
  token_BT, logp_BT, len_B, stopped_B = generate(FLAT, ban_V=allow(toys.STOP))
  assert stopped_B.all() and (len_B == 1).all()
  assert (token_BT[:, 0] == toys.STOP).all() and (logp_BT == 0).all()


def test_a_response_cut_before_its_end_has_not_stopped_and_earns_nothing():
  ban_V = allow(0, 1, 2, toys.STOP)
  whole_BT, _, len_B, stopped_B = generate(FLAT, ban_V=ban_V)
  cut_BT, _, cut_B, still_B = generate(FLAT, ban_V=ban_V, max_new=NEW - 1)
  # The same draws, and less room.
  np.testing.assert_array_equal(whole_BT[:, : NEW - 1], cut_BT)
  last = stopped_B & (len_B == NEW)
  assert last.any() and not still_B[last].any()
  assert (cut_B[last] == NEW - 1).all()
  text = "<think>\nhigh pitch\n</think>\nanswer: happy"
  for stopped, reward in ((True, 1.0), (False, 0.0)):
    score = combine.score_response(
      text, stopped, gold="happy", answer_type="choice",
      options=("happy", "sad"),
    )  # fmt: skip
    assert score["reward"] == pytest.approx(reward)


def test_temperature_zero_follows_the_full_forward_greedily():
  token_BT, logp_BT, len_B, _ = drawn = generate(PARAMS, temperature=0.0)
  again = generate(PARAMS, temperature=0.0, key=jax.random.key(9))
  np.testing.assert_array_equal(token_BT, again[0])
  rollout = toys.packed(ITEMS, drawn, samples=G)
  logits_BTV = toys.CONTINUATIONS(PARAMS, rollout.prompts, rollout.token_BT)
  for b in (0, G):
    before = np.asarray(logits_BTV[b, : len_B[b]] + BAN_V)
    np.testing.assert_array_equal(before.argmax(-1), token_BT[b, : len_B[b]])
    logp = before.max(-1) - np.log(np.exp(before).sum(-1))
    np.testing.assert_allclose(logp_BT[b, : len_B[b]], logp, atol=1e-5)


def test_the_same_text_with_two_clips_is_continued_differently():
  items = (toys.item([1, 2], A, [3]), toys.item([1, 2], B, [3]))
  # One name for both: the draws are the same, only the clips differ.
  token_BT, logp_BT, _, _ = generate(PARAMS, items, (5, 5))
  assert (token_BT[:G] != token_BT[G:]).any()
  same = token_BT[:G, 0] == token_BT[G:, 0]
  assert same.any()
  assert np.abs(logp_BT[:G, 0] - logp_BT[G:, 0])[same].min() > 1e-4
