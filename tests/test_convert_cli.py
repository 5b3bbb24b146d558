"""`experiments.convert`: in, out, and beside what others computed.

The references here are our own model's, run a clip and a row at a time, so
that they test the command; parity with other code has tests of its own.
"""

import json

import jax
import numpy as np
import pytest

from experiments import convert as command
from experiments import verify
from mgrd_jax.audio import features
from mgrd_jax.models import audio_lm, convert, released, shards
from mgrd_jax.train import checkpoint
from mgrd_jax.types import Batch
from tests.models import checkpoints

PATCH, OPEN, CLOSE = 90, 91, 92


def lines_of(capsys):
  captured = capsys.readouterr()
  return captured.out.splitlines(), captured.err.splitlines()


def refused(capsys, *argv):
  """The one line that a command refuses its input with."""
  assert command.main(list(argv)) == 1
  out, err = lines_of(capsys)
  assert not out
  (line,) = err
  return line


@pytest.fixture
def folder(tmp_path):
  return checkpoints.write(tmp_path / "in", checkpoints.STEP, shards_count=2)


def test_check_counts_tensors_parameters_and_bytes(folder, capsys):
  assert command.main(["check", f"--checkpoint={folder}"]) == 0
  out, err = lines_of(capsys)
  shapes = convert.expected(released.read(folder))
  count = sum(int(np.prod(shape)) for shape in shapes.values())
  (total,) = [line.split() for line in out if line.split()[:1] == ["all"]]
  assert total == [
    "all",
    str(len(shapes)),
    f"{count:,}",
    f"{2 * count:,}",
    "BF16",
  ]
  assert not err


def test_check_lists_every_fault(folder, capsys):
  found = checkpoints.tensors(released.read(folder))
  found.pop("lm_head.weight")
  found["extra"] = np.zeros(2, np.float32)
  other = checkpoints.write(folder.parent / "other", checkpoints.STEP, found)
  assert command.main(["check", f"--checkpoint={other}"]) == 1
  out, err = lines_of(capsys)
  assert not out and len(err) == 2
  assert "missing lm_head.weight" in err[0] and "unexpected extra" in err[1]


def test_a_config_of_another_model_is_one_line(folder, capsys):
  config = checkpoints.STEP | {"model_type": "llama"}
  (folder / "config.json").write_text(json.dumps(config))
  line = refused(capsys, "check", f"--checkpoint={folder}")
  assert str(folder / "config.json") in line and "model_type" in line


@pytest.mark.parametrize("dtype", [None, "float32"])
def test_an_import_exports_byte_for_byte(folder, tmp_path, capsys, dtype):
  ours, out = tmp_path / "ours", tmp_path / "out"
  flags = [f"--dtype={dtype}"] if dtype else []
  argv = ["import", f"--checkpoint={folder}", f"--out={ours}", *flags]
  assert command.main(argv) == 0
  held = {path.name for path in ours.iterdir()}
  assert held == {"params", "config.json", command.META, *checkpoints.REST}
  params = checkpoint.restore(ours / "params")
  kinds = {leaf.dtype.name for leaf in jax.tree.leaves(params)}
  assert kinds == {dtype or "bfloat16"}
  meta = json.loads((ours / command.META).read_text())
  assert meta["family"] == "step-audio" and meta["dtype"] == kinds.pop()
  argv = ["export", f"--params={ours}", f"--like={folder}", f"--out={out}"]
  assert command.main(argv) == 0
  assert checkpoints.contents(out) == checkpoints.contents(folder)
  assert sorted(p.name for p in tmp_path.iterdir()) == ["in", "ours", "out"]


def test_an_import_of_a_torn_checkpoint_writes_nothing(folder, capsys):
  file = folder / "model-00001-of-00002.safetensors"
  file.write_bytes(file.read_bytes()[:-1])
  out = folder.parent / "out"
  line = refused(capsys, "import", f"--checkpoint={folder}", f"--out={out}")
  assert line.startswith(f"convert import: {file}: truncated in tensor ")
  assert [p.name for p in folder.parent.iterdir()] == ["in"]


def test_a_result_replaces_nothing(folder, capsys):
  before = checkpoints.contents(folder)
  line = refused(capsys, "import", f"--checkpoint={folder}", f"--out={folder}")
  assert "holds other things" in line
  assert checkpoints.contents(folder) == before


def test_what_is_copied_beside_the_weights_needs_room_too(
  folder, tmp_path, capsys
):
  out, ours = tmp_path / "out", tmp_path / "ours"
  where = f"--checkpoint={folder}"
  assert command.main(["import", where, f"--out={ours}"]) == 0
  capsys.readouterr()
  voice = folder / "token2wav" / "voice.bin"
  voice.parent.mkdir()
  with voice.open("wb") as file:
    file.truncate(2**43)  # holes: more than any disk here has
  wanted = f"{out}: 8796.1 GB are needed and "
  assert wanted in refused(capsys, "import", where, f"--out={out}")
  flags = f"--params={ours}", f"--like={folder}", f"--out={out}"
  assert wanted in refused(capsys, "export", *flags)
  assert sorted(p.name for p in tmp_path.iterdir()) == ["in", "ours"]


def test_an_export_is_checked_before_its_parameters_are_read(
  folder, tmp_path, capsys
):
  gone = f"--params={tmp_path / 'gone'}"
  flags = gone, f"--like={folder}", f"--out={folder}"
  assert f"{folder}: holds other things" in refused(capsys, "export", *flags)
  file = folder / "model-00001-of-00002.safetensors"
  file.write_bytes(file.read_bytes()[:-1])
  flags = gone, f"--like={folder}", f"--out={tmp_path / 'out'}"
  assert f"{file}: truncated in tensor" in refused(capsys, "export", *flags)


def test_an_export_of_no_parameters_is_one_line(folder, capsys):
  line = refused(
    capsys,
    "export",
    f"--params={folder.parent / 'gone'}",
    f"--like={folder}",
    f"--out={folder.parent / 'out'}",
  )
  assert "gone: no checkpoint here" in line
  assert not (folder.parent / "out").exists()


def test_equal_encoders_are_told_from_others(folder, tmp_path, capsys):
  other = checkpoints.write(
    tmp_path / "other",
    checkpoints.STEP,
    checkpoints.tensors(released.read(folder), seed=1),
  )
  argv = ["diff", f"--checkpoint={folder}", f"--other={folder}"]
  assert command.main(argv) == 0
  assert "equal, bit for bit" in lines_of(capsys)[0][-1]
  argv[-1] = f"--other={other}"
  assert command.main(argv) == 1
  assert lines_of(capsys)[0][-1].endswith("tensors differ")


def tone(seconds, pitch):
  time = np.arange(int(seconds * 16_000)) / 16_000
  return (0.3 * np.sin(2 * np.pi * pitch * time)).astype(np.float32)


def reference_of(
  folder, path, *, keep=None, seconds=(0.5, 0.33, 0.71), count="hf"
):
  """Two clips in one row, one in another, padded on either side."""
  config = released.read(folder)
  if count == "vllm":
    config = released.as_served(config)
  params = convert.load(folder, config, dtype="float32")
  fixed = config.encoder.fixed
  waves = [tone(s, 200 + 100 * k) for k, s in enumerate(seconds)]
  front = features.log_mel_30s if fixed else features.log_mel
  rule = "qwen2-audio" if fixed else count
  served = count == "vllm"
  frames_of = features.mel_frames if served else features.encoder_input_len
  encode = jax.jit(lambda p, m, n: audio_lm.encode(p, m, n, config=config))
  clips, arrays = [], {}
  for k, wave in enumerate(waves):
    length = np.array([len(wave)])
    mel_BRM = jax.jit(front)(wave[None], length)
    enc_BAE, _ = encode(params["encoder"], mel_BRM, frames_of(length))
    clips.append((enc_BAE, features.token_count(len(wave), rule)))
    arrays |= {f"wave_{k}": wave, f"mel_{k}": np.asarray(mel_BRM[0]).T}
  heard = [clips[:2], clips[2:]]
  rows = [[1, 2], [3]]
  for row, part in zip(rows, heard, strict=True):
    for _, count in part:
      row += [OPEN] + [PATCH] * count + [CLOSE]
    row += [7, 8]
  time = max(len(row) for row in rows)
  ids_BT = np.full((2, time), -100)
  mask_BT = np.zeros((2, time), np.int64)
  logits = np.full((2, time, config.decoder.vocab), np.nan, np.float32)
  apply = jax.jit(lambda p, b: audio_lm.apply(p, b, config=config))
  for b, (row, part) in enumerate(zip(rows, heard, strict=True)):
    columns = slice(time - len(row), time) if b else slice(0, len(row))
    ids_BT[b, columns], mask_BT[b, columns] = row, 1
    row = np.array(row)[None]
    frames = max(enc.shape[1] for enc, _ in part)
    enc_BAE = np.zeros((len(part), frames, config.encoder.width), np.float32)
    index_BT = np.full(row.shape, -1, np.int32)
    step = features.adapter_frames(frames) if not fixed else frames
    places = np.flatnonzero(row[0] == PATCH)
    for k, (enc, count) in enumerate(part):
      enc_BAE[k, : enc.shape[1]] = enc[0]
      index_BT[0, places[:count]] = k * step + np.arange(count)
      places = places[count:]
    valid_BT = np.ones(row.shape, bool)
    batch = Batch(row, valid_BT, valid_BT, index_BT, enc_BAE)
    logits[b, columns] = apply(params, batch)[0]
  arrays |= dict(input_ids=ids_BT, attention_mask=mask_BT, logits=logits)
  arrays["feat_lens"] = np.array([count for _, count in clips])
  if keep is not None:
    arrays |= dict(logits=logits[..., keep], logit_ids=np.array(keep))
  np.savez(path, **arrays)
  return arrays


@pytest.fixture(scope="module", params=sorted(checkpoints.FAMILIES))
def known(request, tmp_path_factory):
  """A checkpoint and the reference of all that it computes."""
  home = tmp_path_factory.mktemp("known")
  config = checkpoints.FAMILIES[request.param]
  folder = checkpoints.write(home / "in", config)
  keep = [3, 90, 5] if request.param == "step-audio" else None
  arrays = reference_of(folder, home / "ref.npz", keep=keep)
  return folder, home / "ref.npz", arrays


def test_a_reference_that_agrees_is_within_the_tolerance(known, capsys):
  folder, path, arrays = known
  argv = ["verify", f"--checkpoint={folder}", f"--reference={path}"]
  assert command.main(argv) == 0
  out, err = lines_of(capsys)
  assert not err and "is within 0.0001, in float32" in out[-1]
  stages = [line.split()[0] for line in out if line.split()]
  for stage in ("mel_0", "mel_1", "mel_2", "feat_lens", "logits"):
    assert stage in stages
  assert stages.count("logits") == 2
  (greedy,) = {
    line.split("greedy equal in ")[1].strip()
    for line in out
    if "greedy" in line and line.split()[1] == "1"
  }
  assert greedy == "{0} of {0}".format(arrays["attention_mask"][1].sum())


def test_the_difference_is_found_where_it_is(known):
  folder, path, arrays = known
  config = released.read(folder)
  params = convert.load(folder, config, dtype="float32")
  column = int(arrays["attention_mask"][1].argmax()) + 4
  changed = {name: np.array(value) for name, value in arrays.items()}
  changed["logits"][1, column, 2] += 0.25
  changed["mel_1"][17, 5] -= 0.5
  changed["feat_lens"][0] += 1
  other = path.with_name("changed.npz")
  np.savez(other, **changed)
  found = verify.compare(params, config, verify.read(other, config))
  far = {(d.stage, d.row): d for d in found if d.largest > 1e-4}
  assert set(far) == {("logits", 1), ("mel_1", 0), ("feat_lens", 0)}
  assert far["logits", 1].largest == pytest.approx(0.25, abs=1e-4)
  token = 5 if "logit_ids" in arrays else 2
  assert far["logits", 1].where == f"column {column}, id {token}"
  assert far["mel_1", 0].where == "frame 5, bin 17"
  assert far["feat_lens", 0].largest == 1


def test_a_reference_that_differs_fails_the_command(known, capsys):
  folder, path, arrays = known
  if "logit_ids" not in arrays:
    pytest.skip("once is enough")
  other = path.with_name("nan.npz")
  logits = np.array(arrays["logits"])
  logits[0, 0, 0] = np.nan
  np.savez(other, **arrays | {"logits": logits})
  argv = ["verify", f"--checkpoint={folder}", f"--reference={other}"]
  assert command.main(argv + ["--atol=0.5"]) == 1
  out, err = lines_of(capsys)
  assert not err and "largest difference inf (logits, row 0) is past" in out[-1]


def test_a_reference_of_the_server_is_compared_by_its_own_rule(
  folder, tmp_path, capsys
):
  # Of 130 mel frames the server counts 17 tokens, the published code 16.
  path = tmp_path / "counts.npz"
  arrays = reference_of(folder, path, seconds=(1.3, 1.3, 1.3), count="vllm")
  assert arrays["feat_lens"].tolist() == [17] * 3
  argv = ["verify", f"--checkpoint={folder}", f"--reference={path}"]
  line = refused(capsys, *argv, "--count=hf")
  assert "17 placeholders" in line and "wave_0 takes 16" in line
  assert command.main([*argv, "--count=vllm"]) == 0
  assert "is within 0.0001" in lines_of(capsys)[0][-1]


@pytest.mark.parametrize("name", ["verify", "precision"])
def test_another_family_is_counted_in_one_way(name, tmp_path, capsys):
  folder = checkpoints.write(tmp_path / "in", checkpoints.QWEN2)
  flags = ["--reference=gone.npz"] if name == "verify" else []
  argv = [name, f"--checkpoint={folder}", "--count=vllm", *flags]
  assert refused(capsys, *argv) == (
    f"convert {name}: {folder}: qwen2-audio is counted in one way alone"
  )


ABSENT = object()
SHORT = np.zeros(100, np.float32)


@pytest.mark.parametrize(
  "name, change, said",
  [
    ("input_ids", lambda x: ABSENT, "no array input_ids; it has"),
    ("logits", lambda x: ABSENT, "no array logits; it has"),
    ("input_ids", lambda x: x.astype(float), "input_ids is float64"),
    ("input_ids", lambda x: x + 80, "input_ids: give ids from 0 to 95"),
    (
      "input_ids",
      lambda x: np.where(x == 90, 5, x),
      "placeholders 90 for 0 of",
    ),
    ("attention_mask", lambda x: x[:, 1:], "attention_mask is [2,"),
    ("attention_mask", lambda x: 0 * x, "attention_mask: row 0 is not one run"),
    (
      "wave_0",
      lambda x: ABSENT,
      "waves wave_1, wave_2; number them from wave_0",
    ),
    ("wave_1", lambda x: x * np.nan, "wave_1 holds NaN or infinity"),
    ("wave_1", lambda x: x[:0], "wave_1 is empty"),
    ("wave_1", lambda x: SHORT, "wave_1 of 100 samples is too short"),
    ("wave_1", lambda x: np.tile(x, 100), "wave_1: a chunk of"),
    ("wave_1", lambda x: (x * 9).astype(np.int16), "wave_1 is int16"),
    ("wave_2", lambda x: ABSENT, "no wave is left"),
    ("wave_2", lambda x: x[:8000], "wave_2 takes"),
    ("logits", lambda x: x[:1], "logits is [1,"),
    ("logits", lambda x: x[..., :2], "logit"),
    ("mel_0", lambda x: x[:80], "mel_0 is (80,"),
    ("feat_lens", lambda x: x[:2], "feat_lens has 2 entries"),
  ],
)
def test_a_bad_array_is_one_line_with_its_file(known, name, change, said):
  folder, path, arrays = known
  bad = path.with_name("bad.npz")
  value = change(np.array(arrays[name]))
  rest = {key: old for key, old in arrays.items() if key != name}
  np.savez(bad, **rest | ({} if value is ABSENT else {name: value}))
  with pytest.raises(ValueError) as caught:
    verify.read(bad, released.read(folder))
  message = str(caught.value)
  assert message.startswith(f"{bad}: ") and said in message, message
  assert "\n" not in message


def test_a_reference_that_is_no_npz_is_one_line(folder, tmp_path, capsys):
  np.save(tmp_path / "one.npy", np.zeros(3))
  (tmp_path / "text.npz").write_text("these are words")
  (tmp_path / "empty.npz").write_text("")
  for name, said in (
    ("one.npy", "one array"),
    ("text.npz", "not an .npz"),
    ("empty.npz", "not an .npz"),
    ("gone.npz", "no such file"),
  ):
    path = tmp_path / name
    line = refused(
      capsys, "verify", f"--checkpoint={folder}", f"--reference={path}"
    )
    assert line.startswith(f"convert verify: {path}: {said}")


def test_clips_with_no_token_between_them_share_a_run():
  ids_BT = np.array([[1, 9, 9, 9, 2], [9, 9, 3, 9, 9]])
  mask_BT = np.ones_like(ids_BT, bool)
  spans = verify._spans("ref", ids_BT, mask_BT, [1, 2, 2, 2], 9)
  assert spans == [(0, 1), (0, 2), (1, 0), (1, 3)]
  with pytest.raises(
    ValueError, match="row 0 has 3 placeholders 9 from column"
  ):
    verify._spans("ref", ids_BT, mask_BT, [2, 2, 2, 2], 9)


def test_shards_say_where_they_are_missing(folder, capsys):
  file = folder / "model-00002-of-00002.safetensors"
  file.unlink()
  line = refused(capsys, "check", f"--checkpoint={folder}")
  assert line.startswith(f"convert check: {file}: this shard is missing")
  assert (folder / shards.INDEX).exists()
