"""`experiments.prepare`: bad input is one line, a result whole or absent."""

import collections
import io as stdlib_io
import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from configs import common
from experiments import prepare
from mgrd_jax.audio import io
from mgrd_jax.data import schema, sources

ROOT = pathlib.Path(__file__).parent.parent
ESC10 = ROOT.parent / "shared" / "data" / "esc10"


def clip(seconds=0.2, rate=16_000, channels=1, format="WAV"):
  time = np.arange(int(seconds * rate)) / rate
  wave = 0.3 * np.sin(2 * np.pi * 440 * time)
  buffer = stdlib_io.BytesIO()
  wave = np.repeat(wave[:, None], channels, axis=1)
  soundfile.write(buffer, wave, rate, format=format)
  return buffer.getvalue()


def row(name, **fields):
  base = {
    "id": name,
    "question": "What is heard?",
    "answer": "tone",
    "answer_type": "choice",
    "options": ["tone", "rain"],
    "audio": f"{name}.wav",
  }
  return json.dumps(base | fields)


GOOD_CLIPS = {
  "stereo": clip(channels=2),
  "8khz": clip(rate=8_000),
  "long": clip(29.9, 8_000),
  "mp3": clip(format="MP3"),
  "ogg": clip(format="OGG"),
}
BAD_CLIPS = {
  "empty": b"",
  "text": b"these are words\n" * 50,
  "cut": clip()[:2000],
  "silent": clip(0.0),
  "short": clip(0.02),
}


@pytest.fixture
def manifest(tmp_path):
  """Five good rows; then a row of each kind of bad clip, and bad rows."""
  folder = tmp_path / "data"
  folder.mkdir()
  for name, data in (GOOD_CLIPS | BAD_CLIPS).items():
    (folder / f"{name}.wav").write_bytes(data)
  lines = [row(name) for name in GOOD_CLIPS | BAD_CLIPS]
  lines += [row("gone"), row("stereo"), "{not json", row("x", answer="cat")]
  path = folder / "manifest.jsonl"
  path.write_text("\n".join(lines) + "\n")
  return path


@pytest.fixture
def table(tmp_path):
  """12 labels, 2 clips each, in folds 1 and 2; the clips hold no audio."""
  folder = tmp_path / "clips"
  folder.mkdir()
  lines = ["file,class_name,fold"]
  for i in range(24):
    (folder / f"{i}.wav").write_bytes(b"x")
    lines.append(f"{i}.wav,label {i % 12},{1 + i // 12}")
  path = folder / "clips.csv"
  path.write_text("\n".join(lines) + "\n")
  return path


def label_flags(table, out, **changes):
  flags = {
    "csv": table,
    "audio_column": "file",
    "label_column": "class_name",
    "question": "What makes this sound?",
    "out": out,
  } | changes
  flags = {k: v for k, v in flags.items() if v is not None}
  return ["labels", *(f"--{k}={v}" for k, v in flags.items())]


def files_below(folder):
  return sorted(p.name for p in folder.rglob("*"))


def test_check_counts_reasons_and_names_each_refused_row(manifest, capsys):
  assert prepare.main(["check", str(manifest)]) == 1
  out = capsys.readouterr().out
  assert "5 rows accepted, 9 refused" in out
  refused = [l for l in out.splitlines() if l.startswith("refused: ")]
  expected = [
    (6, "empty", "audio: empty file"),
    (7, "text", "audio: not audio that can be decoded"),
    (8, "cut", "audio: corrupt or cut short"),
    (9, "silent", "audio: no samples"),
    (10, "short", "audio: too short"),
    (11, "gone", "audio: missing file"),
    (12, "stereo", "id: duplicate id"),
    (13, "?", "row: not JSON"),
    (14, "x", "answer: answer not among the options"),
  ]
  # The last row's clip is missing too.
  assert len(refused) == 10
  for line, row_id, what in expected:
    assert any(
      r.startswith(f"refused: line {line} (id {row_id}), {what}; ")
      for r in refused
    ), (line, refused)
  table = [l.split() for l in out.split("refused: ")[0].splitlines()]
  assert ["missing", "file", "2"] in table
  assert ["accepted", "5"] in table


def test_check_passes_a_sound_manifest_and_obeys_max_seconds(manifest, capsys):
  good = manifest.read_text().splitlines()[: len(GOOD_CLIPS)]
  manifest.write_text("\n".join(good))
  assert prepare.main(["check", str(manifest)]) == 0
  out = capsys.readouterr().out
  assert "5 rows accepted, 0 refused" in out
  assert "warning: no test row: each fifth clip becomes the test" in out
  assert prepare.main(["check", str(manifest), "--max_seconds=20"]) == 1
  out = capsys.readouterr().out
  assert "line 3 (id long), audio: too long; " in out
  assert "29.9 s where 20 s are allowed" in out


def test_check_and_shard_refuse_the_clips_that_training_refuses(
  tmp_path, capsys
):
  (tmp_path / "a.wav").write_bytes(clip())
  (tmp_path / "b.wav").write_bytes(clip(40.0, 8_000))
  two = tmp_path / "two.arrayrecord"
  time = np.arange(40 * io.RATE) / io.RATE
  wave = np.sin(2 * np.pi * 440 * time).astype(np.float32)
  sources.write_clips(two, [wave[: io.RATE], wave])
  refs = ["a.wav", "b.wav", f"{two.name}#0", f"{two.name}#1"]
  manifest = tmp_path / "m.jsonl"
  rows = [row(f"q{i}", audio=ref) for i, ref in enumerate(refs)]
  manifest.write_text("\n".join(rows))

  assert common.base("tiny").data.max_seconds == 29.98
  said = (
    "40.0 s where 29.98 s are allowed: cut it, "
    "training leaves out clips over 29.98 s\n"
  )
  assert prepare.main(["check", str(manifest)]) == 1
  out = capsys.readouterr().out
  assert f"line 2 (id q1), audio: too long; b.wav: {said}" in out
  assert f"line 4 (id q3), audio: too long; {refs[3]}: {said}" in out
  shards = tmp_path / "shards"
  assert prepare.main(["shard", str(manifest), f"--out={shards}"]) == 0
  assert f"b.wav: {said}" in capsys.readouterr().out
  examples, _ = schema.read_manifest(shards / "manifest.jsonl")
  assert [e.id for e in examples] == ["q0", "q2"]
  assert prepare.main(["check", str(manifest), "--max_seconds=60"]) == 0


def test_check_prints_markup_in_a_manifest_as_it_stands(tmp_path, capsys):
  manifest = tmp_path / "m.jsonl"
  manifest.write_text(row("a", id="[bold]a[/nope]", audio=[], answer="cat"))
  assert prepare.main(["check", str(manifest)]) == 1
  assert "(id [bold]a[/nope])" in capsys.readouterr().out


@pytest.mark.parametrize("content", [None, ""])
def test_a_missing_or_empty_manifest_is_one_line_on_stderr(
  tmp_path, capsys, content
):
  manifest = tmp_path / "m.jsonl"
  if content is not None:
    manifest.write_text(content)
  assert prepare.main(["check", str(manifest)]) == 1
  stdout, stderr = capsys.readouterr()
  assert not stdout
  assert stderr.startswith(f"prepare check: {manifest}: ")
  assert stderr.count("\n") == 1


def test_shards_hold_the_good_rows_with_the_same_waves(manifest, capsys):
  out = manifest.parent.parent / "made" / "shards"
  flags = ["shard", str(manifest), f"--out={out}", "--examples_per_shard=2"]
  assert prepare.main(flags) == 0
  assert "5 rows accepted, 9 refused" in capsys.readouterr().out
  examples, refusals = schema.read_manifest(out / "manifest.jsonl")
  assert not refusals
  assert [e.id for e in examples] == list(GOOD_CLIPS)
  assert len({schema.split_ref(e.audio[0])[0] for e in examples}) > 1
  before = sources.ClipStore(manifest.parent)
  after = sources.ClipStore(out)
  for example in examples:
    np.testing.assert_array_equal(
      io.to_int16(after.wave(example.audio[0])),
      io.to_int16(before.wave(f"{example.id}.wav")),
    )
  assert prepare.main(["check", str(out / "manifest.jsonl")]) == 0


def test_a_clip_of_many_questions_is_stored_once(tmp_path):
  (tmp_path / "a.wav").write_bytes(clip())
  manifest = tmp_path / "m.jsonl"
  rows = [row(f"q{i}", audio=["a.wav", "a.wav"]) for i in range(5)]
  manifest.write_text("\n".join(rows))
  out = tmp_path / "out"
  flags = ["shard", str(manifest), f"--out={out}", "--examples_per_shard=2"]
  assert prepare.main(flags) == 0
  examples, _ = schema.read_manifest(out / "manifest.jsonl")
  assert {ref for e in examples for ref in e.audio} == {
    "clips-00000.arrayrecord#0"
  }


def test_sharding_again_changes_nothing(manifest, capsys):
  out = manifest.parent.parent / "shards"
  flags = ["shard", str(manifest), f"--out={out}"]
  assert prepare.main(flags) == 0
  before = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in out.iterdir()}
  capsys.readouterr()
  assert prepare.main(flags) == 0
  assert "already there" in capsys.readouterr().out
  after = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in out.iterdir()}
  assert before == after


def test_sharding_spares_folders_that_are_not_its_own_result(manifest, capsys):
  out = manifest.parent.parent / "mine"
  out.mkdir()
  (out / "thesis.txt").write_text("dear")
  flags = ["shard", str(manifest), f"--out={out}"]
  assert prepare.main(flags) == 1
  assert "holds other things" in capsys.readouterr().err
  assert files_below(out) == ["thesis.txt"]

  (out / "thesis.txt").unlink()
  assert prepare.main(flags) == 0
  (manifest.parent / "ogg.wav").write_bytes(clip(0.3))
  assert prepare.main(flags) == 1
  assert "an earlier result from other inputs" in capsys.readouterr().err


def test_sharding_nothing_usable_writes_nothing(tmp_path, capsys):
  manifest = tmp_path / "m.jsonl"
  manifest.write_text(row("gone"))
  out = tmp_path / "out"
  assert prepare.main(["shard", str(manifest), f"--out={out}"]) == 1
  assert "no usable rows" in capsys.readouterr().err
  assert files_below(tmp_path) == ["m.jsonl"]


def test_labels_become_seeded_questions_with_splits(table, capsys):
  out = table.parent.parent / "made" / "deep" / "manifest.jsonl"
  flags = label_flags(table, out, split_column="fold", test_splits="2")
  assert prepare.main(flags) == 0
  assert "12 test, 12 train" in capsys.readouterr().out
  examples, refusals = schema.read_manifest(out)
  assert not refusals
  assert len({e.id for e in examples}) == 24
  for i, example in enumerate(examples):
    assert example.answer == f"label {i % 12}"
    assert len(set(example.options)) == 4
    assert example.split == ("test" if i >= 12 else "train")
    assert (out.parent / example.audio[0]).samefile(table.parent / f"{i}.wav")
    assert example.meta["columns"]["fold"] == str(1 + i // 12)
  places = collections.Counter(e.options.index(e.answer) for e in examples)
  assert len(places) == 4


@pytest.mark.parametrize(
  "label, split",
  [
    ("family", "given"),
    ("evidence", "heldout"),
    ("hint", "conflict"),
    ("own", "background"),
    ("facts", "candidates"),
  ],
)
def test_a_column_named_as_a_key_of_meta_takes_no_meaning_from_it(
  table, tmp_path, label, split
):
  text = table.read_text()
  table.write_text(text.replace("class_name,fold", f"{label},{split}"))
  out = tmp_path / "m.jsonl"
  flags = {"label_column": label, "split_column": split, "test_splits": "2"}
  assert prepare.main(label_flags(table, out, **flags)) == 0
  first = schema.read_manifest(out)[0][0]
  assert first.meta == {"columns": {label: "label 0", split: "1"}}


def test_the_seed_and_the_clip_alone_decide_the_options(table, tmp_path):
  def options(name, **changes):
    out = tmp_path / name / "m.jsonl"
    assert prepare.main(label_flags(table, out, **changes)) == 0
    return {e.id: e.options for e in schema.read_manifest(out)[0]}

  first = options("a")
  assert options("b") == first
  assert options("c", seed=1) != first
  # Fewer rows with the same labels: the rest stay as they were.
  text = table.read_text()
  table.write_text("\n".join(text.splitlines()[:15]) + "\n")
  fewer = options("d")
  assert fewer == {k: first[k] for k in fewer}


def test_every_label_is_an_option_when_asked_or_when_there_are_ten(
  table, tmp_path
):
  out = tmp_path / "all.jsonl"
  assert prepare.main(label_flags(table, out, options="all")) == 0
  assert {len(e.options) for e in schema.read_manifest(out)[0]} == {12}
  lines = table.read_text().splitlines()
  table.write_text("\n".join(lines[:11]))
  out = tmp_path / "ten.jsonl"
  assert prepare.main(label_flags(table, out)) == 0
  examples = schema.read_manifest(out)[0]
  assert {len(e.options) for e in examples} == {10}
  assert {e.split for e in examples} == {"train"}


def test_tabs_and_a_byte_order_mark_are_understood(table, tmp_path):
  tsv = table.with_suffix(".tsv")
  tsv.write_text("\ufeff" + table.read_text().replace(",", "\t"))
  out = tmp_path / "m.jsonl"
  assert prepare.main(label_flags(tsv, out)) == 0
  assert len(schema.read_manifest(out)[0]) == 24


@pytest.mark.parametrize(
  "changes, message",
  [
    ({"label_column": "clas_name"}, "no column 'clas_name'; did you mean 'cla"),
    ({"audio_column": "zzz"}, "no column 'zzz'; It has file, class_name, fold"),
    ({"split_column": "flod", "test_splits": "1"}, "did you mean 'fold'?"),
    ({"split_column": "fold", "test_splits": "9"}, "'9' does not occur"),
    ({"split_column": "fold", "test_splits": "1,2"}, "none to train on"),
    ({"test_splits": "1"}, "without a split column"),
    (
      {"split_column": "fold"},
      "none of 24 rows is to train on: 'fold' has 1, 2; name those of the "
      "test, as --test_splits=1",
    ),
    ({"question": "a <think>?"}, "row 1: question: special token; the model"),
    ({"options": "1"}, "from 2 to 12"),
    ({"options": "13"}, "from 2 to 12"),
    ({"options": "many"}, "write all, or a number"),
    ({"question": " "}, "question is empty"),
    ({"csv": "gone.csv"}, "gone.csv: No such file"),
  ],
)
def test_flags_that_do_not_fit_the_table_are_one_line(
  table, tmp_path, capsys, changes, message
):
  out = tmp_path / "made" / "m.jsonl"
  assert prepare.main(label_flags(table, out, **changes)) == 1
  stderr = capsys.readouterr().err
  assert message in stderr
  assert stderr.startswith("prepare labels: ")
  assert stderr.count("\n") == 1
  assert not out.parent.exists()


@pytest.mark.parametrize(
  "old, new, message",
  [
    ("3.wav,label 3", "gone.wav,label 3", "1 of 24 clips are missing"),
    ("3.wav,label 3", "2.wav,label 3", "rows 3 and 4 name the same clip"),
    ("3.wav,label 3", "3.wav,", "row 4: empty 'class_name'"),
    ("3.wav,label 3", ",label 3", "row 4: empty 'file'"),
    ("3.wav,label 3", "3.wav,LABEL 2", "differ in case only"),
    ("3.wav,label 3", "3.wav,<think>", "own '<think>' cannot be written: rem"),
    ("3.wav,label 3", "3.wav,a,label 3", "line 5: 3 columns expected"),
    ("3.wav,label 3,1", "3.wav", "line 5: 3 columns expected"),
  ],
)
def test_tables_with_a_bad_row_are_one_line(
  table, tmp_path, capsys, old, new, message
):
  table.write_text(table.read_text().replace(f"\n{old}", f"\n{new}", 1))
  out = tmp_path / "made" / "m.jsonl"
  assert prepare.main(label_flags(table, out)) == 1
  assert message in capsys.readouterr().err
  assert not out.parent.exists()


@pytest.mark.parametrize("rows", [20, 12_000], ids=["small", "over 128 KiB"])
@pytest.mark.parametrize(
  "at, opened",
  [(1, 'file,"class_name,fold'), (5, '3.wav,"label 3,1'), (5, '3.wav,a,"1')],
)
def test_an_unclosed_quote_is_one_line(
  table, tmp_path, capsys, rows, at, opened
):
  lines = table.read_text().splitlines()
  lines[at - 1] = opened
  lines += [f"more/{i}.wav,label 1,2" for i in range(rows)]
  table.write_text("\n".join(lines) + "\n")
  out = tmp_path / "made" / "m.jsonl"
  assert prepare.main(label_flags(table, out)) == 1
  stdout, stderr = capsys.readouterr()
  assert not stdout
  assert stderr.startswith(f"prepare labels: {table} line {at}: ")
  assert "close the quote" in stderr
  assert stderr.count("\n") == 1
  assert not out.parent.exists()


def test_quoted_values_hold_delimiters_line_ends_and_quotes(table, tmp_path):
  old, new = "label 3,", '"a, ""b""\nc",'
  table.write_text(table.read_text().replace(old, new))
  out = tmp_path / "m.jsonl"
  assert prepare.main(label_flags(table, out)) == 0
  assert schema.read_manifest(out)[0][3].answer == 'a, "b"\nc'


def test_labels_replace_another_manifest_only_when_told(
  table, tmp_path, capsys
):
  out = tmp_path / "m.jsonl"
  flags = label_flags(table, out)
  assert prepare.main(flags) == 0
  assert prepare.main(flags) == 0
  other = label_flags(table, out, question="Who?")
  assert prepare.main(other) == 1
  assert "add --overwrite" in capsys.readouterr().err
  assert prepare.main([*other, "--overwrite"]) == 0
  assert {e.question for e in schema.read_manifest(out)[0]} == {"Who?"}
  assert prepare.main(label_flags(table, tmp_path)) == 1
  assert "a folder" in capsys.readouterr().err


def test_the_command_line_fails_in_one_line_without_a_traceback(tmp_path):
  done = subprocess.run(
    [sys.executable, "-m", "experiments.prepare", "chekc", "x"],
    cwd=ROOT,
    capture_output=True,
    text=True,
    timeout=60,
  )
  assert done.returncode == 2
  assert done.stderr.count("\n") == 1
  assert "invalid choice: 'chekc'" in done.stderr


@pytest.mark.skipif(not ESC10.is_dir(), reason="the ESC-10 clips are absent")
def test_esc10_becomes_eighty_clips_to_learn_from_and_forty_held_out(
  tmp_path, capsys
):
  out = tmp_path / "esc10" / "manifest.jsonl"
  flags = label_flags(
    ESC10 / "clips.csv", out, split_column="fold", test_splits="3"
  )
  assert prepare.main(flags) == 0
  assert "10 options each, chance 0.100" in capsys.readouterr().out
  examples, refusals = schema.read_manifest(out)
  assert not refusals
  splits = collections.Counter(e.split for e in examples)
  assert splits == {"train": 80, "test": 40}
  held_out = [e.answer for e in examples if e.split == "test"]
  assert set(collections.Counter(held_out).values()) == {4}
  store = sources.ClipStore(out.parent)
  for example in examples[::12]:
    assert 1.0 < len(store.wave(example.audio[0])) / io.RATE < 6.0
