"""What a compiled program costs a device: loops times their trips.

    hlo.parse --Counter--> FLOPs, HBM bytes, collectives

FLOPs are those of matrix products, which alone fill the matrix units: dots,
the convolutions that XLA makes of them, and Pallas kernels.  Bytes are what
passes between HBM and the chip where one instruction ends and the next begins:
a fusion reads its operands and writes its results, and of what it slices no
more than the slice.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Sequence

from mgrd_jax.train import hlo

_CONDITION = re.compile(r"\bcondition=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_TARGET = re.compile(r'custom_call_target="([^"]*)"')
_ESTIMATE = re.compile(r'"cost_estimate":\{[^}]*"flops":"?(\d+)')
COLLECTIVES = (
  "all-gather", "all-reduce", "reduce-scatter", "collective-permute",
  "all-to-all",
)  # fmt: skip
# Names of values, and ends of what began (and was counted) before.
_FREE = frozenset(
  "parameter constant get-tuple-element tuple bitcast after-all partition-id "
  "replica-id while conditional call opt-barrier iota".split()
)


@dataclasses.dataclass(frozen=True)
class Collective:
  """An exchange: `sent` bytes leave each device, `times` times over.

  A ring's count: (n - 1) / n of what is gathered, scattered or exchanged,
  twice that where it is reduced for all.  `members` are the devices of the
  first group, or a permutation's (source, target); `one_ring` says that the
  compiler chose a single ring, whatever the group's shape.
  """

  kind: str
  sent: float
  members: tuple[int, ...]
  one_ring: bool = False
  times: int = 1


@dataclasses.dataclass(frozen=True)
class Cost:
  """Totals of a device for one run.

  `unknown`: kernels whose FLOPs are not counted, by name.
  """

  flops: float = 0.0
  hbm_bytes: float = 0.0
  collectives: tuple[Collective, ...] = ()
  unknown: frozenset[str] = frozenset()

  def __add__(self, other: "Cost") -> "Cost":
    return Cost(
      self.flops + other.flops,
      self.hbm_bytes + other.hbm_bytes,
      self.collectives + other.collectives,
      self.unknown | other.unknown,
    )

  def __mul__(self, times: int) -> "Cost":
    return Cost(
      self.flops * times,
      self.hbm_bytes * times,
      tuple(
        dataclasses.replace(c, times=c.times * times) for c in self.collectives
      ),
      self.unknown,
    )


def _window(attrs: str, name: str, rank: int, default: str) -> list[str]:
  found = re.search(rf"\b{name}=([\w\-]+)", attrs)
  return found[1].split("x") if found else [default] * rank


def _dot_flops(op: hlo.Op, shapes: Sequence[hlo.Array]) -> float:
  found = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", op.attrs)
  summed = [shapes[0].dims[int(d)] for d in found[1].split(",") if d]
  return 2.0 * math.prod(op.results[0].dims) * math.prod(summed)


def _convolution_flops(op: hlo.Op, shapes: Sequence[hlo.Array]) -> float:
  """As XLA's HloCostAnalysis: places of a window beyond the input are free."""
  lhs, rhs, out = re.search(
    r"dim_labels=(\w+)_(\w+)->(\w+)", op.attrs
  ).groups()
  left, kernel, result = (
    dict(zip(label, array.dims, strict=True))
    for label, array in zip(
      (lhs, rhs, out), (*shapes[:2], op.results[0]), strict=True
    )
  )
  spatial = sorted(d for d in lhs if d.isdigit())
  window = re.search(r"window=\{([^}]*)\}", op.attrs)
  text = window[1] if window else ""
  rank = len(spatial)
  stride = _window(text, "stride", rank, "1")
  pad = _window(text, "pad", rank, "0_0")
  base = _window(text, "lhs_dilate", rank, "1")
  dilation = _window(text, "rhs_dilate", rank, "1")
  positions = 1
  for at, d in enumerate(spatial):
    low, grown = int(pad[at].split("_")[0]), int(base[at])
    step, apart = int(stride[at]), int(dilation[at])
    last = (left[d] - 1) * grown
    positions *= sum(
      0 <= (place := o * step + k * apart - low) <= last
      and place % grown == 0
      for k in range(kernel[d])
      for o in range(result[d])
    )
  groups = re.search(r"batch_group_count=(\d+)", op.attrs)
  batch = left["b"] // (int(groups[1]) if groups else 1)
  # The kernel's "i" is already the features of one group.
  return 2.0 * positions * batch * kernel["i"] * kernel["o"]


def splash_flops(
  name: str,
  q_dims: Sequence[int],
  k_dims: Sequence[int],
  block_q: int,
  block_k: int,
  fused: bool = True,
) -> float:
  """FLOPs of a call of the library's flash attention, causal mask.

  The tiles that it runs are those that reach the diagonal, and a tile on the
  diagonal is run whole.  Where tokens are split over devices, q has fewer
  than k, and the last device, counted here, has the most tiles.

  Args:
    name: the kernel's: forward, dkv (with dq in it if `fused`) or dq.
    q_dims: [..., T, H] with rows and heads before.
    k_dims: [..., S, H].
    block_q: queries of a tile.
    block_k: keys of a tile.
  """
  *heads, time, dim = q_dims
  keys = k_dims[-2]
  products = 2 if "_fwd" in name else 5 if fused else 4
  if "_dq" in name:
    products = 3
  tiles = sum(
    -(-(keys - time + stop) // block_k)
    for stop in range(block_q, time + 1, block_q)
  )
  area = tiles * block_q * block_k
  return 2.0 * products * math.prod(heads) * area * dim


def _kernel_cost(op: hlo.Op, shapes: Sequence[hlo.Array]) -> Cost:
  """Cost of a Pallas kernel: known, estimated by its author, or unknown."""
  estimate = _ESTIMATE.search(op.attrs)
  if op.name.startswith("splash_"):
    text = op.attrs.replace("\\", "")
    prefer = "_dkv" if "_dkv" in op.name else "_dq" if "_dq" in op.name else ""

    def block(side):
      return int(re.search(rf'"{side}{prefer}": (\d+)', text)[1])

    # Two maps of tiles come before queries and keys.
    wide = [a.dims for a in shapes if a.dtype in ("bf16", "f32", "f16")]
    return Cost(
      splash_flops(
        op.name, wide[0], wide[1], block("block_q"), block("block_kv"),
        # dq comes a block of keys at a time, to be summed outside.
        fused=any(len(a.dims) > len(wide[0]) for a in op.results),
      )
    )  # fmt: skip
  if estimate:
    return Cost(float(estimate[1]))
  return Cost(unknown=frozenset({re.sub(r"[.\d]+$", "", op.name)}))


class Counter:
  """Costs of a program's computations, each looked at once.

  Args:
    text: optimised HLO, as `compiled.as_text()` gives it.
    devices: of the program: the size of a group that names none.
  """

  def __init__(self, text: str, devices: int):
    self.computations, self.entry = hlo.parse(text)
    self._devices = devices
    self._reads_of = functools.cache(self._reads)
    self._cost_of = functools.cache(self._cost)

  def total(self) -> Cost:
    return self._cost_of(self.entry, False)

  def trips(self, loop: hlo.Op) -> int:
    """How often a loop runs that counts from 0 up to a constant.

    Raises:
      ValueError: the loop does not count so.
    """
    known = _TRIPS.search(loop.attrs)
    if known:
      return int(known[1])
    condition = self.computations[_CONDITION.search(loop.attrs)[1]]
    body = self.computations[loop.called]
    test = hlo.root(condition)
    if test.code == "compare" and "direction=LT" in test.attrs:
      counter, limit = (hlo.source(condition, name) for name in test.operands)
      at = re.search(r"index=(\d+)", counter.attrs)
      if limit.code == "constant" and at:
        step = hlo.source(body, hlo.root(body).operands[int(at[1])])
        sizes = [hlo.source(body, name) for name in step.operands]
        sizes = [int(s.literal) for s in sizes if s.code == "constant"]
        if step.code == "add" and len(sizes) == 1:
          return -(-int(limit.literal) // sizes[0])
    raise ValueError(f"HLO: cannot tell how often {loop.name} runs")

  def _shapes(
    self, computation: hlo.Computation, op: hlo.Op
  ) -> list[hlo.Array]:
    """The first array of each operand."""
    return [
      computation[o].results[0]
      for o in op.operands
      if o in computation and computation[o].results
    ]

  def _cost(self, name: str, fused: bool) -> Cost:
    computation = self.computations[name]
    costs = [
      self._op_cost(computation, op, fused) for op in computation.values()
    ]
    return sum(costs, Cost())

  def _op_cost(
    self, computation: hlo.Computation, op: hlo.Op, fused: bool
  ) -> Cost:
    shapes = self._shapes(computation, op)
    code = op.code.removesuffix("-start")
    if op.code == "while":
      return self._cost_of(op.called, False) * self.trips(op)
    if op.code == "conditional":
      names = hlo.NAME.findall(_BRANCHES.search(op.attrs)[1])
      branches = [self._cost_of(n, False) for n in names]
      return max(branches, key=lambda c: (c.flops, c.hbm_bytes))
    if op.code in ("call", "async-start"):
      return self._cost_of(op.called, False)
    moved = Cost() if fused else Cost(hbm_bytes=self._bytes(computation, op))
    if op.code == "fusion":
      return self._fusion(op) + moved
    if code in COLLECTIVES:
      return Cost(collectives=(self._exchange(op, code, shapes),)) + moved
    if op.code == "dot":
      return Cost(_dot_flops(op, shapes)) + moved
    if op.code == "convolution":
      return Cost(_convolution_flops(op, shapes)) + moved
    if op.code == "custom-call":
      target = _TARGET.search(op.attrs)[1]
      if target == "tpu_custom_call":
        return _kernel_cost(op, shapes) + moved
      return Cost() if target == "AllocateBuffer" else moved
    return moved

  def _fusion(self, op: hlo.Op) -> Cost:
    """What a fusion computes; an all-reduce and a slice are a scatter."""
    inside = self._cost_of(op.called, True)
    if not any(
      o.code == "all-reduce" for o in self.computations[op.called].values()
    ):
      return inside
    (found,) = inside.collectives
    half = dataclasses.replace(
      found, kind="reduce-scatter", sent=found.sent / 2
    )
    return dataclasses.replace(inside, collectives=(half,))

  def _exchange(self, op: hlo.Op, kind: str, shapes) -> Collective:
    group = hlo.members(op.attrs) or tuple(range(self._devices))
    n = len(group)
    size = sum(a.bytes for a in shapes)
    if kind == "all-gather":
      sent = size * (n - 1)
    elif kind == "collective-permute":
      sent = shapes[0].bytes if group[0] != group[1] else 0
    else:
      sent = size * (n - 1) / n * (2 if kind == "all-reduce" else 1)
    one_ring = '"emitter":"1D' in op.attrs
    return Collective(kind, float(sent), group, one_ring)

  def _bytes(self, computation: hlo.Computation, op: hlo.Op) -> float:
    """Bytes that an instruction reads from HBM and writes to it."""
    if op.code in _FREE or op.code.endswith("-done"):
      return 0.0
    results = op.results
    if op.code == "dynamic-update-slice":
      return 2.0 * self._shapes(computation, op)[1].bytes
    if op.code in ("dynamic-slice", "slice", "gather"):
      return 2.0 * results[0].bytes if results[0].hbm else results[0].bytes
    if op.code.endswith("-start") and len(results) > 1:
      # The operand's own name is a result as well, and flags are.
      results = results[:1] if op.code == "copy-start" else results[1:2]
    if op.code == "fusion":
      reads = self._reads_of(op.called)
      writes = self._writes(op)
    else:
      reads = [math.inf] * len(op.operands)
      writes = sum(a.bytes for a in results if a.hbm)
    total = float(writes)
    for name, most in dict(zip(op.operands, reads, strict=False)).items():
      source = computation.get(name)
      if source is not None:
        total += min(most, sum(a.bytes for a in source.results if a.hbm))
    return total

  def _writes(self, op: hlo.Op) -> float:
    """Bytes of a fusion's results: of an array that it updates, the update."""
    inner = self.computations[op.called]
    root = hlo.root(inner)
    parts = [root]
    if root.code == "tuple":
      parts = [inner[name] for name in root.operands]
    total = 0.0
    for part, array in zip(parts, op.results, strict=False):
      while part.code == "bitcast" and part.operands:
        part = inner[part.operands[0]]
      if array.hbm:
        updates = part.code == "dynamic-update-slice"
        new = inner[part.operands[1]].results[0] if updates else array
        total += new.bytes
    return total

  def _reads(self, name: str) -> list[float]:
    """Most bytes that a fusion reads of each of its parameters."""
    inner = self.computations[name]
    users: dict[str, list[tuple[hlo.Op, int]]] = {}
    for op in inner.values():
      for at, operand in enumerate(op.operands):
        users.setdefault(operand, []).append((op, at))

    def read(value: str) -> float:
      total = 0.0
      for op, at in users.get(value, ()):
        if op.code == "bitcast":
          total += read(op.name)
        elif op.code in ("dynamic-slice", "slice", "gather") and at == 0:
          total += op.results[0].bytes
        elif op.code == "dynamic-update-slice" and at == 0:
          pass
        elif op.code == "fusion":
          total += self._reads_of(op.called)[at]
        else:
          return math.inf
      return total

    params = [op for op in inner.values() if op.code == "parameter"]
    params.sort(key=lambda op: int(op.literal))
    return [read(op.name) for op in params]
