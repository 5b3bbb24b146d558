"""The optimiser: its rates, its clip, and what decays."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mgrd_jax.train import optim


def moves(tx, steps, params, grads):
  """The update of each step, under constant gradients."""
  state, found = tx.init(params), []
  update = jax.jit(tx.update)
  for _ in range(steps):
    updates, state = update(grads, state, params)
    found.append(updates)
  return found


def test_the_rate_warms_up_linearly_and_falls_on_a_cosine():
  tx = optim.named("adamw", lr=1.0, steps=12, warmup=2, final=0.1)
  one = {"w": jnp.ones(())}
  # Under a constant gradient Adam moves by the rate itself.
  rates = [-float(u["w"]) for u in moves(tx, 14, one, one)]
  cosine = [0.1 + 0.45 * (1 + np.cos(np.pi * t / 10)) for t in range(11)]
  np.testing.assert_allclose(rates[:2], [0.5, 0.75], rtol=1e-4)
  np.testing.assert_allclose(rates[2:13], cosine, rtol=1e-4)
  assert rates[13] == pytest.approx(0.1, rel=1e-4)


def test_a_final_share_of_one_is_a_constant_rate():
  tx = optim.named("adamw", lr=0.5, steps=3, final=1.0)
  one = {"w": jnp.ones(())}
  rates = [-float(u["w"]) for u in moves(tx, 6, one, one)]
  np.testing.assert_allclose(rates, 0.5, rtol=1e-4)


def test_gradients_are_clipped_by_their_global_norm():
  tx = optim.named("adamw", lr=1.0, steps=9, final=1.0, clip=1.0)
  params = {"a": jnp.zeros(2), "b": jnp.zeros(2)}
  grads = {"a": jnp.array([30.0, 0]), "b": jnp.array([0, 40.0])}
  state = tx.init(params)
  _, state = jax.jit(tx.update)(grads, state, params)
  # The first moment after a step is a tenth of the clipped gradient.
  moment = next(
    leaf for path, leaf in jax.tree_util.tree_leaves_with_path(state)
    if ".mu" in jax.tree_util.keystr(path) and "'a'" in
    jax.tree_util.keystr(path)
  )  # fmt: skip
  assert float(moment[0]) == pytest.approx(0.06, rel=1e-5)


def test_matrices_decay_and_scales_and_biases_do_not():
  tx = optim.named("adamw", lr=1.0, steps=9, final=1.0, weight_decay=0.1)
  shapes = {
    "up_DF": (2, 3),
    "q_LDNH": (2, 2, 2, 2),
    "embed_VD": (3, 2),
    "norm_D": (2,),
    # Stacked over layers, a vector has rank two and is still a vector.
    "attn_norm_LD": (2, 2),
    "q_bias_LNH": (2, 2, 2),
    "bias": (),
  }
  params = {name: jnp.ones(shape) for name, shape in shapes.items()}
  zeros = jax.tree.map(jnp.zeros_like, params)
  (updates,) = moves(tx, 1, params, zeros)
  moved = {name for name, u in updates.items() if np.abs(u).max() > 0}
  assert moved == {"up_DF", "q_LDNH", "embed_VD"}
  np.testing.assert_allclose(updates["up_DF"], -0.1, rtol=1e-6)


MAPS = {
  # name: (shape, shape as layers x inputs x outputs)
  "up_DF": ((4, 6), (1, 4, 6)),
  "q_LDNH": ((2, 8, 2, 3), (2, 8, 6)),
  "out_LNHD": ((2, 2, 3, 8), (2, 6, 8)),
  "conv_REE": ((3, 4, 4), (1, 12, 4)),
}
REST = {
  "embed_VD": (9, 8),
  "head_DV": (8, 9),
  "position_AE": (5, 4),
  "query_NE": (3, 4),
  "attn_norm_LD": (2, 8),
  "q_bias_LNH": (2, 2, 3),
  "bias": (),
}


def random(shapes):
  keys = jax.random.split(jax.random.key(0), len(shapes))
  return {
    name: jax.random.normal(key, shape)
    for key, (name, shape) in zip(keys, shapes.items(), strict=True)
  }


def test_muon_moves_maps_along_orthogonal_matrices_of_adams_size():
  grads = random({name: shape for name, (shape, _) in MAPS.items()})
  tx = optim.named("muon", lr=1.0, steps=9, final=1.0)
  (updates,) = moves(tx, 1, grads, grads)
  for name, (_, (count, rows, columns)) in MAPS.items():
    for step in np.reshape(updates[name], (count, rows, columns)):
      # Newton and Schulz in five steps: singular values of about one, times
      # 0.2 sqrt(max(rows, columns)).
      values = np.linalg.svd(step, compute_uv=False)
      size = 0.2 * max(rows, columns) ** 0.5
      assert 0.5 * size < values.min() <= values.max() < 1.4 * size, name


def test_muon_leaves_what_is_no_map_to_adam():
  shapes = {name: shape for name, (shape, _) in MAPS.items()} | REST
  grads = random(shapes)
  tx = optim.named("muon", lr=0.1, steps=9, final=1.0)
  (updates,) = moves(tx, 1, grads, grads)
  for name, update in updates.items():
    # Adam's first step is the gradient's sign.
    sizes = np.abs(update)
    signs = np.allclose(sizes, sizes.flat[0], rtol=1e-4)
    assert signs == (name in REST), name


def test_an_unknown_optimiser_is_refused_by_name():
  with pytest.raises(ValueError, match="unknown optimiser 'sgd'"):
    optim.named("sgd", lr=0.1, steps=3)
