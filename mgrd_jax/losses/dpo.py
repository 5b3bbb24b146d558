"""Direct preference optimisation: a pair's log-ratios against a reference.

    margin = (log π(y⁺) - log π_ref(y⁺)) - (log π(y⁻) - log π_ref(y⁻))
    L      = -log σ(β margin)

Log-probabilities of a response are sums over its tokens.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def preference(
  chosen_B: Float[Array, "*B"],
  rejected_B: Float[Array, "*B"],
  ref_chosen_B: Float[Array, "*B"],
  ref_rejected_B: Float[Array, "*B"],
  *,
  beta: float,
) -> Float[Array, "*B"]:
  """The loss of each pair, in nats; log 2 where the policy is the reference.

  Args:
    chosen_B: log π of the better response, summed over its tokens.
    rejected_B: log π of the worse one.
    ref_chosen_B: log π_ref of the better one, held constant.
    ref_rejected_B: log π_ref of the worse one.
    beta: how much a nat of margin counts.

  Rafailov et al. 2023, https://arxiv.org/abs/2305.18290, eq. 7.
  """
  up_B, down_B = _log_ratios(
    chosen_B, rejected_B, ref_chosen_B, ref_rejected_B
  )
  return -jax.nn.log_sigmoid(beta * (up_B - down_B))


def stats(
  chosen_B: Float[Array, "*B"],
  rejected_B: Float[Array, "*B"],
  ref_chosen_B: Float[Array, "*B"],
  ref_rejected_B: Float[Array, "*B"],
) -> dict[str, Float[Array, "*B"]]:
  """Per-pair quantities whose means are the metrics; no gradient.

  accuracy: the margin is positive; margin: in nats, without β;
  logratio_chosen and logratio_rejected: its two parts.  Both of these falling
  is likelihood displacement, which the margin alone hides.
  """
  up_B, down_B = _log_ratios(
    chosen_B, rejected_B, ref_chosen_B, ref_rejected_B
  )
  found = {
    "accuracy": (up_B > down_B) * 1.0,
    "margin": up_B - down_B,
    "logratio_chosen": up_B,
    "logratio_rejected": down_B,
  }
  return jax.tree.map(jax.lax.stop_gradient, found)


def responses(
  segment_BT: Int[Array, "B T"],
  loss_mask_BT: Bool[Array, "B T"],
  *,
  examples: int,
) -> Bool[Array, "B T G"]:
  """Which response a trained column belongs to, of those that its row holds.

  Args:
    segment_BT: which example of its row a column belongs to, 0 for none.
    examples: the most that a row holds; G counts them.
  """
  own_BTG = segment_BT[..., None] == jnp.arange(1, examples + 1)
  return own_BTG & loss_mask_BT[..., None]


def response_sums(
  logp_BT: Float[Array, "B T"], keep_BTG: Bool[Array, "B T G"]
) -> Float[Array, "B G"]:
  """log π of each response: the sum over its own columns."""
  return jnp.where(keep_BTG, logp_BT[..., None], 0.0).sum(1)


def _log_ratios(chosen_B, rejected_B, ref_chosen_B, ref_rejected_B):
  hold = jax.lax.stop_gradient
  return chosen_B - hold(ref_chosen_B), rejected_B - hold(ref_rejected_B)
