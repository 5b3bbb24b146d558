"""Clips and a question to a listener, and its answer as it is said.

    clips, question --prompt--> Row --log-mel, encoder, prefill, decode--> text

The encoder hears each piece of a clip once and the prompt is prefilled once.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Iterator, Sequence
from concurrent import futures

import jax
import jax.numpy as jnp
import numpy as np

from experiments.listener import Listener
from mgrd_jax.audio import features, io
from mgrd_jax.data import transforms
from mgrd_jax.models import audio_lm, released
from mgrd_jax.rollout import engine, sampling, serving
from mgrd_jax.text import chat, official, turns
from mgrd_jax.text import tokenizer as tokenizer_lib

CONTEXT = 512  # tokens of text in a prompt of our own model
OWN_NEW = 4096  # most tokens of its response
OWN_SECONDS = 300.0  # of all clips together, for our own model
MAX_SECONDS = 2 * 3600.0  # the same for a released one
STEPS = 8  # tokens between two looks at what was said
BLOCK = serving.BLOCK
PREFILL = 512  # most tokens of a prompt that are run at once


def read(
  paths: Sequence, *, max_seconds: float = OWN_SECONDS
) -> list[np.ndarray]:
  """The clips as wave_W at 16 kHz.

  Raises:
    ValueError: a clip cannot be used, or all together are too long.
  """
  waves, left = [], max_seconds
  for path in paths:
    wave_W, info = io.read(path, max_seconds=max_seconds)
    left -= info.seconds
    if left < 0:
      raise ValueError(
        f"{path}: the clips are over {max_seconds:g} s together; cut them"
      )
    if not features.token_count(min(len(wave_W), features.CHUNK)):
      raise ValueError(f"{path}: too short to be heard; give at least 0.1 s")
    waves.append(wave_W)
  return waves


def chunked(wave_W, size: int = features.CHUNK) -> list[np.ndarray]:
  """Pieces of at most 25 s, each to be heard as a clip of its own.

  A rest that is shorter than one audio token is left out.
  """
  return [
    wave_W[start:end]
    for start, end in features.chunks(len(wave_W), size)
    if features.token_count(min(end - start, features.CHUNK))
  ]


def prompt(
  listener: Listener,
  clips: Sequence[Sequence[np.ndarray]],
  question: str,
  options: Sequence[str] = (),
  *,
  direct: bool = False,
  system: str = "",
  plain: bool = False,
) -> chat.Row:
  """The tokenised question, with a span of placeholders a piece.

  Args:
    clips: the pieces of each clip.
    direct: with the block of a model that reasons closed already.
    system: a system message, for a released model.
    plain: clips and words without turns, for a released base model.

  Raises:
    ValueError: it is empty; or it is too long or holds a special token of the
      model, whose folder is named.
  """
  if not question.strip():
    raise ValueError("the question is empty; ask something of the clip")
  try:
    return _row(listener, clips, question, options, direct, system, plain)
  except ValueError as error:
    raise ValueError(f"{listener.folder}: {error}") from error


def _row(listener, clips, question, options, direct, system, plain) -> chat.Row:
  convention = audio_lm.convention(listener.model)
  counts = [
    [features.token_count(len(p), convention) for p in pieces]
    for pieces in clips
  ]
  if listener.own:
    return _own_prompt(listener, sum(counts, []), question, options, direct)
  if options:
    listed = "".join(f"{chr(65 + i)}. {o}\n" for i, o in enumerate(options))
    question = official.TASKS["mmau"].text.format(
      question=question, options=listed
    )
  heard = [turns.Audio(tuple(c)) for c in counts]
  if plain:
    return turns.plain_row(
      listener.tokenizer,
      (*heard, question),
      listener.model.family,
      context=listener.context,
    )
  step = listener.model.family == released.STEP_AUDIO
  # Step-Audio's choices stand before the clip, as its evaluation asks them.
  parts = (question, *heard) if step and options else (*heard, question)
  messages = [turns.Message("user", parts)]
  if system:
    messages.insert(0, turns.Message("system", system))
  return turns.row(
    listener.tokenizer,
    messages,
    listener.model.family,
    prefill=_opening(listener, direct),
    context=listener.context,
  )


def _own_prompt(listener, counts, question, options, direct) -> chat.Row:
  row = chat.prompt(
    listener.tokenizer, question, options, counts=counts, direct=direct
  )
  words = len(row.tokens) - sum(counts)
  if words > CONTEXT:
    raise ValueError(
      f"the question is too long: {words} tokens where {CONTEXT} are allowed; "
      "shorten it"
    )
  return row


def _opening(listener: Listener, direct: bool) -> str:
  return chat.EMPTY if direct else listener.opening


def _up(n: int, multiple: int) -> int:
  return -(-n // multiple) * multiple


def _hear(encoder_params, wave_BW, len_B, *, model, own):
  """Waves -> the encoder's states, as training read them."""
  # Our own training keeps its log-mels in half precision.
  mel_dtype = jnp.float16 if own else None
  enc_BAE, _ = audio_lm.hear(
    encoder_params, wave_BW, len_B, config=model, mel_dtype=mel_dtype
  )
  return enc_BAE


def _start(params, batch, *, model, slots, max_new):
  return engine.start(
    params,
    batch,
    jnp.zeros(1, jnp.int32),
    prefill=functools.partial(audio_lm.prefill, config=model, block=PREFILL),
    samples=1,
    slots=slots,
    max_new=max_new,
  )


def _advance(params, state, seen_BV, seed, *, model, banned, stop_ids, drawn):
  pick = serving.picker(
    seen_BV,
    temperature=drawn.temperature,
    top_p=drawn.top_p,
    top_k=drawn.top_k,
    repetition_penalty=drawn.repetition_penalty,
    ban_V=sampling.ban(model.decoder.vocab, banned),
  )
  return engine.advance(
    params,
    state,
    jax.random.key(seed),
    decode=functools.partial(audio_lm.decode, config=model),
    pick=pick,
    stop_ids=stop_ids,
    steps=STEPS,
  )


def _grow(state, *, slots):
  return state | {"cache": serving.grow(state["cache"], slots)}


def _program(listener: Listener, function, *args, donate=()):
  """The compiled function for arguments of these shapes; kept."""
  shapes = tuple((x.shape, str(x.dtype)) for x in jax.tree.leaves(args))
  key = function.func.__name__, repr(function.keywords), shapes
  if key not in listener.programs:
    # A tiny model runs for a tenth of a second; optimising would take one.
    options = {"xla_backend_optimization_level": 0} if listener.own else None
    jitted = jax.jit(function, compiler_options=options, donate_argnums=donate)
    if listener.mesh is None:
      jitted = jitted.lower(*args).compile()
    listener.programs[key] = functools.partial(_run, listener.mesh, jitted)
  return listener.programs[key]


def _run(mesh, program, *args):
  with jax.set_mesh(mesh) if mesh else contextlib.nullcontext():
    return program(*args)


def respond(
  listener: Listener,
  pieces: Sequence[np.ndarray],
  row: chat.Row,
  *,
  direct: bool = False,
  seed: int = 0,
) -> Iterator[str]:
  """Yields the response as it is said, the opening in the prompt first.

  The token that ends it is left out.

  Args:
    pieces: all that is heard, in the order of the row's spans.
    row: of `prompt`, asked with the same `direct`.
    seed: of the draws.
  """
  opening = _opening(listener, direct)
  if opening:
    yield opening
  said = (i for new in _ids(listener, pieces, row, seed) for i in new)
  words = (i for i in said if i not in listener.stop_ids)
  yield from tokenizer_lib.stream(listener.tokenizer, words)


def _ids(listener: Listener, pieces, row, seed) -> Iterator[list[int]]:
  """What is said, some ids at a time."""
  model, drawn = listener.model, listener.sampling
  # Our own model knows no context; it never says as much.
  room = OWN_NEW if listener.own else listener.context - len(row.tokens)
  drawn = dataclasses.replace(drawn, max_new=min(drawn.max_new, room))
  slots = _up(len(row.tokens), 64) + min(_up(drawn.max_new, STEPS), BLOCK)
  seen_BV = np.zeros((1, model.decoder.vocab), bool)
  seen_BV[0, row.tokens] = True
  spoken = {name: listener.params[name] for name in ("adapter", "decoder")}
  waves = _padded(listener, pieces)
  batch = _batch(listener, row, waves)
  program = functools.partial(_program, listener)
  hear = functools.partial(_hear, model=model, own=listener.own)
  start = functools.partial(
    _start, model=model, slots=slots, max_new=drawn.max_new
  )
  advance = functools.partial(
    _advance,
    model=model,
    banned=listener.banned,
    stop_ids=listener.stop_ids,
    drawn=drawn,
  )

  def advancing(state):
    args = spoken, state, seen_BV, np.uint32(seed)
    return program(advance, *args, donate=(1,))

  with futures.ThreadPoolExecutor(2) as pool:
    starting = pool.submit(program, start, spoken, batch)
    if listener.mesh is None:
      # Compiled side by side; on a mesh it must be known where things lie.
      pool.submit(advancing, jax.eval_shape(start, spoken, batch))
    heard = [
      program(hear, listener.params["encoder"], *some)(
        listener.params["encoder"], *some
      )
      for some in waves
    ]
    enc_BAE = jnp.concatenate(heard) if len(heard) > 1 else heard[0]
    batch = dataclasses.replace(batch, enc_BAE=enc_BAE[: len(pieces)])
    state = starting.result()(spoken, batch)
    if not np.isfinite(state["logits_BV"]).all():
      raise ValueError(
        f"{listener.folder}: the model's logits are not finite; a weight of "
        "the checkpoint is NaN, or too large for its dtype"
      )

  def further(state):
    return advancing(state)(spoken, state, seen_BV, np.uint32(seed))

  def grow(state, slots):
    larger = functools.partial(_grow, slots=slots)
    return program(larger, state)(state)

  yield from serving.stream(
    state, slots=slots, advance=further, grow=grow, steps=STEPS
  )


def _padded(listener: Listener, pieces):
  """Pieces as batches (wave_BW, len_B) of one shape, few at a time."""
  longest = max(len(piece) for piece in pieces)
  # Padded to few shapes, so that many questions share one program.
  samples = min(_up(longest, 5 * features.RATE), listener.piece)
  rows = len(pieces) if listener.own else 1
  out = []
  for at in range(0, len(pieces), rows):
    wave_BW = np.zeros((rows, samples), np.float32)
    len_B = np.zeros(rows, np.int32)
    for b, piece in enumerate(pieces[at : at + rows]):
      wave_BW[b, : len(piece)] = piece
      len_B[b] = len(piece)
    out.append((wave_BW, len_B))
  return out


def _batch(listener: Listener, row: chat.Row, waves):
  """The prompt, with a place held for the encoder's states."""
  model = listener.model
  encoder = model.encoder
  samples = waves[0][0].shape[1]
  frames = audio_lm.enc_frames(samples, config=model)
  clips = len(row.spans)
  shape = transforms.Shape(
    time=_up(len(row.tokens), 64),
    clips=clips,
    frames=frames,
    width=encoder.width,
    stride=audio_lm.stride(model),
  )
  enc_AE = np.broadcast_to(np.float32(0), (frames, encoder.width))
  batch = transforms.collate([transforms.Item(row, (enc_AE,) * clips)], shape)
  dtype = listener.params["encoder"]["conv1_bias_E"].dtype
  like = jax.ShapeDtypeStruct(batch.enc_BAE.shape, dtype)
  return dataclasses.replace(batch, enc_BAE=like)
