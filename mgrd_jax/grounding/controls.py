"""Whose clip may stand in for an example's own.

  example -> another with the same question and a different answer
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np


@runtime_checkable
class Question(Protocol):
  """What the controls read of an example; `data.schema.Example` has it."""

  question: str
  answer: str
  options: tuple[str, ...]
  audio: tuple[str, ...]


def swap_partners(
  examples: Sequence[Question], rng: np.random.Generator
) -> list[int | None]:
  """For each example the index of one whose clip may stand in for its own.

  A partner has the same question, as many clips, another gold answer, and the
  same set of options; where there is none, one whose gold is at least among
  the options.  None where there is neither.  The choice is random and even.
  """
  alike: dict[tuple, list[int]] = {}
  for index, example in enumerate(examples):
    alike.setdefault((example.question, len(example.audio)), []).append(index)
  partners: list[int | None] = []
  for example in examples:
    peers = [
      index
      for index in alike[example.question, len(example.audio)]
      if examples[index].answer != example.answer
    ]
    options = frozenset(example.options)
    same = [i for i in peers if frozenset(examples[i].options) == options]
    close = same or [i for i in peers if examples[i].answer in options]
    partners.append(int(rng.choice(close)) if close else None)
  return partners
