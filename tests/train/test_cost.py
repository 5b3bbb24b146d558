"""Costs read off pieces of HLO, worked out by hand; and off real programs."""

import functools

import jax
import jax.numpy as jnp
import pytest

from mgrd_jax import sharding
from mgrd_jax.train import cost

# As XLA:TPU writes them, shortened.  A loop of windows that is unrolled twice
# counts by two; its product lies in a fusion, and so does a slice of a stack.
LOOP = """
%fused.1 (param_0.1: bf16[4,128,5120], param_1.1: bf16[64,5120,256], param_2.1: s32[]) -> bf16[4,128,256] {
  %param_0.1 = bf16[4,128,5120]{2,1,0:T(8,128)(2,1)} parameter(0)
  %param_1.1 = bf16[64,5120,256]{2,1,0:T(8,128)(2,1)} parameter(1)
  %param_2.1 = s32[]{:T(128)S(6)} parameter(2)
  %zero.1 = s32[]{:T(128)} constant(0)
  %slice.1 = bf16[1,5120,256]{2,1,0:T(8,128)(2,1)} dynamic-slice(%param_1.1, %param_2.1, %zero.1, /*index=3*/%zero.1), dynamic_slice_sizes={1,5120,256}
  %bitcast.1 = bf16[5120,256,1]{1,0,2:T(8,128)(2,1)} bitcast(%slice.1)
  ROOT %convolution.1 = bf16[4,128,256]{2,1,0:T(8,128)(2,1)} convolution(%param_0.1, %bitcast.1), window={size=1}, dim_labels=0bf_io0->0bf
}

%body.1 (arg.1: (bf16[4,128,5120], bf16[64,5120,256], s32[])) -> (bf16[4,128,5120], bf16[64,5120,256], s32[]) {
  %arg.1 = (bf16[4,128,5120]{2,1,0}, bf16[64,5120,256]{2,1,0}, s32[]{:T(128)}) parameter(0)
  %x.1 = bf16[4,128,5120]{2,1,0} get-tuple-element(%arg.1), index=0
  %w.1 = bf16[64,5120,256]{2,1,0} get-tuple-element(%arg.1), index=1
  %i.1 = s32[]{:T(128)} get-tuple-element(%arg.1), index=2
  %two.1 = s32[]{:T(128)} constant(2)
  %fusion.1 = bf16[4,128,256]{2,1,0:T(8,128)(2,1)S(1)} fusion(%x.1, %w.1, %i.1), kind=kOutput, calls=%fused.1
  %next.1 = s32[]{:T(128)} add(%i.1, %two.1)
  ROOT %tuple.1 = (bf16[4,128,5120]{2,1,0}, bf16[64,5120,256]{2,1,0}, s32[]{:T(128)}) tuple(%x.1, %w.1, %next.1)
}

%condition.1 (arg.2: (bf16[4,128,5120], bf16[64,5120,256], s32[])) -> pred[] {
  %arg.2 = (bf16[4,128,5120]{2,1,0}, bf16[64,5120,256]{2,1,0}, s32[]{:T(128)}) parameter(0)
  %i.2 = s32[]{:T(128)} get-tuple-element(%arg.2), index=2
  %limit.2 = s32[]{:T(128)} constant(63)
  ROOT %less.2 = pred[]{:T(512)} compare(%i.2, %limit.2), direction=LT
}

ENTRY %main.1 (p.1: (bf16[4,128,5120], bf16[64,5120,256], s32[])) -> (bf16[4,128,5120], bf16[64,5120,256], s32[]) {
  %p.1 = (bf16[4,128,5120]{2,1,0}, bf16[64,5120,256]{2,1,0}, s32[]{:T(128)}) parameter(0)
  ROOT %while.1 = (bf16[4,128,5120]{2,1,0}, bf16[64,5120,256]{2,1,0}, s32[]{:T(128)}) while(%p.1), condition=%condition.1, body=%body.1
}
"""  # noqa: E501


def entry(*lines: str, before: str = "") -> str:
  """A program of one computation; the last line is its root."""
  *rest, last = lines
  rows = [f"  {line}" for line in rest] + [f"  ROOT {last}"]
  return "\n".join([before, "ENTRY %main (x: f32[]) -> f32[] {", *rows, "}"])


def total(text: str, devices: int = 64) -> cost.Cost:
  return cost.Counter(text, devices).total()


def test_a_loop_that_counts_by_two_runs_half_as_often():
  # 0, 2, ... 62.
  assert total(LOOP).flops == 32 * 2 * (4 * 128) * 5120 * 256


def test_of_a_stack_a_layer_is_read_and_nothing_is_written_on_chip():
  read = 2 * (4 * 128 * 5120 + 5120 * 256)
  assert total(LOOP).hbm_bytes == pytest.approx(32 * read, rel=1e-5)


def test_a_loop_without_an_end_is_refused():
  with pytest.raises(ValueError, match="how often while.1 runs"):
    total(LOOP.replace("direction=LT", "direction=NE"))


@pytest.mark.parametrize(
  "x, w, y, tail",
  [
    # Heads as a window that slides over padding: each place meets one head.
    (
      "bf16[4,1024,512,1]", "bf16[512,10,128,1]", "bf16[4,1024,10,128]",
      "window={size=1x10 pad=0_0x9_9 rhs_reversal=0x1}, "
      "dim_labels=0bf1_i1o0->0b1f",
    ),
    # Heads that are summed over, as a window that fits exactly.
    (
      "bf16[4,1024,10,128]", "bf16[10,128,512,1]", "bf16[4,1024,512,1]",
      "window={size=1x10}, dim_labels=0b1f_1io0->0bf1",
    ),
  ],
)  # fmt: skip
def test_a_product_counts_the_same_however_it_is_written(x, w, y, tail):
  text = entry(
    f"%x = {x}{{3,2,1,0}} parameter(0)",
    f"%w = {w}{{3,2,1,0}} parameter(1)",
    f"%y = {y}{{3,2,1,0}} convolution(%x, %w), {tail}",
  )
  assert total(text).flops == 2 * (4 * 1024) * 512 * (10 * 128)


def test_a_dilated_input_is_met_where_it_has_values():
  # Values at 0, 2, .. 14 of a padded 17: a window of 3 meets 22 of them.
  text = entry(
    "%x = f32[1,8,5]{2,1,0} parameter(0)",
    "%w = f32[3,5,7]{2,1,0} parameter(1)",
    "%y = f32[1,15,7]{2,1,0} convolution(%x, %w), "
    "window={size=3 pad=1_1 lhs_dilate=2}, dim_labels=b0f_0io->b0f",
  )
  assert total(text).flops == 2 * 22 * 5 * 7


def test_a_dot_in_a_fusion_counts_where_operands_have_their_types():
  inner = """%fused (a: f32[8,32], b: f32[32,16]) -> f32[8,16] {
  %a = f32[8,32]{1,0} parameter(0)
  %b = f32[32,16]{1,0} parameter(1)
  ROOT %d = f32[8,16]{1,0} dot(f32[8,32]{1,0} %a, f32[32,16]{1,0} %b), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}
"""  # noqa: E501
  text = entry(
    "%x = f32[8,32]{1,0} parameter(0)",
    "%w = f32[32,16]{1,0} parameter(1)",
    "%y = f32[8,16]{1,0} fusion(%x, %w), kind=kOutput, calls=%fused",
    before=inner,
  )
  found = total(text)
  assert found.flops == 2 * 8 * 32 * 16
  assert found.hbm_bytes == 4 * (8 * 32 + 32 * 16 + 8 * 16)


def test_what_a_fusion_updates_in_place_is_not_rewritten():
  inner = """%fused (stack: f32[64,1024], own: f32[1,1024], at: s32[]) -> f32[64,1024] {
  %stack = f32[64,1024]{1,0} parameter(0)
  %own = f32[1,1024]{1,0} parameter(1)
  %at = s32[] parameter(2)
  %zero = s32[] constant(0)
  ROOT %new = f32[64,1024]{1,0} dynamic-update-slice(%stack, %own, %at, %zero)
}
"""  # noqa: E501
  text = entry(
    "%stack.1 = f32[64,1024]{1,0} parameter(0)",
    "%own.1 = f32[1,1024]{1,0} parameter(1)",
    "%at.1 = s32[]{:S(6)} parameter(2)",
    "%y = f32[64,1024]{1,0} fusion(%stack.1, %own.1, %at.1), kind=kLoop, "
    "calls=%fused",
    before=inner,
  )
  assert total(text).hbm_bytes == 2 * 4 * 1024


SPLASH = """%y = (f32[512,128]{1,0}, bf16[8,2048,128]{2,1,0}) custom-call(%map, %q, %k), custom_call_target="tpu_custom_call", frontend_attributes={kernel_metadata={
"xprof_metadata":"{\\"block_q\\": 512, \\"block_kv\\": 512}"
}}, metadata={op_name="jit(step)/splash"}"""  # noqa: E501


def test_flash_attention_runs_the_tiles_that_reach_the_diagonal():
  text = entry(
    "%map = s8[1,4,4]{2,1,0} parameter(0)",
    "%q = bf16[8,2048,128]{2,1,0} parameter(1)",
    "%k = bf16[2,2048,128]{2,1,0} parameter(2)",
    SPLASH.replace("%y", "%splash_mha_fwd.3"),
  )
  # 1 + 2 + 3 + 4 of 16 tiles, two products.
  assert total(text).flops == 2 * 2 * 8 * 10 * 512 * 512 * 128


def test_of_a_row_that_is_split_the_last_device_has_the_most_tiles():
  run = functools.partial(
    cost.splash_flops, q_dims=(8, 1024, 128), k_dims=(2, 2048, 128),
    block_q=512, block_k=512,
  )  # fmt: skip
  tile = 2 * 8 * 512 * 512 * 128
  assert run("splash_mha_fwd") == 2 * 7 * tile
  assert run("splash_mha_dkv") == 5 * 7 * tile
  assert run("splash_mha_dkv", fused=False) == 4 * 7 * tile
  assert run("splash_mha_dq") == 3 * 7 * tile


def test_a_kernel_counts_what_its_author_estimates_or_is_named():
  lines = ("%q = f32[8]{0} parameter(0)",)
  call = (
    "%decode_kernel.2 = f32[8]{0} custom-call(%q), custom_call_target="
    '"tpu_custom_call", backend_config={"custom_call_config":{"body":"x"TOLD}}'
  )
  told = ',"cost_estimate":{"flops":"123","bytes_accessed":"4"}'
  assert total(entry(*lines, call.replace("TOLD", told))).flops == 123
  found = total(entry(*lines, call.replace("TOLD", "")))
  assert found.flops == 0 and found.unknown == {"decode_kernel"}


@pytest.mark.parametrize(
  "code, result, sent",
  [
    ("all-gather", "f32[8,16]", 3 / 4 * 512),
    ("reduce-scatter", "f32[2,4]", 3 / 4 * 128),
    ("all-reduce", "f32[2,16]", 2 * 3 / 4 * 128),
    ("all-to-all", "f32[2,16]", 3 / 4 * 128),
  ],
)
def test_bytes_of_a_ring_of_four(code, result, sent):
  text = entry(
    "%x = f32[2,16]{1,0} parameter(0)",
    f"%y = {result}{{1,0}} {code}(%x), replica_groups=[16,4]<=[64]",
  )
  (found,) = total(text).collectives
  assert (found.kind, found.members) == (code, (0, 1, 2, 3))
  assert found.sent == sent


def test_a_group_that_names_no_device_is_of_all():
  text = entry(
    "%x = f32[16]{0} parameter(0)",
    "%y = f32[16]{0} all-reduce(%x), replica_groups={}",
  )
  (found,) = total(text, devices=8).collectives
  assert found.sent == 2 * 7 / 8 * 64 and len(found.members) == 8


def test_what_is_begun_and_awaited_is_counted_once():
  text = entry(
    "%x = bf16[2,16]{1,0} parameter(0)",
    "%s = (bf16[2,16]{1,0}, bf16[2,16]{1,0}, u32[]{:S(2)}, u32[]{:S(2)}) "
    "collective-permute-start(%x), source_target_pairs={{0,1},{1,0}}",
    "%y = bf16[2,16]{1,0} collective-permute-done(%s)",
  )
  found = total(text)
  assert [c.sent for c in found.collectives] == [64]
  assert found.hbm_bytes == 2 * 64


def test_a_sum_for_all_that_is_sliced_at_once_is_a_scatter():
  inner = """%scatter (input: bf16[64,128]) -> bf16[16,128] {
  %input = bf16[64,128]{1,0} parameter(0)
  %sum = bf16[64,128]{1,0} all-reduce(%input), replica_groups={{0,1,2,3}}
  %zero = u32[] constant(0)
  ROOT %own = bf16[16,128]{1,0} dynamic-slice(%sum, %zero, %zero), dynamic_slice_sizes={16,128}
}
"""  # noqa: E501
  text = entry(
    "%x = bf16[64,128]{1,0} parameter(0)",
    "%y = bf16[16,128]{1,0} fusion(%x), kind=kCustom, calls=%scatter",
    before=inner,
  )
  (found,) = total(text).collectives
  assert found.kind == "reduce-scatter"
  assert found.sent == 3 / 4 * 2 * 64 * 128


def test_a_scan_that_was_compiled_here_counts_every_layer():
  def run(x_BD, w_LDD):
    return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x_BD, w_LDD)[0]

  S = jax.ShapeDtypeStruct
  shapes = S((4, 64), jnp.float32), S((7, 64, 64), jnp.float32)
  text = jax.jit(run).lower(*shapes).compile().as_text()
  assert total(text, devices=1).flops == 7 * 2 * 4 * 64 * 64


def test_a_product_that_was_split_here_gathers_over_its_axis():
  if jax.device_count() != 8:
    pytest.skip("needs eight devices")
  mesh = sharding.make_mesh(fsdp=4, tensor=2)
  P = sharding.partition
  x = jax.ShapeDtypeStruct(
    (16, 64), jnp.float32, sharding=sharding.named(mesh, P("fsdp"))
  )
  w = jax.ShapeDtypeStruct(
    (64, 32), jnp.float32, sharding=sharding.named(mesh, P("fsdp", "tensor"))
  )
  out = sharding.named(mesh, P("fsdp", "tensor"))
  done = jax.jit(lambda x, w: x @ w, out_shardings=out).lower(x, w).compile()
  found = total(done.as_text(), devices=8)
  assert found.flops == 2 * 4 * 64 * 16
  (gather,) = found.collectives
  assert gather.kind == "all-gather" and gather.members == (0, 2, 4, 6)
  assert gather.sent == 3 / 4 * 64 * 16 * 4
