"""Optimisers: AdamW or Muon, warm-up, cosine or constant rate, global clip."""

import jax
import optax
from optax import contrib

from mgrd_jax import sharding


def named(
  name: str,
  *,
  lr: float,
  steps: int,
  warmup: int = 0,
  final: float = 0.1,
  weight_decay: float = 0.0,
  clip: float = 1.0,
) -> optax.GradientTransformation:
  """AdamW or Muon under a global norm clip.

  Muon (Jordan et al. 2024) moves the maps inside the network along their
  orthogonalised momentum; scaled to the size of AdamW's step (Liu et al.
  2025, arXiv 2502.16982, section 2.2) it takes AdamW's `lr`.  Embeddings, the
  head, positions, norms and biases are AdamW's there too.

  Args:
    name: "adamw" or "muon".
    lr: peak learning rate.
    steps: length of the schedule.
    warmup: linear steps up to `lr`.
    final: the last rate as a share of `lr`, reached on a cosine; 1 keeps
      the rate constant after the warm-up.
    weight_decay: decoupled decay of AdamW's matrices, or of Muon's maps;
      norms and biases, which are stacked over layers too, do not decay.
    clip: global gradient norm.

  Raises:
    ValueError: an unknown name.
  """
  rate = _schedule(lr, steps, warmup, final)
  if name == "adamw":
    rule = optax.adamw(
      rate,
      b2=0.98,
      weight_decay=weight_decay,
      mask=lambda params: jax.tree_util.tree_map_with_path(
        lambda path, _: _is_matrix(path), params
      ),
    )
  elif name == "muon":
    rule = contrib.muon(
      rate,
      adam_learning_rate=rate,
      adam_b2=0.98,
      weight_decay=weight_decay,
      consistent_rms=0.2,
      muon_weight_dimension_numbers=lambda params: (
        jax.tree_util.tree_map_with_path(_map_axes, params)
      ),
    )
  else:
    raise ValueError(f"unknown optimiser {name!r}; have 'adamw' and 'muon'")
  return optax.chain(optax.clip_by_global_norm(clip), rule)


def _schedule(lr, steps, warmup, final):
  decay = (
    optax.constant_schedule(lr)
    if final == 1.0
    else optax.cosine_decay_schedule(lr, max(steps - warmup, 1), final)
  )
  if not warmup:
    return decay
  ramp = optax.linear_schedule(lr / warmup, lr, warmup)
  return optax.join_schedules([ramp, decay], [warmup])


def _is_matrix(path) -> bool:
  axes = sharding.suffix(path).strip("L")
  return len(axes) > 1 and "bias" not in jax.tree_util.keystr(path[-1:])


def _map_axes(path, leaf) -> contrib.MuonDimensionNumbers | None:
  """Input and output axes of a map; None for what is none.

  Maps start from a width (q_DNH, up_EF, down_FD) or from two axes that stand
  for one (out_NHD, conv_REE); layers are stacked in front.
  """
  axes = sharding.suffix(path).strip("L")
  if not _is_matrix(path) or set(axes) & {"V", "A"}:
    return None
  inputs = 1 if axes[0] in "DEF" else 2
  if inputs == len(axes):
    return None
  first = leaf.ndim - len(axes)
  at = tuple(range(first, leaf.ndim))
  return contrib.MuonDimensionNumbers(at[:inputs], at[inputs:])
