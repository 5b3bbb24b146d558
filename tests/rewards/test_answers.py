"""What counts as stating the answer; what never does."""

import functools
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mgrd_jax.rewards import answers

MOODS = ("happy", "sad", "angry", "calm")
COLOURS = ("light", "light blue", "dark blue", "blue")

choice = functools.partial(answers.match, answer_type="choice")
number = functools.partial(answers.match, answer_type="number")
text = functools.partial(answers.match, answer_type="text")


@pytest.mark.parametrize("reply", [
  "sad", "Sad.", " SAD \n", "answer: sad", "Answer: **sad**", "B", "b", "(B)",
  "B.", "b)", "[B]", "\\boxed{B}", "(B) sad", "B: sad", "B, sad", "B sad",
  "sad (B)", "The answer is B.", "the answer is sad", "the correct answer is B",
  "Option B", "My choice is B", "I think it is B", "The voice is sad.",
  "<answer>sad</answer>", "<RESPONSE>B</RESPONSE>", "a sad voice",
  "answer : sad", "It's 'sad'", "s\u200bad", "ｓａｄ", "'B'",
  "It sounds rather sad", "The wrong note makes it sad", "sad, sad, sad",
])  # fmt: skip
def test_naming_the_gold_option_is_right(reply):
  assert choice(reply, "sad", options=MOODS) is True
  assert choice(reply, "B", options=MOODS) is True
  assert choice(reply, "calm", options=MOODS) is False


@pytest.mark.parametrize("reply", [
  "sad or happy", "A or B", "B/C", "B, C", "b and d", "happy sad angry calm",
  "(A) sad", "B or happy", "neither happy nor sad", "not sad", "isn't sad",
  "It is not happy, it is sad", "anything but sad", "all except B", "not B",
  "never sad", "B is wrong", "sad is incorrect", "the wrong answer is sad",
  "none, sad", "sadness", "saddest", "unsad", "E", "AB", "all of the above",
  "sad rather than anything else", "A (sad)", "a or sad", "sad, and not calm",
])  # fmt: skip
def test_hedges_denials_and_other_words_are_wrong(reply):
  # Trap 17.
  assert choice(reply, "sad", options=MOODS) is False


EMPTIES = ["", " ", "\n", "\u200b", ".", "?!", "answer:", "the", "**", "()"]


@pytest.mark.parametrize("reply", EMPTIES)
def test_an_empty_reply_never_scores_whatever_the_gold(reply):
  # Trap 18: not even against an empty or odd gold answer.
  for gold in ("", " ", ".", "sad", "B", "3", "None", "nan", None, 0, []):
    for match in (functools.partial(choice, options=MOODS), number, text):
      assert not match(reply, gold)


@pytest.mark.parametrize("gold", ["", "  ", "?!", None, True, ["sad"], {}])
def test_a_gold_answer_that_says_nothing_is_unscorable_not_wrong(gold):
  for match in (functools.partial(choice, options=MOODS), number, text):
    assert match("sad", gold) is None


@pytest.mark.parametrize("gold, options", [
  ("sad", ()), ("bored", MOODS), ("happy or sad", MOODS), ("Z", MOODS),
  ("sad", ("sad", "Sad.", "calm")), ("sad", ("sad", "...")),
])  # fmt: skip
def test_a_record_that_cannot_decide_a_choice_is_unscorable(gold, options):
  assert choice("sad", gold, options=options) is None


@pytest.mark.parametrize("reply, named", [
  ("light", "light"), ("light blue", "light blue"), ("blue", "blue"),
  ("It is light-blue", "light blue"), ("the dark blue one", "dark blue"),
  ("B: light blue", "light blue"),
])  # fmt: skip
def test_overlapping_options_go_to_the_longest(reply, named):
  right = [o for o in COLOURS if choice(reply, o, options=COLOURS)]
  assert right == [named]


def test_two_overlapping_options_said_apart_are_a_hedge():
  for gold in COLOURS:
    assert choice("light or light blue", gold, options=COLOURS) is False


@pytest.mark.parametrize("reply, gold, options, want", [
  ("A dog is barking", "dog", ("cat", "dog"), True),
  ("the answer is a dog", "dog", ("cat", "dog"), True),
  ("a", "cat", ("cat", "dog"), True),
  ("A - cat", "cat", ("cat", "dog"), True),
  ("A, cat", "dog", ("cat", "dog"), False),
  ("a \"dog\"", "dog", ("cat", "dog"), True),
  ("A is louder", "first", ("first", "second"), True),
  ("No, it does not.", "no", ("yes", "no"), True),
  ("not no", "no", ("yes", "no"), False),
  ("yes and no", "yes", ("yes", "no"), False),
  ("invalid", "valid", ("valid", "invalid"), False),
  ("invalid", "invalid", ("valid", "invalid"), True),
  ("none of the above", "none of the above", ("x", "none of the above"), True),
  ("the right answer is left", "left", ("left", "right"), True),
  ("C", "C", ("A", "C", "G"), True),
  ("G", "C", ("A", "C", "G"), False),
  ("C# minor", "C minor", ("C minor", "C# minor", "A minor"), False),
  ("C♯ minor", "C# minor", ("C minor", "C# minor", "A minor"), True),
  ("in A minor", "A minor", ("C minor", "C# minor", "A minor"), True),
  ("6/8", "3/4", ("3/4", "6/8"), False),
  ("3/4 time", "3/4", ("3/4", "6/8"), True),
  ("two", "2", ("1", "2", "3"), True),
  ("2.0", "2", ("1", "2", "3"), True),
  ("12", "2", ("1", "2", "3"), False),
  ("three knocks", "3", ("two", "three"), True),
  ("rising", "A. rising", ("A. rising", "B. falling"), True),
  ("A", "rising", ("A. rising", "B. falling"), True),
  ("falling", "rising", ("(A) rising", "(B) falling"), False),
  ("0:05 to 0:10", "0:10 to 0:20", ("0:05 to 0:10", "0:10 to 0:20"), False),
  ("悲伤", "悲伤", ("快乐", "悲伤"), True),
  ("不是悲伤", "悲伤", ("快乐", "悲伤"), False),
])  # fmt: skip
def test_choice_edges(reply, gold, options, want):
  assert choice(reply, gold, options=options) is want


@pytest.mark.parametrize("reply, gold, want", [
  ("5", "5", True), ("five", "5", True), ("5.0", 5, True), ("Five.", 5.0, True),
  ("answer: 5", "5", True), ("There are 5 knocks.", "five", True),
  ("five (5)", "5", True), ("05", "5", True), ("5 or 6", "5", False),
  ("5-6", "5", False), ("between five and six", "5", False), ("15", "5", False),
  ("not 5", "5", False), ("isn't 5", "5", False), ("-5", "5", False),
  ("-5", "-5", True), ("minus five", -5, True), ("negative 5", "5", False),
  ("1,000", "1000", True), ("one thousand", "1,000", True),
  ("440Hz", "440", True),
  ("120 bpm", "120", True), ("50%", "50", True), ("5 Hz.", "5", True),
  ("0.10", "0.1", True), (".5", "0.5", True), ("1/2", "0.5", True),
  ("1, 0", "10", False),
  ("½", "0.5", True), ("1/0", "1", False), ("twenty-one", "21", True),
  ("twenty one", "21", True), ("twenty, one", "21", False),
  ("one hundred", "100", True), ("a hundred", "100", True),
  ("one hundred and five", "105", True), ("ninety nine", "99", True),
  ("two hundred forty-two", "242", True), ("zero", "0", True),
  ("1e5", "100000", False), ("0:05", "5", False), ("1.2.3", "1", False),
  ("mp3", "3", False), ("many", "5", False), ("3 ٤", "3", False),
  ("seven seventy", "7", False), ("nineteen", "9", False),
])  # fmt: skip
def test_number_edges(reply, gold, want):
  assert number(reply, gold) is want


def test_number_words_are_read_up_to_and_beyond_one_hundred():
  small = "zero one two three four five six seven eight nine ten eleven twelve \
thirteen fourteen fifteen sixteen seventeen eighteen nineteen".split()
  tens = "twenty thirty forty fifty sixty seventy eighty ninety".split()
  words = small + [
    f"{ten}-{one}" if one != "zero" else ten
    for ten in tens
    for one in small[:10]
  ]
  words += ["one hundred", "one hundred and one"]
  for value, word in enumerate(words):
    assert number(word, value) is True
    assert number(word, value + 1) is False


@pytest.mark.parametrize("gold", ["many", "1 or 2", "0:10 to 0:20", "9" * 99])
def test_a_gold_answer_without_one_value_is_unscorable(gold):
  assert number(gold, gold) is None


@pytest.mark.parametrize("reply, gold, want", [
  ("a piano", "Piano", True), ("The Piano!", "piano", True),
  ("answer: piano", "piano", True), ("the answer is piano.", "piano", True),
  ("two dogs", "2 dogs", True), ("piano and drums", "piano", False),
  ("pianos", "piano", False), ("C#", "C", False), ("A", "A", True),
  ("don't go", "don’t go", True), ("answer", "answer", True),
  ("0:05 to 0:10", "0:10 to 0:20", False), ("0:05", "0:05", True),
])  # fmt: skip
def test_text_is_equal_after_normalisation_only(reply, gold, want):
  # Trap 19 among them.
  assert text(reply, gold) is want


def test_an_unknown_answer_type_is_refused():
  with pytest.raises(ValueError, match="choice"):
    answers.match("x", "x", answer_type="regex")


HOSTILE = [
  "((((((", "a or ", "not ", "light blue ", "1,", "1,000,", "9", "1/", "0:",
  "one hundred and ", "twenty-", "-", "'", "a'", "the answer is ", " ", "\n",
  "answer", "so, the ", "n't ", "\u200b", "ﷺ", "e+9", "1e9", "<answer>", "B) ",
  "minus ", "悲", "\u0301", "thousand million ", "the the ", "½",
  "light blue or a ",
]  # fmt: skip


@pytest.mark.parametrize("seed", HOSTILE)
def test_the_time_of_a_hostile_string_grows_with_its_length(seed):
  # Trap 20.  Of processor time, and against a shorter string on the same
  # machine: neighbours slow both.
  def seconds(length):
    reply = "answer: " + (seed * length)[:length] + " blue"
    start = time.process_time()
    choice(reply, "blue", options=COLOURS)
    number(reply, "5")
    text(reply, "blue")
    return time.process_time() - start

  # The least of three: one may be the turn of the garbage collector.
  short, long = (
    min(seconds(length) for _ in range(3)) for length in (6_250, 50_000)
  )
  # Eight times the length; quadratic would be sixty-four times.
  assert long < 24 * max(short, 0.01)


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=60), st.text(max_size=12))
def test_any_strings_give_a_verdict_and_never_an_error(reply, gold):
  for kind in answers.ANSWER_TYPES:
    got = answers.match(reply, gold, answer_type=kind, options=(gold, "sad"))
    assert got in (True, False, None)


@settings(max_examples=60, deadline=None)
@given(st.permutations(MOODS), st.integers(0, 3), st.booleans())
def test_every_option_is_told_from_every_other(options, i, by_letter):
  reply = "ABCD"[i] if by_letter else options[i]
  hits = [choice(reply, gold, options=options) for gold in options]
  assert hits == [j == i for j in range(4)]
