"""Optimisers: AdamW with warm-up, cosine or constant rate, global clip."""

import jax
import optax

from mgrd_jax import sharding


def adamw(
  *,
  lr: float,
  steps: int,
  warmup: int = 0,
  final: float = 0.1,
  weight_decay: float = 0.0,
  clip: float = 1.0,
) -> optax.GradientTransformation:
  """AdamW under a global norm clip.

  Args:
    lr: peak learning rate.
    steps: length of the schedule.
    warmup: linear steps up to `lr`.
    final: the last rate as a share of `lr`, reached on a cosine; 1 keeps
      the rate constant after the warm-up.
    weight_decay: decoupled decay of matrices; norms and biases, which are
      stacked over layers too, do not decay.
    clip: global gradient norm.
  """
  decay = (
    optax.constant_schedule(lr)
    if final == 1.0
    else optax.cosine_decay_schedule(lr, max(steps - warmup, 1), final)
  )
  schedule = decay
  if warmup:
    ramp = optax.linear_schedule(lr / warmup, lr, warmup)
    schedule = optax.join_schedules([ramp, decay], [warmup])
  return optax.chain(
    optax.clip_by_global_norm(clip),
    optax.adamw(
      schedule,
      b2=0.98,
      weight_decay=weight_decay,
      mask=lambda params: jax.tree_util.tree_map_with_path(_decays, params),
    ),
  )


def _decays(path, leaf) -> bool:
  axes = sharding.suffix(path).strip("L")
  return len(axes) > 1 and "bias" not in jax.tree_util.keystr(path[-1:])
