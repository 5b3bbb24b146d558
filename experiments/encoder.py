"""Stage 0: the audio encoder learns to recognise, and is frozen.

COMMAND: python -m experiments.encoder --config=configs/encoder.py:tiny \\
           --workdir=out/encoder
"""

import functools
import itertools

import jax
import numpy as np
from etils import epath

from experiments import assembly, flags, placement
from mgrd_jax.audio import features
from mgrd_jax.data import loader
from mgrd_jax.models import audio_lm, recognition
from mgrd_jax.train import checkpoint, loop, optim, steps

FAMILY = {"sums": "voice", "logic": "voice", "order": "events"}
SPOKEN = {"sums": "spoken", "logic": "spoken"}
WORDS = 12  # columns of a batch's transcripts, unless one is longer


def targets(
  examples, split: str = "train"
) -> dict[str, tuple[dict, str, str]]:
  """What is known of each clip of a split: ref -> (attributes, words, family).

  Clips of a manifest teach their transcript, and their answers to choice
  questions as attributes.
  """
  found: dict[str, tuple[dict, str, str]] = {}
  for e in examples:
    if e.split != split or len(e.audio) != 1 or e.meta.get("background"):
      continue
    family = SPOKEN.get(e.meta["family"], e.meta["family"])
    start = ({}, e.transcript or "", family)
    attributes, _, family = found.setdefault(e.audio[0], start)
    if e.meta.get("own"):
      if e.answer_type == "choice":
        attributes[f"own.{e.question}"] = e.answer
    else:
      kind = FAMILY.get(e.meta["family"], e.meta["family"])
      for name, value in e.meta.get("facts", {}).items():
        attributes[f"{kind}.{name}"] = value
      if e.source == "transcript":
        found[e.audio[0]] = (attributes, e.answer, family)
  return found


def spoken(context, found):
  """`found` without the transcripts that their clips are too short for.

  CTC takes a frame for each word, and one more between two that are the same.
  Such a clip still teaches its attributes; a line says how many there are.
  """
  kept, lost = {}, []
  for ref, (attributes, text, family) in found.items():
    words = text.split()
    needed = len(words) + sum(a == b for a, b in itertools.pairwise(words))
    frames = features.encoder_frames(context.clips[ref].input_len)
    if needed > frames:
      name, text = ref.split(":", 1)[1], ""
      lost.append(f"{name} ({len(words)} words in {frames} frames)")
    kept[ref] = (attributes, text, family)
  if lost:
    print(
      f"transcripts too long for their clips, so not learned: {len(lost)}; "
      f"the first: {lost[0]}"
    )
  return kept


def vocabulary(found) -> tuple[dict, dict]:
  """({word: id from 1}, {attribute: {value: index}}), sorted."""
  words = sorted({w for _, text, _ in found.values() for w in text.split()})
  values: dict[str, set] = {}
  for attributes, _, _ in found.values():
    for name, value in attributes.items():
      values.setdefault(name, set()).add(value)
  classes = {
    n: {v: i for i, v in enumerate(sorted(vs))}
    for n, vs in sorted(values.items())
  }
  return {w: i + 1 for i, w in enumerate(words)}, classes


def jitter(element: dict, rng: np.random.Generator) -> dict:
  """Augments a clip of the user's: shifted in time, louder or softer, masked.

  The built-in clips are left alone: their level is one of the answers.  What
  is shifted goes on at the other end, so a transcript would be out of order:
  such clips stay in place.
  """
  if not element["own"]:
    return element
  shift = rng.integers(len(element["mel_RM"]))
  if element["words_T"].any():
    shift = 0
  mel_RM = np.roll(element["mel_RM"], shift, 0)
  mel_RM = (mel_RM + rng.uniform(-0.25, 0.25)).astype(np.float16)
  for axis, widest in ((0, 60), (1, 24)):
    start = rng.integers(mel_RM.shape[axis])
    span = slice(start, start + rng.integers(widest))
    mel_RM[(slice(None), span) if axis else span] = mel_RM.mean()
  return element | {"mel_RM": mel_RM}


def _elements(context, found, word_ids, classes, columns):
  names = list(classes)
  for ref, (attributes, words, family) in sorted(found.items()):
    label_N = np.full(len(names), -1, np.int32)
    for name in attributes.keys() & classes.keys():
      label_N[names.index(name)] = classes[name].get(attributes[name], -1)
    ids = [word_ids[w] for w in words.split()]
    clip = context.clips[ref]
    yield {
      "mel_RM": clip.mel_RM,
      "len": clip.input_len,
      "words_T": np.pad(ids, (0, columns - len(ids))).astype(np.int32),
      "label_N": label_N,
      "own": ref.split(":")[0] != "0",
      "family": "own" if ref.split(":")[0] != "0" else family,
    }


def _collate(elements, *, frames, classes_N, rows: int):
  """A batch; of rows past the last element nothing is known."""
  mel_BRM = np.zeros((rows, frames, 128), np.float32)
  len_B = np.full(rows, frames, np.int32)
  words_BT = np.zeros((rows, len(elements[0]["words_T"])), np.int32)
  label_BN = np.full((rows, len(classes_N)), -1, np.int32)
  for b, e in enumerate(elements):
    mel_BRM[b, : len(e["mel_RM"])] = e["mel_RM"]
    len_B[b] = e["len"]
    words_BT[b], label_BN[b] = e["words_T"], e["label_N"]
  return {
    "mel_BRM": mel_BRM,
    "len_B": len_B,
    "words_BT": words_BT,
    "label_BN": label_BN,
    "classes_N": classes_N,
  }


def _streams(context, config, found, word_ids, classes):
  """Buckets of clip lengths: their streams, and how often each is drawn."""
  columns = max([WORDS, *(len(text.split()) for _, text, _ in found.values())])
  elements = list(_elements(context, found, word_ids, classes, columns))
  classes_N = np.array([len(v) for v in classes.values()], np.int32)
  names = [e["family"] for e in elements]
  share_N = loader.element_weights(names, config.weights.to_dict())
  lengths = [len(e["mel_RM"]) for e in elements]
  streams, shares = [], []
  for frames, at in loader.buckets(
    lengths, share_N, count=config.buckets, multiple=32
  ):
    rows = max(8, round(config.batch_frames / frames))
    streams.append(
      loader.mixture(
        *loader.grouped(elements, names, share_N, at),
        batch_size=rows,
        collate=functools.partial(
          _collate,
          frames=frames,
          classes_N=classes_N,
          rows=placement.filled(context.mesh, rows),
        ),
        seed=config.seed * 10_000 + frames,
        augment=jitter,
      )
    )
    shares.append(share_N[at].sum() / rows)
  return streams, np.array(shares) / sum(shares)


def batches(context, config):
  """(step -> batch, {word: id}, {attribute: {value: index}})."""
  found = spoken(context, targets(context.examples))
  word_ids, classes = vocabulary(found)
  streams, shares = _streams(context, config, found, word_ids, classes)

  def data(step):
    rng = np.random.default_rng((config.seed, step))
    return streams[rng.choice(len(streams), p=shares)][step]

  return data, word_ids, classes


def recognised(context, params, heads, classes) -> dict:
  """Accuracy of the heads on the test's clips: {attribute: share right}."""
  tested = targets(context.examples, "test").items()
  silent = {ref: (known, "", family) for ref, (known, _, family) in tested}
  elements = list(_elements(context, silent, {}, classes, 0))

  def read(params, batch):
    states = audio_lm.encode(
      params["encoder"], batch["mel_BRM"], batch["len_B"], config=context.model
    )
    return heads.apply({"params": params["heads"]}, *states)[1]

  mesh = context.mesh
  read = placement.program(mesh, read)
  hits: dict[str, list] = {name: [] for name in classes}
  longest = max((len(e["mel_RM"]) for e in elements), default=0)
  frames, size = -(-longest // 32) * 32, placement.filled(mesh, 64)
  classes_N = np.array([len(v) for v in classes.values()], np.int32)
  for start in range(0, len(elements), size):
    part = elements[start : start + size]
    batch = _collate(part, frames=frames, classes_N=classes_N, rows=size)
    class_BNV = placement.fetch(read(params, placement.place(mesh, batch)))
    for b, n in np.argwhere(batch["label_BN"] >= 0):
      guess = class_BNV[b, n, : classes_N[n]].argmax()
      hits[list(classes)[n]].append(guess == batch["label_BN"][b, n])
  return {n: float(np.mean(h)) for n, h in hits.items() if h}


def run(config, workdir, context=None) -> dict:
  """Trains the encoder; writes `workdir/params`.

  Returns:
    What it learned, and how well it recognises the test's clips.
  """
  workdir = epath.Path(workdir)
  # Mesh and data: clips with what is known of them.
  context = context or assembly.load(config, workdir)
  mesh = context.mesh
  data, word_ids, classes = batches(context, config)
  # Model: encoder and the heads that are dropped afterwards.
  key = jax.random.key(config.seed)
  init = functools.partial(audio_lm.init, config=context.model)
  params = placement.made(mesh, init, key)
  heads = recognition.RecognitionHeads(
    len(word_ids) + 1, len(classes), max(len(v) for v in classes.values())
  )
  width = context.model.encoder.width
  trained = {
    "encoder": params["encoder"],
    "heads": placement.made(
      mesh,
      functools.partial(recognition.init_heads, heads=heads, width=width),
      key,
    ),
  }
  # Step.
  tx = optim.named(**config.optim, steps=config.steps)
  step_fn = functools.partial(
    steps.encoder_step,
    encode=functools.partial(audio_lm.encode, config=context.model),
    heads=lambda p, enc, n: heads.apply({"params": p}, enc, n),
    ctc_weight=config.ctc_weight,
    tx=tx,
  )
  state = placement.initial(mesh, trained, tx)
  step_fn = placement.training_step(mesh, step_fn, state, hurry=False)
  # Loop.
  with assembly.bar("encoder") as update:
    state = loop.run(
      step_fn,
      state,
      lambda step: placement.place(mesh, data(step)),
      steps=config.steps,
      folder=workdir,
      save_every=config.save_every,
      log_every=10,
      log=flags.log(config),
      progress=lambda done, total, m: update(
        done, total, f"attributes {m['encoder/attribute_acc']:.2f}"
      ),
    )
  params["encoder"] = state.params["encoder"]
  checkpoint.save(workdir / "params", params)
  return {
    "words": len(word_ids),
    "attributes": len(classes),
    "recognised": recognised(context, state.params, heads, classes),
  }


if __name__ == "__main__":
  flags.main(run)
