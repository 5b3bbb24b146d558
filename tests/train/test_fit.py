"""The roofline of a program on a slice, with numbers worked out by hand."""

import itertools
import types

import pytest

from configs import slices
from mgrd_jax.models import audio_lm
from mgrd_jax.train import cost as cost_lib
from mgrd_jax.train import fit

R1 = audio_lm.VARIANTS["step-audio-r1"]()
MESH = {"data": 2, "fsdp": 4, "sequence": 1, "tensor": 2}


def exchange(kind, sent, *members, **more):
  return cost_lib.Collective(kind, sent, members, **more)


def test_the_compiler_and_the_configs_know_the_same_slices():
  chips = {name: where.chips for name, where in fit.SLICES.items()}
  assert chips == slices.CHIPS
  assert fit.SLICES["v5p-128"].topology == "v5p:4x4x4"


def test_a_forward_pass_is_two_flops_a_weight_and_token():
  # All of the language model but its embedding, norms and biases.
  weights = 32_832_033_792 - 158_720 * 5120
  weights -= 64 * (2 * 5120 + 5120 + 2 * 1024) + 5120
  assert fit.decoder_flops(R1.decoder, 3, 0.0) == 2 * 3 * weights
  # And four a head's dimension and pair: 2 of the scores, 2 of the sum.
  pairs = fit.decoder_flops(R1.decoder, 0, 10.0)
  assert pairs == 4 * 64 * 40 * 128 * 10


def test_the_parts_that_hear():
  # conv 3 x 1280 x 1280, 1280 -> 2048 -> 5120.
  weights = 3 * 1280**2 + 2048 * (1280 + 5120)
  assert fit.adapter_flops(R1.adapter, 375) == 2 * 375 * weights
  layer = 4 * 1280**2 + 2 * 1280 * 5120
  front = 3000 * 3 * 128 * 1280 + 1500 * 3 * 1280**2
  attention = 4 * 32 * 1280 * 1500**2
  assert fit.encoder_flops(R1.encoder, 2, 3000) == 2 * (
    2 * (32 * layer * 1500 + front) + attention
  )


def test_exchanges_are_summed_by_kind_and_axis():
  found = fit.by_axis(
    [
      exchange("all-gather", 10.0, 0, 2, 4, 6, times=64),
      exchange("all-gather", 1.0, 0, 2, 4, 6),
      exchange("all-reduce", 5.0, 0, 1),
      exchange("all-reduce", 7.0, *range(16)),
      exchange("all-reduce", 0.0, 3),
    ],
    MESH,
  )
  assert found == {
    "all-gather": {"fsdp": 641.0},
    "all-reduce": {"tensor": 5.0, "data+fsdp+tensor": 7.0, "self": 0.0},
  }


def test_bytes_leave_over_the_links_of_the_axes_that_a_group_spans():
  where = fit.SLICES["v5p-128"]
  coords = list(itertools.product(range(4), repeat=3))
  link = 100e9

  def seconds(*args, **more):
    return fit.ici_seconds([exchange(*args, **more)], coords, where)

  line, plane = (0, 1, 2, 3), tuple(range(16))
  assert seconds("all-gather", link, *line) == pytest.approx(1 / 2)
  assert seconds("all-gather", link, *plane) == pytest.approx(1 / 4)
  assert seconds("all-reduce", link, *range(64)) == pytest.approx(1 / 6)
  assert seconds("all-gather", link, *plane, one_ring=True) == 1 / 2
  assert seconds("collective-permute", link, 0, 1) == 1
  assert seconds("all-gather", link, *line, times=3) == pytest.approx(3 / 2)


@pytest.mark.parametrize(
  "name, sides, links",
  [
    ("v6e-16", (4, 4), 1),
    ("v6e-256", (16, 16), 2),
    # Four chips in a row, but no cube.
    ("v5p-64", (2, 4, 4), 1),
    ("v5p-256", (4, 4, 8), 2),
  ],
)
def test_the_axes_of_a_slice_that_does_not_close_are_lines(name, sides, links):
  where = fit.SLICES[name]
  coords = list(itertools.product(*map(range, sides)))
  one = exchange("all-gather", 100e9, *range(sides[-1]))
  assert fit.ici_seconds([one], coords, where) == 1 / links


def test_the_slowest_unit_binds():
  chip = fit.CHIPS["v5p"]
  cost = cost_lib.Cost(flops=2 * 459e12, hbm_bytes=2765e9)
  found = fit.roofline(cost, 1.5 * 459e12, 0.5, chip)
  assert found["bound"] == "compute"
  times = [found[k] for k in ("compute_s", "hbm_s", "ici_s")]
  assert times == [2.0, 1.0, 0.5]
  assert found["mfu_projected"] == 0.75 and found["mfu_serial"] == 0.6
  slow = fit.roofline(cost, 1.5 * 459e12, 3.0, chip)
  assert slow["bound"] == "ici" and slow["mfu_projected"] == 0.5
  padded = fit.roofline(cost, 1.5 * 459e12, 3.0, chip, useful=0.9)
  assert padded == slow | {
    "mfu_projected": pytest.approx(0.45), "mfu_serial": pytest.approx(0.27)
  }


def test_donated_memory_is_counted_once_and_what_rests_beside_is_counted():
  stats = types.SimpleNamespace(
    argument_size_in_bytes=10 * fit.GIB,
    temp_size_in_bytes=3 * fit.GIB,
    output_size_in_bytes=9 * fit.GIB,
    alias_size_in_bytes=8 * fit.GIB,
  )
  chip = fit.CHIPS["v5e"]
  found = fit.memory(stats, chip)
  assert found["total_bytes"] == 14 * fit.GIB and found["fits"]
  beside = fit.memory(stats, chip, resident=2 * fit.GIB)
  assert beside["total_bytes"] == 16 * fit.GIB and not beside["fits"]


def test_a_mesh_that_does_not_divide_the_model_is_told_axis_by_axis():
  mesh = {"data": 1, "fsdp": 64, "sequence": 1, "tensor": 1}
  assert fit.undivided(R1, mesh, 64, 10_240) == []
  odd = mesh | {"fsdp": 12, "tensor": 3, "sequence": 3}
  found = fit.undivided(R1, odd, 64, 10_240)
  assert found == [
    "fsdp x sequence=36 does not divide width 5120",
    "tensor=3 does not divide heads 40",
    "tensor=3 does not divide vocabulary 158720",
    "data x fsdp=12 does not divide rows 64",
    "sequence=3 does not divide tokens of a row 10240",
  ]


def test_utilisation_counts_useful_tokens_of_known_chips():
  flops = 3 * fit.decoder_flops(R1.decoder, 512.0, 0.0)
  given = R1.decoder, 512.0, flops / (4 * fit.CHIPS["v6e"].flops)
  assert fit.utilisation(*given, "TPU v6 lite", 4) == pytest.approx(1.0)
  ratio = fit.CHIPS["v6e"].flops / fit.CHIPS["v5p"].flops
  assert fit.utilisation(*given, "TPU v5", 4) == pytest.approx(ratio)
  ratio = fit.CHIPS["v6e"].flops / fit.CHIPS["v5e"].flops
  assert fit.utilisation(*given, "TPU v5 lite", 4) == pytest.approx(ratio)
  assert fit.utilisation(*given, "cpu", 4) is None
