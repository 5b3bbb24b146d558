"""Files of tensors: what is wrong with them is named, and how they are cut."""

import json

import ml_dtypes
import numpy as np
import pytest
from safetensors import numpy as safetensors_numpy

from mgrd_jax.models import convert, released, shards
from tests.models import checkpoints
from tests.models.checkpoints import faults


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
