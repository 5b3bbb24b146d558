"""Split a response into what was thought and what was said.

    "<think>\\n" + sampled text  →  Parsed(closed, think, reply, present)

Works on text: the tags are ordinary characters, and a tokenizer may merge
one with its neighbours, so ids cannot show where a block ends.
"""

import dataclasses
import unicodedata

OPEN = "<think>"
CLOSE = "</think>"

# Letters by category, blank on screen.
_BLANK = frozenset("\u115f\u1160\u2800\u3164\uffa0")
# Controls, formats (zero-width ones), separators, lone combining marks.
_INVISIBLE = frozenset(("Cc", "Cf", "Cn", "Co", "Mn", "Me", "Zl", "Zp", "Zs"))


@dataclasses.dataclass(frozen=True)
class Parsed:
  """A response in parts.

  closed: it opens with the think tag and closes it exactly once.
  think: text between the tags, or all after the opening one if not closed.
  reply: text after the closing tag, verbatim; "" unless closed.
  present: closed, and the think block holds something visible.
  """

  closed: bool
  think: str
  reply: str
  present: bool


def parse(full_text: str) -> Parsed:
  """Parts of a full text, the prefilled opening tag included.

  Nothing is removed from the reply: special tokens reach the scorer as they
  were written.  A block of white space, zero-width characters or nothing but
  further tags is not present.
  """
  opens = full_text.startswith(OPEN)
  closed = opens and full_text.count(CLOSE) == 1
  body = full_text.removeprefix(OPEN)
  if not closed:
    return Parsed(False, body if opens else "", "", False)
  think, _, reply = body.partition(CLOSE)
  return Parsed(True, think, reply, _visible(think.replace(OPEN, "")))


def _visible(text: str) -> bool:
  return any(
    char not in _BLANK and unicodedata.category(char) not in _INVISIBLE
    for char in text
  )
