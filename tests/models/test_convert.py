"""Checkpoints in and out: every bit in its place, and every fault named."""

import json
import math
import os
import pathlib
import subprocess
import sys
import textwrap

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors import numpy as safetensors_numpy

from mgrd_jax import sharding
from mgrd_jax.models import audio_lm, convert, names, released, shards
from tests.conftest import ROOT
from tests.models import checkpoints

LAYOUTS = {
  "single": (0, True),
  "one": (1, True),
  "indexed": (3, True),
  "numbered": (2, False),
}
# The letters of a tensor where one stands twice: output, input, kernel.
TWICE = {"E E R": ("OIR", "RIO")}


@pytest.fixture(params=sorted(checkpoints.FAMILIES))
def family(request):
  return request.param


@pytest.fixture
def config(family):
  return released.from_json(checkpoints.FAMILIES[family])


def faults(call, *args, **options):
  with pytest.raises(convert.ConversionError) as caught:
    call(*args, **options)
  return caught.value.problems


def assert_equal(one, other):
  left, right = (jax.tree_util.tree_leaves_with_path(x) for x in (one, other))
  for (path, a), (other_path, b) in zip(left, right, strict=True):
    assert path == other_path
    assert a.dtype == b.dtype, path
    a, b = (np.asarray(x).view(f"u{x.dtype.itemsize}") for x in (a, b))
    np.testing.assert_array_equal(a, b, err_msg=str(path))


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


def test_a_leaf_of_two_dtypes_holds_the_values_of_both(tmp_path):
  config = released.from_json(checkpoints.STEP)
  found = checkpoints.tensors(config)
  name = "model.layers.1.input_layernorm.weight"
  found[name] = (1 + found[name].astype(np.float32) / 3).astype(np.float32)
  folder = checkpoints.write(tmp_path / "in", checkpoints.STEP, found)
  params = convert.load(folder, config)
  norm_LD = params["decoder"]["attn_norm_LD"]
  assert norm_LD.dtype == np.float32
  np.testing.assert_array_equal(norm_LD[1], found[name])
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


def on_mesh(tmp_path, family, config, shape):
  """A checkpoint, and where its model's leaves lie on eight devices."""
  if jax.device_count() != 8:
    pytest.skip("needs eight devices")
  shardings = sharding.shardings(
    sharding.make_mesh(shape), audio_lm.abstract(config)
  )
  family_json = checkpoints.FAMILIES[family]
  return checkpoints.write(tmp_path / "in", family_json), shardings


def test_eight_devices_are_given_what_one_is(tmp_path, family, config):
  folder, shardings = on_mesh(tmp_path, family, config, (2, 2, 2))
  alone = convert.load(folder, config)
  wide = convert.load(folder, config, dtype="float32", shardings=shardings)
  spread = convert.load(folder, config, shardings=shardings)
  assert_equal(alone, spread)
  assert_equal(wide, convert.load(folder, config, dtype="float32"))
  for leaf, placed in zip(
    jax.tree.leaves(spread), jax.tree.leaves(shardings), strict=True
  ):
    assert leaf.sharding == placed
  gate = spread["decoder"]["gate_LDF"]
  assert {s.data.size for s in gate.addressable_shards} == {gate.size // 4}
  convert.save(spread, config, tmp_path / "out", like=folder)
  assert checkpoints.contents(tmp_path / "out") == checkpoints.contents(folder)


def test_layers_of_their_own_lie_as_their_stack_did(tmp_path, family, config):
  folder, shardings = on_mesh(tmp_path, family, config, (1, 4, 2))
  params = convert.load(folder, config, shardings=shardings)
  stacks = {
    name: (np.asarray(leaf), leaf.sharding)
    for name, leaf in params["decoder"].items()
  }
  alone = audio_lm.unstack(params)["decoder"]
  assert not [n for n in params["decoder"] if "_L" in n]
  assert len(alone["layers"]) == config.decoder.layers
  for i, layer in enumerate(alone["layers"]):
    for name, leaf in layer.items():
      stack, placed = stacks["_L".join(name.rsplit("_", 1))]
      np.testing.assert_array_equal(leaf, stack[i])
      assert tuple(leaf.sharding.spec) == tuple(placed.spec[1:]), name
  gate = alone["layers"][0]["gate_DF"]
  assert {s.data.size for s in gate.addressable_shards} == {gate.size // 8}


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


def cut(path, size):
  path.write_bytes(path.read_bytes()[:size])


def test_a_truncated_shard_is_named_with_its_tensor(tmp_path):
  config = released.from_json(checkpoints.STEP)
  folder = checkpoints.write(tmp_path / "in", checkpoints.STEP, shards_count=2)
  file = folder / "model-00002-of-00002.safetensors"
  size = file.stat().st_size
  cut(file, size - 10)
  (line,) = faults(convert.load, folder, config)
  assert line.startswith(f"{file}: truncated in tensor model.")
  assert f"{size - 10} bytes" in line and str(size) in line
  for left in (100, 3, 0):
    cut(file, left)
    (line,) = faults(convert.load, folder, config)
    assert line.startswith(f"{file}: truncated within its header")


def test_files_that_are_not_safetensors_are_named(tmp_path):
  folder = checkpoints.write(tmp_path / "in", checkpoints.STEP)
  file = folder / shards.SINGLE
  for text, said in (
    (b"version https://git-lfs.github.com/spec/v1\noid", "pointer of Git LFS"),
    (b"these are words\n" * 50, "not safetensors at all"),
    ((2).to_bytes(8, "little") + b"[]", "not safetensors at all"),
  ):
    file.write_bytes(text)
    (line,) = faults(convert.inspect, folder)
    assert line.startswith(f"{file}: ") and said in line


def test_bytes_between_tensors_are_refused(tmp_path):
  folder = checkpoints.write(tmp_path / "in", checkpoints.STEP)
  file = folder / shards.SINGLE
  file.write_bytes(file.read_bytes() + b"....")
  (line,) = faults(convert.inspect, folder)
  assert line.startswith(f"{file}: not sound safetensors")


def test_shards_that_are_missing_are_named(tmp_path):
  for name, index in (("a", True), ("b", False)):
    folder = checkpoints.write(
      tmp_path / name, checkpoints.STEP, shards_count=3, index=index
    )
    file = folder / "model-00003-of-00003.safetensors"
    file.unlink()
    (line,) = faults(convert.inspect, folder)
    assert line.startswith(f"{file}: this shard is missing")
    assert (", with adapter." in line) == index


def test_a_folder_without_weights_says_what_it_has(tmp_path):
  (line,) = faults(convert.inspect, tmp_path / "gone")
  assert line == f"{tmp_path / 'gone'}: no such folder"
  (tmp_path / "pytorch_model.bin").write_bytes(b"")
  (line,) = faults(convert.inspect, tmp_path)
  assert "neither model.safetensors nor" in line
  assert "only pytorch_model.bin" in line


def test_an_index_and_its_shards_must_agree(tmp_path):
  def folder_with(name, change):
    folder = checkpoints.write(
      tmp_path / name, checkpoints.STEP, shards_count=2
    )
    index = json.loads((folder / shards.INDEX).read_text())
    change(index["weight_map"])
    (folder / shards.INDEX).write_text(json.dumps(index))
    return folder

  first, second = (f"model-0000{i}-of-00002.safetensors" for i in (1, 2))
  folder = folder_with("a", lambda index: index.update({"more": second}))
  (line,) = faults(convert.inspect, folder)
  assert line.startswith(f"{folder / second}: no tensor more here")

  folder = folder_with("b", lambda index: index.pop("lm_head.weight"))
  (line,) = faults(convert.inspect, folder)
  assert "tensor lm_head.weight is not in model.safetensors.index" in line

  folder = folder_with("c", lambda index: index.update({"lm_head.weight": "x"}))
  assert any(
    line.startswith(f"{folder / 'x'}: this shard is missing, with lm_head")
    for line in faults(convert.inspect, folder)
  )
  folder = folder_with("d", lambda index: index.update(a=f"../a/{first}"))
  assert faults(convert.inspect, folder) == [
    f"{folder / shards.INDEX}: names no shards of this folder"
  ]
  (folder / shards.INDEX).write_text("{")
  assert faults(convert.inspect, folder) == [
    f"{folder / shards.INDEX}: not an index of shards"
  ]


def test_a_tensor_in_two_shards_is_named(tmp_path):
  folder = checkpoints.write(
    tmp_path / "in", checkpoints.STEP, shards_count=2, index=False
  )
  files = [folder / f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
  parts = [safetensors_numpy.load_file(file) for file in files]
  twice = next(iter(parts[0]))
  parts[1][twice] = parts[0][twice]
  safetensors_numpy.save_file(parts[1], files[1])
  assert faults(convert.inspect, folder) == [
    f"{files[1]}: tensor {twice} is in {files[0].name} too; remove one of them"
  ]


@pytest.mark.parametrize(
  "dtype, code",
  [
    (np.int8, "I8"),
    (np.float64, "F64"),
    (ml_dtypes.float8_e4m3fn, "F8_E4M3"),
  ],
)
def test_a_dtype_of_no_released_model_is_one_line(tmp_path, dtype, code):
  config = released.from_json(checkpoints.STEP)
  found = checkpoints.tensors(config)
  for i in range(3):
    name = f"model.layers.{i}.mlp.down_proj.weight"
    found[name] = found[name].astype(dtype)
  found["model.layers.0.mlp.down_proj.weight_scale"] = np.ones(1, np.float32)
  folder = checkpoints.write(tmp_path / "in", checkpoints.STEP, found)
  (line,) = faults(convert.load, folder, config)
  assert line.startswith(f"{folder / shards.SINGLE}: tensor model.layers.0.mlp")
  assert f"is {code}, as are 2 more" in line


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


def test_tensors_are_packed_into_files_of_a_limited_size():
  entries = [(f"t{i}", "BF16", (size,)) for i, size in enumerate((3, 4, 9, 1))]
  files = shards.plan(entries, limit=15)
  assert [[t.name for t in ts] for ts in files.values()] == [
    ["t0", "t1"],
    ["t2"],
    ["t3"],
  ]
  assert list(files)[2] == "model-00003-of-00003.safetensors"
  first = files["model-00001-of-00003.safetensors"]
  assert [(t.start, t.stop) for t in first] == [(0, 6), (6, 14)]
  index = json.loads(shards.index_of(files))
  assert index["metadata"]["total_size"] == 34
  assert index["weight_map"]["t3"] == "model-00003-of-00003.safetensors"


def test_the_mark_of_the_format_is_added_where_it_lacks(tmp_path):
  config = released.from_json(checkpoints.STEP)
  folder = checkpoints.write(tmp_path / "in", checkpoints.STEP)
  file = folder / shards.SINGLE
  found = safetensors_numpy.load_file(file)
  safetensors_numpy.save_file(found, file, {"origin": "here"})
  params = convert.load(folder, config)
  convert.save(params, config, tmp_path / "out", like=folder)
  written = tmp_path / "out" / shards.SINGLE
  header = json.loads(shards.raw_header(written)[8:])
  assert header["__metadata__"] == {"origin": "here", "format": "pt"}
  out = safetensors_numpy.load_file(written)
  assert all(out[name].tobytes() == found[name].tobytes() for name in found)


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
