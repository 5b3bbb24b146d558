"""Optimised HLO, read as text: computations, and who exchanges with whom.

    compiled.as_text() --parse--> {name: {name: Op}}, the entry's name
"""

import dataclasses
import math
import re

_ARRAY = re.compile(r"\b([a-z]+[0-9]*[a-z0-9]*)\[([\d,]*)\](\{[^{}]*\})?")
_LINE = re.compile(r"\s+(ROOT )?%?([\w.\-]+) = (.*)", re.DOTALL)
_HEADER = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\{\s*")
_CODE = re.compile(r"\s([a-z][a-z0-9\-]*)\(")
NAME = re.compile(r"%([\w.\-]+)")
_CALLED = re.compile(r"\b(?:calls|body|to_apply)=%?([\w.\-]+)")
_BITS = {"pred": 8, "token": 0, "opaque": 0}


@dataclasses.dataclass(frozen=True)
class Array:
  """One array of a result; `hbm`: it lies in the chip's main memory."""

  dtype: str
  dims: tuple[int, ...]
  hbm: bool

  @property
  def bytes(self) -> int:
    bits = _BITS.get(self.dtype)
    if bits is None:
      bits = int(re.search(r"\d+", self.dtype)[0])
    return math.prod(self.dims) * bits // 8


@dataclasses.dataclass(frozen=True)
class Op:
  """An instruction: result arrays, opcode, operands' names, attributes."""

  name: str
  results: tuple[Array, ...]
  code: str
  operands: tuple[str, ...]
  literal: str
  attrs: str
  root: bool

  @property
  def called(self) -> str | None:
    found = _CALLED.search(self.attrs)
    return found[1] if found else None


Computation = dict[str, Op]


def _close(text: str, start: int) -> int:
  """Where the bracket closes that opens at `start`."""
  depth = 0
  for at in range(start, len(text)):
    depth += {"(": 1, ")": -1}.get(text[at], 0)
    if not depth:
      return at
  raise ValueError(f"HLO: a bracket does not close: {text[:80]!r}")


def _op(root, name: str, text: str) -> Op:
  code = _CODE.search(text)
  start = code.end() - 1
  stop = _close(text, start)
  results = tuple(
    Array(
      kind,
      tuple(int(d) for d in dims.split(",") if d),
      not re.search(r"S\([1-9]", layout),
    )
    for kind, dims, layout in _ARRAY.findall(text[: code.start()])
  )
  inside = text[start + 1 : stop]
  return Op(
    name,
    results,
    code[1],
    tuple(NAME.findall(inside)),
    inside,
    text[stop + 1 :],
    bool(root),
  )


def parse(text: str) -> tuple[dict[str, Computation], str]:
  """Computations by name, and the entry's name.

  Raises:
    ValueError: there is no entry.
  """
  found: dict[str, Computation] = {}
  entry, current, parts = "", None, []

  def flush():
    if parts:
      match = _LINE.match("\n".join(parts))
      if match:
        current[match[2]] = _op(*match.groups())
      parts.clear()

  for line in text.splitlines():
    header = None if line[:1].isspace() else _HEADER.fullmatch(line)
    if header:
      current = found[header[2]] = {}
      entry = header[2] if header[1] else entry
    elif line.startswith("}") and line.strip() == "}":
      if current is not None:
        flush()
      current = None
    elif current is not None:
      if _LINE.match(line):
        flush()
      # An attribute may hold line breaks.
      parts.append(line)
  if not entry:
    raise ValueError("HLO: the text has no ENTRY computation")
  return found, entry


def root(computation: Computation) -> Op:
  return next(op for op in computation.values() if op.root)


def source(computation: Computation, name: str) -> Op:
  """The instruction that makes a value, past its copies."""
  op = computation[name]
  while op.code in ("copy", "copy-start", "copy-done", "bitcast"):
    op = computation[op.operands[0]]
  return op


def members(attrs: str) -> tuple[int, ...]:
  """Devices of the first group; () where all devices are one group.

  In the three notations of XLA: {{0,2},{1,3}}, [2,2]<=[2,2]T(1,0), and
  mesh['x'=2,'y'=2] {'x'}; or the first pair of a permutation that moves.
  """
  pairs = re.search(r"source_target_pairs=\{(\{[\d,{} ]*\})\}", attrs)
  if pairs:
    found = [
      tuple(map(int, p.split(","))) for p in re.findall(r"\d+,\d+", pairs[1])
    ]
    return next((p for p in found if p[0] != p[1]), found[0])
  listed = re.search(r"replica_groups=\{\{([\d,]+)\}", attrs)
  if listed:
    return tuple(map(int, listed[1].split(",")))
  iota = re.search(r"replica_groups=(\[[\d,]+\]<=\[[\d,]+\](?:T\([\d,]+\))?)",
                   attrs)  # fmt: skip
  if iota:
    shape = _ints(iota[1].split("<=")[0])
    return tuple(_iota(iota[1])[: shape[-1]])
  mesh = re.search(
    r"replica_groups=mesh\[([^\]]*)\]"
    r"(?:, device_ids=\((\[[^)]*(?:\)[^)]*)?)\))? \{([^}]*)\}",
    attrs,
  )
  if mesh:
    return _of_mesh(*mesh.groups())
  return ()


def _ints(text: str) -> list[int]:
  return [int(x) for x in re.findall(r"\d+", text)]


def _iota(text: str) -> list[int]:
  """The order of devices in "[..]<=[4,4]T(1,0)" or "[4,4]T(1,0)"."""
  dims, *rest = text.split("<=")[-1].split("T")
  shape = _ints(dims)
  order = _ints(rest[0]) if rest else list(range(len(shape)))
  strides = [math.prod(shape[i + 1 :]) for i in range(len(shape))]
  found = [0]
  for axis in order:
    found = [a + i * strides[axis] for a in found for i in range(shape[axis])]
  return found


def _of_mesh(axes: str, order: str | None, chosen: str) -> tuple[int, ...]:
  """The first group over axes ('a') or parts of them ('a':(before)size)."""
  sizes = {
    name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", axes)
  }
  names = list(sizes)
  group = [0]
  for name, before, part in re.findall(
    r"'([^']+)'(?::\((\d+)\)(\d+))?", chosen
  ):
    size = int(part) if part else sizes[name]
    stride = math.prod(sizes[n] for n in names[names.index(name) + 1 :])
    if part:
      stride *= sizes[name] // (int(before) * size)
    group = [g + i * stride for g in group for i in range(size)]
  devices = _iota(order) if order else range(math.prod(sizes.values()))
  return tuple(devices[g] for g in group)


