"""Filters of the distribution against the classes that `generate` runs."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

from mgrd_jax.rollout import serving
from tests.parity import cases

pytestmark = pytest.mark.parity
# Spread as a trained model's, and with many ties.
LOGITS = {
  "drawn": 3 * cases.draw((4, 5000), "logits"),
  "tied": np.round(2 * cases.draw((4, 300), "ties")),
  "equal": np.zeros((2, 7), np.float32),
}


@pytest.fixture(params=sorted(LOGITS))
def logits_BV(request):
  return LOGITS[request.param]


def theirs(warper, logits_BV, ids_BT=None):
  ids = None if ids_BT is None else torch.from_numpy(ids_BT)
  return warper(ids, torch.from_numpy(logits_BV.copy())).numpy()


@pytest.mark.parametrize("top_k", [1, 2, 6, 200])
def test_the_likeliest_are_those_of_transformers(logits_BV, top_k):
  top_k = min(top_k, logits_BV.shape[1])
  want_BV = theirs(transformers.TopKLogitsWarper(top_k), logits_BV)
  got_BV = serving.likeliest(jnp.asarray(logits_BV), top_k)
  np.testing.assert_array_equal(got_BV, want_BV)


@pytest.mark.parametrize("top_p", [0.01, 0.3, 0.5, 0.9, 0.99])
def test_the_nucleus_is_that_of_transformers(logits_BV, top_p):
  want_BV = theirs(transformers.TopPLogitsWarper(top_p), logits_BV)
  got_BV = serving.nucleus(jnp.asarray(logits_BV), top_p)
  # As many of each value; which of equal ones, torch's sort leaves open.
  np.testing.assert_array_equal(np.sort(got_BV), np.sort(want_BV))


def test_the_penalty_is_that_of_transformers(logits_BV):
  ids_BT = np.array([[0, 3, 3]] * len(logits_BV))
  seen_BV = np.zeros(logits_BV.shape, bool)
  seen_BV[:, [0, 3]] = True
  warper = transformers.RepetitionPenaltyLogitsProcessor(1.07)
  want_BV = theirs(warper, logits_BV, ids_BT)
  got_BV = serving.penalise(jnp.asarray(logits_BV), jnp.asarray(seen_BV), 1.07)
  np.testing.assert_allclose(got_BV, want_BV, rtol=1e-6)
