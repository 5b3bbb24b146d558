"""Tensor names and axes of both families: the published, and the transposes."""

import math

import jax
import numpy as np
import pytest

from mgrd_jax.models import audio_lm, convert, names
from tests.models import checkpoints

# The letters of a tensor where one stands twice: output, input, kernel.
TWICE = {"E E R": ("OIR", "RIO")}


@pytest.mark.parametrize(
  "variant, tensors, parameters",
  [
    # Decoder, encoder, adapter; system.md 2.1 adds them up to 192 more.
    ("step-audio-r1", 1264, 32_832_033_792 + 636_968_960 + 18_030_848),
    ("step-audio-2-mini", 487 + 6 + 28 * 12 + 3, 8_315_179_264),
    ("qwen2-audio-7b", 487 + 2 + 32 * 12 + 3, 8_397_094_912),
  ],
)
def test_published_models_have_their_tensors_and_parameters(
  variant, tensors, parameters
):
  shapes = convert.expected(audio_lm.VARIANTS[variant]())
  assert len(shapes) == tensors
  assert sum(math.prod(shape) for shape in shapes.values()) == parameters


def test_tensors_of_step_audio_r1_have_the_published_shapes():
  shapes = convert.expected(audio_lm.VARIANTS["step-audio-r1"]())
  assert shapes["encoder.conv1.weight"] == (1280, 128, 3)
  assert shapes["encoder.conv2.weight"] == (1280, 1280, 3)
  assert shapes["encoder.positional_embedding.weight"] == (1500, 1280)
  assert shapes["encoder.blocks.31.attn.key.weight"] == (1280, 1280)
  assert "encoder.blocks.31.attn.key.bias" not in shapes
  assert shapes["encoder.blocks.0.mlp.0.weight"] == (5120, 1280)
  assert shapes["encoder.blocks.0.mlp.2.weight"] == (1280, 5120)
  assert shapes["adapter.conv.weight"] == (1280, 1280, 3)
  assert shapes["adapter.linear1.weight"] == (2048, 1280)
  assert shapes["adapter.linear2.weight"] == (5120, 2048)
  assert shapes["model.embed_tokens.weight"] == (158720, 5120)
  assert shapes["lm_head.weight"] == (158720, 5120)
  layer = "model.layers.63"
  assert shapes[f"{layer}.self_attn.q_proj.weight"] == (5120, 5120)
  assert shapes[f"{layer}.self_attn.k_proj.weight"] == (1024, 5120)
  assert shapes[f"{layer}.self_attn.v_proj.bias"] == (1024,)
  assert shapes[f"{layer}.self_attn.o_proj.weight"] == (5120, 5120)
  assert shapes[f"{layer}.mlp.gate_proj.weight"] == (27648, 5120)
  assert shapes[f"{layer}.mlp.down_proj.weight"] == (5120, 27648)
  assert shapes[f"{layer}.post_attention_layernorm.weight"] == (5120,)


def test_every_leaf_is_the_transpose_that_letters_say(tmp_path, family, config):
  found = checkpoints.tensors(config)
  folder = checkpoints.write(
    tmp_path / "a", checkpoints.FAMILIES[family], found
  )
  params = convert.load(folder, config)
  rows = names.rows(config)
  assert {(row.part, row.leaf) for row in rows} == {
    tuple(key.key for key in path)
    for path, _ in jax.tree_util.tree_leaves_with_path(params)
  }
  for row in rows:
    theirs, ours = TWICE.get(
      row.axes, (row.axes.replace(" ", ""), row.letters.replace("L", ""))
    )
    shape = row.block[row.stacked :]
    for layer, name in enumerate(row.names):
      leaf = np.asarray(params[row.part][row.leaf], np.float32)
      leaf = leaf[layer] if row.stacked else leaf
      tensor = found[name].astype(np.float32).reshape(shape)
      np.testing.assert_array_equal(
        leaf, np.einsum(f"{theirs}->{ours}", tensor), err_msg=name
      )
