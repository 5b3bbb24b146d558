"""A pair's step: log 2 from the reference, and the same however packed."""

import functools

import jax
import numpy as np
import pytest

from mgrd_jax import sharding
from mgrd_jax.train import steps
from mgrd_jax.types import Batch
from tests import toys

PARAMS = toys.trained_parts(noise=0.1)
A, B = toys.clip(0), toys.clip(1)
GIVEN = dict(scores=toys.OF_ROWS, examples=3)
DPO = toys.jit(
  functools.partial(steps.dpo_step, tx=toys.TX, alpha=0.1, **GIVEN)
)
SUMS = toys.jit(functools.partial(steps.response_logprobs, **GIVEN))


def state_of(params=PARAMS):
  return steps.init_state(params, toys.TX)


def pairs() -> tuple[Batch, Batch]:
  """Three pairs, of two and one to a row, and the same, one to a row."""
  better = [
    toys.item([1], A, [2, 3], target=2),
    toys.item([4, 5, 6], target=1),
    toys.item([7], B, [8, 9, 10], target=3),
  ]
  worse = [
    toys.item([1], A, [11], target=1),
    toys.item([4, 12, 13], target=2),
    toys.item([7], B, [14], target=1),
  ]
  groups = [[0, 1], [2]]
  rows = [[side[i] for i in g] for side in (better, worse) for g in groups]
  return toys.packed_rows(rows), toys.batch(better + worse)


def test_sums_are_of_each_response_of_a_row():
  together, alone = pairs()
  sum_BG, each_BG = SUMS(PARAMS, together), SUMS(PARAMS, alone)
  places = [(0, 0), (0, 1), (1, 0), (2, 0), (2, 1), (3, 0)]
  for row, place in enumerate(places):
    assert sum_BG[place] == pytest.approx(float(each_BG[row, 0]), abs=1e-5)
  # Where there is no response, there is nothing.
  assert np.argwhere(sum_BG).tolist() == [list(place) for place in places]


def test_from_the_reference_a_pair_loses_log_2_and_a_step_widens_its_margin():
  batch, _ = pairs()
  ref_BG = SUMS(PARAMS, batch)
  state, before = DPO(state_of(), batch, ref_BG)
  assert float(before["dpo/loss"]) == pytest.approx(np.log(2), abs=1e-6)
  assert float(before["dpo/margin"]) == pytest.approx(0, abs=1e-5)
  mean = float(ref_BG[:2].sum()) / 6  # tokens that were chosen
  assert float(before["dpo/nll"]) == pytest.approx(-mean, abs=1e-5)
  _, after = DPO(state, batch, ref_BG)
  assert after["dpo/loss"] < before["dpo/loss"]
  assert after["dpo/margin"] > 1e-3 and after["dpo/accuracy"] > 0.6
  assert after["dpo/nll"] < before["dpo/nll"]
  ratios = after["dpo/logratio_chosen"], after["dpo/logratio_rejected"]
  assert float(ratios[0] - ratios[1]) == pytest.approx(
    float(after["dpo/margin"]), abs=1e-5
  )


def test_pairs_that_are_packed_give_the_step_of_pairs_that_are_not():
  found = []
  for batch in pairs():
    ref_BG = SUMS(toys.trained_parts(1, noise=0.1), batch)
    found.append(DPO(state_of(), batch, ref_BG))
  (one, metrics), (other, others) = found
  assert toys.difference(one.params, other.params) < 1e-5
  assert float(metrics["dpo/loss"]) == pytest.approx(
    float(others["dpo/loss"]), abs=1e-5
  )


def test_on_eight_devices_a_step_is_that_on_one():
  if jax.device_count() != 8:
    pytest.skip("needs eight devices")
  batch, _ = pairs()
  # No pair is a tie.
  far_BG = SUMS(toys.trained_parts(1, noise=0.1), batch)
  alone, known = DPO(state_of(), batch, far_BG)
  mesh = sharding.make_mesh(data=2, fsdp=2, tensor=2)
  state = state_of()
  state = jax.device_put(state, sharding.shardings(mesh, state))
  given = {"pairs": batch, "ref_BG": far_BG}
  given = jax.device_put(
    given, sharding.shardings(mesh, given, sharding.DATA)
  )
  with jax.set_mesh(mesh):
    spread, metrics = DPO(state, *given.values())
  # float32 sums in another order.
  assert toys.difference(alone.params, spread.params) < 1e-5
  for key, value in known.items():
    assert float(metrics[key]) == pytest.approx(float(value), abs=1e-5), key
