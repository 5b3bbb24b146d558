"""A model that can be asked: our own run's, or a released checkpoint.

    run of the pipeline | checkpoint folder --load--> Listener
"""

import dataclasses
import json
import pathlib

import jax
import numpy as np

from experiments import files
from mgrd_jax import sharding
from mgrd_jax.audio import features
from mgrd_jax.models import audio_lm, convert, released
from mgrd_jax.text import chat, families
from mgrd_jax.text import tokenizer as tokenizer_lib
from mgrd_jax.train import checkpoint

BANNED = (
  "<|endoftext|>", "<|BOT|>", "<audio_start>", "<audio_end>", "<audio_patch>",
  "<unk>",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Listener:
  """A model with its tokenizer, ready to be asked.

  Attributes:
    params, model, tokenizer: what `audio_lm` and `text` need.
    sampling: how responses are drawn.
    opening: how a response begins that reasons first.
    banned, stop_ids: ids never said, ids that end a response.
    context: most tokens of a prompt with its response; a released model's.
    mesh: where the parameters lie, or None for one device.
  """

  params: dict
  model: audio_lm.Config
  tokenizer: tokenizer_lib.HFTokenizer
  sampling: families.Sampling
  opening: str
  banned: tuple[int, ...]
  stop_ids: tuple[int, ...]
  context: int | None = None
  mesh: object = None
  programs: dict = dataclasses.field(default_factory=dict)

  @property
  def own(self) -> bool:
    """Whether it was trained here, on the questions of the built-in set."""
    return self.context is None

  @property
  def piece(self) -> int:
    """Samples that are heard at once."""
    return features.WINDOW if self.model.encoder.fixed else features.CHUNK


def is_own(folder) -> bool:
  """Whether a folder is a run of ours, or one stage of its own.

  A folder of `convert import` has parameters too, and a release's config.
  """
  folder = pathlib.Path(folder)
  if (folder / "stages").is_dir():
    return True
  if not (folder / "params").is_dir():
    return False
  config = files.read_json(folder / "config.json")
  return "model" in config and "data" in config


def stage_folder(workdir, stage: str = "") -> pathlib.Path:
  """The folder of the last finished stage, or of the one that is named.

  A stage that was run alone is its own folder.

  Raises:
    ValueError: there is none; names those there are.
  """
  workdir = pathlib.Path(workdir)
  if (workdir / "params").is_dir() and not stage:
    return workdir
  home = workdir / "stages"
  done = [
    path.parent
    for path in sorted(home.glob("*/result.json"))
    # The encoder's own stage leaves a decoder that never saw a word.
    if (path.parent / "params").is_dir()
    and not path.parent.name.endswith("_encoder")
  ]
  if not done:
    raise ValueError(
      f"{workdir}: no finished stage here; run python -m experiments.pipeline "
      f"--config=configs/pipeline.py:tiny --workdir={workdir}"
    )
  if not stage:
    return done[-1]
  for folder in done:
    if stage in (folder.name, folder.name.partition("_")[2]):
      return folder
  names = ", ".join(folder.name for folder in done)
  raise ValueError(f"{workdir}: no finished stage {stage!r}; there are {names}")


def load(workdir, stage: str = "") -> Listener:
  """Reads config, tokenizer and parameters of a run of the pipeline.

  Raises:
    ValueError: the folder holds no run with a finished stage, or one whose
      parts do not fit each other.
  """
  workdir = pathlib.Path(workdir)
  folder = stage_folder(workdir, stage)
  try:
    config = json.loads((workdir / "config.json").read_text())
    variant = config["model"]
  except (json.JSONDecodeError, KeyError, TypeError) as error:
    path = workdir / "config.json"
    raise ValueError(f"{path}: not the config of a run") from error
  tokenizer = tokenizer_lib.load(workdir / "tokenizer.json")
  model = audio_lm.config_for(variant, vocab=tokenizer.vocab_size)
  params = checkpoint.restore(folder / "params")
  rows = params["decoder"]["embed_VD"].shape[0]
  if rows != tokenizer.vocab_size:
    raise ValueError(
      f"{folder}: a model of {rows} tokens, where {workdir}/tokenizer.json "
      f"has {tokenizer.vocab_size}"
    )
  max_new = config.get("evaluate", {}).get("max_new", 48)
  own = workdir / "own.json"
  if own.exists():
    # As in the run: its user's rows may teach longer responses.
    max_new = max(max_new, files.read_json(own)["max_new"])
  return Listener(
    # The trainer's device layout is of no use to one question.
    params=audio_lm.unstack(jax.tree.map(np.asarray, params)),
    model=model,
    tokenizer=tokenizer,
    sampling=families.Sampling(max_new=max_new),
    opening=chat.OPEN,
    banned=tuple(tokenizer.id(name) for name in BANNED),
    stop_ids=(tokenizer.id("<|EOT|>"),),
  )


def load_released(folder, *, dtype=None, vllm: bool = False) -> Listener:
  """Reads a checkpoint in Hugging Face's layout, or one of `convert import`.

  On several devices the weights are split over them by heads and hidden
  units.

  Args:
    folder: with config.json, a tokenizer, and safetensors or `params`.
    dtype: of the weights; None is what config.json says, or the files' own;
      of an imported folder, that of its parameters.
    vllm: count Step-Audio's audio tokens, and mask its encoder, as its server
      does.

  Raises:
    ValueError: anything of it is missing or does not fit; one line or, for
      tensors, one a tensor.
  """
  folder = pathlib.Path(folder)
  model = released.read(folder)
  if vllm:
    try:
      model = released.as_served(model)
    except ValueError as error:
      raise ValueError(f"{folder}: {error}") from error
  vocab = model.decoder.vocab
  tokenizer = families.load(folder, model.family, vocab=vocab)
  mesh = None
  if jax.device_count() > 1:
    mesh = sharding.make_mesh(tensor=jax.device_count())
  shardings = mesh and sharding.shardings(mesh, audio_lm.abstract(model))
  params = _parameters(folder, model, dtype, shardings)
  known = _release(model)
  return Listener(
    params=audio_lm.unstack(params),
    model=model,
    tokenizer=tokenizer,
    sampling=families.sampling(known.sampling, folder),
    opening=known.prefill,
    banned=families.never_generated(tokenizer, model.family, vocab),
    stop_ids=families.stop_ids(tokenizer, model.family, folder),
    context=model.decoder.context,
    mesh=mesh,
  )


def _parameters(folder, model, dtype, shardings) -> dict:
  """Of `convert import`'s folder, or of safetensors."""
  if not (folder / "params").is_dir():
    dtype = dtype or released.dtype(folder)
    return convert.load(folder, model, dtype=dtype, shardings=shardings)
  like = checkpoint.shapes(folder / "params", audio_lm.abstract(model))
  if dtype:
    like = jax.tree.map(lambda x: x.update(dtype=dtype), like)
  if shardings:
    like = jax.tree.map(lambda x, s: x.update(sharding=s), like, shardings)
  return checkpoint.restore(folder / "params", like)


def _release(model: audio_lm.Config) -> families.Released:
  """The release of these sizes, or the family's first one."""
  alike = [n for n, r in families.RELEASED.items() if r.family == model.family]
  for name in alike:
    if audio_lm.VARIANTS[name]().decoder.width == model.decoder.width:
      return families.RELEASED[name]
  return families.RELEASED[alike[0]]
