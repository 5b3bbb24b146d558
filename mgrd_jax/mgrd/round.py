"""One distillation round: sampled chains -> kept Examples and a funnel.

    K chains per question --filters--> kept (capped per question)
                                   \\-> rejects, each with its reasons
"""

import collections
import dataclasses
from collections.abc import Callable, Sequence

from mgrd_jax.data.schema import Example
from mgrd_jax.mgrd import filters


@dataclasses.dataclass(frozen=True)
class Outcome:
  """What a round gives.

  Attributes:
    kept: Examples with the chain as reasoning and without the elicitation.
    rejects: records {"id", "think", "reply", "reasons"}.
    funnel: counts (sampled, correct, grounded, coherent, kept), the reasons,
      and of the correct chains whose evidence is the sound the share kept
      with their own clip's facts and with another's.
  """

  kept: list[Example]
  rejects: list[dict]
  funnel: dict


def distil(
  responses: Sequence[filters.Response],
  swapped: Callable[[filters.Response], filters.Response],
  *,
  per_question: int = 2,
  grounding: bool = True,
) -> Outcome:
  """Filters the chains of one round.

  Args:
    responses: all chains, those of one question in a row.
    swapped: the same chain with the facts of another clip, for the
      permuted keep-rate: a filter that ignores audio keeps as many.
    per_question: most chains kept of a question, the most diverse first.
    grounding: whether the grounding filter is on.

  Returns:
    Outcome; `funnel` counts are cumulative from left to right.
  """
  kept: list[Example] = []
  rejects: list[dict] = []
  counts: collections.Counter = collections.Counter()
  reasons_count: collections.Counter = collections.Counter()
  passed: dict[str, list[filters.Response]] = {}
  heard = heard_kept = swap_kept = 0
  for response in responses:
    counts["sampled"] += 1
    why = filters.reasons(response, grounding=grounding)
    reasons_count.update(why)
    grounded = not filters.ungrounded(response)
    coherent = not filters.incoherent(response)
    counts["correct"] += response.acc > 0
    counts["grounded"] += response.acc > 0 and grounded
    counts["coherent"] += response.acc > 0 and grounded and coherent
    if response.acc and response.example.meta.get("evidence") != "words":
      heard += 1
      heard_kept += not why
      other = filters.reasons(swapped(response), grounding=grounding)
      swap_kept += not other
    if why:
      rejects.append(
        {
          "id": response.example.id,
          "think": response.think,
          "reply": response.reply,
          "reasons": list(why),
        }
      )
    else:
      passed.setdefault(response.example.id, []).append(response)
  for group in passed.values():
    for response in _diverse(group, per_question):
      kept.append(_as_example(response, len(kept)))
  funnel = {name: int(counts[name]) for name in _FUNNEL} | {
    "kept": len(kept),
    "passed": sum(map(len, passed.values())),
    "keep_rate": heard_kept / max(heard, 1),
    "swap_keep_rate": swap_kept / max(heard, 1),
    "reasons": dict(reasons_count.most_common()),
  }
  return Outcome(kept, rejects, funnel)


_FUNNEL = ("sampled", "correct", "grounded", "coherent")


def _diverse(group: list, limit: int) -> list:
  """Distinct chains, the longest first: more claims, more to learn."""
  distinct = {r.think.strip(): r for r in group}
  ranked = sorted(distinct, key=lambda t: (-len(t.split()), t))
  return [distinct[t] for t in ranked[:limit]]


def _as_example(response: filters.Response, index: int) -> Example:
  example = response.example
  meta = {k: v for k, v in example.meta.items() if k != "hint"}
  return dataclasses.replace(
    example,
    id=f"chain-{index:05d}-{example.id}",
    reasoning=response.think.strip(),
    source="chain",
    meta=meta,
  )
