"""Correct, grounded, coherent: predicates on a chain that give reasons.

    reasons(response) == ()   <=>   the chain is kept

Grounded is decided on the waveform: the chain makes claims that signal
processing supports, none that it contradicts, some on each clip, and they
hold better here than on other clips.  Where the words are the evidence
(spoken sums), the quoted words must be the ones that were spoken.
"""

import dataclasses
import math
import re
from collections.abc import Sequence

from mgrd_jax.data import splits
from mgrd_jax.data.schema import Example
from mgrd_jax.grounding import claims as claims_lib
from mgrd_jax.grounding import verify
from mgrd_jax.rewards import answers
from mgrd_jax.text import tokenizer

_MARKS = tokenizer.SPECIAL + tokenizer.THINK
# Case and the point of a number are no matter: the model's words are in lower
# case, and a row of the user's is read before it is tokenised.
_CONCLUSION = re.compile(r"\bso,? ((?:[^.]|\.(?=\d))*)\.?\s*$", re.IGNORECASE)
_QUOTE = re.compile(r"the words say:? ([^.]*)")


@dataclasses.dataclass(frozen=True)
class Response:
  """A response in parts, with what the filters need to judge it.

  Attributes:
    example: the question it answers.
    think, reply: the two halves of the text.
    closed: the think block was closed, once.
    acc: the reply is right (1.0) and the model stopped.
    facts: measured facts of each clip that was heard.
    others: facts of other clips, against which a claim must do better.
  """

  example: Example
  think: str
  reply: str
  closed: bool
  acc: float
  facts: Sequence[dict] = ()
  others: Sequence[Sequence[dict]] = ()


def repetition(text: str, n: int = 4) -> float:
  """Share of n-grams of words that occurred before; 0 for short texts."""
  words = text.split()
  grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
  return 1 - len(set(grams)) / len(grams) if grams else 0.0


def incoherent(response: Response) -> str | None:
  """Why a chain is not coherent, or None.

  A coherent chain is closed and not empty, does not run in circles, does not
  deny hearing, reaches a conclusion, and the reply states that conclusion.
  """
  if not response.closed:
    return "not closed"
  if not response.think.strip():
    return "empty"
  if any(mark in response.think for mark in _MARKS):
    return "special token inside"
  if repetition(response.think) > 0.3:
    return "repetitive"
  if claims_lib.denies_hearing(response.think + " " + response.reply):
    return "denies hearing"
  found = _CONCLUSION.search(response.think.strip())
  if not found:
    return "no conclusion"
  # Whether the conclusion is on offer, or right, is not coherence.
  agrees = answers.match(response.reply, found[1], answer_type="text")
  return None if agrees else "reply differs from conclusion"


def ungrounded(response: Response) -> str | None:
  """Why a chain is not grounded in the clip, or None (rl.md 6.9, 7.4)."""
  example = response.example
  if example.meta.get("evidence") == "words":
    said = _QUOTE.search(response.think)
    if not said:
      return "quotes no words"
    true = (example.transcript or "").strip()
    return None if said[1].strip() == true else "misquotes the words"
  claims = claims_lib.parse(response.think)
  counts = verify.judge(claims, response.facts)
  if claims_lib.surrogate(response.think):
    return "speaks of text, not sound"
  if not counts.supported:
    return "no claim supported"
  if counts.contradicted:
    return "claim contradicted"
  if len({claim.clip for claim in claims}) < len(example.audio):
    return "a clip without a claim"
  if response.others:
    own = _support(claims, response.facts)
    base = [_support(claims, facts) for facts in response.others]
    if own - sum(base) / len(base) <= 0:
      return "holds as well on other clips"
  return None


def _support(claims, facts) -> float:
  precision = verify.judge(claims, facts).precision
  return 0.0 if math.isnan(precision) else precision


def reasons(response: Response, *, grounding: bool = True) -> tuple[str, ...]:
  """All reasons to reject, in the order correct, grounded, coherent.

  With `grounding=False` the grounding filter is off (a control).
  """
  found = []
  if not response.acc:
    found.append("wrong answer")
  why = ungrounded(response)
  if grounding and why:
    found.append(f"ungrounded: {why}")
  why = incoherent(response)
  if why:
    found.append(f"incoherent: {why}")
  return tuple(found)


def doubts(rows: Sequence[Example]) -> list[splits.Doubt]:
  """Reasoning to learn from whose like is rejected as incoherent, by reason.

  A model reasons as its rows do, so a round of MGRD would keep none of it.
  """
  found: dict[str, list[str]] = {}
  for row in splits.used(rows):
    if row.reasoning and row.split != "test":
      chain = row.meta.get("given", "") + row.reasoning
      why = incoherent(Response(row, chain, row.answer, True, 1.0))
      if why:
        found.setdefault(why, []).append(repr(row.id))
  return [
    splits.Doubt(
      f"reasoning that MGRD does not keep, {why}",
      len(ids),
      f"{', '.join(ids[:3])}{', ...' * (len(ids) > 3)}; end it in \"so X\" "
      "where X is the answer, deny no hearing and repeat nothing",
    )
    for why, ids in found.items()
  ]
