"""Reasoning text -> the acoustic claims it makes.

  "high pitch, not loud" -> (pitch, high), (loudness, soft)

A lexicon of English adjectives and the nouns they belong to; no model.  The
attributes are those that `verify` can check against a waveform, and one more,
"unverifiable", for what signal processing cannot say: emotion, accent, sex,
the name of an instrument.
"""

from __future__ import annotations

import dataclasses
import functools
import re

OPPOSITE = {
  "high": "low",
  "rising": "falling",
  "fast": "slow",
  "loud": "soft",
  "clear": "breathy",
  "major": "minor",
  "bright": "dark",
  "swelling": "fading",
  "regular": "irregular",
}
OPPOSITE |= {second: first for first, second in OPPOSITE.items()}


@dataclasses.dataclass(frozen=True)
class Claim:
  """One checkable statement about a clip.

  `span` (start, stop) characters of the chain; `attribute` pitch, contour,
  rate, loudness, quality, mode, tempo, timbre, dynamics, count, regularity,
  duration, pause or unverifiable; `value` a word of `OPPOSITE`, or a number
  (events, beats a minute, seconds), or the unverifiable word itself; `text`
  as written; `clip` 0 for the first clip, 1 for the second.
  """

  span: tuple[int, int]
  attribute: str
  value: str | float
  text: str
  clip: int = 0


_COUNTED = (
  r"(?:events?|sounds?|knocks?|beeps?|clicks?|taps?|tones?|chirps?|buzz(?:es)?"
  r"|bursts?|hits?|claps?|pulses?|noises?|barks?|rings?)"
)
_TONE = r"(?:beeps?|tones?|chirps?|buzz(?:es)?|rings?|notes?)"

# attribute: (nouns, {value: adjectives}, {value: phrases that need no noun}).
_LEXICON = {
  "pitch": (
    rf"(?:pitch(?:ed)?|f0|register|{_TONE})",
    {"high": r"high(?:er)?|raised|elevated", "low": r"low(?:er)?|deep(?:er)?"},
    {"low": r"deep voice", "high": r"shrill voice"},
  ),
  "contour": (
    r"(?:contour|intonation|inflection|pitch|melody|melodic line|tune|line)",
    {
      "rising": r"rising|ascending|climbing|upward|rises|ascends|climbs"
      r"|goes up|going up|moves up",
      "falling": r"falling|descending|downward|falls|descends|drops|dropping"
      r"|goes down|going down|moves down",
    },
    {},
  ),
  "rate": (
    r"(?:(?:speaking |speech )?(?:rate|pace|speed)|speech|delivery|talking"
    r"|speaking)",
    {
      "fast": r"fast(?:er)?|quick(?:er)?|rapid|hurried|brisk",
      "slow": r"slow(?:er)?|unhurried|measured|leisurely",
    },
    {
      "fast": r"(?:speaks?|talks?|spoken|speaking|talking)(?: \w+)? "
      r"(?:fast|quickly|rapidly)",
      "slow": r"(?:speaks?|talks?|spoken|speaking|talking)(?: \w+)? "
      r"slow(?:ly)?",
    },
  ),
  "loudness": (
    r"(?:volume|loudness|level|voice|speech|sound)",
    {
      "loud": r"loud(?:er)?|high(?= (?:volume|loudness|level))",
      "soft": r"soft(?:er)?|quiet(?:er)?|hushed|faint|low(?= (?:volume|loudness"
      r"|level))",
    },
    {
      "loud": r"(?:speaks?|talks?|spoken|speaking)(?: \w+)? loudly"
      r"|(?:volume|loudness) (?:is|was) high",
      "soft": r"(?:speaks?|talks?|spoken|speaking)(?: \w+)? (?:softly|quietly)"
      r"|(?:volume|loudness) (?:is|was) low",
    },
  ),
  "quality": (
    r"(?:voice|tone|quality|phonation|articulation)",
    {"clear": r"clear(?:er)?", "breathy": r"breathy|breathier|whispery|airy"},
    {"breathy": r"breathy|breathiness|whispery"},
  ),
  "mode": (
    r"(?:mode|key|chords?|tonality|triads?|scale|harmony|harmonies)",
    {"major": r"major", "minor": r"minor"},
    {
      "major": r"(?:in (?:a )?)?\b[a-g](?:[#♯♭]| sharp| flat)? major|in major",
      "minor": r"(?:in (?:a )?)?\b[a-g](?:[#♯♭]| sharp| flat)? minor|in minor",
    },
  ),
  "tempo": (
    r"(?:tempo|beat|music|rhythm|pulse)",
    {
      "fast": r"fast(?:er)?|quick(?:er)?|brisk|rapid|lively|up",
      "slow": r"slow(?:er)?|unhurried|leisurely",
    },
    {"fast": r"up-?tempo"},
  ),
  "timbre": (
    r"(?:timbre|tone|sound|colou?r|spectrum)",
    {
      "bright": r"bright(?:er)?|brilliant|sharp",
      "dark": r"dark(?:er)?|muffled|mellow|dull",
    },
    {"dark": r"muffled"},
  ),
  "dynamics": (
    r"(?:dynamics?|level|volume)",
    {
      "swelling": r"swelling|growing|increasing|swells|grows|increases",
      "fading": r"fading|decreasing|dying|fades|decreases",
    },
    {
      "swelling": r"crescendo|(?:gets|grows|getting|growing|becomes) louder"
      r"|swells",
      "fading": r"de-?crescendo|diminuendo|fades (?:out|away)|(?:gets|grows"
      r"|getting|growing|becomes) (?:softer|quieter)",
    },
  ),
  "regularity": (
    r"(?:spacing|intervals?|gaps?|timing|rhythm|spaced|series|pattern)",
    {
      "regular": r"regular(?:ly)?|even(?:ly)?|steady|steadily|equal(?:ly)?"
      r"|periodic",
      "irregular": r"irregular(?:ly)?|uneven(?:ly)?|unsteady|erratic",
    },
    {},
  ),
}

_NUMBERS = (
  "zero one two three four five six seven eight nine ten eleven twelve"
).split()
_WORD_NUMBER = {word: index for index, word in enumerate(_NUMBERS)}
_WORD_NUMBER |= {"a single": 1, "single": 1, "half a": 0.5, "a": 1}
_NUMBER = r"\d+(?:\.\d+)?|" + "|".join(_NUMBERS)

_NUMERIC = {
  "count": rf"\b({_NUMBER}|a single|single)(?: [\w-]+){{0,2}}? {_COUNTED}\b",
  "tempo": rf"\b({_NUMBER}) ?(?:bpm|beats (?:per|a) minute)\b",
  "duration": rf"\b(?:lasts?|lasting)(?: for)?(?: about| around| roughly)? "
  rf"({_NUMBER}) ?(?:s|sec|seconds?)\b|\b({_NUMBER})[- ]seconds?[- ]"
  rf"(?:long|clip|recording)\b",
  "pause": rf"\b({_NUMBER}|half a|a)[- ]seconds?[- ](?:pause|silence)\b|"
  rf"\b(?:pause|silence) of(?: about)? ({_NUMBER}) ?(?:s|sec|seconds?)\b",
}

_EMOTIONS = (
  r"happy|sad|angry|calm|fearful|afraid|excited|bored|disgusted|surprised"
  r"|anxious|cheerful|joyful|gloomy|tender|proud|tired|nervous|confident"
)
_UNVERIFIABLE = re.compile(
  rf"\b(?:sounds?|seems?|feels?) (?:\w+ )?(?:{_EMOTIONS})\b"
  rf"|\b(?:{_EMOTIONS}) (?:voice|tone|mood|speaker)\b"
  r"|\b(?:\w+ )?accent\b"
  r"|\b(?:female|male|young|old) (?:voice|speaker)\b"
  r"|\b(?:piano|organ|flute|violin|strings|guitar|harp|clarinet|trumpet|drums?"
  r"|saxophone|cello|accordion|bells?)\b",
  re.IGNORECASE,
)

_COPULA = (
  r"(?:(?:is|was|are|were)(?:n't)?|seems?|sounds?|stays?|remains?|has|being)"
)
_ADVERB = (
  r"(?: (?:not|never|a|an|the|very|quite|rather|fairly|really|relatively"
  r"|clearly|slightly|somewhat|too|so|in))*"
)
_NEGATION = re.compile(
  r"\b(?:not|never|no|without|neither|hardly|lacks?|isn't|wasn't|aren't"
  r"|doesn't|don't)\b",
  re.IGNORECASE,
)
_CLIP = re.compile(
  r"\b(?:(first|second) (?:clip|recording|sound|one|audio)"
  r"|(?:clip|recording|audio) (1|2|one|two))\b",
  re.IGNORECASE,
)
_SECOND = ("second", "2", "two")


def _compile():
  patterns = []
  for attribute, (noun, adjectives, phrases) in _LEXICON.items():
    for value, words in adjectives.items():
      # "high vocal pitch", "pitch is not very high", "intonation rises".
      between = r"(?:[- ](?:vocal|overall|speaking|melodic|musical|event))?"
      before = rf"\b(?:{words}){between}[- ]{noun}\b"
      after = rf"\b{noun}(?: {_COPULA})?{_ADVERB} (?:{words})\b"
      extra = rf"|\b(?:{phrases[value]})\b" if value in phrases else ""
      regex = re.compile(before + "|" + after + extra, re.IGNORECASE)
      patterns.append((attribute, value, regex))
  return patterns


_PATTERNS = _compile()
_NUMERIC = {
  attribute: re.compile(pattern, re.IGNORECASE)
  for attribute, pattern in _NUMERIC.items()
}

_TEXT_TALK = re.compile(
  r"\b(?:the|these|those|his|her|their|its|spoken|these spoken) words?\b"
  r"|\bwords? (?:say|said|suggest|mean|mention|tell|imply|indicate)s?\b"
  r"|\b(?:transcript(?:ion)?s?|lyrics?|captions?|subtitles?|title|label)\b"
  r"|\bbased on the (?:text|description|content|sentence|phrase)\b"
  r"|\bthe (?:text|sentence|phrase) (?:says?|reads?|mentions?|suggests?)\b"
  r"|\b(?:said|says|saying)\b|\bthe speaker (?:mentions?|talks about)\b",
  re.IGNORECASE,
)
_NO_HEARING = re.compile(
  r"\b(?:can(?:not|'t| not)|unable to|not able to|do(?: not|n't) have the "
  r"ability to|have no way to|could(?: not|n't))(?: \w+)? (?:hear|listen|"
  r"process (?:the )?(?:audio|sound)|perceive|play|access (?:the )?(?:audio"
  r"|sound|clip|file))"
  r"|\bas an? (?:text|language)(?:[- ]\w+)* model\b"
  r"|\b(?:text|language)[- ](?:only|based) (?:model|assistant|ai)\b"
  r"|\bno (?:audio|sound|clip) (?:was |is |has been )?(?:provided|attached"
  r"|given|available)\b",
  re.IGNORECASE,
)


def parse(text: str) -> list[Claim]:
  """The acoustic claims of an English reasoning text, in reading order.

  A negation in the three words before a claim, or inside it, turns a binary
  value into its opposite.  "first clip ... second clip ..." set `clip` for
  what follows.  Counts of several kinds of event in one clip are
  unverifiable: an onset does not tell its kind.
  """
  return list(_parse(text))


# A model of few words says the same things of many clips.
@functools.lru_cache(1 << 14)
def _parse(text: str) -> tuple[Claim, ...]:
  clips = [
    (match.start(), int((match[1] or match[2]).lower() in _SECOND))
    for match in _CLIP.finditer(text)
  ]
  found = [*_binary(text), *_numeric(text)]
  found = _longest(found)
  taken = [claim.span for claim in found]
  for match in _UNVERIFIABLE.finditer(text):
    if not any(_overlap(match.span(), span) for span in taken):
      value = match[0].lower()
      found.append(Claim(match.span(), "unverifiable", value, match[0]))
  found.sort(key=lambda claim: claim.span)
  placed = []
  for claim in found:
    index = 0
    for start, clip in clips:
      if start <= claim.span[0]:
        index = clip
    placed.append(dataclasses.replace(claim, clip=index))
  return tuple(_one_count(placed))


def talks_of_text(text: str) -> bool:
  """True if the chain speaks of words, lyrics, a caption, a title."""
  return bool(_TEXT_TALK.search(text))


def surrogate(text: str) -> bool:
  """True if the chain reasons from text in place of sound.

  It speaks of words, a transcript, lyrics, a caption or a title and makes no
  claim that a waveform could support (lexical textual surrogate).
  """
  if not talks_of_text(text):
    return False
  return all(claim.attribute == "unverifiable" for claim in parse(text))


def denies_hearing(text: str) -> bool:
  """True if the response says that the model cannot hear."""
  return bool(_NO_HEARING.search(text))


def _binary(text):
  for attribute, value, regex in _PATTERNS:
    for match in regex.finditer(text):
      said = value
      if _negated(text, match):
        said = OPPOSITE[value]
      yield Claim(match.span(), attribute, said, match[0])


def _negated(text, match):
  clause = re.split(r"[,.;:!?\n]|\bbut\b", text[: match.start()])[-1]
  near = " ".join(clause.split()[-3:])
  count = len(_NEGATION.findall(near)) + len(_NEGATION.findall(match[0]))
  return count % 2 == 1


def _numeric(text):
  for attribute, regex in _NUMERIC.items():
    for match in regex.finditer(text):
      word = next(group for group in match.groups() if group).lower()
      value = float(_WORD_NUMBER.get(word, word))
      yield Claim(match.span(), attribute, value, match[0])


def _longest(found):
  """Of overlapping claims the longest; two attributes may share a span.

  "high beeps" is a claim on pitch inside the count "three high beeps", and
  stays; "rising pitch" is one on contour, and no other reading of it does.
  """
  kept = []
  for claim in sorted(found, key=lambda c: c.span[0] - c.span[1]):
    rivals = [
      other
      for other in kept
      if _overlap(claim.span, other.span)
      and (claim.attribute == "count") == (other.attribute == "count")
    ]
    if not rivals:
      kept.append(claim)
  return kept


def _overlap(one, two):
  return one[0] < two[1] and two[0] < one[1]


def _one_count(found):
  for clip in (0, 1):
    counts = [c for c in found if c.attribute == "count" and c.clip == clip]
    if len(counts) > 1:
      found = [
        dataclasses.replace(c, attribute="unverifiable") if c in counts else c
        for c in found
      ]
  return found
