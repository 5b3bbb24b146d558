"""A corpus is made by many, resumed, and held against its hashes."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from experiments import prepare
from mgrd_jax.audio import io
from mgrd_jax.data import schema, shards, sources
from tests.bucket import bucket  # noqa: F401

ROOT = pathlib.Path(__file__).parents[2]


def noise(seed, length=800):
  wave = np.random.default_rng(seed).uniform(-0.9, 0.9, length)
  return io.from_int16(io.to_int16(wave.astype(np.float32)))


def corpus(folder, count=10, seconds=0.05) -> pathlib.Path:
  """A manifest of clips, each asked about twice, and of one text."""
  folder.mkdir(parents=True, exist_ok=True)
  rows = [{"id": "text", "answer": "b"}]
  for i in range(count):
    io.write_wav(folder / f"{i}.wav", noise(i, int(seconds * io.RATE)))
    rows += [{"id": f"{i}{x}", "audio": f"{i}.wav"} for x in "ab"]
  base = {"question": "Q?", "answer": "a", "answer_type": "text"}
  manifest = folder / "m.jsonl"
  manifest.write_text("".join(json.dumps(base | r) + "\n" for r in rows))
  return manifest


def command(manifest, out, **flags):
  flags = {"out": out, "examples_per_shard": 3, "workers": 2} | flags
  return ["shard", str(manifest), *(f"--{k}={v}" for k, v in flags.items())]


def contents(folder) -> dict[str, bytes]:
  return {p.name: p.read_bytes() for p in folder.iterdir()}


@pytest.fixture
def made(tmp_path):
  """(manifest, the folder of its shards)."""
  manifest = corpus(tmp_path / "data")
  out = tmp_path / "shards"
  assert not prepare.main(command(manifest, out))
  return manifest, out


def examples_of(*audios):
  return [
    schema.Example(str(i), "Q?", "a", "text", audio=a)
    for i, a in enumerate(audios)
  ]


def test_each_clip_belongs_to_the_shard_of_its_first_question():
  asked = examples_of(("a", "b"), ("b", "a"), (), ("c", "a"), ("b",))
  assert shards.plan(asked, 2) == [
    shards.Unit("clips-00000.arrayrecord", ("a", "b")),
    shards.Unit("clips-00001.arrayrecord", ("c",)),
  ]
  assert shards.plan(asked, 99)[0].refs == ("a", "b", "c")
  assert not shards.plan(examples_of((), ()), 1)


def test_any_number_of_workers_makes_the_same_bytes(made, tmp_path):
  manifest, out = made
  for workers in (1, 5):
    other = tmp_path / str(workers)
    assert not prepare.main(command(manifest, other, workers=workers))
    assert contents(other) == contents(out)


def test_the_index_holds_hash_bytes_and_rows_of_every_shard(made):
  _, out = made
  index = json.loads((out / "shards.json").read_text())
  files = sorted(out.glob("*.arrayrecord"))
  assert [p.name for p in files] == sorted(index["shards"])
  assert index["rows"] == 10
  total = 0
  for path in files:
    told = index["shards"][path.name]
    assert (told["bytes"], told["sha256"]) == sources.fingerprint(path)
    total += told["rows"]
  assert total == 10
  names = {p.name for p in out.iterdir()}
  assert names - {p.name for p in files} == {"manifest.jsonl", "shards.json"}


def test_every_clip_is_read_back_from_its_shard(made):
  _, out = made
  examples, refusals = schema.read_manifest(out / "manifest.jsonl")
  assert not refusals and len(examples) == 21
  store = sources.ClipStore(out)
  for example in examples[1:]:
    wave = store.wave(example.audio[0])
    np.testing.assert_array_equal(wave, noise(int(example.id[:-1])))


def slow_command(manifest, out):
  """The command in a process of its own, to be killed."""
  return [sys.executable, "-m", "experiments.prepare", *command(manifest, out)]


def test_killed_at_any_point_the_same_command_ends_with_the_same_bytes(
  tmp_path,
):
  manifest = corpus(tmp_path / "data", 60, seconds=20)
  whole, cut = tmp_path / "whole", tmp_path / "cut"
  assert not prepare.main(command(manifest, whole))
  environment = os.environ | {"PYTHONPATH": str(ROOT)}
  kept = 0
  for wanted in (1, 9, 20):
    process = subprocess.Popen(
      slow_command(manifest, cut), env=environment, stdout=subprocess.DEVNULL
    )
    until = time.monotonic() + 60
    while len(list(cut.glob(".receipts/clips-*.json"))) < wanted:
      assert process.poll() is None and time.monotonic() < until
      time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (cut / "manifest.jsonl").exists()
    done = {p.name: p.stat().st_mtime_ns for p in cut.glob("*.arrayrecord")}
    assert len(done) >= max(kept, wanted)
    kept = len(done)
  assert not prepare.main(command(manifest, cut))
  after = {p.name: p.stat().st_mtime_ns for p in cut.glob("*.arrayrecord")}
  # A shard without a receipt may have been made again.
  again = [name for name in done if after[name] != done[name]]
  assert len(again) <= 2
  assert contents(cut) == contents(whole)


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize(
  "damage",
  [
    lambda p: p.unlink(),
    lambda p: p.write_bytes(p.read_bytes()[:-7]),
    lambda p: p.write_bytes(p.read_bytes()[:-1] + b"\x01"),
  ],
  ids=["missing", "torn", "changed"],
)
def test_a_shard_that_is_not_whole_is_made_again_and_no_other(
  made, damage, finished, capsys
):
  manifest, out = made
  before = contents(out)
  times = {p.name: p.stat().st_mtime_ns for p in out.glob("*.arrayrecord")}
  if not finished:
    unfinish(out)
  hurt = sorted(times)[1]
  damage(out / hurt)
  capsys.readouterr()
  assert not prepare.main(command(manifest, out))
  said = capsys.readouterr().out
  assert f"{len(times)} shards, {len(times) - 1} of them there before" in said
  assert contents(out) == before
  after = {p.name: p.stat().st_mtime_ns for p in out.glob("*.arrayrecord")}
  assert [n for n in times if times[n] != after[n]] == [hurt]


def unfinish(out):
  """A folder as a kill before the end leaves it."""
  index = json.loads((out / "shards.json").read_text())
  receipts = out / ".receipts"
  receipts.mkdir()
  for name, receipt in index["shards"].items():
    (receipts / f"{name}.json").write_text(json.dumps(receipt))
  own = {"inputs": index["inputs"]}
  (receipts / "inputs.json").write_text(json.dumps(own))
  for name in ("shards.json", "manifest.jsonl"):
    (out / name).unlink()


def test_a_torn_receipt_costs_its_shard_and_no_more(made):
  manifest, out = made
  before = contents(out)
  unfinish(out)
  path = out / ".receipts" / "clips-00001.arrayrecord.json"
  path.write_text(path.read_text()[:40])
  assert not prepare.main(command(manifest, out))
  assert contents(out) == before


def test_a_clip_that_changed_is_stored_anew_before_the_end_and_refused_after(
  made, capsys
):
  manifest, out = made
  io.write_wav(manifest.parent / "3.wav", noise(99, 900))
  before = contents(out)
  assert prepare.main(command(manifest, out)) == 1
  err = capsys.readouterr().err
  assert "an earlier result from other inputs (clips of clips-0000" in err
  assert contents(out) == before
  unfinish(out)
  assert not prepare.main(command(manifest, out))
  examples, _ = schema.read_manifest(out / "manifest.jsonl")
  ref = next(e.audio[0] for e in examples if e.id == "3a")
  wave = sources.ClipStore(out).wave(ref)
  np.testing.assert_array_equal(wave, noise(99, 900))


@pytest.mark.parametrize("changes", [{"examples_per_shard": 4}, {}])
def test_an_unfinished_result_of_other_inputs_is_left_alone(
  made, capsys, changes
):
  manifest, out = made
  unfinish(out)
  before = contents_below(out)
  if not changes:
    manifest.write_text(manifest.read_text().replace("Q?", "Which?", 1))
  assert prepare.main(command(manifest, out, **changes)) == 1
  assert "an unfinished result from other inputs" in capsys.readouterr().err
  assert contents_below(out) == before


def contents_below(folder) -> dict[str, bytes]:
  return {str(p): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_row_is_skipped_for_any_of_its_clips_and_named(tmp_path, capsys):
  manifest = corpus(tmp_path / "data", 4)
  (manifest.parent / "1.wav").write_bytes(b"")
  (manifest.parent / "2.wav").unlink()
  row = {"id": "pair", "audio": ["0.wav", "1.wav"]}
  base = {"question": "Q?", "answer": "a", "answer_type": "text"}
  with manifest.open("a") as file:
    file.write(json.dumps(base | row) + "\n")
  out = tmp_path / "out"
  assert not prepare.main(command(manifest, out))
  said = capsys.readouterr().out
  assert "5 rows accepted, 5 refused" in said
  for line, name, why in (
    (4, "1a", "audio: empty file; 1.wav: replace it by"),
    (7, "2b", "audio: no such file; 2.wav: check the path"),
    (10, "pair", "audio: empty file; 1.wav: replace it by"),
  ):
    assert f"refused: line {line} (id {name}), {why}" in said
  examples, _ = schema.read_manifest(out / "manifest.jsonl")
  assert [e.id for e in examples] == ["text", "0a", "0b", "3a", "3b"]
  assert json.loads((out / "shards.json").read_text())["rows"] == 2


def test_a_missing_shard_is_one_line_before_a_clip_is_read(made, capsys):
  _, out = made
  (out / "clips-00003.arrayrecord").unlink()
  with pytest.raises(sources.ShardError) as caught:
    sources.ClipStore(out)
  assert str(caught.value) == (
    f"{out}/clips-00003.arrayrecord: missing (1 of the 7 shards that "
    "shards.json names); copy it again, or make the shards again"
  )
  capsys.readouterr()
  assert prepare.main(["check", str(out / "manifest.jsonl")]) == 1
  assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("at", [-1, 100])
def test_a_changed_shard_is_one_line_when_it_is_opened(made, capsys, at):
  _, out = made
  path = out / "clips-00002.arrayrecord"
  data = bytearray(path.read_bytes())
  data[at] ^= 1
  path.write_bytes(data)
  store = sources.ClipStore(out)
  store.wave("clips-00000.arrayrecord#0")
  with pytest.raises(sources.ShardError, match="changed since it was made"):
    store.wave("clips-00002.arrayrecord#0")
  assert prepare.main(["check", str(out / "manifest.jsonl")]) == 1
  err = capsys.readouterr().err
  assert err.startswith(f"prepare check: {path}: changed since it was made")
  assert err.count("\n") == 1


def test_a_damaged_index_is_one_line(made):
  _, out = made
  path = out / "shards.json"
  path.write_text(path.read_text()[:50])
  with pytest.raises(sources.ShardError, match="shards.json: damaged"):
    sources.ClipStore(out)


def test_a_shard_that_cannot_be_written_is_one_line_and_the_others_stay(
  tmp_path, capsys
):
  manifest = corpus(tmp_path / "data")
  out = tmp_path / "out"
  io.write_wav(manifest.parent / "5.wav", noise(5, 200_000))
  done = subprocess.run(
    # No file over 200 kB: for the writer it is as a full disk.
    ["bash", "-c", 'ulimit -f 200; exec "$@"', "bash"]
    + slow_command(manifest, out),
    env=os.environ | {"PYTHONPATH": str(ROOT)},
    capture_output=True,
    text=True,
  )
  assert done.returncode == 1
  assert "File too large" in done.stderr and done.stderr.count("\n") == 1
  assert not (out / "manifest.jsonl").exists()
  kept = len(list(out.glob("*.arrayrecord")))
  assert 1 <= kept < 7 and not list(out.glob(".*.part"))
  assert not prepare.main(command(manifest, out))
  assert f"7 shards, {kept} of them there before" in capsys.readouterr().out


def test_progress_counts_shards_clips_and_what_was_kept(made):
  manifest, out = made
  unfinish(out)
  (out / "clips-00001.arrayrecord").unlink()
  seen = []
  inputs = json.loads((out / ".receipts/inputs.json").read_text())["inputs"]
  result = shards.write(
    schema.read_manifest(manifest)[0],
    manifest.parent,
    out,
    inputs=inputs,
    size=3,
    workers=2,
    store=lambda: sources.ClipStore(manifest.parent),
    progress=seen.append,
  )
  assert [(p.shards, p.total) for p in seen] == [(i, 7) for i in range(1, 8)]
  assert (seen[-1].kept, seen[-1].clips, seen[-1].refused) == (6, 10, 0)
  assert (result.made, result.shards, result.found) == (1, 7, False)


def test_corpora_go_from_gs_to_gs(tmp_path, bucket, capsys):  # noqa: F811
  name, folder = bucket
  manifest = corpus(folder / "raw")
  # As manifests beside their clips' folder name them.
  text = manifest.read_text().replace('"0.wav"', '"../raw/0.wav"')
  manifest.write_text(text)
  local = tmp_path / "local"
  assert not prepare.main(command(manifest, local))
  flags = command(f"{name}/raw/m.jsonl", f"{name}/made/shards")
  assert not prepare.main(flags)
  there = folder / "made" / "shards"
  ours, theirs = contents(local), contents(there)
  assert ours.keys() == theirs.keys()
  for file in ours.keys() - {"shards.json"}:
    assert theirs[file] == ours[file]

  store = sources.ClipStore(f"{name}/made/shards")
  examples, _ = schema.read_manifest(f"{name}/made/shards/manifest.jsonl")
  for example in examples[1:]:
    wave = store.wave(example.audio[0])
    np.testing.assert_array_equal(wave, noise(int(example.id[:-1])))
  store.close()

  capsys.readouterr()
  assert not prepare.main(flags)
  assert "already there" in capsys.readouterr().out
  path = there / "clips-00002.arrayrecord"
  path.write_bytes(path.read_bytes()[:-1] + b"\x01")
  with pytest.raises(sources.ShardError, match="changed since it was made"):
    sources.ClipStore(f"{name}/made/shards").wave(f"{path.name}#0")
  path.write_bytes(path.read_bytes()[:-1])
  assert not prepare.main(flags)
  assert contents(there) == theirs
  path.unlink()
  with pytest.raises(sources.ShardError, match="clips-00002.*missing"):
    sources.ClipStore(f"{name}/made/shards")


def test_gs_without_its_package_is_one_line_that_names_the_extra(
  tmp_path, capsys
):
  pytest.importorskip("fsspec")
  try:
    import gcsfs  # noqa: F401
  except ImportError:
    pass
  else:
    pytest.skip("gcsfs is installed here")
  assert prepare.main(command("gs://corpora/m.jsonl", tmp_path / "out")) == 1
  err = capsys.readouterr().err
  assert "pip install -e '.[gcs]'" in err and err.count("\n") == 1
  assert not (tmp_path / "out").exists()


def test_errors_of_the_store_behind_gs_are_one_line(
  tmp_path, bucket, capsys, monkeypatch  # noqa: F811
):
  name, folder = bucket
  corpus(folder / "raw")

  class HttpError(Exception):
    pass

  def refuse(self, path, *args, **kwargs):
    raise HttpError("Anonymous caller\nhas no access")

  monkeypatch.setattr("tests.bucket.Bucket._open", refuse)
  flags = command(f"{name}/raw/m.jsonl", f"{name}/made")
  assert prepare.main(flags) == 1
  err = capsys.readouterr().err
  said = "gs://corpora/raw/m.jsonl: HttpError: Anonymous caller has no access"
  assert err == f"prepare shard: {said}\n"
