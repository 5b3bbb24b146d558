"""Example: one question about audio, one line of a jsonl manifest.

  manifest.jsonl ─scan→ (line, Example) | Refusals ─write_manifest→ manifest

A row is refused with its line, id, field, reason and what to do; nothing is
repaired in silence.
"""

import collections
import dataclasses
import difflib
import functools
import json
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator

from etils import epath

from mgrd_jax import paths
from mgrd_jax.text import tokenizer

ANSWER_TYPES = ("choice", "number", "text")
MAX_CLIPS = 8

_SHARD_REF = re.compile(r"(.+\.arrayrecord)#(\d+)")
_ABSOLUTE = re.compile(r"[/\\~]|[A-Za-z]:[/\\]|[A-Za-z][A-Za-z0-9+.-]*://")


class ManifestError(ValueError):
  """A manifest that cannot be read at all; the message is one line."""


@dataclasses.dataclass(frozen=True)
class Example:
  """A question with its clips and its answer.

  `audio` holds files relative to the manifest's folder (`..` may occur), or
  records of shards as "shard.arrayrecord#17".  `split` is a free string;
  train, dev, test and pool are the usual ones.  `reasoning` is a chain to
  learn from.  Its last sentence is to be "so X", where X is the answer: other
  chains are learned too, but MGRD's filters keep none like them.
  """

  id: str
  question: str
  answer: str
  answer_type: str
  audio: tuple[str, ...] = ()
  options: tuple[str, ...] = ()
  transcript: str | None = None
  reasoning: str | None = None
  split: str = "train"
  source: str = ""
  meta: dict = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Problem:
  """What is wrong with a row; `reason` is fit for counting, `fix` is not."""

  field: str
  reason: str
  fix: str


@dataclasses.dataclass(frozen=True)
class Refusal:
  """One problem of one row of a manifest, with its line counted from 1."""

  line: int
  id: str | None
  field: str
  reason: str
  fix: str

  def __str__(self):
    return (
      f"line {self.line} (id {self.id or '?'}), {self.field}: {self.reason}; "
      f"{self.fix}"
    ).replace("\n", " ")


_FIELDS = {f.name: f for f in dataclasses.fields(Example)}
_REQUIRED = ("id", "question", "answer", "answer_type")
_WRITTEN = (*_REQUIRED, "split")
_LISTS = ("audio", "options")
_TEXTS = ("question", "options", "answer", "transcript", "reasoning")
# Keys of meta that some stage reads; others are free.
_META = {
  "background": bool,
  "candidates": int,
  "conflict": bool,
  "evidence": str,
  "facts": dict,
  "family": str,
  "given": str,
  "heldout": bool,
  "hint": bool,
  "own": bool,
}
_KINDS = {
  str: "a string",
  bool: "true or false",
  int: "a whole number from 1",
  dict: "an object",
}


def read_manifest(
  path: str | os.PathLike, *, check_files: bool = True
) -> tuple[list[Example], list[Refusal]]:
  """All good rows of a manifest, in order, and why the others were refused.

  Args:
    path: UTF-8 jsonl; a byte order mark and blank lines are tolerated.
    check_files: refuse rows whose audio files do not exist.

  Raises:
    ManifestError: the manifest is missing or unreadable.
  """
  examples, refusals = [], []
  for _, example, refused in scan(path, check_files=check_files):
    if example is not None:
      examples.append(example)
    refusals += refused
  return examples, refusals


def scan(
  path: str | os.PathLike, *, check_files: bool = True
) -> Iterator[tuple[int, Example | None, list[Refusal]]]:
  """Yields (line, Example or None, its refusals) for each row but blank ones.

  Raises:
    ManifestError: the manifest is missing or unreadable.
  """
  path = epath.Path(path)
  try:
    data = path.read_bytes()
  except OSError as error:
    why = error.strerror or type(error).__name__
    raise ManifestError(f"{path}: cannot read this manifest: {why}") from None
  exists = None
  if check_files:
    # Once a file: a shard is named by each of its rows.
    exists = functools.cache(lambda f: paths.below(path.parent, f).is_file())
  line_of_id = {}
  rows = data.removeprefix(b"\xef\xbb\xbf").split(b"\n")
  for line, raw in enumerate(rows, 1):
    if not raw.strip():
      continue
    row, found = _parse(raw)
    row_id = row.get("id") if isinstance(row, dict) else None
    row_id = row_id if isinstance(row_id, str) else None
    if not found:
      found = problems(row, exists)
      if row_id in line_of_id:
        first = f"line {line_of_id[row_id]} has it too: give each row its own"
        found.append(Problem("id", "duplicate id", first))
    if row_id is not None:
      line_of_id.setdefault(row_id, line)
    refused = [Refusal(line, row_id, *dataclasses.astuple(p)) for p in found]
    yield line, None if refused else _build(row), refused


def write_manifest(
  path: str | os.PathLike, examples: Iterable[Example]
) -> None:
  """Writes UTF-8 jsonl, one Example a line, whole or not at all."""
  lines = [json.dumps(to_json(e), ensure_ascii=False) + "\n" for e in examples]
  paths.write(path, "".join(lines))


def to_json(example: Example) -> dict:
  """A JSON object of the required fields, the split, and all that is set."""
  row = {}
  for name, field in _FIELDS.items():
    value = getattr(example, name)
    empty = name == "meta" and not value
    if name in _WRITTEN or not (empty or value == field.default):
      row[name] = list(value) if name in _LISTS else value
  return row


def from_json(row: dict) -> Example:
  """Builds an Example; audio files are not looked for.

  Raises:
    ValueError: the row breaks the schema; one line names the first problem.
  """
  for problem in problems(row):
    raise ValueError(f"{problem.field}: {problem.reason}; {problem.fix}")
  return _build(row)


def problems(
  row: object, exists: Callable[[str], bool] | None = None
) -> list[Problem]:
  """Everything that is wrong with one JSON row, [] if nothing.

  `exists` says of an audio file whether it is there; None looks for none.
  """
  if not isinstance(row, dict):
    fix = f'a row is an object like {{"id": ...}}, not {type(row).__name__}'
    return [Problem("row", "not a JSON object", fix)]
  found = _name_problems(row)
  for name in _FIELDS:
    if name in row:
      found += _type_problems(name, row)
  if not found:
    found = _answer_problems(row)
    found += _audio_problems(_as_list(row, "audio"), exists)
  return found


def split_ref(ref: str) -> tuple[str, int | None]:
  """The file and the record of an audio entry; None for a file of its own."""
  match = _SHARD_REF.fullmatch(ref)
  return (match[1], int(match[2])) if match else (ref, None)


def _parse(raw: bytes) -> tuple[object, list[Problem]]:
  try:
    return json.loads(raw.decode("utf-8")), []
  except UnicodeDecodeError:
    fix = "save the manifest as UTF-8"
    return None, [Problem("row", "not UTF-8 text", fix)]
  except (json.JSONDecodeError, RecursionError) as error:
    what = getattr(error, "msg", "nested too deeply")
    at = f" at column {error.colno}" if hasattr(error, "colno") else ""
    fix = f"{what}{at}: one JSON object a line is expected"
    return None, [Problem("row", "not JSON", fix)]


def _build(row: dict) -> Example:
  row = {k: v for k, v in row.items() if v is not None}
  lists = {k: tuple(_as_list(row, k)) for k in _LISTS}
  return Example(**row | lists | {"answer": str(row["answer"])})


def _as_list(row: dict, name: str) -> list:
  value = row.get(name)
  return [value] if isinstance(value, str) else value or []


def _name_problems(row: dict) -> list[Problem]:
  found = []
  absent = [n for n in _FIELDS if n not in row]
  for name in row:
    if name not in _FIELDS:
      near = difflib.get_close_matches(name, absent, n=1) or None
      fix = f"did you mean {near[0]!r}?" if near else "move it under 'meta'"
      found.append(Problem(name, "unknown field", fix))
  for name in _REQUIRED:
    if row.get(name) is None:
      found.append(Problem(name, "missing field", f"add {name!r} to the row"))
  return found


def _type_problems(name: str, row: dict) -> list[Problem]:
  value, kind = row[name], type(row[name]).__name__
  if value is None:
    return []
  if name in _LISTS:
    # One clip may stand as a plain string, one option makes no choice.
    good = isinstance(value, list) and all(isinstance(v, str) for v in value)
    good = good or (name == "audio" and isinstance(value, str))
    expected = "a list of strings"
  elif name == "meta":
    if isinstance(value, dict):
      return _meta_problems(value)
    good, expected = False, "an object"
  elif name == "answer" and row.get("answer_type") == "number":
    good = isinstance(value, (str, int, float)) and not isinstance(value, bool)
    expected = "a number or a string of digits"
  else:
    good, expected = isinstance(value, str), "a string"
  if good:
    return []
  return [Problem(name, "wrong type", f"write {expected}, not {kind}")]


def _meta_problems(meta: dict) -> list[Problem]:
  found = []
  for name, kind in _META.items():
    if name not in meta:
      continue
    value = meta[name]
    # A bool is an int too; a count of candidates is no bool and not 0.
    good = type(value) is kind and (kind is not int or value > 0)
    if not good:
      fix = f"write {_KINDS[kind]}, not {json.dumps(value)}, or rename the key"
      found.append(Problem(f"meta.{name}", "wrong type", fix))
  return found


def _answer_problems(row: dict) -> list[Problem]:
  found = []
  for name in ("id", "question", "answer"):
    if not str(row[name]).strip():
      found.append(Problem(name, "empty", "write some text"))
  texts = {name: row.get(name, "") for name in _TEXTS}
  texts["meta.given"] = (row.get("meta") or {}).get("given", "")
  for name, text in texts.items():
    written = str(text)
    for mark in tokenizer.SPECIAL + tokenizer.THINK:
      if mark in written:
        fix = f"the model's own {mark!r} cannot be written: remove it"
        found.append(Problem(name, "special token", fix))
  kind, answer = row["answer_type"], row["answer"]
  if kind not in ANSWER_TYPES:
    near = difflib.get_close_matches(kind, ANSWER_TYPES, n=1)
    fix = f"{kind!r} is none of {', '.join(ANSWER_TYPES)}"
    fix += f": did you mean {near[0]!r}?" if near else ""
    found.append(Problem("answer_type", "unknown answer type", fix))
  if kind == "number" and not _is_number(answer):
    fix = f"write {answer!r} in digits, such as 3 or 2.5"
    found.append(Problem("answer", "not a number", fix))
  if kind == "choice":
    found += _choice_problems(answer, _as_list(row, "options"))
  return found


def _choice_problems(answer: str, options: list[str]) -> list[Problem]:
  if len(options) < 2:
    fix = f"a choice needs 2 options or more, this has {len(options)}"
    return [Problem("options", "too few options", fix)]
  found = []
  counts = collections.Counter(o.strip().casefold() for o in options)
  for option, count in counts.items():
    if not option:
      found.append(Problem("options", "empty option", "write some text"))
    elif count > 1:
      fix = f"{option!r} occurs {count} times"
      found.append(Problem("options", "duplicated option", fix))
  if answer not in options:
    near = difflib.get_close_matches(answer, options, n=1, cutoff=0.5)
    fix = f"did you mean {near[0]!r}?" if near else "write an option's text"
    fix = f"{answer!r} is none of the {len(options)} options: {fix}"
    found.append(Problem("answer", "answer not among the options", fix))
  return found


def _is_number(answer: str | int | float) -> bool:
  try:
    return math.isfinite(float(str(answer).replace(",", "")))
  except ValueError:
    return False


def _audio_problems(audio: list[str], exists) -> list[Problem]:
  found = []
  if len(audio) > MAX_CLIPS:
    fix = f"{len(audio)} clips where {MAX_CLIPS} are allowed"
    found.append(Problem("audio", "too many clips", fix))
  for ref in audio:
    file, _ = split_ref(ref)
    if not ref.strip():
      found.append(Problem("audio", "empty", "name a file"))
    elif _ABSOLUTE.match(ref):
      fix = f"write {ref!r} relative to the manifest's folder"
      found.append(Problem("audio", "absolute path", fix))
    elif exists is not None and not exists(file):
      fix = f"no {file!r} seen from the manifest's folder"
      found.append(Problem("audio", "missing file", fix))
  return found
