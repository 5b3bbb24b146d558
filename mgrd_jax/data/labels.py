"""A table of labelled clips → multiple-choice Examples.

  csv ─read_table→ rows ─examples→ Example(question, options, answer = label)

The order of the options and the choice of distractors depend on the seed and
the row's clip alone, so adding rows changes no other row.
"""

import csv
import difflib
import hashlib
import io
import os
import pathlib
from collections.abc import Sequence

from mgrd_jax.data import schema

ALL_OPTIONS_UP_TO = 10

Rows = list[dict[str, str]]


class TableError(ValueError):
  """A table that makes no questions; the message is one line."""


def read_table(path: str | os.PathLike) -> Rows:
  """Reads UTF-8 text with a header; commas, tabs or semicolons delimit.

  Raises:
    TableError: the table is missing, unreadable, ragged or empty.
  """
  path = pathlib.Path(path)
  try:
    text = path.read_text(encoding="utf-8-sig")
  except UnicodeDecodeError:
    raise TableError(f"{path}: not UTF-8 text; save the table so") from None
  except OSError as error:
    raise TableError(f"{path}: {error.strerror}; check the path") from None
  header = text.split("\n", 1)[0]
  delimiter = max(",\t;", key=header.count)
  # Strict: an unclosed quote would silently swallow the rows after it.
  reader = csv.DictReader(
    io.StringIO(text, newline=""), delimiter=delimiter, strict=True
  )
  rows, begins = [], 1
  try:
    columns = len(reader.fieldnames or ())
    begins = reader.line_num + 1
    for row in reader:
      if None in row or None in row.values():
        raise TableError(
          f"{path} line {reader.line_num}: {columns} columns expected; "
          "quote values that hold the delimiter"
        )
      rows.append({k.strip(): v.strip() for k, v in row.items()})
      begins = reader.line_num + 1
  except csv.Error as error:
    raise TableError(
      f"{path} line {begins}: cannot read the row that begins here, {error}; "
      "close the quote that it opens, write a quote inside a value twice"
    ) from None
  if not rows:
    raise TableError(f"{path}: no rows below the header")
  return rows


def examples(
  path: str | os.PathLike,
  *,
  manifest: str | os.PathLike,
  audio_column: str,
  label_column: str,
  question: str,
  split_column: str | None = None,
  test_splits: Sequence[str] | None = None,
  options: int | str | None = None,
  seed: int = 0,
) -> list[schema.Example]:
  """One multiple-choice Example for each row of a table.

  Args:
    path: the table; its clips' paths start at its own folder.
    manifest: where the Examples will be written; their audio is relative to
      its folder.
    audio_column, label_column: the clip and the answer.
    question: asked of every clip.
    split_column: without it every row is "train".
    test_splits: its values that make "test", the others are "train"; without
      them the column's values are the splits.
    options: how many, or "all"; None is all up to 10 labels, else 4.
    seed: draws the distractors and the order of the options.

  Raises:
    TableError: a column, a label or a clip is missing, an argument does not
      fit the table, or a row would break the schema.
  """
  if not question.strip():
    raise TableError("the question is empty")
  path, rows = pathlib.Path(path), read_table(path)
  wanted = [audio_column, label_column, split_column]
  _check_columns(path, list(rows[0]), [c for c in wanted if c is not None])
  names = _label_names(path, rows, label_column)
  count = _option_count(options, len(names))
  splits = _splits(path, rows, split_column, test_splits)
  # Real paths: `..` after a symbolic link would lead elsewhere.
  folder = pathlib.Path(manifest).parent.resolve()
  files = _audio_files(path, rows, audio_column)
  made = []
  for row, file, split in zip(rows, files, splits, strict=True):
    clip, label = row[audio_column], row[label_column]
    columns = {c: row[c] for c in wanted[1:] if c is not None}
    example = schema.Example(
      id=clip,
      question=question,
      answer=label,
      answer_type="choice",
      audio=(pathlib.Path(os.path.relpath(file, folder)).as_posix(),),
      options=_draw_options(names, label, count, f"{seed}/{clip}"),
      split=split,
      source=path.resolve().parent.name,
      # Under a key of their own: others, as "family", have a meaning.
      meta={"columns": columns},
    )
    for p in schema.problems(schema.to_json(example)):
      raise TableError(
        f"{path} row {len(made) + 1}: {p.field}: {p.reason}; {p.fix}"
      )
    made.append(example)
  return made


def _check_columns(path, columns: list[str], wanted: list[str]) -> None:
  for name in wanted:
    if name not in columns:
      near = difflib.get_close_matches(name, columns, n=1, cutoff=0.4)
      hint = f"did you mean {near[0]!r}? " if near else ""
      raise TableError(
        f"{path}: no column {name!r}; {hint}It has {', '.join(columns)}"
      )


def _label_names(path, rows: Rows, column: str) -> list[str]:
  for i, row in enumerate(rows, 1):
    if not row[column]:
      raise TableError(f"{path} row {i}: empty {column!r}; label it")
  names = sorted({row[column] for row in rows})
  if len(names) < 2:
    raise TableError(f"{path}: {column!r} has one value, a choice needs two")
  folded = {}
  for name in names:
    other = folded.setdefault(name.casefold(), name)
    if other != name:
      raise TableError(
        f"{path}: labels {other!r} and {name!r} differ in case only; unify them"
      )
  return names


def _option_count(options: int | str | None, n_labels: int) -> int:
  if options is None:
    return n_labels if n_labels <= ALL_OPTIONS_UP_TO else 4
  if options == "all":
    return n_labels
  if not str(options).isdecimal() or not 2 <= int(options) <= n_labels:
    raise TableError(
      f"options={options}: write all, or a number from 2 to {n_labels}, "
      "the number of labels"
    )
  return int(options)


def _splits(path, rows: Rows, column, test_splits) -> list[str]:
  if column is None:
    if test_splits is not None:
      raise TableError("test splits were named without a split column")
    return ["train"] * len(rows)
  values = [row[column] for row in rows]
  if "" in values:
    raise TableError(f"{path} row {values.index('') + 1}: empty {column!r}")
  if test_splits is None:
    if "train" not in values:
      known = ", ".join(sorted(set(values))[:10])
      raise TableError(
        f"{path}: none of {len(values)} rows is to train on: {column!r} has "
        f"{known}; name those of the test, as --test_splits={values[0]}"
      )
    return values
  for name in test_splits:
    if name not in values:
      known = ", ".join(sorted(set(values))[:10])
      raise TableError(
        f"{path}: test split {name!r} does not occur in {column!r}, "
        f"which has {known}"
      )
  if set(values) == set(test_splits):
    raise TableError(f"{path}: every row is a test row, none to train on")
  return ["test" if v in test_splits else "train" for v in values]


def _audio_files(path, rows: Rows, column: str) -> list[pathlib.Path]:
  first, files, missing = {}, [], []
  for i, row in enumerate(rows, 1):
    name = row[column]
    if not name:
      raise TableError(f"{path} row {i}: empty {column!r}; name its clip")
    if name in first:
      raise TableError(
        f"{path}: rows {first[name]} and {i} name the same clip {name!r}; "
        "keep one"
      )
    first[name] = i
    files.append((path.parent / name).resolve())
    if not files[-1].is_file():
      missing.append(name)
  if missing:
    raise TableError(
      f"{path}: {len(missing)} of {len(files)} clips are missing, "
      f"the first is {missing[0]!r}; paths start at the table's folder"
    )
  return files


def _draw_options(names, label: str, count: int, key: str) -> tuple[str, ...]:
  """The label among count - 1 others, ranked by hashes of the key."""

  def rank(purpose):
    return lambda n: hashlib.sha256(f"{key}/{purpose}/{n}".encode()).digest()

  others = sorted((n for n in names if n != label), key=rank("choose"))
  return tuple(sorted([label, *others[: count - 1]], key=rank("place")))
