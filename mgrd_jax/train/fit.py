"""Whether a program fits a TPU slice, and how fast it could run there.

    cost.Cost, Chip --roofline--> seconds of compute, HBM and interconnect
    model FLOPs / (peak * the longest of the three) = MFU, projected

The roofline is a bound, not a measurement: each unit at its peak, all three
at once, and vector work free.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from mgrd_jax.train import cost as cost_lib

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
  """Peaks of a chip.

  Attributes:
    flops: dense bfloat16, per second.
    hbm_bytes: main memory that XLA may fill.
    hbm_rate: bytes per second.
    link_rate: bytes per second, one link, one direction.
    closes: a slice whose sides are all multiples of this is a torus, its axes
      are rings; those of another are lines.
  """

  flops: float
  hbm_bytes: float
  hbm_rate: float
  link_rate: float
  closes: int


# FLOPs and rates: cloud.google.com/tpu/docs/{v5e,v5p,v6e}, read 2026-11; they
# give the interconnect as the sum of both directions of all links (4, 6 and 4
# a chip).  Memory: what XLA:TPU (libtpu 0.0.42) calls available when it refuses
# a program.  Rings: docs .../v5p (cubes of 4 x 4 x 4 and what is made of them)
# and .../v5e, .../v6e (16 x 16).
CHIPS = {
  "v5e": Chip(197e12, 15.75 * GIB, 800e9, 400e9 / 8, closes=16),
  "v5p": Chip(459e12, 95.74 * GIB, 2765e9, 1200e9 / 12, closes=4),
  "v6e": Chip(918e12, 31.25 * GIB, 1600e9, 800e9 / 8, closes=16),
}


@dataclasses.dataclass(frozen=True)
class Slice:
  """Chips that one program runs on; `shape` is that of the torus."""

  kind: str
  shape: tuple[int, ...]

  @property
  def chip(self) -> Chip:
    return CHIPS[self.kind]

  @property
  def chips(self) -> int:
    return math.prod(self.shape)

  @property
  def topology(self) -> str:
    """The name that jax.experimental.topologies knows it by."""
    return f"{self.kind}:{'x'.join(map(str, self.shape))}"


# A v5p's name counts its cores, two a chip.
SLICES = {
  "v5e-16": Slice("v5e", (4, 4)),
  "v5e-64": Slice("v5e", (8, 8)),
  "v5e-256": Slice("v5e", (16, 16)),
  "v5p-16": Slice("v5p", (2, 2, 2)),
  "v5p-64": Slice("v5p", (2, 4, 4)),
  "v5p-128": Slice("v5p", (4, 4, 4)),
  "v5p-256": Slice("v5p", (4, 4, 8)),
  "v6e-16": Slice("v6e", (4, 4)),
  "v6e-64": Slice("v6e", (8, 8)),
  "v6e-256": Slice("v6e", (16, 16)),
}


def utilisation(
  config, tokens: float, seconds: float, device_kind: str, devices: int
) -> float | None:
  """MFU of a train step of `tokens`, its padding left out; None off these TPUs.

    6 FLOPs a weight a useful token, over what the chips could have done

  Attention's own products, which depend on the lengths, are left out: no more
  than this is claimed.
  """
  kinds = {"v5 lite": "v5e", "v5e": "v5e", "v5": "v5p", "v6": "v6e"}
  found = (chip for name, chip in kinds.items() if name in device_kind)
  chip = next(found, None) if "TPU" in device_kind else None
  if chip is None:
    return None
  useful = 3 * decoder_flops(config, tokens, 0.0)
  return useful / (seconds * devices * CHIPS[chip].flops)


def decoder_flops(config, tokens: int | float, pairs: float) -> float:
  """FLOPs of a decoder's forward pass over `tokens`, its head included.

    2 a weight a token, 4 H a query head and pair of query and key

  `pairs`: how many, in one head of one layer: T (T + 1) / 2 of a causal row.
  """
  c = config
  attention = 2 * c.width * c.head_dim * (c.heads + c.kv_heads)
  layer = attention + 3 * c.width * c.ffn
  weights = c.layers * layer + c.width * c.vocab
  return 2.0 * weights * tokens + 4.0 * c.layers * c.heads * c.head_dim * pairs


def adapter_flops(config, frames: int) -> float:
  """FLOPs of the adapter's forward pass that makes `frames` audio tokens."""
  c = config
  if c.kind == "linear":
    return 2.0 * frames * c.encoder_width * c.decoder_width
  weights = 3 * c.encoder_width**2
  weights += c.hidden * (c.encoder_width + c.decoder_width)
  return 2.0 * frames * weights


def encoder_flops(config, clips: int, mel_frames: int) -> float:
  """FLOPs of the encoder's forward pass; every frame reads every other."""
  c = config
  frames = (mel_frames - 1) // 2 + 1
  weights = c.layers * (4 * c.width**2 + 2 * c.width * c.ffn)
  convolutions = mel_frames * 3 * c.mels * c.width
  convolutions += frames * 3 * c.width**2
  attention = 4.0 * c.layers * c.width * frames**2
  return clips * (2.0 * (weights * frames + convolutions) + attention)


def by_axis(
  exchanges: Sequence[cost_lib.Collective], mesh_shape: dict[str, int]
) -> dict[str, dict[str, float]]:
  """{kind: {mesh axes: bytes sent}}, of devices numbered along the mesh.

  What spans several axes is named "data+fsdp"; what spans none, "self".
  """
  found: dict[str, dict[str, float]] = {}
  for one in exchanges:
    at = np.unravel_index(one.members, tuple(mesh_shape.values()))
    axes = [
      name
      for name, place in zip(mesh_shape, at, strict=True)
      if len(set(place)) > 1
    ]
    axis = "+".join(axes) or "self"
    own = found.setdefault(one.kind, {})
    own[axis] = own.get(axis, 0.0) + one.sent * one.times
  return found


def ici_seconds(
  exchanges: Sequence[cost_lib.Collective],
  coords: Sequence[Sequence[int]],
  where: Slice,
) -> float:
  """Seconds of the interconnect, one exchange after the other.

  A group's bytes leave over all links of the axes of the slice that it spans:
  two a ring, one a line; over two at most where the compiler runs a single
  ring, and over one in a permutation.  The hops of an all-to-all are not
  counted.

  Args:
    coords: place in the torus of each device, in the mesh's order.
  """
  chip = where.chip
  ends = 2 if all(side % chip.closes == 0 for side in where.shape) else 1
  total = 0.0
  for one in exchanges:
    places = np.array([coords[m] for m in one.members])
    spans = [
      axis
      for axis, size in enumerate(where.shape)
      if size > 1 and len(set(places[:, axis])) > 1
    ]
    links = ends * len(spans)
    if one.kind == "collective-permute":
      links = 1
    elif one.one_ring:
      links = min(links, 2)
    total += one.sent * one.times / (max(links, 1) * chip.link_rate)
  return total


def roofline(
  cost: cost_lib.Cost,
  model_flops: float,
  ici_s: float,
  chip: Chip,
  useful: float = 1.0,
) -> dict:
  """Seconds of each unit, which of them binds, and the MFU that follows.

  Args:
    cost: of a device.
    model_flops: of a device, for all columns of its rows: attention to what
      precedes a token in its own example alone, nothing made twice, a frozen
      part forward only.
    ici_s: of `ici_seconds`.
    useful: share of the columns that hold a token; MFU counts no others.
  """
  seconds = {
    "compute": cost.flops / chip.flops,
    "hbm": cost.hbm_bytes / chip.hbm_rate,
    "ici": ici_s,
  }
  bound = max(seconds, key=seconds.__getitem__)
  peak = useful * model_flops / chip.flops
  return {f"{name}_s": value for name, value in seconds.items()} | {
    "bound": bound,
    "mfu_projected": peak / seconds[bound],
    # Interconnect and compute one after the other: nothing overlaps.
    "mfu_serial": peak / (max(seconds["compute"], seconds["hbm"]) + ici_s),
  }


def memory(stats, chip: Chip, resident: int = 0) -> dict:
  """Bytes of a compiled program on a chip, from its `memory_analysis()`.

  What is donated is counted once; `resident` is what else rests there while
  it runs.
  """
  total = (
    stats.argument_size_in_bytes
    + stats.temp_size_in_bytes
    + stats.output_size_in_bytes
    - stats.alias_size_in_bytes
  )
  return {
    "args_bytes": stats.argument_size_in_bytes,
    "temp_bytes": stats.temp_size_in_bytes,
    "output_bytes": stats.output_size_in_bytes,
    "alias_bytes": stats.alias_size_in_bytes,
    "resident_bytes": resident,
    "total_bytes": total + resident,
    "fits": total + resident <= chip.hbm_bytes,
  }


def undivided(
  config, mesh_shape: dict[str, int], rows: int, time: int
) -> list[str]:
  """What of a model and its rows the mesh does not divide, in words.

  The table of shardings leaves such an axis whole on every device; a slice is
  not rented for that.
  """
  decoder = config.decoder
  split = mesh_shape["data"] * mesh_shape["fsdp"]
  rest = mesh_shape["fsdp"] * mesh_shape["sequence"]
  wanted = (
    ("width", decoder.width, "fsdp x sequence", rest),
    ("heads", decoder.heads, "tensor", mesh_shape["tensor"]),
    ("ffn", decoder.ffn, "tensor", mesh_shape["tensor"]),
    ("vocabulary", decoder.vocab, "tensor", mesh_shape["tensor"]),
    ("rows", rows, "data x fsdp", split),
    ("tokens of a row", time, "sequence", mesh_shape["sequence"]),
  )
  return [
    f"{axis}={size} does not divide {what} {count}"
    for what, count, axis, size in wanted
    if count % size
  ]
