"""What only the compiler for TPUs can show; `make fit` runs it.

The fine-tuning of the 33B model at its own widths, on fewer layers and shorter
rows: neither changes the program's text but in numbers.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import pytest

from configs import sft
from experiments import fit, programs
from mgrd_jax import sharding
from mgrd_jax.kernels import attention
from mgrd_jax.train import cost, hlo
from mgrd_jax.train import fit as fit_lib

pytestmark = pytest.mark.tpu
TIME = 1024


@functools.cache
def step(layers: int) -> tuple:
  """(program, compiled, its computations) of so many layers."""
  config = sft.get_config("model=step-audio-r1,tpu=v5e-16")
  config.tpu.time = TIME
  devices = fit.devices_of(fit_lib.SLICES[config.tpu.slice])
  setting = programs.Setting(config, devices)
  decoder = dataclasses.replace(setting.config.decoder, layers=layers)
  setting.config = dataclasses.replace(setting.config, decoder=decoder)
  program = programs.PROGRAMS["sft"](setting)
  compiled = program.lower().compile()
  computations, _ = hlo.parse(compiled.as_text())
  return program, compiled, computations


def test_no_buffer_of_a_step_holds_all_logits():
  _, _, computations = step(2)
  sizes = {
    math.prod(array.dims)
    for computation in computations.values()
    for op in computation.values()
    for array in op.results
  }
  # A device has one row, and reads the head in ten chunks.
  logits = TIME * 158_720
  assert logits // 10 in sizes and logits not in sizes


def test_a_step_writes_its_state_where_it_was():
  program, compiled, _ = step(2)
  state = programs.bytes_of(program.args[0])
  stats = compiled.memory_analysis()
  assert stats.alias_size_in_bytes >= state > 10 * fit_lib.GIB / 16


def test_a_step_is_as_large_for_four_layers_as_for_two():
  two, four = (
    sum(map(len, step(layers)[2].values())) for layers in (2, 4)
  )
  # Copies and their ends come and go with sizes.
  assert four == pytest.approx(two, rel=0.02) and two > 1000


@pytest.mark.parametrize(
  "kind, shape", [("v5e", (2, 2)), ("v5p", (2, 2, 1)), ("v6e", (2, 2))]
)
def test_the_attention_kernel_compiles_forward_and_backward(kind, shape):
  devices = fit.devices_of(fit_lib.Slice(kind, shape))
  mesh = sharding.make_mesh(fsdp=2, tensor=2, devices=devices)
  B, T, N, K, H = 4, 1024, 4, 2, 128
  S = functools.partial(jax.ShapeDtypeStruct, dtype=jnp.bfloat16)
  given = {
    "q_BTNH": S((B, T, N, H)),
    "k_BTKH": S((B, T, K, H)),
    "v_BTKH": S((B, T, K, H)),
    "segment_BT": S((B, T), dtype=jnp.int32),
  }
  given = jax.tree.map(
    lambda x, s: S(x.shape, dtype=x.dtype, sharding=s),
    given,
    sharding.shardings(mesh, given, sharding.DATA),
  )

  def total(q_BTNH, k_BTKH, v_BTKH, segment_BT):
    y_BTNH = attention.causal(
      q_BTNH, k_BTKH, v_BTKH, segment_BT=segment_BT, implementation="splash"
    )
    return y_BTNH.astype(jnp.float32).sum()

  with jax.set_mesh(mesh):
    run = jax.jit(jax.grad(total, (0, 1, 2))).lower(*given.values()).compile()
  found = cost.Counter(run.as_text(), len(devices)).total()
  # Tiles of 512 by 512 that reach the diagonal: 3 of 4; seven products.
  rows, heads = B // 2, N // 2
  assert found.flops == rows * heads * 2 * 7 * 3 * 512**2 * H
  assert not found.unknown
