"""The text of HLO: its instructions, and the devices of a group."""

import pytest

from mgrd_jax.train import hlo

TEXT = """HloModule jit_step, is_scheduled=true

FileNames
1 "step.py"

%add.1 (x.1: f32[], y.1: f32[]) -> f32[] {
  %x.1 = f32[]{:T(128)} parameter(0)
  %y.1 = f32[]{:T(128)} parameter(1)
  ROOT %sum.1 = f32[]{:T(128)} add(%x.1, %y.1)
}

ENTRY %main.2_spmd (p.1: bf16[2,3]) -> (bf16[2,3], s8[]) {
  %p.1 = bf16[2,3]{1,0:T(8,128)(2,1)} parameter(0)
  %c.1 = s8[]{:T(128)S(6)} constant(3)
  %k.1 = (bf16[2,3]{1,0:T(8,128)(2,1)S(1)}, /*index=1*/pred[4]{0}) custom-call(%p.1, /*index=1*/%c.1), custom_call_target="tpu_custom_call", frontend_attributes={kernel_metadata={
"block": 512
}}, metadata={op_name="jit(step)/k"}
  %g.1 = bf16[2,3]{1,0:T(8,128)(2,1)S(1)} get-tuple-element(%k.1), index=0
  ROOT %t.1 = (bf16[2,3]{1,0}, s8[]{:T(128)}) tuple(%g.1, %c.1)
}
"""  # noqa: E501


def test_instructions_are_found_by_name_in_their_computations():
  found, entry = hlo.parse(TEXT)
  assert entry == "main.2_spmd" and list(found) == ["add.1", entry]
  assert list(found["add.1"]) == ["x.1", "y.1", "sum.1"]
  assert hlo.root(found["add.1"]).code == "add"
  main = found[entry]
  assert list(main) == ["p.1", "c.1", "k.1", "g.1", "t.1"]
  assert main["t.1"].operands == ("g.1", "c.1") and main["t.1"].root
  assert main["c.1"].literal == "3"


def test_an_attribute_may_hold_line_breaks():
  found, entry = hlo.parse(TEXT)
  kernel = found[entry]["k.1"]
  assert kernel.operands == ("p.1", "c.1")
  assert '"block": 512' in kernel.attrs and "jit(step)/k" in kernel.attrs


def test_arrays_know_their_bytes_and_where_they_lie():
  found, entry = hlo.parse(TEXT)
  first, second = found[entry]["k.1"].results
  assert (first.dtype, first.dims, first.bytes) == ("bf16", (2, 3), 12)
  assert (second.dtype, second.bytes) == ("pred", 4)
  assert not first.hbm and second.hbm
  assert found[entry]["p.1"].results[0].hbm


def test_a_value_is_followed_past_its_copies():
  found, _ = hlo.parse(TEXT.replace("tuple(%g.1", "copy(%g.1"))
  main = found["main.2_spmd"]
  assert hlo.source(main, "t.1").name == "g.1"


def test_text_without_a_program_is_refused():
  with pytest.raises(ValueError, match="no ENTRY"):
    hlo.parse("HloModule jit_step")


@pytest.mark.parametrize(
  "groups, first",
  [
    ("replica_groups={{0,4,8},{1,5,9}}", (0, 4, 8)),
    ("replica_groups=[4,2]<=[8]", (0, 1)),
    ("replica_groups=[2,4]<=[4,2]T(1,0)", (0, 2, 4, 6)),
    ("replica_groups=[4,4]<=[2,2,4]T(0,2,1)", (0, 4, 1, 5)),
    ("replica_groups=mesh['a'=4,'b'=2] {'a'}", (0, 2, 4, 6)),
    ("replica_groups=mesh['a'=4,'b'=2] {'b'}", (0, 1)),
    ("replica_groups=mesh['a'=4,'b'=2] {'a':(1)2}", (0, 4)),
    ("replica_groups=mesh['a'=4,'b'=2] {'a':(2)2}", (0, 2)),
    (
      "replica_groups=mesh['a'=2,'b'=4], device_ids=([4,2]T(1,0)) {'b'}",
      (0, 2, 4, 6),
    ),
    ("source_target_pairs={{0,0},{3,2},{2,3}}", (3, 2)),
    ("replica_groups={}", ()),
  ],
)
def test_the_first_group_in_each_notation(groups, first):
  assert hlo.members(f", channel_id=1, {groups}, dimensions={{0}}") == first
