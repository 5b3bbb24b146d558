"""Conversations in the words of the released models, and their ids.

    <|BOT|>human\\n{parts}<|EOT|><|BOT|>assistant\\n<think>\\n     step-audio
    <|im_start|>user\\n{parts}<|im_end|>\\n<|im_start|>assistant\\n  qwen2-audio

    messages --render--> text --encode--> ids --expand--> Row

Step-Audio's syntax is that of its published clients; `exact` renders the
template that Step-Audio-R1 is served with instead, which differs in three
ways: no `<|EOT|>` ever follows an assistant's message, `function_output` is
dropped, and tools without a system message leave its turn open.  ChatML is
that of transformers' Qwen2AudioProcessor.  A prompt is tokenised in one
piece and what follows it on its own, so that the boundary in training is the
boundary in sampling.
"""

import dataclasses
import json
from collections.abc import Sequence

import numpy as np

from mgrd_jax.text import chat, families
from mgrd_jax.text import tokenizer as tokenizer_lib


@dataclasses.dataclass(frozen=True)
class Audio:
  """A clip, as the audio tokens of each of its chunks, in order.

  A chunk has a span of its own; Step-Audio's follow each other with nothing
  between, Qwen2-Audio's are numbered as clips are.
  """

  counts: tuple[int, ...]

  def __post_init__(self):
    if not self.counts:
      raise ValueError("an empty clip: it has no chunk to hear")


@dataclasses.dataclass(frozen=True)
class Message:
  """One turn.

  Attributes:
    role: system, user (or human), assistant; with step-audio also
      tool_json_schemas, input (or function_output), and tool.
    content: text, or text and clips in the order they are to be read.
    eot: close the turn; a last assistant's message that is not closed is
      continued by the model.
    name: the function that a tool's message answers for.
  """

  role: str
  content: str | tuple[str | Audio, ...] = ""
  eot: bool = True
  name: str = "tool"

  @property
  def parts(self) -> tuple[str | Audio, ...]:
    return (self.content,) if isinstance(self.content, str) else self.content


_STEP_ROLES = {
  "system": "system",
  "tool_json_schemas": "tool_json_schemas",
  "user": "human",
  "human": "human",
  "assistant": "assistant",
  "tool": "function_output",
  "function_output": "input",
  "input": "input",
}
_CHATML_ROLES = {
  "system": "system",
  "user": "user",
  "human": "user",
  "assistant": "assistant",
}
_CHATML_SYSTEM = "You are a helpful assistant."


def render(
  messages: Sequence[Message],
  family: str,
  *,
  exact: bool = False,
  tools: Sequence[dict] = (),
  prefill: str | None = None,
) -> str:
  """The prompt as a string, with one placeholder a chunk.

  Args:
    messages: the conversation.
    family: "step-audio" or "qwen2-audio".
    exact: byte for byte what the published template gives: Step-Audio-R1's
      with a bare `<audio_patch>` a chunk, its span being drawn around it
      later; and any role is written as it is.
    tools: schemas of functions, as JSON values; step-audio only.
    prefill: how the answer begins; None is what the family's template
      writes: `chat.OPEN` with step-audio, nothing with qwen2-audio.
      `chat.EMPTY` asks for an answer without reasoning.  Step-Audio 2, which
      does not reason, takes "".

  Raises:
    ValueError: no messages, an unknown role or family, tools where the
      template has no place for them, or a prefill that could not be written.
  """
  families.of(family)
  if not messages:
    raise ValueError("messages: there are none; ask something")
  last = messages[-1]
  continued = last.role == "assistant" and not last.eot
  if prefill is not None and (exact or continued):
    why = "the template is exact" if exact else "the last message is continued"
    raise ValueError(f"prefill: {why}; leave it out")
  if family == "qwen2-audio":
    if tools:
      raise ValueError("tools: qwen2-audio's template has no place for them")
    text, opening = _chatml(messages, exact), "<|im_start|>assistant\n"
    prefill = prefill or ""
  else:
    write = _r1_template if exact else _step_audio
    text, opening = write(messages, tools), "<|BOT|>assistant\n"
    prefill = chat.OPEN if prefill is None else prefill
  return text if continued else text + opening + prefill


def plain(parts: Sequence[str | Audio], family: str) -> str:
  """Text and clips without turns, as base models are prompted."""
  one = families.of(family)
  span = one.before + one.patch + one.after
  return _written(tuple(parts), span)


def row(
  tokenizer: tokenizer_lib.HFTokenizer,
  messages: Sequence[Message],
  family: str,
  *,
  exact: bool = False,
  tools: Sequence[dict] = (),
  prefill: str | None = None,
  target: str = "",
  context: int | None = None,
) -> chat.Row:
  """A prompt ready to sample from, or with its response.

  Args:
    tokenizer: of a released model, or one that has its family's tokens.
    messages, family, exact, tools, prefill: as for `render`.
    target: a response, tokenised on its own; the loss covers it.
    context: most tokens that fit, a response's first among them.

  Raises:
    ValueError: as `render`; a special token in a text (an exact template
      takes it for what it spells, as the reference does); a chunk without
      an audio token; or a row longer than `context`, with both lengths: a
      cut could go through an audio span.
  """
  text = render(messages, family, exact=exact, tools=tools, prefill=prefill)
  if not exact:
    _refuse_special_tokens(tokenizer, messages, families.of(family), tools)
  bare = exact and family == "step-audio"
  head, spans = _expanded(tokenizer, text, messages, family, bare=bare)
  return _assembled(tokenizer, head, spans, target, context)


def plain_row(
  tokenizer: tokenizer_lib.HFTokenizer,
  parts: Sequence[str | Audio],
  family: str,
  *,
  target: str = "",
  context: int | None = None,
) -> chat.Row:
  """`plain` as ids; arguments and errors as those of `row`."""
  message = Message("user", tuple(parts))
  _refuse_special_tokens(tokenizer, [message], families.of(family), ())
  text = plain(parts, family)
  head, spans = _expanded(tokenizer, text, [message], family, bare=False)
  return _assembled(tokenizer, head, spans, target, context)


def _expanded(tokenizer, text, messages, family, *, bare):
  """Ids of a prompt with its placeholders repeated, and its spans."""
  one = families.of(family)
  clips = [p for m in messages for p in m.parts if isinstance(p, Audio)]
  counts = [count for clip in clips for count in clip.counts]
  patch = tokenizer.id(one.patch)
  ids = tokenizer.encode(text)
  if bare:
    span = tokenizer.id(one.before), patch, tokenizer.id(one.after)
    ids = [j for i in ids for j in (span if i == patch else (i,))]
  return chat.expand(ids, counts, patch)


def _assembled(tokenizer, head, spans, target, context) -> chat.Row:
  rest = tokenizer.encode(target)
  length = len(head) + len(rest)
  # A prompt that fills the context leaves no room for an answer.
  if context is not None and max(length, len(head) + 1) > context:
    audio = sum(count for _, count in spans)
    raise ValueError(
      f"a prompt of {length} tokens, {audio} of them audio, where the context "
      f"is {context}, answer included (max_position_embeddings in the "
      "checkpoint's config.json); shorten the question or the clips"
    )
  tokens = np.asarray([*head, *rest], np.int32)
  loss = np.arange(length) >= len(head)
  return chat.Row(tokens, loss, len(head), spans)


def _step_audio(messages, tools) -> str:
  turns = []
  for message in messages:
    role = _role(message, _STEP_ROLES, "step-audio")
    name = f"{message.name}\n" if message.role == "tool" else ""
    end = "<|EOT|>" if message.eot else ""
    content = _written(message.parts, chat.AUDIO)
    turns.append(f"<|BOT|>{role}\n{name}{content}{end}")
  if tools:
    at = int(messages[0].role == "system")
    turns.insert(at, f"<|BOT|>tool_json_schemas\n{_json(tools)}<|EOT|>")
  return "".join(turns)


def _r1_template(messages, tools) -> str:
  """As the template in Step-Audio-R1's README renders."""
  system = messages[0].role == "system"
  turns = []
  if system or tools:
    turns.append("<|BOT|>system\n")
  if system:
    turns.append(f"{_bare(messages[0])}<|EOT|>")
  if tools:
    turns.append(f"<|BOT|>tool_json_schemas\n{_json(tools)}<|EOT|>")
  for message in messages[int(system) :]:
    role = "human" if message.role == "user" else message.role
    if role != "function_output":
      end = "" if role == "assistant" else "<|EOT|>"
      turns.append(f"<|BOT|>{role}\n{_bare(message)}{end}")
  return "".join(turns)


def _chatml(messages, exact) -> str:
  turns, heard = [], 0
  if messages[0].role != "system":
    turns.append(f"<|im_start|>system\n{_CHATML_SYSTEM}<|im_end|>\n")
  for message in messages:
    role = message.role
    if not exact:
      role = _role(message, _CHATML_ROLES, "qwen2-audio")
    turns.append(f"<|im_start|>{role}\n")
    for part in message.parts:
      if isinstance(part, str):
        turns.append(part)
        continue
      for _ in part.counts:
        heard += 1
        span = "<|audio_bos|><|AUDIO|><|audio_eos|>"
        turns.append(f"Audio {heard}: {span}\n")
    turns.append("<|im_end|>\n" if message.eot else "")
  return "".join(turns)


def _role(message, roles, family) -> str:
  if message.role not in roles:
    raise ValueError(
      f"role {message.role!r}: {family} knows {', '.join(roles)}"
    )
  return roles[message.role]


def _written(parts, span: str) -> str:
  return "".join(
    part if isinstance(part, str) else span * len(part.counts) for part in parts
  )


def _bare(message) -> str:
  if isinstance(message.content, str):
    # A server that takes content as one string puts a line break there.
    return message.content.replace("<audio_patch>\n", "<audio_patch>")
  return _written(message.parts, "<audio_patch>")


def _json(tools) -> str:
  return json.dumps(list(tools), ensure_ascii=False)


def _refuse_special_tokens(tokenizer, messages, family, tools) -> None:
  """What is written must not read as turns, clips or other special tokens.

  An assistant may have written some, the think tags of a small tokenizer
  among them, but neither turns nor clips.
  """
  added = tokenizer.added()
  structure = set(family.required)
  written = [("tools", _json(tools), added)] if tools else []
  for at, message in enumerate(messages):
    # NUL stands for a clip: no token can reach across it.
    text = f"{message.name}\0{_written(message.parts, chr(0))}"
    own = message.role == "assistant"
    banned = {i: n for i, n in added.items() if not own or n in structure}
    written.append((f"message {at} ({message.role})", text, banned))
  for where, text, banned in written:
    for i in tokenizer.encode(text):
      if i in banned:
        raise ValueError(
          f"{where}: holds the special token {banned[i]!r}; remove it"
        )
