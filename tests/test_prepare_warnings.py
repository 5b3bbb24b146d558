"""`experiments.prepare` warns of what is no error, and refuses no-numbers."""

import pytest

from experiments import prepare
from tests.test_prepare import clip, label_flags, row


def test_check_warns_of_splits_in_its_table_and_passes(tmp_path, capsys):
  for name in "abc":
    (tmp_path / f"{name}.wav").write_bytes(clip())
  rows = [row("a", split="test"), row("b"), row("c", split="dev")]
  rows += [row("again", audio="a.wav"), row("d", audio="c.wav", split="dev")]
  manifest = tmp_path / "m.jsonl"
  manifest.write_text("\n".join(rows))
  assert prepare.main(["check", str(manifest)]) == 0
  out = capsys.readouterr().out
  table = [" ".join(l.split()) for l in out.splitlines()]
  assert "warning: split is not read 2" in table
  assert "warning: clip of the test is also learned from 1" in table
  assert (
    "warning: split is not read (2 rows): no stage reads 'dev'; write train, "
    "test or pool\n" in out
  )
  assert "(1 row): 'a.wav': keep all rows of a clip in one split\n" in out


def test_check_warns_of_reasoning_without_the_answer_and_passes(
  tmp_path, capsys
):
  (tmp_path / "a.wav").write_bytes(clip())
  ends = ["a steady hum", "a steady hum. so tone", "a steady hum. so rain"]
  rows = [
    row(f"q{at}", audio="a.wav", reasoning=end) for at, end in enumerate(ends)
  ]
  manifest = tmp_path / "m.jsonl"
  manifest.write_text("\n".join([*rows, row("q3", audio="a.wav")]))
  assert prepare.main(["check", str(manifest)]) == 0
  out = capsys.readouterr().out
  assert "4 rows accepted, 0 refused" in out
  said = "warning: reasoning that MGRD does not keep"
  for why, name in (
    ("no conclusion", "q0"),
    ("reply differs from conclusion", "q2"),
  ):
    assert f"{said}, {why} (1 row): '{name}'; end it in \"so X\"" in out


def test_labels_warn_of_rows_that_no_stage_reads(tmp_path, capsys):
  lines = ["file,class_name,fold"]
  for n in range(4):
    (tmp_path / f"{n}.wav").write_bytes(b"x")
    lines.append(f"{n}.wav,label {n % 2},{('train', 'dev')[n // 2]}")
  table = tmp_path / "clips.csv"
  table.write_text("\n".join(lines))
  flags = label_flags(table, tmp_path / "m.jsonl", split_column="fold")
  assert prepare.main(flags) == 0
  out = capsys.readouterr().out
  assert "warning: split is not read (2 rows): no stage reads 'dev'" in out


@pytest.mark.parametrize("seconds", ["nan", "inf", "0", "-3", "long"])
@pytest.mark.parametrize("command", ["check", "shard"])
def test_seconds_that_are_none_are_one_line(
  tmp_path, capsys, command, seconds
):
  flags = [command, "m.jsonl", f"--max_seconds={seconds}"]
  out = tmp_path / "shards"
  with pytest.raises(SystemExit) as stopped:
    prepare.main(flags + [f"--out={out}"] * (command == "shard"))
  stderr = capsys.readouterr().err
  assert stopped.value.code == 2 and stderr.count("\n") == 1
  assert f"--max_seconds: '{seconds}': write seconds above 0" in stderr
  assert not out.exists()
