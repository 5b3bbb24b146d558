"""Messages to ids: turns, audio placeholders, the think block, loss masks.

    <|BOT|>human\\n{audio}{question}\\noptions: a | b<|EOT|>
    <|BOT|>assistant\\n<think>\\n  ->  {reasoning}\\n</think>\\nanswer: x<|EOT|>

The turn syntax is Step-Audio-R1's (its README template).  The opening tag
is part of the prompt and the rest is tokenised on its own, so the boundary
in training is the boundary in sampling.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from mgrd_jax.text import tokenizer as tokenizer_lib

OPEN = "<think>\n"
EMPTY = "<think>\n\n</think>\n"
CLOSE = "\n</think>\n"
LEAD_IN = "answer:"
HINT = "say what you hear before you answer."
AUDIO = "<audio_start><audio_patch><audio_end>"


@dataclasses.dataclass(frozen=True)
class Row:
  """One tokenised sequence.

  Attributes:
    tokens: ids, prompt then response.
    loss: True where the loss is taken.
    prompt_len: columns that belong to the prompt (think tag included).
    spans: (first column, placeholders) of each clip, in order.
  """

  tokens: np.ndarray
  loss: np.ndarray
  prompt_len: int
  spans: tuple[tuple[int, int], ...]


def prompt_text(
  question: str,
  options: Sequence[str] = (),
  *,
  clips: int = 0,
  hint: str = "",
  direct: bool = False,
) -> str:
  """The prompt as a string, one `<audio_patch>` a clip.

  Args:
    question: the user's words.
    options: answers to choose from, listed after the question.
    clips: number of audio clips, placed before the question.
    hint: an elicitation sentence, put after the question.
    direct: close the think block at once instead of opening it.

  Raises:
    ValueError: the text holds one of the model's own special tokens.
  """
  parts = [question] + ([hint] if hint else [])
  text = " ".join(parts)
  if options:
    text += "\noptions: " + " | ".join(options)
  for token in tokenizer_lib.SPECIAL + tokenizer_lib.THINK:
    if token in text:
      raise ValueError(
        f"question: holds the special token {token!r}; remove it"
      )
  head = f"<|BOT|>human\n{AUDIO * clips}{text}<|EOT|><|BOT|>assistant\n"
  return head + (EMPTY if direct else OPEN)


def expand(
  ids: Sequence[int], counts: Sequence[int], patch: int
) -> tuple[list[int], tuple[tuple[int, int], ...]]:
  """Repeats the k-th placeholder counts[k] times.

  Returns:
    (ids, spans) with spans as in `Row`.

  Raises:
    ValueError: placeholders and clips differ in number, or a count is 0.
  """
  out: list[int] = []
  spans: list[tuple[int, int]] = []
  found = sum(i == patch for i in ids)
  if found != len(counts):
    raise ValueError(f"{found} audio placeholders for {len(counts)} clips")
  for i in ids:
    if i != patch:
      out.append(i)
      continue
    count = counts[len(spans)]
    if count < 1:
      raise ValueError(
        f"clip {len(spans)} is too short: it has no audio token; "
        "give at least 0.1 s"
      )
    spans.append((len(out), count))
    out.extend([patch] * count)
  return out, tuple(spans)


def prompt(
  tokenizer: tokenizer_lib.Tokenizer,
  question: str,
  options: Sequence[str] = (),
  *,
  counts: Sequence[int] = (),
  hint: str = "",
  direct: bool = False,
) -> Row:
  """A prompt ready to sample from; `counts` are the clips' audio tokens."""
  text = prompt_text(question, options, clips=len(counts), hint=hint)
  ids, spans = expand(
    tokenizer.encode(text), counts, tokenizer.id("<audio_patch>")
  )
  if direct:
    # A byte-level tokenizer merges the newlines of an empty block that it
    # sees at once; a policy that closes an opened block writes two.
    ids += tokenizer.encode(CLOSE)
  tokens = np.asarray(ids, np.int32)
  return Row(tokens, np.zeros(len(ids), bool), len(ids), spans)


def response(
  tokenizer: tokenizer_lib.Tokenizer,
  *,
  given: str = "",
  reasoning: str | None = None,
  answer: str,
) -> tuple[list[int], list[int]]:
  """(ids that are given, ids that the model must say) behind a prompt.

  Without reasoning the think block is closed already, and nothing is given.
  """
  reply = f"{LEAD_IN} {answer}<|EOT|>"
  if not reasoning:
    return [], tokenizer.encode(reply)
  said = tokenizer.encode(f"{reasoning}{CLOSE}{reply}")
  return tokenizer.encode(given), said


def supervised(
  tokenizer: tokenizer_lib.Tokenizer,
  question: str,
  options: Sequence[str] = (),
  *,
  counts: Sequence[int] = (),
  hint: str = "",
  given: str = "",
  reasoning: str | None = None,
  answer: str,
) -> Row:
  """A prompt with its response; the loss covers what the model must say.

  Without reasoning the think block is empty and, as in the paper's
  E[log pi(a | x, q)] (eq. 1), only the reply is scored.  `given` is a
  beginning of the reasoning that is context, not target.
  """
  head = prompt(
    tokenizer,
    question,
    options,
    counts=counts,
    hint=hint,
    direct=not reasoning,
  )
  context, target = response(
    tokenizer, given=given, reasoning=reasoning, answer=answer
  )
  tokens = np.concatenate([head.tokens, context, target]).astype(np.int32)
  loss = np.zeros(len(tokens), bool)
  loss[len(tokens) - len(target) :] = True
  return Row(tokens, loss, head.prompt_len, head.spans)
