"""Responses -> items -> the numbers of one evaluation.

    Record (question, text, facts) --grade--> item dict --summary--> M
"""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from mgrd_jax.data.schema import Example
from mgrd_jax.eval import stats
from mgrd_jax.grounding import claims as claims_lib
from mgrd_jax.grounding import verify
from mgrd_jax.mgrd import filters
from mgrd_jax.rewards import answers, combine, format


@dataclasses.dataclass(frozen=True)
class Record:
  """One response to be graded.

  Attributes:
    example: the question; its own answer is the gold one.
    text: the full text, prefilled tag included, the token that ended it not.
    stopped: the model ended its turn.
    tokens: tokens of the response.
    facts: measured facts of the clips that were *heard*.
    other_answer: gold answer of the clip that was heard instead, if swapped.
  """

  example: Example
  text: str
  stopped: bool
  tokens: int
  facts: Sequence[dict] = ()
  other_answer: str | None = None


def chance(example: Example) -> float:
  """Accuracy of a uniform guess: over options, or declared candidates.

  0 for an open question, which no guess answers.
  """
  choices = len(example.options) or example.meta.get("candidates", 0)
  return 1 / choices if choices else 0.0


def think(text: str) -> str:
  """The think block of a full text."""
  return format.parse(text).think.strip()


def grade(record: Record, *, think_tokens: int = 0) -> dict:
  """One item: rightness, form, claims with their verdicts."""
  example = record.example
  score = combine.score_response(
    record.text,
    record.stopped,
    gold=example.answer,
    answer_type=example.answer_type,
    options=example.options,
  )
  parsed = format.parse(record.text)
  response = filters.Response(
    example,
    parsed.think,
    parsed.reply,
    parsed.closed,
    score["acc"],
    record.facts,
  )
  claims = claims_lib.parse(parsed.think)
  item = {
    "id": example.id,
    "source": example.source,
    "family": example.meta.get("family", ""),
    "question": example.question,
    "options": list(example.options),
    "gold": example.answer,
    "think": parsed.think.strip(),
    "reply": parsed.reply.strip(),
    "acc": score["acc"],
    "stopped": score["stopped"],
    "empty": float(parsed.closed and not parsed.present),
    "coherent": float(filters.incoherent(response) is None),
    "offered": _offered(parsed.reply, example.options),
    "think_tokens": think_tokens,
    "words_are_evidence": example.meta.get("evidence") == "words",
    "surrogate": float(claims_lib.surrogate(parsed.think)),
    "conflict": bool(example.meta.get("conflict")),
    "heldout": bool(example.meta.get("heldout")),
    "chance": chance(example),
    "claims": [
      {
        "text": c.text,
        "attribute": c.attribute,
        "value": c.value,
        "verdict": verify.verdict(c, record.facts)
        if record.facts
        else verify.UNVERIFIABLE,
      }
      for c in claims
    ],
  }
  if record.other_answer is not None:
    swapped = dataclasses.replace(example, answer=record.other_answer)
    item["follow"] = combine.score_response(
      record.text,
      record.stopped,
      gold=swapped.answer,
      answer_type=swapped.answer_type,
      options=swapped.options,
    )["acc"]
  return item


def paired(
  think: Sequence[dict], direct: Sequence[dict], *, seed: int = 0
) -> dict:
  """Thinking against direct answering on the same items (rl.md 7.2).

  diff: mean difference in accuracy, with its interval over items; only_think,
  only_direct: items that one of the two has right; p: exact McNemar.

  Raises:
    ValueError: the two are of different questions.
  """
  if [i["id"] for i in think] != [i["id"] for i in direct]:
    raise ValueError("unpaired: the items are of different questions")
  if not think:
    names = "diff", "ci95", "only_think", "only_direct", "p"
    return dict.fromkeys(names)
  a_B, b_B = (np.array([i["acc"] for i in x]) for x in (think, direct))
  diff, *bounds = stats.paired_difference_ci(a_B, b_B, seed=seed)
  only_think, only_direct, p = stats.mcnemar_exact(a_B, b_B)
  return {
    "diff": round(diff, 6),
    "ci95": [round(x, 6) for x in bounds],
    "only_think": only_think,
    "only_direct": only_direct,
    "p": p,
  }


def _offered(reply: str, options: Sequence[str]) -> float | None:
  """Whether the reply is one of the options; None where there are none.

  A coherent chain may conclude what is not on offer: then it is wrong, but
  wrong in another way than one that picks the wrong option.
  """
  if not options:
    return None
  named = functools.partial(
    answers.match, reply, answer_type="choice", options=options
  )
  return float(any(named(option) for option in options))


def _mean(values) -> float | None:
  values = list(values)
  return round(float(np.mean(values)), 6) if values else None


def summary(
  items: Sequence[dict], records: Sequence[Record], *, seed: int = 0
) -> dict:
  """M: the numbers of one mode of one checkpoint.

  Surrogate rate, claim precision and lift are over items whose evidence is
  in the sound; where the words are the evidence, quoting them is right.
  Lift compares a claim with other clips of the same family (rl.md 7.4).
  What there is nothing to tell of is None.
  """
  acc_B = np.array([i["acc"] for i in items])
  heard = [
    (i, r)
    for i, r in zip(items, records, strict=True)
    if not i["words_are_evidence"] and r.facts
  ]
  verdicts = [c["verdict"] for i, _ in heard for c in i["claims"]]
  supported = verdicts.count(verify.SUPPORTED)
  decided = supported + verdicts.count(verify.CONTRADICTED)
  lift = None
  if decided:
    value = verify.lift(
      [claims_lib.parse(i["think"]) for i, _ in heard],
      [list(r.facts) for _, r in heard],
      rng=np.random.default_rng(seed),
      groups=[(i["family"], len(r.facts)) for i, r in heard],
    )
    lift = None if np.isnan(value) else round(float(value), 6)
  bounds = stats.bootstrap_ci(acc_B, seed=seed) if items else None
  out = {
    "acc": _mean(acc_B),
    "ci95": bounds and [round(x, 6) for x in bounds],
    "n": len(items),
    "acc_conflict": _mean(i["acc"] for i in items if i["conflict"]),
    "acc_heldout": _mean(i["acc"] for i in items if i["heldout"]),
    "think_tokens": _mean(i["think_tokens"] for i in items),
    "frac_empty_think": _mean(i["empty"] for i in items),
    "frac_coherent": _mean(i["coherent"] for i in items),
    "frac_offered": _mean(
      i["offered"] for i in items if i["offered"] is not None
    ),
    "claim_precision": supported / decided if decided else None,
    "claim_lift": lift,
    "surrogate_rate": _mean(i["surrogate"] for i, _ in heard),
    "by_source": {
      name: _mean(i["acc"] for i in items if i["source"] == name)
      for name in sorted({i["source"] for i in items})
    },
  }
  if any("follow" in i for i in items):
    out["follow"] = _mean(i["follow"] for i in items if "follow" in i)
  return out
