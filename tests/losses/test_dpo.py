"""Preference pairs worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mgrd_jax.losses import dpo

# Margins 1 + .5 and -3 + 1 nats.
GIVEN = dict(
  chosen_B=jnp.array([-10.0, -8.0]),
  rejected_B=jnp.array([-12.0, -4.0]),
  ref_chosen_B=jnp.array([-11.0, -5.0]),
  ref_rejected_B=jnp.array([-11.5, -3.0]),
)


def test_the_loss_of_two_pairs():
  # log(1 + exp(-.15)) and log(1 + exp(.2)).
  np.testing.assert_allclose(
    dpo.preference(**GIVEN, beta=0.1), [0.6209571, 0.7981389], atol=1e-6
  )
  np.testing.assert_allclose(
    dpo.preference(**GIVEN, beta=2.0), [0.0485874, 4.0181499], atol=1e-6
  )


def test_the_metrics_of_two_pairs():
  found = {k: v.tolist() for k, v in dpo.stats(**GIVEN).items()}
  assert found == {
    "accuracy": [1.0, 0.0],
    "margin": [1.5, -2.0],
    "logratio_chosen": [1.0, -3.0],
    "logratio_rejected": [-0.5, -1.0],
  }


def test_a_policy_that_is_the_reference_loses_log_2_and_ties_are_no_hits():
  same = jnp.array([-7.0])
  given = (same, 3 * same, same, 3 * same)
  assert float(dpo.preference(*given, beta=0.1)[0]) == pytest.approx(np.log(2))
  assert dpo.stats(*given)["accuracy"] == 0


def test_the_gradient_pulls_the_pair_apart_and_leaves_the_reference():
  def loss(given):
    return dpo.preference(**given, beta=0.1).sum()

  grads = jax.grad(loss)(GIVEN)
  # -β σ(-β margin) of what is chosen, its opposite of what is rejected.
  pull = np.array([-0.0462570, -0.0549834])
  np.testing.assert_allclose(grads["chosen_B"], pull, atol=1e-6)
  np.testing.assert_allclose(grads["rejected_B"], -pull, atol=1e-6)
  assert not grads["ref_chosen_B"].any() and not grads["ref_rejected_B"].any()


def test_what_is_impossible_stays_finite():
  far = dict(GIVEN, chosen_B=jnp.array([-1e6, 0.0]))
  loss, grad = jax.value_and_grad(
    lambda x: dpo.preference(**dict(far, chosen_B=x), beta=0.1).sum()
  )(far["chosen_B"])
  assert np.isfinite(loss) and np.isfinite(grad).all()
