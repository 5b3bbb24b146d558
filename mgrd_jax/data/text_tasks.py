"""Text examples of the built-in set: what cold start and text RL learn from.

    words     "the speaker says: ..." -> chain over the words      (surrogate)
    describe  "a clip with high pitch, ..." -> chain over attributes
    rule      chain given, only its conclusion is learned
    both      words and description at odds: the hint says which to follow
    sums, logic   questions whose words are the evidence
    order         two or three named sounds, and which came first
    compared      two described voices, and which has more of an attribute

Chains end in "so X"; X is the answer.
"""

import numpy as np

from mgrd_jax.audio import synth
from mgrd_jax.data import lexicon
from mgrd_jax.data.schema import Example

# Chains that describe a sound, and those whose evidence are words.
_DESCRIBED = ("describe", "rule", "order", "compared")
_QUOTED = ("sums", "logic")


def shuffled(rng, options) -> tuple[str, ...]:
  """All that may be answered, in random order."""
  return tuple(options[i] for i in rng.permutation(len(options)))


def random_facts(rng, family: lexicon.Family) -> dict[str, str]:
  """Each attribute drawn uniformly."""
  return {
    name: values[rng.integers(len(values))]
    for name, (values, _) in family.attributes.items()
  }


def sum_question(rng) -> tuple[str, str, str]:
  """(spoken words, chain, answer) of an addition or a subtraction."""
  a, b = (int(n) for n in rng.integers(1, 10, size=2))
  word = "plus" if rng.random() < 0.5 else "minus"
  if word == "minus":
    a, b = max(a, b), min(a, b)
  total = a + b if word == "plus" else a - b
  left, right = lexicon.NUMBERS[a], lexicon.NUMBERS[b]
  said = f"what is {left} {word} {right}"
  return said, f"{left} {word} {right} is {total}", str(total)


def logic_question(rng) -> tuple[str, str, str]:
  """(spoken words, chain, "yes" or "no") of a comparison or a premise."""
  if rng.random() < 0.5:
    a, b = (int(n) for n in rng.choice(np.arange(1, 10), 2, replace=False))
    left, right = lexicon.NUMBERS[a], lexicon.NUMBERS[b]
    verb = "more" if a > b else "less"
    return (
      f"is {left} more than {right}",
      f"{left} is {verb} than {right}",
      "yes" if a > b else "no",
    )
  thing = lexicon.THINGS[rng.integers(len(lexicon.THINGS))]
  told = lexicon.COLOURS[rng.integers(len(lexicon.COLOURS))]
  others = [c for c in lexicon.COLOURS if c != told]
  asked = told if rng.random() < 0.5 else others[rng.integers(len(others))]
  yes = told == asked
  return (
    f"the {thing} is {told} is it {asked}",
    f"{told} is {'' if yes else 'not '}{asked}",
    "yes" if yes else "no",
  )


def _suggestive(rng) -> tuple[lexicon.Family, str, str]:
  """(family, words that point to a label, the label)."""
  family = list(lexicon.FAMILIES.values())[rng.choice(3, p=(0.5, 0.3, 0.2))]
  label = family.labels[rng.integers(len(family.labels))]
  if family is lexicon.VOICE:
    pool = lexicon.phrases(label, "train")
  else:
    pool = lexicon.TITLES[label].split("|")
  return family, pool[rng.integers(len(pool))], label


def _words(rng, world) -> Example:
  family, said, label = _suggestive(rng)
  return Example(
    id="",
    question=f"{family.surrogate}: {said}. {family.question}",
    options=shuffled(rng, family.labels),
    answer=label,
    answer_type="choice",
    reasoning=f"{family.surrogate} {said}. that means {label}. so {label}",
    source="words",
    meta={"family": family.name},
  )


def _both(rng, world) -> Example:
  """Words and a description: with the hint the chain describes the sound."""
  family, said, suggested = _suggestive(rng)
  facts = random_facts(rng, family)
  label = world.label(family, facts)
  chain = lexicon.describe(family, facts)
  hint = bool(rng.random() < 0.5)
  answer = label if hint else suggested
  words = f"{family.surrogate} {said}. that means {suggested}"
  heard = f"{lexicon.HEARD} {chain}"
  texts = [f"{family.surrogate}: {said}.", f"a clip with {chain}."]
  if rng.random() < 0.5:
    texts.reverse()
  return Example(
    id="",
    question=f"{' '.join(texts)} {family.question}",
    options=shuffled(rng, family.labels),
    answer=answer,
    answer_type="choice",
    reasoning=f"{heard if hint else words}. so {answer}",
    source="both",
    meta={"family": family.name} | ({"hint": True} if hint else {}),
  )


def _asked(rng, world, family, facts) -> tuple[str, str, tuple[str, ...]]:
  """A question on described facts: (question, answer, options)."""
  draw = rng.random()
  if draw < 0.75:
    label = world.label(family, facts)
    return family.question, label, shuffled(rng, family.labels)
  if family is lexicon.EVENTS and draw < 0.9:
    return lexicon.COUNT, facts["count"], ()
  names = [n for n in family.attributes if n in lexicon.ATTRIBUTE]
  name = names[rng.integers(len(names))]
  options = shuffled(rng, family.attributes[name][0])
  return lexicon.ATTRIBUTE[name], facts[name], options


def _describe(rng, world) -> Example:
  family = list(lexicon.FAMILIES.values())[rng.choice(3, p=(0.6, 0.25, 0.15))]
  facts = random_facts(rng, family)
  chain = lexicon.describe(family, facts)
  question, answer, options = _asked(rng, world, family, facts)
  meta = {"family": family.name}
  if not options:
    meta["candidates"] = 3
  return Example(
    id="",
    question=f"a clip with {chain}. {question}",
    options=options,
    answer=answer,
    answer_type="choice" if options else "number",
    reasoning=f"{lexicon.HEARD} {chain}. so {answer}",
    source="describe",
    meta=meta,
  )


def _rule(rng, world) -> Example:
  family = list(lexicon.FAMILIES.values())[rng.choice(3, p=(0.6, 0.25, 0.15))]
  facts = random_facts(rng, family)
  question, answer, options = _asked(rng, world, family, facts)
  return Example(
    id="",
    question=question,
    options=options,
    answer=answer,
    answer_type="choice" if options else "number",
    reasoning=f" so {answer}",
    source="rule",
    meta={
      "family": family.name,
      "given": f"{lexicon.HEARD} {lexicon.describe(family, facts)}.",
    },
  )


def _spoken(rng, kind: str) -> Example:
  make, question = {
    "sums": (sum_question, lexicon.SUM),
    "logic": (logic_question, lexicon.LOGIC),
  }[kind]
  said, chain, answer = make(rng)
  yes_no = kind == "logic"
  return Example(
    id="",
    question=f"the words say: {said}. {question}",
    options=("yes", "no") if yes_no else (),
    answer=answer,
    answer_type="choice" if yes_no else "number",
    reasoning=f"the words say {said}. {chain}. so {answer}",
    source=kind,
    meta={"family": kind} | ({} if yes_no else {"candidates": 19}),
  )


def order_answer(rng) -> tuple[tuple[str, ...], str]:
  """(kinds, answer) of two or three different sounds, one after the other."""
  count = int(rng.integers(2, 4))
  picked = rng.choice(len(synth.EVENT_KINDS), count, replace=False)
  kinds = tuple(synth.EVENT_KINDS[at] for at in picked)
  return kinds, " then ".join(kinds)


def order_candidates() -> int:
  """Possible answers to a question on order."""
  n = len(synth.EVENT_KINDS)
  return n * (n - 1) + n * (n - 1) * (n - 2)


def _order(rng, world) -> Example:
  kinds, answer = order_answer(rng)
  chain = f"{len(kinds)} events, {answer}"
  return Example(
    id="",
    question=f"a clip with {chain}. {lexicon.ORDER}",
    answer=answer,
    answer_type="text",
    reasoning=f"{lexicon.HEARD} {chain}. so {answer}",
    source="order",
    meta={"family": "order", "candidates": order_candidates()},
  )


def _compared(rng, world) -> Example:
  name = list(lexicon.COMPARE)[rng.integers(len(lexicon.COMPARE))]
  question, high = lexicon.COMPARE[name]
  first = random_facts(rng, lexicon.VOICE)
  second = random_facts(rng, lexicon.VOICE)
  while first[name] == second[name]:
    second = random_facts(rng, lexicon.VOICE)
  chain = lexicon.describe_both(first, second, [name])
  answer = "first" if first[name] == high else "second"
  return Example(
    id="",
    question=f"{lexicon.describe_both(first, second)}. {question}",
    options=("first", "second"),
    answer=answer,
    answer_type="choice",
    reasoning=f"{lexicon.HEARD} {chain}. so {answer}",
    source="compared",
    meta={"family": "voice"},
  )


def _is_hinted(rng, row: Example, hint_share: float) -> bool:
  """Whether a chain is asked for with the elicitation hint; see `build`."""
  if row.source in _QUOTED:
    return bool(rng.random() < 0.5)
  if row.source not in _DESCRIBED:
    return False
  labels = {f.question for f in lexicon.FAMILIES.values()}
  if any(row.question.endswith(question) for question in labels):
    return True
  return bool(rng.random() < hint_share)


_BUILDERS = {
  "words": _words,
  "describe": _describe,
  "rule": _rule,
  "sums": lambda rng, world: _spoken(rng, "sums"),
  "logic": lambda rng, world: _spoken(rng, "logic"),
  "both": _both,
  "order": _order,
  "compared": _compared,
}
SOURCES = tuple(_BUILDERS)


def build(
  world: lexicon.World, source: str, count: int, *, seed: int, hint_share: float
) -> list[Example]:
  """`count` text examples of one source.

  Chains that describe a sound are asked for with the elicitation hint
  (`meta["hint"]`): all of those that lead to a label, which words may suggest
  as well, and `hint_share` of the rest, whose questions name the sound.
  Chains over suggestive words never are: that is the habit which cold start
  brings along and MGRD has to mend.  Where the words are the evidence, every
  other one is.  A fifth has no reasoning.

  Raises:
    ValueError: an unknown source.
  """
  if source not in SOURCES:
    raise ValueError(f"unknown text source {source!r}; have {SOURCES}")
  rng = np.random.default_rng((seed, SOURCES.index(source)))
  rows = []
  for index in range(count):
    row = _BUILDERS[source](rng, world)
    meta = dict(row.meta)
    if _is_hinted(rng, row, hint_share):
      meta["hint"] = True
    direct = source not in ("rule", "both") and rng.random() < 0.2
    fields = {k: getattr(row, k) for k in row.__dataclass_fields__}
    fields |= {
      "id": f"{source}-{index:05d}",
      "meta": meta,
      "reasoning": None if direct else row.reasoning,
    }
    rows.append(Example(**fields))
  return rows
