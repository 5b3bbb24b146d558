"""A damaged file of a run is one line that names it."""

import pytest

from experiments import files, mgrd, pipeline
from mgrd_jax.data import schema


def test_what_is_written_is_read_back(tmp_path):
  files.write_json(tmp_path / "a" / "b.json", {"x": [1, None]})
  assert files.read_json(tmp_path / "a" / "b.json") == {"x": [1, None]}
  files.write_lines(tmp_path / "c.jsonl", [{"x": 1}, ["\x85"]])
  assert files.read_lines(tmp_path / "c.jsonl") == [{"x": 1}, ["\x85"]]
  names = sorted(p.name for p in tmp_path.rglob("*"))
  assert names == ["a", "b.json", "c.jsonl"]


@pytest.mark.parametrize("content", [b"", b'{"x": 1', b"\xff\xfe", b"\0" * 9])
def test_a_damaged_result_is_named(tmp_path, content):
  path = tmp_path / "result.json"
  path.write_bytes(content)
  with pytest.raises(ValueError, match="remove it, and the same comm") as error:
    pipeline._done(tmp_path)
  assert str(error.value).startswith(f"{path}: damaged (")
  assert "\n" not in str(error.value)


def test_a_damaged_line_is_numbered(tmp_path):
  path = tmp_path / "sampled.jsonl"
  path.write_text('{"id": 1}\n{"id"\n')
  with pytest.raises(ValueError, match=r"sampled.jsonl line 2: damaged"):
    files.read_lines(path)


@pytest.fixture
def kept(tmp_path):
  """A round's folder: three kept chains and their funnel."""
  rows = [schema.Example(f"chain-{n}", "Q?", "a", "text") for n in range(3)]
  schema.write_manifest(tmp_path / "kept.jsonl", rows)
  files.write_json(tmp_path / "funnel.json", {"kept": 3, "sampled": 9})
  return tmp_path, rows


def test_kept_chains_are_read_back(kept):
  folder, rows = kept
  assert mgrd._read_back(folder) == (rows, {"kept": 3, "sampled": 9})


@pytest.mark.parametrize(
  "damage, message",
  [
    (lambda t: t[:-20], "damaged rows: 1; line 3 .id ?.*row: not JSON"),
    (lambda t: t.replace("Q?", "", 2), "damaged rows: 2; line 1"),
    (lambda t: t.split("\n", 1)[1], "2 rows where 3 were kept"),
  ],
)
def test_damaged_kept_chains_are_not_dropped_in_silence(kept, damage, message):
  path = kept[0] / "kept.jsonl"
  path.write_text(damage(path.read_text()))
  with pytest.raises(ValueError, match=message) as error:
    mgrd._read_back(kept[0])
  assert str(error.value).startswith(f"{path}: ")
  assert f"remove {kept[0] / 'funnel.json'}" in str(error.value)


def test_a_folder_is_there_when_it_is_whole(tmp_path):
  with files.new_folder(tmp_path / "a" / "out") as part:
    (part / "x").write_text("1")
    assert not (tmp_path / "a" / "out").exists()
  assert [p.name for p in (tmp_path / "a").iterdir()] == ["out"]
  with pytest.raises(OSError), files.new_folder(tmp_path / "b") as part:
    (part / "x").write_text("1")
    raise OSError("no room")
  assert [p.name for p in tmp_path.iterdir()] == ["a"]
