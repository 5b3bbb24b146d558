"""Checkpoints in and out: every bit in its place, and every fault named."""

import json
import os
import pathlib
import subprocess
import sys
import textwrap

import jax
import numpy as np
import pytest
from safetensors import numpy as safetensors_numpy

from mgrd_jax.models import convert, names, released, shards
from tests.conftest import ROOT
from tests.models import checkpoints
from tests.models.checkpoints import assert_equal, faults

LAYOUTS = {
  "single": (0, True),
  "one": (1, True),
  "indexed": (3, True),
  "numbered": (2, False),
}


@pytest.mark.parametrize("layout", sorted(LAYOUTS))
def test_what_goes_in_comes_out_byte_for_byte(tmp_path, family, config, layout):
  count, index = LAYOUTS[layout]
  folder = checkpoints.write(
    tmp_path / "in",
    checkpoints.FAMILIES[family],
    shards_count=count,
    index=index,
  )
  params = convert.load(folder, config)
  assert {leaf.dtype.name for leaf in jax.tree.leaves(params)} == {"bfloat16"}
  convert.save(params, config, tmp_path / "out", like=folder)
  out = checkpoints.contents(tmp_path / "out")
  if layout == "numbered":
    # transformers finds shards by an index alone.
    weight_map = json.loads(out.pop(shards.INDEX))["weight_map"]
    assert set(weight_map) == set(convert.inspect(folder))
  assert out == checkpoints.contents(folder)
  assert sorted(p.name for p in tmp_path.iterdir()) == ["in", "out"]


def test_folders_beside_the_weights_are_copied(tmp_path):
  config = released.from_json(checkpoints.STEP)
  folder = checkpoints.write(tmp_path / "in", checkpoints.STEP)
  inner = pathlib.Path("token2wav", "speaker", "voice.bin")
  (folder / inner).parent.mkdir(parents=True)
  (folder / inner).write_bytes(b"\0voice")
  (folder / ".git" / "lfs").mkdir(parents=True)
  params = convert.load(folder, config)
  convert.save(params, config, tmp_path / "out", like=folder)
  assert (tmp_path / "out" / inner).read_bytes() == b"\0voice"
  assert not (tmp_path / "out" / ".git").exists()
  # A result within its source is not copied into itself.
  convert.save(params, config, folder / "new", like=folder)
  assert not (folder / "new" / ".new.part").exists()
  assert (folder / "new" / inner).exists()


def test_float32_parameters_go_back_to_the_dtype_they_came_from(tmp_path):
  config = released.from_json(checkpoints.STEP)
  folder = checkpoints.write(tmp_path / "in", checkpoints.STEP)
  params = convert.load(folder, config, dtype="float32")
  assert {leaf.dtype.name for leaf in jax.tree.leaves(params)} == {"float32"}
  convert.save(params, config, tmp_path / "out", like=folder)
  assert checkpoints.contents(tmp_path / "out") == checkpoints.contents(folder)


@pytest.mark.parametrize(
  "decoder, head",
  [
    ("language_model.model.model.", "language_model.lm_head."),
    ("model.language_model.", "lm_head."),
  ],
)
def test_other_spellings_of_transformers_are_read_and_kept(
  tmp_path, decoder, head
):
  config = released.from_json(checkpoints.QWEN2)
  outer = "model." if decoder.startswith("model.") else ""
  found = {}
  for name, value in checkpoints.tensors(config).items():
    if name.startswith("language_model.model."):
      name = decoder + name.removeprefix("language_model.model.")
    elif name.startswith("language_model.lm_head."):
      name = head + "weight"
    else:
      name = outer + name
    found[name] = value
  assert len(found) == len(convert.expected(config))
  plain = checkpoints.write(tmp_path / "plain", checkpoints.QWEN2)
  folder = checkpoints.write(tmp_path / "in", checkpoints.QWEN2, found)
  params = convert.load(folder, config)
  assert_equal(params, convert.load(plain, config))
  convert.save(params, config, tmp_path / "out", like=folder)
  assert checkpoints.contents(tmp_path / "out") == checkpoints.contents(folder)


def test_a_config_of_the_other_family_is_what_is_said_first(tmp_path):
  found = checkpoints.tensors(released.from_json(checkpoints.QWEN2))
  folder = checkpoints.write(tmp_path / "in", checkpoints.STEP, found)
  config = released.from_json(checkpoints.STEP)
  first, second, *_ = faults(convert.match, folder, config)
  assert first.startswith(f"{folder}/config.json: describes a step-audio model")
  assert first.endswith("is it another model's?") and "missing" in second


def test_every_tensor_at_fault_is_listed_with_both_names(tmp_path):
  config = released.from_json(checkpoints.STEP)
  found = checkpoints.tensors(config)
  del found["model.layers.2.self_attn.q_proj.weight"]
  del found["encoder.after_norm.bias"]
  found["model.layers.3.mlp.up_proj.weight"] = np.zeros((2, 3), np.float32)
  found["lm_head.weight"] = found["lm_head.weight"].T.copy()
  folder = checkpoints.write(tmp_path / "in", checkpoints.STEP, found)
  file = folder / "model.safetensors"
  for call in (convert.match, convert.load):
    assert sorted(faults(call, folder, config)) == sorted(
      [
        f"{folder}: missing encoder.after_norm.bias: encoder/norm_bias_E takes "
        "[32]",
        f"{folder}: missing model.layers.2.self_attn.q_proj.weight: "
        f"decoder/{leaf('q', config)}[2] takes [32, 40]",
        f"{file}: misshapen lm_head.weight [40, 96]: "
        f"decoder/{leaf('head', config)} takes [96, 40]",
        f"{file}: unexpected model.layers.3.mlp.up_proj.weight [2, 3]: no "
        "parameter of ours takes it",
      ]
    )


def leaf(stem, config):
  rows = [row for row in names.rows(config) if row.part == "decoder"]
  return next(row.leaf for row in rows if row.stem == stem)


def test_the_config_of_another_size_lists_all_that_differs(tmp_path):
  folder = checkpoints.write(tmp_path / "in", checkpoints.STEP)
  text = checkpoints.STEP["text_config"] | {"intermediate_size": 64}
  other = released.from_json(checkpoints.STEP | {"text_config": text})
  found = faults(convert.load, folder, other)
  assert len(found) == 9
  assert all("misshapen model.layers." in line for line in found)


def tied_checkpoint(folder, head=None):
  text = checkpoints.STEP["text_config"] | {"tie_word_embeddings": True}
  config_json = checkpoints.STEP | {"text_config": text}
  config = released.from_json(config_json)
  found = checkpoints.tensors(config)
  assert "lm_head.weight" not in found
  if head is not None:
    found["lm_head.weight"] = found["model.embed_tokens.weight"] + head
  return checkpoints.write(folder, config_json, found), config


def test_tied_embeddings_need_no_head_and_keep_one_that_is_equal(tmp_path):
  bare, config = tied_checkpoint(tmp_path / "bare")
  with_head, _ = tied_checkpoint(tmp_path / "with", np.zeros(1, "bfloat16"))
  params = convert.load(bare, config)
  assert_equal(params, convert.load(with_head, config))
  for folder in (bare, with_head):
    out = tmp_path / f"{folder.name}_out"
    convert.save(params, config, out, like=folder)
    assert checkpoints.contents(out) == checkpoints.contents(folder)


def test_a_head_that_differs_from_tied_embeddings_is_refused(tmp_path):
  folder, config = tied_checkpoint(tmp_path / "in", np.ones(1, "bfloat16"))
  (line,) = faults(convert.load, folder, config)
  assert "lm_head.weight differs from model.embed_tokens.weight" in line


def test_without_a_checkpoint_to_follow_names_are_the_published(
  tmp_path, family, config
):
  folder = checkpoints.write(tmp_path / "in", checkpoints.FAMILIES[family])
  params = convert.load(folder, config)
  convert.save(params, config, tmp_path / "out")
  file = tmp_path / "out" / shards.SINGLE
  assert sorted(p.name for p in file.parent.iterdir()) == [shards.SINGLE]
  # Read by the format's own library.
  out = safetensors_numpy.load_file(file)
  wanted = safetensors_numpy.load_file(folder / shards.SINGLE)
  assert set(out) == set(wanted)
  assert all(out[name].tobytes() == wanted[name].tobytes() for name in out)
  assert json.loads(shards.raw_header(file)[8:])["__metadata__"] == {
    "format": "pt"
  }


def test_a_folder_that_holds_things_is_left_alone(tmp_path):
  config = released.from_json(checkpoints.STEP)
  folder = checkpoints.write(tmp_path / "in", checkpoints.STEP)
  params = convert.load(folder, config)
  before = checkpoints.contents(folder)
  (line,) = faults(convert.save, params, config, folder, like=folder)
  assert line.startswith(f"{folder}: holds other things")
  assert checkpoints.contents(folder) == before
  (tmp_path / "empty").mkdir()
  convert.save(params, config, tmp_path / "empty", like=folder)
  assert checkpoints.contents(tmp_path / "empty") == before


def test_parameters_of_another_model_are_not_written(tmp_path):
  config = released.from_json(checkpoints.STEP)
  folder = checkpoints.write(tmp_path / "in", checkpoints.STEP)
  params = convert.load(folder, config)
  params["decoder"]["norm_D"] = np.zeros(7, np.float32)
  params["value"] = {"value_D": np.zeros(40, np.float32)}
  del params["adapter"]["up_EF"]
  found = faults(convert.save, params, config, tmp_path / "out", like=folder)
  assert found == [
    "params: adapter/up_EF is absent, where adapter.linear1.weight takes "
    "[32, 24]",
    "params: decoder/norm_D is [7], where model.norm.weight takes [40]",
    "params: value/value_D has no place in a checkpoint",
  ]
  assert not (tmp_path / "out").exists()


DYING = """
  import os, sys
  import numpy as np
  from mgrd_jax.models import convert, released

  class Dying(np.ndarray):
    def __getitem__(self, cut):
      os._exit(9)

  folder, out = sys.argv[1:]
  config = released.read(folder)
  params = convert.load(folder, config)
  embed = np.asarray(params["decoder"]["embed_VD"])
  params["decoder"]["embed_VD"] = embed.view(Dying)
  convert.save(params, config, out, like=folder)
"""


def test_an_export_that_dies_leaves_nothing_that_looks_whole(tmp_path):
  folder = checkpoints.write(tmp_path / "in", checkpoints.STEP)
  out = tmp_path / "out"
  done = subprocess.run(
    [sys.executable, "-c", textwrap.dedent(DYING), str(folder), str(out)],
    cwd=ROOT,
    env=os.environ | {"PYTHONPATH": str(ROOT), "XLA_FLAGS": ""},
    capture_output=True,
    text=True,
  )
  assert done.returncode == 9, done.stderr
  assert not out.exists()
  (part,) = [p for p in tmp_path.iterdir() if p != folder]
  assert [p.name for p in part.iterdir()] == [shards.SINGLE]
  assert "truncated" in faults(convert.inspect, part)[0]
  # The next one clears it away.
  config = released.from_json(checkpoints.STEP)
  convert.save(convert.load(folder, config), config, out, like=folder)
  assert checkpoints.contents(out) == checkpoints.contents(folder)
  assert not part.exists()


def test_an_export_that_fails_leaves_nothing(tmp_path):
  config = released.from_json(checkpoints.STEP)
  folder = checkpoints.write(tmp_path / "in", checkpoints.STEP)
  params = convert.load(folder, config)
  params["decoder"]["norm_D"].delete()
  with pytest.raises(RuntimeError, match="deleted"):
    convert.save(params, config, tmp_path / "out", like=folder)
  assert [p.name for p in tmp_path.iterdir()] == ["in"]


def test_encoders_are_compared_across_families_bit_for_bit(tmp_path):
  step = released.from_json(checkpoints.STEP)
  qwen = released.from_json(checkpoints.QWEN2)
  ours = checkpoints.tensors(step)
  theirs = checkpoints.tensors(qwen, seed=1)
  sides = [
    [row for row in names.rows(config) if row.part == "encoder"]
    for config in (step, qwen)
  ]
  for row, other in zip(*sides, strict=True):
    assert row.leaf == other.leaf
    for name, other_name in zip(row.names, other.names, strict=True):
      theirs[other_name] = ours[name].copy()
  a = checkpoints.write(tmp_path / "a", checkpoints.STEP, ours)
  b = checkpoints.write(tmp_path / "b", checkpoints.QWEN2, theirs)
  assert convert.encoder_differences(a, step, b, qwen) == []
  name = "audio_tower.layers.1.fc1.weight"
  theirs[name].view(np.uint16)[0, 0] ^= 1
  c = checkpoints.write(tmp_path / "c", checkpoints.QWEN2, theirs)
  (line,) = convert.encoder_differences(a, step, c, qwen)
  assert "encoder/up_LEF[1]: encoder.blocks.1.mlp.0.weight" in line
  assert name in line
