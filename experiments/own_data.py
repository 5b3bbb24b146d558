"""The user's own manifest: its rows as the stages see them.

    manifest --read--> rows that can be used, and why others are skipped
    built-in rows, own rows --joined--> what a run learns, and its test
"""

import dataclasses
from collections.abc import Sequence

from mgrd_jax.data import schema, splits
from mgrd_jax.data.schema import Example
from mgrd_jax.mgrd import filters
from mgrd_jax.text import chat
from mgrd_jax.text import tokenizer as tokenizer_lib

ROUNDED = 8  # lengths of responses are multiples of this


def read(manifest, stores) -> tuple[list[Example], list[str]]:
  """(rows of the user's manifest that can be used, why others are skipped).

  Says once what one may not expect of its splits and of its reasoning.

  Raises:
    SystemExit: no row can be used.
  """
  rows, refusals = schema.read_manifest(manifest)
  for doubt in splits.doubts(rows) + filters.doubts(rows):
    print(f"{manifest}: {doubt}")
  found, skipped = [], one_a_row(refusals)
  for row in splits.used(rows):
    own = _own_row(row)
    try:
      for ref in own.audio:
        stores.wave(ref)
    except ValueError as error:
      skipped.append(f"{row.id}: {error}")
    else:
      found.append(own)
  if not found:
    raise SystemExit(
      f"{manifest}: no row can be used; run python -m experiments.prepare "
      f"check {manifest}"
    )
  return found, skipped


def one_a_row(refusals: Sequence[schema.Refusal]) -> list[str]:
  """The first problem of each refused row."""
  first = {r.line: str(r) for r in reversed(refusals)}
  return [first[line] for line in sorted(first)]


def joined(built_in, own) -> list[Example]:
  """The user's questions are the test; the built-in ones stay to train on."""
  if not any(e.split == "test" for e in own):
    own = _hold_out(own)
  return [e for e in built_in if e.split != "test"] + list(own)


def _hold_out(rows: list[Example], share: int = 5) -> list[Example]:
  """Every fifth clip is the test, with all questions about it.

  Where a question is about several clips, all of them go the same way.
  Questions without a clip stay to train on.
  """
  group = {ref: ref for row in rows for ref in row.audio}

  def root(ref):
    while group[ref] != ref:
      ref = group[ref]
    return ref

  for row in rows:
    for ref in row.audio:
      group[root(ref)] = root(row.audio[0])
  roots = dict.fromkeys(root(row.audio[0]) for row in rows if row.audio)
  held = set(list(roots)[::share])
  return [
    dataclasses.replace(row, split="test")
    if row.audio and root(row.audio[0]) in held
    else row
    for row in rows
  ]


def _own_row(row: Example) -> Example:
  """A manifest row as the stages see it; its source is "own".

  Refs are in the namespace of `assembly.Stores`, and the id is in one of its
  own: it may be that of a built-in row.
  """
  meta = dict(row.meta) | {"own": True, "family": row.meta.get("family", "own")}
  return dataclasses.replace(
    row,
    id=f"own:{row.id}",
    audio=tuple(f"1:{ref}" for ref in row.audio),
    source="own",
    meta=meta,
  )


def longest_response(
  tokenizer: tokenizer_lib.Tokenizer, examples: Sequence[Example]
) -> int:
  """Tokens of the longest response among the user's rows to learn from.

  Reasoning, the tag that closes it, answer and end mark, up to a multiple of
  8; 0 without such rows.
  """
  lengths = [0]
  for e in examples:
    if e.meta.get("own") and e.split != "test":
      parts = chat.response(
        tokenizer,
        given=e.meta.get("given", ""),
        reasoning=e.reasoning,
        answer=e.answer,
      )
      lengths.append(sum(map(len, parts)))
  return -(-max(lengths) // ROUNDED) * ROUNDED
