"""The words of the built-in question set: families, phrases, questions.

A family is a kind of sound with named attributes; a rule maps some of
them to a label.  The rules are drawn from a seed (`draw_world`), so that
nothing but the training text can tell a model what they are.
"""

import dataclasses
import itertools

import numpy as np


@dataclasses.dataclass(frozen=True)
class Family:
  """One kind of sound.

  Attributes:
    attributes: name -> (values, noun); a claim reads "value noun".
    rule: the attributes that decide the label.
    labels: what the rule answers.
    question: how the label is asked for.
    surrogate: how text reasoning begins in this family.
  """

  name: str
  attributes: dict[str, tuple[tuple[str, ...], str]]
  rule: tuple[str, ...]
  labels: tuple[str, ...]
  question: str
  surrogate: str


VOICE = Family(
  "voice",
  {
    "pitch": (("high", "low"), "pitch"),
    "contour": (("rising", "falling"), "contour"),
    "rate": (("fast", "slow"), "rate"),
    "loudness": (("loud", "soft"), "volume"),
    "quality": (("clear", "breathy"), "voice"),
  },
  ("pitch", "contour", "rate", "loudness", "quality"),
  ("happy", "angry", "afraid", "sad", "calm", "proud", "bored", "tired"),
  "how does the speaker feel?",
  "the words say",
)
MUSIC = Family(
  "music",
  {
    "mode": (("major", "minor"), "mode"),
    "tempo": (("fast", "slow"), "tempo"),
    "contour": (("rising", "falling"), "contour"),
    "timbre": (("bright", "dark"), "timbre"),
    "dynamics": (("swelling", "fading"), "dynamics"),
  },
  ("mode", "tempo", "contour", "dynamics"),
  ("waltz", "march", "tango", "hymn", "polka", "lament", "reel", "nocturne"),
  "which dance is this?",
  "the title says",
)
EVENTS = Family(
  "events",
  {
    "count": (("3", "4", "5"), "events"),
    "pitch": (("high", "low"), "pitch"),
    "regularity": (("regular", "irregular"), "spacing"),
  },
  ("count", "pitch", "regularity"),
  ("idle", "busy", "fault", "ready"),
  "what does the machine report?",
  "the label says",
)
FAMILIES = {f.name: f for f in (VOICE, MUSIC, EVENTS)}

# Words that point to a label; the first part trains, the rest tests.
PHRASES = {
  "happy": "i won the big prize|we are going to the beach|what a lovely day"
  "|my friends came to see me|this cake is wonderful|our team won the game",
  "angry": "you broke my new car|stop shouting at me|who took my money"
  "|you lied to me again|get out of my house|that was not your seat",
  "afraid": "someone is behind the door|the dog is going to bite"
  "|someone steps in the dark|please do not leave me here|the bridge will fall"
  "|something moved under the bed",
  "sad": "my old cat died today|nobody came to my party|i miss my mother"
  "|she left and never wrote|we lost our home|he cried all night long",
  "calm": "the lake is very still|we sat by the fire|the garden is quiet now"
  "|slow clouds cross the sky|soft rain falls on the roof|the baby is asleep",
  "proud": "my son passed the test|i built this boat myself"
  "|we finished the long race|she leads the whole team|they chose my drawing"
  "|our school got the award",
  "bored": "we wait here every day|the talk went on and on"
  "|there is nothing to do|it is the same old film|i counted the tiles again"
  "|another meeting about paper",
  "tired": "i worked all night again|my legs can hardly walk"
  "|i need to lie down|we carried boxes since morning|my eyes keep closing"
  "|it was a long hard week",
}
TRAIN_PHRASES = 4

# Imagined evidence for sounds that hold no words.
TITLES = {
  "waltz": "ballroom turning|evening gown",
  "march": "soldiers on parade|brass and drum",
  "tango": "a rose in buenos aires|night of passion",
  "hymn": "praise in the chapel|voices of the church",
  "polka": "village barn party|jumping shoes",
  "lament": "tears on the grave|farewell my love",
  "reel": "fiddle in the pub|irish wedding",
  "nocturne": "moon on the water|midnight dream",
  "idle": "standby lamp|engine off",
  "busy": "printing pages|work in progress",
  "fault": "broken gear|error code",
  "ready": "all checks passed|good to go",
}

NUMBERS = (
  "zero one two three four five six seven eight nine ten eleven twelve "
  "thirteen fourteen fifteen sixteen seventeen eighteen"
).split()
COLOURS = ("red", "blue", "green", "white", "black")
THINGS = ("box", "door", "car", "light", "cup")

HEARD = "i hear"  # how a description begins, in captions and in chains
LISTEN = "what do you hear?"
TRANSCRIBE = "what words are spoken?"
DESCRIBE = "describe the sound."
DESCRIBE_BOTH = "describe the {} of both sounds."
COUNT = "how many events are there?"
ORDER = "which sounds come in which order?"
SUM = "what is the answer to the spoken question?"
LOGIC = "is the answer to the spoken question yes or no?"
ATTRIBUTE = {
  "pitch": "is the pitch high or low?",
  "rate": "is the speech fast or slow?",
  "contour": "is the contour rising or falling?",
  "loudness": "is the volume loud or soft?",
  "quality": "is the voice clear or breathy?",
  "mode": "is the mode major or minor?",
  "tempo": "is the tempo fast or slow?",
  "timbre": "is the timbre bright or dark?",
  "dynamics": "are the dynamics swelling or fading?",
  "regularity": "is the spacing regular or irregular?",
}
COMPARE = {
  "pitch": ("which clip has the higher pitch?", "high"),
  "rate": ("which clip is spoken faster?", "fast"),
  "loudness": ("which clip is louder?", "loud"),
}


@dataclasses.dataclass(frozen=True)
class World:
  """Rules drawn from a seed: (family, values of the rule) -> label.

  `heldout` combinations occur in perception tasks and in text only: no
  audio question about their label is ever trained on.
  """

  rules: dict[tuple[str, tuple[str, ...]], str]
  heldout: frozenset[tuple[str, tuple[str, ...]]]

  def label(self, family: Family, facts: dict[str, str]) -> str:
    return self.rules[family.name, combination(family, facts)]

  def is_heldout(self, family: Family, facts: dict[str, str]) -> bool:
    return (family.name, combination(family, facts)) in self.heldout


def combination(family: Family, facts: dict[str, str]) -> tuple[str, ...]:
  """The values that the family's rule reads."""
  return tuple(facts[name] for name in family.rule)


def draw_world(seed: int, heldout_share: float = 3 / 8) -> World:
  """Balanced random rules; every label keeps a combination that is seen."""
  rules: dict = {}
  heldout: set = set()
  for index, family in enumerate(FAMILIES.values()):
    rng = np.random.default_rng((seed, index))
    values = [family.attributes[name][0] for name in family.rule]
    combos = list(itertools.product(*values))
    order = rng.permutation(len(combos))
    per_label: dict[str, list] = {label: [] for label in family.labels}
    for rank, at in enumerate(order):
      label = family.labels[rank % len(family.labels)]
      rules[family.name, combos[at]] = label
      per_label[label].append((family.name, combos[at]))
    wanted = round(heldout_share * len(combos))
    # Round robin over labels, so that no label loses most of its examples;
    # the first of each label is never taken.
    by_depth = [
      group[depth]
      for depth in range(1, len(combos))
      for group in per_label.values()
      if depth < len(group)
    ]
    heldout.update(by_depth[:wanted])
  return World(rules, frozenset(heldout))


def claim(family: Family, name: str, value: str) -> str:
  """One clause of a chain: "high pitch", "3 events"."""
  return f"{value} {family.attributes[name][1]}"


def describe(family: Family, facts: dict[str, str]) -> str:
  """All attributes, comma separated, in the family's order."""
  return ", ".join(claim(family, n, facts[n]) for n in family.attributes)


def describe_both(
  first: dict[str, str], second: dict[str, str], names=tuple(COMPARE)
) -> str:
  """Some attributes of two voices: "first clip high pitch, second clip ...".

  `names` are by default all that voices are compared by.
  """
  clauses = [
    f"{place} clip "
    + ", ".join(claim(VOICE, name, facts[name]) for name in names)
    for place, facts in (("first", first), ("second", second))
  ]
  return ", ".join(clauses)


def phrases(label: str, part: str) -> list[str]:
  """The phrases that suggest a label; `part` is "train" or "test"."""
  every = PHRASES[label].split("|")
  return every[:TRAIN_PHRASES] if part == "train" else every[TRAIN_PHRASES:]
