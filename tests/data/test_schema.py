"""Each kind of bad row is refused with its line, field, reason and a fix."""

import json
import pathlib

import pytest

from mgrd_jax.data import schema

GOOD = {
  "id": "a",
  "question": "What is heard?",
  "answer": "dog",
  "answer_type": "choice",
  "options": ["dog", "rain"],
}


def refusals_of(tmp_path, *rows):
  """Refusals of rows given as dicts or as raw bytes."""
  lines = [
    row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows
  ]
  manifest = tmp_path / "manifest.jsonl"
  manifest.write_bytes(b"\n".join(lines) + b"\n")
  return schema.read_manifest(manifest)


def without(*names):
  return {k: v for k, v in GOOD.items() if k not in names}


BAD_ROWS = [
  (b"{'id': 'a'}", "row", "not JSON", "one JSON object a line"),
  (b"[" * 100_000, "row", "not JSON", "one JSON object a line"),
  (b"\xff\xfe{}", "row", "not UTF-8 text", "UTF-8"),
  (b'["a"]', "row", "not a JSON object", "list"),
  (b"null", "row", "not a JSON object", "NoneType"),
  (GOOD | {"qestion": "x"}, "qestion", "unknown field", "move it under"),
  (
    without("question") | {"qestion": "x"},
    "qestion",
    "unknown field",
    "did you mean 'question'?",
  ),
  (GOOD | {"audoi": "a.wav"}, "audoi", "unknown field", "'audio'"),
  (GOOD | {"question": "a <think>?"}, "question", "special token", "<think>"),
  (GOOD | {"reasoning": "<|EOT|>"}, "reasoning", "special token", "<|EOT|>"),
  (
    GOOD | {"options": ["dog", "<audio_end>"]},
    "options",
    "special token",
    "<audio_end>",
  ),
  (without("answer"), "answer", "missing field", "add 'answer'"),
  (GOOD | {"id": None}, "id", "missing field", "add 'id'"),
  (GOOD | {"id": 7}, "id", "wrong type", "a string, not int"),
  (GOOD | {"options": "dog"}, "options", "wrong type", "a list of strings"),
  (GOOD | {"options": [1, 2]}, "options", "wrong type", "a list of strings"),
  (GOOD | {"audio": 3}, "audio", "wrong type", "a list of strings"),
  (GOOD | {"audio": {"a.wav": 1}}, "audio", "wrong type", "not dict"),
  (GOOD | {"meta": []}, "meta", "wrong type", "an object"),
  (
    GOOD | {"meta": {"family": ["a"]}},
    "meta.family",
    "wrong type",
    'a string, not ["a"]',
  ),
  (GOOD | {"meta": {"given": 5}}, "meta.given", "wrong type", "not 5"),
  (GOOD | {"meta": {"family": None}}, "meta.family", "wrong type", "not null"),
  (GOOD | {"meta": {"hint": "no"}}, "meta.hint", "wrong type", "true or false"),
  (GOOD | {"meta": {"facts": []}}, "meta.facts", "wrong type", "an object"),
  (
    GOOD | {"meta": {"candidates": 0}},
    "meta.candidates",
    "wrong type",
    "a whole number from 1",
  ),
  (
    GOOD | {"meta": {"candidates": True}},
    "meta.candidates",
    "wrong type",
    "not true, or rename the key",
  ),
  (
    GOOD | {"meta": {"given": "<think>"}},
    "meta.given",
    "special token",
    "<think>",
  ),
  (GOOD | {"split": 3}, "split", "wrong type", "a string"),
  (GOOD | {"answer": True}, "answer", "wrong type", "not bool"),
  (
    GOOD | {"answer": True, "answer_type": "number"},
    "answer",
    "wrong type",
    "a number",
  ),
  (GOOD | {"question": " "}, "question", "empty", "write"),
  (GOOD | {"id": ""}, "id", "empty", "write"),
  (
    GOOD | {"answer_type": "choise"},
    "answer_type",
    "unknown answer type",
    "did you mean 'choice'?",
  ),
  (
    GOOD | {"answer": "Dog"},
    "answer",
    "answer not among the options",
    "did you mean 'dog'?",
  ),
  (GOOD | {"options": ["dog"]}, "options", "too few options", "this has 1"),
  (without("options"), "options", "too few options", "this has 0"),
  (
    GOOD | {"options": ["dog", "rain", "Rain "]},
    "options",
    "duplicated option",
    "2 times",
  ),
  (GOOD | {"options": ["dog", " "]}, "options", "empty option", "write"),
  (
    GOOD | {"answer": "three", "answer_type": "number"},
    "answer",
    "not a number",
    "digits",
  ),
  (
    GOOD | {"answer": float("nan"), "answer_type": "number"},
    "answer",
    "not a number",
    "digits",
  ),
  (GOOD | {"audio": "/tmp/a.wav"}, "audio", "absolute path", "relative"),
  (GOOD | {"audio": "C:\\a.wav"}, "audio", "absolute path", "relative"),
  (GOOD | {"audio": "https://a/b.wav"}, "audio", "absolute path", "relative"),
  (GOOD | {"audio": "~/a.wav"}, "audio", "absolute path", "relative"),
  (GOOD | {"audio": "gone.wav"}, "audio", "missing file", "gone.wav"),
  (GOOD | {"audio": ["a.wav", ""]}, "audio", "empty", "name a file"),
  (GOOD | {"audio": "a\0b.wav"}, "audio", "missing file", "a"),
  (GOOD | {"audio": "a" * 9999}, "audio", "missing file", "a"),
  (
    GOOD | {"audio": "gone.arrayrecord#3"},
    "audio",
    "missing file",
    "'gone.arrayrecord'",
  ),
  (GOOD | {"audio": ["a.wav"] * 9}, "audio", "too many clips", "8 are allowed"),
]


@pytest.mark.parametrize("row, field, reason, fix", BAD_ROWS)
def test_each_kind_of_bad_row_is_refused_with_what_to_do(
  tmp_path, row, field, reason, fix
):
  (tmp_path / "a.wav").write_bytes(b"x")
  examples, refusals = refusals_of(tmp_path, GOOD | {"id": "first"}, row)
  assert [e.id for e in examples] == ["first"]
  found = [r for r in refusals if (r.field, r.reason) == (field, reason)]
  assert len(found) == 1, refusals
  assert found[0].line == 2
  assert fix in found[0].fix
  assert "\n" not in str(found[0])
  assert str(found[0]).startswith("line 2 (id ")


def test_a_repeated_id_is_refused_and_the_first_line_named(tmp_path):
  examples, refusals = refusals_of(tmp_path, GOOD, GOOD | {"id": "b"}, GOOD)
  assert [e.id for e in examples] == ["a", "b"]
  assert [(r.line, r.reason) for r in refusals] == [(3, "duplicate id")]
  assert "line 1 " in refusals[0].fix


def test_all_problems_of_a_row_are_told_at_once(tmp_path):
  row = GOOD | {"answer": "cat", "options": ["dog", "dog"], "audio": "gone.wav"}
  _, refusals = refusals_of(tmp_path, row)
  assert {r.reason for r in refusals} == {
    "duplicated option",
    "answer not among the options",
    "missing file",
  }


def test_a_byte_order_mark_blank_lines_and_windows_line_ends_are_tolerated(
  tmp_path,
):
  row = json.dumps(GOOD | {"question": "Was hört man?"}, ensure_ascii=False)
  text = f"\ufeff\r\n{row}\r\n\r\n  \n"
  manifest = tmp_path / "manifest.jsonl"
  manifest.write_bytes(text.encode("utf-8"))
  examples, refusals = schema.read_manifest(manifest)
  assert not refusals
  assert examples[0].question == "Was hört man?"


def test_an_unusual_separator_inside_a_string_does_not_split_the_row(tmp_path):
  row = GOOD | {"question": "one\u2028two\x85three"}
  manifest = tmp_path / "manifest.jsonl"
  example = schema.from_json(row)
  schema.write_manifest(manifest, [example])
  assert schema.read_manifest(manifest) == ([example], [])


def test_one_clip_may_be_a_plain_string_and_lie_above_the_manifest(tmp_path):
  (tmp_path / "a.wav").write_bytes(b"x")
  folder = tmp_path / "out"
  folder.mkdir()
  examples, refusals = refusals_of(folder, GOOD | {"audio": "../a.wav"})
  assert not refusals
  assert examples[0].audio == ("../a.wav",)


def test_a_number_may_be_written_as_a_number_or_as_text(tmp_path):
  rows = [
    without("options") | {"id": str(i), "answer_type": "number", "answer": a}
    for i, a in enumerate([3, 2.5, "1,000", "-7"])
  ]
  examples, refusals = refusals_of(tmp_path, *rows)
  assert not refusals
  assert [e.answer for e in examples] == ["3", "2.5", "1,000", "-7"]


def test_examples_survive_writing_and_reading(tmp_path):
  full = schema.Example(
    id="ä",
    question="Q?",
    answer="x",
    answer_type="choice",
    audio=("a.wav", "b.arrayrecord#17"),
    options=("x", "y"),
    transcript="",
    reasoning="It is loud.\nSo x.",
    split="dev",
    source="made",
    meta={"fold": 3},
  )
  bare = schema.Example("b", "Q?", "free", "text")
  manifest = tmp_path / "manifest.jsonl"
  schema.write_manifest(manifest, [full, bare])
  assert schema.read_manifest(manifest, check_files=False) == ([full, bare], [])
  assert schema.from_json(schema.to_json(full)) == full
  assert [p.name for p in tmp_path.iterdir()] == ["manifest.jsonl"]


def test_a_failing_write_leaves_the_old_manifest(tmp_path):
  manifest = tmp_path / "manifest.jsonl"
  good = schema.Example("a", "Q?", "x", "text")
  schema.write_manifest(manifest, [good])
  bad = schema.Example("b", "Q?", "x", "text", meta={"no": pathlib.Path()})
  with pytest.raises(TypeError):
    schema.write_manifest(manifest, [good, bad])
  assert schema.read_manifest(manifest) == ([good], [])


def test_from_json_names_the_first_problem():
  with pytest.raises(ValueError, match="answer: missing field"):
    schema.from_json(without("answer"))


def test_a_missing_manifest_is_one_line(tmp_path):
  with pytest.raises(schema.ManifestError, match="gone.jsonl: cannot read"):
    schema.read_manifest(tmp_path / "gone.jsonl")
  with pytest.raises(schema.ManifestError):
    schema.read_manifest(tmp_path)


def test_refs_into_shards_are_told_from_files():
  assert schema.split_ref("a/b.arrayrecord#17") == ("a/b.arrayrecord", 17)
  assert schema.split_ref("take #3.wav") == ("take #3.wav", None)
