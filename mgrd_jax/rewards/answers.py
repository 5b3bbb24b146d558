"""Does a reply state the gold answer: choice, number or text.

    reply → normal form → tokens (number words collapsed) → one verdict

Strict on purpose, since a policy optimises whatever this accepts: a reply
that names two answers, or denies one, is wrong.  Unscorable (None) is not
wrong: it means that the *record* cannot decide.  One pass of regular
expressions without nested repetition, so time is linear in the reply.
"""

import re
import unicodedata
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

ANSWER_TYPES = ("choice", "number", "text")

# Digits beyond this are no answer, and int() is quadratic in them.
_MAX_DIGITS = 40
_SMALL = {
  word: value
  for value, word in enumerate(
    "zero one two three four five six seven eight nine ten eleven twelve "
    "thirteen fourteen fifteen sixteen seventeen eighteen nineteen".split()
  )
}
_TENS = {
  word: 10 * value
  for value, word in enumerate(
    "twenty thirty forty fifty sixty seventy eighty ninety".split(), start=2
  )
}
_SCALES = {"thousand": 1000, "million": 10**6}
_BEGINNINGS = frozenset(("hundred", *_SMALL, *_TENS, *_SCALES))
_ARTICLES = frozenset(("a", "an", "the"))
_DENIALS = frozenset(
  "not no never neither nor none nothing cannot except excluding without "
  "instead dont isnt cant doesnt didnt wasnt arent wont 不 没".split()
)
_DENIAL_PAIRS = frozenset(
  (("anything", "but"), ("everything", "but"), ("all", "but"))
  + (("rather", "than"),)
)
# These deny after "is" and before "answer"; "the wrong note" denies nothing.
_REJECTIONS = frozenset("incorrect wrong false unlikely impossible".split())
_COPULAS = frozenset("is are was were seems sounds".split())
_ANSWERS = frozenset("answer option choice".split())

# A word starts with a letter (C4, mp3), keeps its apostrophe and its
# accidental (C#); a number may carry a sign, separators and an exponent.
_TOKEN = re.compile(
  r"(?P<number>(?:(?<![\w.)\]%])-)?(?:\d+|(?<![\w.])\.\d+)"
  r"(?:[.,:/]\d+)*(?:[eE][+-]?\d+)?)"
  r"|(?P<word>[一-鿿]"
  r"|[^\W\d_一-鿿][^\W_一-鿿]*(?:'[^\W\d_]+)*[#♭]?)"
)
_PLAIN = re.compile(r"-?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+)?")
_QUOTIENT = re.compile(r"-?\d+/\d+")
_ZERO_WIDTH = re.compile(
  "[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff]"
)
_TAGS = re.compile(r"</?(?:answer|response)>", re.IGNORECASE)
_LEAD_IN = re.compile(
  r"(?:so,? )?(?:the |my )?(?:right |correct |final |best )?"
  r"(?:answer|option|choice)(?![\w'])(?: is\b)?\s*[:=]?",
  re.IGNORECASE,
)
_SPELLINGS = str.maketrans(
  {"’": "'", "‘": "'", "−": "-", "⁄": "/", "♯": "#", "*": None, "`": None}
)


class _Token(NamedTuple):
  text: str
  start: int
  end: int
  numeric: bool = False
  value: Fraction | None = None


def match(
  reply: str,
  gold: object,
  *,
  answer_type: str,
  options: Sequence[str] = (),
) -> bool | None:
  """Whether the reply states the gold answer; None if nothing could.

  choice: exactly one option is named, by its text, its letter or both, and
    it is the gold one.  Overlapping texts go to the longest ("light blue" is
    not "light"); a denial ("not sad") is wrong.
  number: exactly one number, in digits or English words, equal in value.
  text: equal after case, punctuation, articles and number words.
  A lead-in ("answer:", "the answer is") may open any reply.  An empty reply
  never scores.  None: the gold answer is empty, neither a string nor a
  number, has no one value, or names no single option; or two options read
  the same.  Raises ValueError for an
  unknown `answer_type`.
  """
  if answer_type not in ANSWER_TYPES:
    raise ValueError(f"answer_type {answer_type!r} not in {ANSWER_TYPES}")
  if isinstance(gold, bool) or not isinstance(gold, str | int | float):
    return None
  reply, gold = _normal(reply), _normal(str(gold))
  lead_in = _LEAD_IN.match(reply)
  said = reply[lead_in.end() :] if lead_in else reply
  if answer_type == "choice":
    return _match_choice(said, gold, [_normal(str(o)) for o in options])
  if answer_type == "number":
    return _match_number(said, gold)
  wanted = _content(_tokens(gold))
  if not wanted:
    return None
  return wanted in (_content(_tokens(said)), _content(_tokens(reply)))


def _normal(text: str) -> str:
  text = unicodedata.normalize("NFKC", text).translate(_SPELLINGS)
  return _TAGS.sub(" ", _ZERO_WIDTH.sub("", text)).strip()


def _content(tokens: Sequence[_Token]) -> list[str]:
  texts = [token.text for token in tokens]
  return [t for t in texts if t not in _ARTICLES] or texts


def _match_number(reply: str, gold: str) -> bool | None:
  wanted = {t.value for t in _tokens(gold) if t.numeric}
  if len(wanted) != 1 or None in wanted:
    return None
  tokens = _tokens(reply)
  if any(_denies(tokens, i) for i in range(len(tokens))):
    return False
  return {t.value for t in tokens if t.numeric} == wanted


def _match_choice(reply: str, gold: str, options: list[str]) -> bool | None:
  bodies = _without_letters(options)
  keys = [_content(_tokens(body)) for body in bodies]
  if not all(keys) or any(key in keys[:i] for i, key in enumerate(keys)):
    return None
  target = _content(_tokens(gold))
  if target in keys:
    wanted = keys.index(target)
  else:
    named = set(_mentions(gold, _tokens(gold), keys).values())
    if len(named) != 1:
      return None
    (wanted,) = named
  tokens = _tokens(reply)
  mentions = _mentions(reply, tokens, keys)
  if set(mentions.values()) != {wanted}:
    return False
  denials = [
    i for i in range(len(tokens)) if i not in mentions and _denies(tokens, i)
  ]
  # "No, it does not" repeats the option that it names.
  if _DENIALS & set(keys[wanted]):
    denials = [i for i in denials if i < min(mentions)]
  return not denials


def _mentions(text, tokens, keys) -> dict[int, int]:
  """Token index → the option that the token helps to name.

  Option texts first, leftmost and longest; then letters among the tokens
  that are left, unless an option is itself a single letter.
  """
  drop = not any(set(key) <= _ARTICLES for key in keys)
  kept = [
    i for i, t in enumerate(tokens) if not (drop and t.text in _ARTICLES)
  ]
  words = [tokens[i].text for i in kept]
  by_length = sorted(range(len(keys)), key=lambda o: -len(keys[o]))
  starts: dict[str, list[int]] = {}
  for option in by_length:
    starts.setdefault(keys[option][0], []).append(option)
  found: dict[int, int] = {}
  at = 0
  while at < len(words):
    step = 1
    for option in starts.get(words[at], ()):
      size = len(keys[option])
      if words[at : at + size] == keys[option]:
        for i in range(kept[at], kept[at + size - 1] + 1):
          found[i] = option
        step = size
        break
    at += step
  if any(len(key) == 1 and _is_letter(key[0]) for key in keys):
    return found
  for i, token in enumerate(tokens):
    if i not in found and _is_letter(token.text):
      option = ord(token.text) - ord("a")
      if option < len(keys) and _is_label(text, tokens, i):
        found[i] = option
  return found


def _is_letter(word: str) -> bool:
  return len(word) == 1 and "a" <= word <= "z"


def _is_label(text: str, tokens: Sequence[_Token], i: int) -> bool:
  """Whether a lone letter is an option's label rather than a word."""
  token = tokens[i]
  before = text[token.start - 1 : token.start]
  after = text[token.end : token.end + 1]
  if before.isalnum() or (before == "'") != (after == "'"):
    return False
  if len(tokens) == 1 or (after and after in ").:]}"):
    return True
  if token.text not in "ai":
    return True
  if i and tokens[i - 1].text in ("option", "choice", "letter"):
    return True
  if token.text == "i":
    return False
  # "a" is an article unless the sentence stops or chooses here.
  if i + 1 == len(tokens) or tokens[i + 1].text in ("or", "and", "nor", "is"):
    return True
  gap = text[token.end : tokens[i + 1].start].lstrip()
  return gap[:1] in tuple(",;-/&|+(")


def _denies(tokens: Sequence[_Token], i: int) -> bool:
  word = tokens[i].text
  before = tokens[i - 1].text if i else ""
  after = tokens[i + 1].text if i + 1 < len(tokens) else ""
  if word in _REJECTIONS:
    return before in _COPULAS or after in _ANSWERS
  return (
    word in _DENIALS
    or word.endswith("n't")
    or (before, word) in _DENIAL_PAIRS
  )


def _without_letters(options: Sequence[str]) -> list[str]:
  """Options without their own labels, if every one carries its label."""
  bodies = []
  for i, option in enumerate(options):
    label = re.match(rf"\(?{chr(ord('A') + i % 26)}[).:]\s?(?=.)", option)
    if label is None:
      return list(options)
    bodies.append(option[label.end() :])
  return bodies


def _tokens(text: str) -> list[_Token]:
  """Words in folded case; numbers of one value have one text."""
  tokens = []
  for found in _TOKEN.finditer(text):
    word, start, end = found.group().casefold(), found.start(), found.end()
    if found.lastgroup == "word":
      tokens.append(_Token(word, start, end))
    else:
      value = _number(word)
      # "6/8" is a value, but as an option it is not "3/4".
      plain = value is not None and "/" not in word
      name = f"={value}" if plain else word
      tokens.append(_Token(name, start, end, True, value))
  return _signed(_collapsed(tokens, text), text)


def _number(word: str) -> Fraction | None:
  """Value of digits, or None for a clock time, an exponent, a monster."""
  if len(word) > _MAX_DIGITS:
    return None
  if not (_PLAIN.fullmatch(word) or _QUOTIENT.fullmatch(word)):
    return None
  try:
    return Fraction(word.replace(",", ""))
  except (ValueError, ZeroDivisionError):
    return None


def _collapsed(tokens: list[_Token], text: str) -> list[_Token]:
  """"one hundred and five" as one token; "two, three" stays two."""
  out, i = [], 0
  while i < len(tokens):
    end, value = i, 0
    if tokens[i].text in _BEGINNINGS:
      end, value = _read_words(tokens, i, text)
    if end == i:
      out.append(tokens[i])
      i += 1
    else:
      span = tokens[i].start, tokens[end - 1].end
      out.append(_Token(f"={value}", *span, True, Fraction(value)))
      i = end
  return out


def _read_words(tokens, i, text) -> tuple[int, int]:
  """Longest number in words from token i: (index after it, its value)."""
  total = group = 0
  scale, last, at = 10**9, "start", i
  while at < len(tokens) and (at == i or _touch(tokens, at, text)):
    word = tokens[at].text
    open_group = last in ("start", "hundred", "scale")
    if word in _SMALL and (
      open_group or (last == "tens" and 0 < _SMALL[word] < 10)
    ):
      group, last = group + _SMALL[word], "small"
    elif word in _TENS and open_group:
      group, last = group + _TENS[word], "tens"
    elif word == "hundred" and last in ("start", "small") and group < 100:
      group, last = max(group, 1) * 100, "hundred"
    elif word in _SCALES and _SCALES[word] < scale and last != "scale":
      scale = _SCALES[word]
      total, group, last = total + max(group, 1) * scale, 0, "scale"
    elif not (
      word == "and"
      and last in ("hundred", "scale")
      and at + 1 < len(tokens)
      and tokens[at + 1].text in _SMALL | _TENS
      and _touch(tokens, at + 1, text)
    ):
      break
    at += 1
  return at, total + group


def _touch(tokens, i, text) -> bool:
  """Whether only spaces or a hyphen part token i from the one before."""
  return not text[tokens[i - 1].end : tokens[i].start].strip(" \t-")


def _signed(tokens: list[_Token], text: str) -> list[_Token]:
  """"minus five" as -5."""
  out: list[_Token] = []
  for i, token in enumerate(tokens):
    if (
      token.value is not None
      and token.value > 0
      and out
      and out[-1].text in ("minus", "negative")
      and _touch(tokens, i, text)
    ):
      start = out.pop().start
      name = f"={-token.value}"
      token = _Token(name, start, token.end, True, -token.value)
    out.append(token)
  return out
