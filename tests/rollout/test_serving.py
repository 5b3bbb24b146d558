"""Filters of the distribution as Hugging Face's, and a cache that grows."""


import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mgrd_jax.rollout import serving
from mgrd_jax.types import _pytree

KEY = jax.random.split(jax.random.key(0), 1)
LOGITS = [2.0, 1.0, 0.5, -1.0, -3.0]


def state(logits=LOGITS, said=(), columns=6):
  token_BT = np.zeros((1, columns), np.int32)
  token_BT[0, : len(said)] = said
  return {
    "logits_BV": jnp.asarray([logits], jnp.float32),
    "token_BT": jnp.asarray(token_BT),
    "step": jnp.int32(len(said)),
  }


def test_the_penalty_divides_likely_ids_and_multiplies_unlikely_ones():
  logits_BV = jnp.asarray([LOGITS])
  seen_BV = jnp.asarray([[True, False, True, True, False]])
  got = serving.penalise(logits_BV, seen_BV, 2.0)
  np.testing.assert_allclose(got, [[1.0, 1.0, 0.25, -2.0, -3.0]])


@pytest.mark.parametrize(
  "top_p, kept", [(0.5, 1), (0.61, 2), (0.9, 3), (0.99, 4), (0.999, 5)]
)
def test_the_nucleus_is_the_fewest_ids_that_reach_the_mass(top_p, kept):
  prob_V = np.array([0.6, 0.22, 0.13, 0.045, 0.005])
  got = serving.nucleus(jnp.log(jnp.asarray([prob_V])), top_p)
  assert np.isfinite(np.asarray(got))[0].tolist() == [
    at < kept for at in range(5)
  ]


def test_the_likeliest_k_are_kept():
  got = serving.likeliest(jnp.asarray([LOGITS]), 2)
  assert np.isfinite(np.asarray(got))[0].tolist() == [True, True] + [False] * 3


def greedy(s, **settings):
  return int(serving.picker(**settings)(s, KEY)[0][0])


def test_the_prompt_and_what_was_said_are_penalised():
  seen_BV = jnp.asarray([[False, True, False, False, False]])
  settings = dict(seen_BV=seen_BV, temperature=0.0, repetition_penalty=10.0)
  # Nothing said yet: column 0 holds id 0, which does not count.
  assert greedy(state(), **settings) == 0
  assert greedy(state(said=[0]), **settings) == 2
  assert greedy(state(said=[0, 2]), **settings) == 0


def test_a_banned_id_is_said_at_no_temperature():
  ban_V = jnp.asarray([-1e9, 0, 0, -1e9, 0])
  for temperature in (0.0, 0.01, 1.0, 1e6, 1e30):
    keys = jax.random.split(jax.random.key(1), 64)
    many = state()
    many["logits_BV"] = jnp.tile(many["logits_BV"], (64, 1))
    pick = serving.picker(temperature=temperature, ban_V=ban_V)
    assert not set(np.asarray(pick(many, keys)[0]).tolist()) & {0, 3}


def test_filters_come_after_the_temperature():
  # The likeliest holds .62 of the mass at T = 1, and .31 .24 .21 at T = 4.
  keys = jax.random.split(jax.random.key(2), 256)
  many = state()
  many["logits_BV"] = jnp.tile(many["logits_BV"], (256, 1))

  def drawn(temperature):
    pick = serving.picker(temperature=temperature, top_p=0.6)
    return set(np.asarray(pick(many, keys)[0]).tolist())

  assert drawn(1.0) == {0}
  assert drawn(4.0) == {0, 1, 2}


@_pytree
class Cache:
  k_BSH: object
  v_BHS: object


def test_a_cache_grows_by_zeros_at_the_end_of_its_slots():
  cache = Cache(jnp.ones((1, 3, 2)), jnp.ones((1, 2, 3)))
  got = serving.grow(cache, 5)
  assert (got.k_BSH.shape, got.v_BHS.shape) == ((1, 5, 2), (1, 2, 5))
  np.testing.assert_array_equal(got.k_BSH[0, :, 0], [1, 1, 1, 0, 0])
  np.testing.assert_array_equal(got.v_BHS[0, 0], [1, 1, 1, 0, 0])


def streamed(columns, last, slots):
  """Counts instead of a model: token n of a response is n.

  Returns:
    What each look brought, and the sizes that the cache grew to.
  """
  sizes = []
  fresh = {
    "start_B": np.array([3]),
    "token_BT": np.zeros((1, columns), np.int32),
    "len_B": np.array([0]),
    "stopped_B": np.array([False]),
    "slots": slots,
  }

  def advance(s):
    n = min(int(s["len_B"][0]) + 2, last, columns)
    assert 3 + n <= s["slots"]
    token_BT = np.array([[*range(n), *[0] * (columns - n)]])
    return s | {
      "token_BT": token_BT,
      "len_B": np.array([n]),
      "stopped_B": np.array([n == last]),
    }

  def grow(s, slots):
    sizes.append(slots)
    return s | {"slots": slots}

  looks = serving.stream(
    fresh, slots=slots, advance=advance, grow=grow, steps=2
  )
  return list(looks), sizes


def test_a_stream_looks_in_steps_and_grows_before_it_is_full():
  looks, sizes = streamed(columns=2000, last=7, slots=4)
  assert looks == [[0, 1], [2, 3], [4, 5], [6]]
  assert sizes == [4 + serving.BLOCK]
  _, sizes = streamed(columns=2000, last=600, slots=300)
  assert sizes == [300 + serving.BLOCK, (300 + serving.BLOCK) * 3 // 2]


def test_a_cache_grows_no_larger_than_the_longest_response():
  # Three of the prompt and ten more; what just fits does not grow at all.
  assert streamed(columns=10, last=99, slots=4)[1] == [13]
  looks, sizes = streamed(columns=9, last=99, slots=12)
  assert looks[-1] == [8] and sizes == []


def test_of_equally_likely_ids_the_later_are_in_the_nucleus():
  logits_BV = jnp.asarray([[1.0, 2.0, 2.0, 2.0, 0.0], [0.0] * 5])
  # An equal one holds 0.29 of the mass, and 0.2.
  kept = np.isfinite(np.asarray(serving.nucleus(logits_BV, 0.39)))
  assert kept.tolist() == [
    [False, False, True, True, False],
    [False, False, False, True, True],
  ]
