"""Prompts -> responses as text: how long they may be, and how they are drawn.

    examples --prompts--> items --generate--> Samples --decoded--> texts
"""

import functools

from experiments import assembly, placement
from mgrd_jax import sharding
from mgrd_jax.data import transforms
from mgrd_jax.models import audio_lm
from mgrd_jax.rollout import collect, engine, sampling
from mgrd_jax.text import chat

BANNED = (
  "<|endoftext|>", "<|BOT|>", "<audio_start>", "<audio_end>", "<audio_patch>",
  "<unk>",
)  # fmt: skip


def max_new(context: assembly.Context, config) -> int:
  """Most tokens of a response, wherever a stage of this run samples.

  config.max_new, or what the longest response takes that the user's rows
  teach, where that is more: a chain that is learned is never cut.
  """
  return max(config.max_new, context.own_response)


def ban_vector(context: assembly.Context):
  """ban_V of ids that must not be generated: audio marks, turn openers."""
  ids = [context.tokenizer.id(name) for name in BANNED]
  return sampling.ban(context.tokenizer.vocab_size, ids)


@functools.lru_cache(maxsize=64)
def _generate_program(
  mesh, model, vocab, stop_id, ban, samples, max_new, temperature
):
  ban_V = sampling.ban(vocab, ban)
  return placement.program(
    mesh,
    functools.partial(
      engine.generate,
      prefill=functools.partial(audio_lm.prefill, config=model),
      decode=functools.partial(audio_lm.decode, config=model),
      samples=samples,
      max_new=max_new,
      stop_id=stop_id,
      temperature=temperature,
      ban_V=ban_V,
    ),
  )


def generator(
  context: assembly.Context, params, key, *, samples, max_new, temperature
):
  """(batch, request_B) -> samples on the host, for rollout.collect.run."""
  ids = tuple(context.tokenizer.id(name) for name in BANNED)
  mesh = context.mesh
  program = _generate_program(
    mesh,
    context.model,
    context.tokenizer.vocab_size,
    context.tokenizer.id("<|EOT|>"),
    ids,
    samples,
    max_new,
    float(temperature),
  )
  # Fetched once, and not once a token.
  spoken = {part: x for part, x in params.items() if part != "encoder"}
  spoken = placement.place(mesh, spoken, sharding.SAMPLE)

  def generate(batch, request_B):
    batch = placement.place(mesh, batch)
    request_B = placement.place(mesh, {"request_B": request_B})["request_B"]
    return placement.fetch(program(spoken, batch, request_B, key))

  return generate


def decoded(
  context: assembly.Context, sample: collect.Sample, *, direct: bool = False
) -> str:
  """Full text of a response: the prefilled tags and what was said.

  The token that ended it is left out; `sample.stopped` tells of it.
  """
  said = sample.tokens[:-1] if sample.stopped else sample.tokens
  prefill = chat.EMPTY if direct else chat.OPEN
  return prefill + context.tokenizer.decode(said)


def draw(
  context: assembly.Context,
  params,
  examples,
  key,
  *,
  config,
  samples: int,
  temperature: float,
  refs=None,
  hint: bool = False,
  direct: bool = False,
  multiple: int = 8,
) -> list[list[tuple[collect.Sample, str]]]:
  """Responses to each example, with their full texts.

  Args:
    config: of the stage; its `max_new` and `rows`.
    samples: responses to each.
    temperature: 0 takes the most likely token.
    refs: other clips in the place of each example's own.
    hint, direct: how is asked, as in `assembly.prompt_item`.
    multiple: columns are padded to one, so that calls share a program.
  """
  if not examples:
    return []
  refs = refs or [e.audio for e in examples]
  items = [
    assembly.prompt_item(context, e, refs=r, hint=hint, direct=direct)
    for e, r in zip(examples, refs, strict=True)
  ]
  shape = transforms.shape_of(
    items, multiple=multiple, width=context.model.encoder.width
  )
  generate = generator(
    context,
    params,
    key,
    samples=samples,
    max_new=max_new(context, config),
    temperature=temperature,
  )
  with assembly.bar("sampling") as update:
    drawn = collect.run(
      items,
      generate,
      lambda part: transforms.collate(part, shape),
      rows=min(config.rows, placement.filled(context.mesh, len(items))),
      samples=samples,
      progress=update,
    )
  return [
    [(s, decoded(context, s, direct=direct)) for s in group] for group in drawn
  ]
