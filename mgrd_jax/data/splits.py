"""What the splits of one's own manifest do, and what one may not expect.

    rows --used--> rows that some stage reads;  rows --doubts--> warnings
"""

import collections
import dataclasses
import posixpath
from collections.abc import Sequence

from mgrd_jax.data import schema
from mgrd_jax.data.schema import Example

READ = ("train", "test", "pool")


@dataclasses.dataclass(frozen=True)
class Doubt:
  """Something about a manifest that is no error; `rows` are concerned."""

  reason: str
  rows: int
  fix: str

  def __str__(self):
    some = "s" * (self.rows != 1)
    rows = f" ({self.rows} row{some})" if self.rows else ""
    return f"{self.reason}{rows}: {self.fix}"


def used(rows: Sequence[Example]) -> list[Example]:
  """The rows that some stage reads."""
  return [row for row in rows if row.split in READ]


def doubts(rows: Sequence[Example]) -> list[Doubt]:
  """What training and test would make of these rows; [] if all is plain.

  A clip is known by its path, so a copy of a file is another clip.
  """
  found = []
  count = collections.Counter(row.split for row in rows)
  unread = {repr(s): n for s, n in sorted(count.items()) if s not in READ}
  if unread:
    named = ", ".join(list(unread)[:5]) + ", ..." * (len(unread) > 5)
    fix = f"no stage reads {named}; write train, test or pool"
    found.append(Doubt("split is not read", sum(unread.values()), fix))
  if not count["train"]:
    fix = "nothing of this manifest is taught; give rows the split train"
    found.append(Doubt("no train row", 0, fix))
  if not count["test"]:
    fix = (
      "each fifth clip becomes the test; to choose it, give rows the split test"
    )
    found.append(Doubt("no test row", 0, fix))
  test = [row for row in rows if row.split == "test"]
  learned = [row for row in used(rows) if row.split != "test"]
  shared = {c for r in test for c in _clips(r)}
  shared &= {c for r in learned for c in _clips(r)}
  if shared:
    more = f" and {len(shared) - 1} more" if len(shared) > 1 else ""
    fix = f"{min(shared)!r}{more}: keep all rows of a clip in one split"
    asked = sum(not shared.isdisjoint(_clips(r)) for r in test)
    found.append(Doubt("clip of the test is also learned from", asked, fix))
  return found


def _clips(row: Example) -> set[str]:
  """The row's refs, each file named in one way."""
  found = set()
  for ref in row.audio:
    file, record = schema.split_ref(ref)
    path = posixpath.normpath(file)
    found.add(path if record is None else f"{path}#{record}")
  return found
