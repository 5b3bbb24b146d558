"""What only the compiler for TPUs can show; `make fit` runs it.

On a narrow twin of the 33B model and shorter rows: the compiler's time goes to
wide products.
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
TIME, VOCAB, WIDTH = 1024, 15_360, 1024


@functools.cache
def step(layers: int) -> tuple:
  """(program, compiled, its computations) of so many layers."""
  config = sft.get_config("model=step-audio-r1,tpu=v5p-16")
  config.tpu.time = TIME
  devices = fit.devices_of(fit_lib.SLICES[config.tpu.slice])
  setting = programs.Setting(config, devices)
  narrow = dict(vocab=VOCAB, width=WIDTH, heads=8, kv_heads=2, ffn=2048)
  config = setting.config
  setting.config = dataclasses.replace(
    config,
    adapter=dataclasses.replace(config.adapter, decoder_width=WIDTH),
    decoder=dataclasses.replace(config.decoder, layers=layers, **narrow),
  )
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
  logits = TIME * VOCAB
  assert logits // 10 in sizes and logits not in sizes


def test_a_step_writes_its_state_where_it_was():
  program, compiled, _ = step(2)
  state = programs.bytes_of(program.args[0])
  stats = compiled.memory_analysis()
  assert stats.alias_size_in_bytes >= state > 12 * VOCAB * WIDTH / 8


def test_a_step_is_as_large_for_four_layers_as_for_two():
  two, four = (
    sum(map(len, step(layers)[2].values())) for layers in (2, 4)
  )
  # Copies and their ends come and go with sizes.
  assert four == pytest.approx(two, rel=0.02) and two > 1000


def test_what_is_too_large_is_told_by_its_size():
  where = fit_lib.Slice("v5e", (2, 2))
  mesh = sharding.make_mesh(fsdp=4, devices=fit.devices_of(where))
  half = sharding.named(mesh, sharding.partition("fsdp"))
  given = jax.ShapeDtypeStruct((4, 2, 2**30), jnp.float32, sharding=half)
  # A device holds 8 GiB and makes as much.
  program = programs.Program("x", mesh, lambda x: x + 1, (given,), (), 1.0)
  found = fit.analyse(program, where)
  assert not found["fits"] and found["args_bytes"] == 8 * fit_lib.GIB
  assert found["total_bytes"] == pytest.approx(16 * fit_lib.GIB, rel=0.01)


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
  }
  ids = {"segment_BT": S((B, T), dtype=jnp.int32)}
  given, ids = jax.tree.map(
    lambda x, s: S(x.shape, dtype=x.dtype, sharding=s),
    (given, ids),
    sharding.shardings(mesh, (given, ids), sharding.DATA),
  )

  def total(given, ids):
    y_BTNH = attention.causal(**given, **ids, implementation="splash")
    return y_BTNH.astype(jnp.float32).sum()

  with jax.set_mesh(mesh):
    run = jax.jit(jax.grad(total)).lower(given, ids).compile()
  found = cost.Counter(run.as_text(), len(devices)).total()
  # Tiles of 512 by 512 that reach the diagonal: 3 of 4; seven products.
  rows, heads = B // 2, N // 2
  assert found.flops == rows * heads * 2 * 7 * 3 * 512**2 * H
  assert not found.unknown
