"""A model that can be asked: our own run's, or a released checkpoint.

    run of the pipeline | checkpoint folder --load--> Listener
"""

import dataclasses
import functools
import json
from collections.abc import Callable

import jax
import numpy as np
from etils import epath

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
  """A model with its tokenizer, ready to be asked once it is `loaded`.

  Attributes:
    folder: that it was read from.
    model, tokenizer: what `audio_lm` and `text` need.
    weights: reads the parameters.
    sampling: how responses are drawn.
    opening: how a response begins that reasons first.
    banned, stop_ids: ids never said, ids that end a response.
    context: most tokens of a prompt with its response; a released model's.
    mesh: where the parameters lie, or None for one device.
    params: the parameters, as `audio_lm.unstack` leaves them; {} until then.
    programs: compiled for them.
  """

  folder: epath.Path
  model: audio_lm.Config
  tokenizer: tokenizer_lib.HFTokenizer
  weights: Callable[[], dict]
  sampling: families.Sampling
  opening: str
  banned: tuple[int, ...]
  stop_ids: tuple[int, ...]
  context: int | None = None
  mesh: object = None
  params: dict = dataclasses.field(default_factory=dict)
  programs: dict = dataclasses.field(default_factory=dict)

  def loaded(self) -> "Listener":
    """The same with its parameters.

    Raises:
      ValueError: they are missing or do not fit; one line or, for tensors,
        one a tensor.
    """
    if self.params:
      return self
    return dataclasses.replace(self, params=self.weights())

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
  folder = epath.Path(folder)
  if (folder / "stages").is_dir():
    return True
  if not (folder / "params").is_dir():
    return False
  config = files.read_json(folder / "config.json")
  return "model" in config and "data" in config


def stage_folder(workdir, stage: str = "") -> epath.Path:
  """The folder of the last finished stage, or of the one that is named.

  A stage that was run alone is its own folder.

  Raises:
    ValueError: there is none; names those there are.
  """
  workdir = epath.Path(workdir)
  if (workdir / "params").is_dir() and not stage:
    return workdir
  home = workdir / "stages"
  done = [
    folder
    for folder in sorted(home.iterdir() if home.is_dir() else ())
    # The encoder's own stage leaves a decoder that never saw a word.
    if (folder / "result.json").exists()
    and (folder / "params").is_dir()
    and not folder.name.endswith("_encoder")
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


def read(workdir, stage: str = "") -> Listener:
  """Config and tokenizer of a run of the pipeline; its parameters later.

  Raises:
    ValueError: the folder holds no run with a finished stage.
  """
  workdir = epath.Path(workdir)
  folder = stage_folder(workdir, stage)
  try:
    config = json.loads((workdir / "config.json").read_text())
    variant = config["model"]
  except (json.JSONDecodeError, KeyError, TypeError) as error:
    path = workdir / "config.json"
    raise ValueError(f"{path}: not the config of a run") from error
  tokenizer = tokenizer_lib.load(workdir / "tokenizer.json")
  vocab = tokenizer.vocab_size
  max_new = config.get("evaluate", {}).get("max_new", 48)
  own = workdir / "own.json"
  if own.exists():
    # As in the run: its user's rows may teach longer responses.
    max_new = max(max_new, files.read_json(own)["max_new"])
  return Listener(
    folder=workdir,
    model=audio_lm.config_for(variant, vocab=vocab),
    tokenizer=tokenizer,
    weights=functools.partial(_own_parameters, workdir, folder, vocab),
    sampling=families.Sampling(max_new=max_new),
    opening=chat.OPEN,
    banned=tuple(tokenizer.id(name) for name in BANNED),
    stop_ids=(tokenizer.id("<|EOT|>"),),
  )


def _own_parameters(workdir, folder, vocab: int) -> dict:
  params = checkpoint.restore(folder / "params")
  rows = params["decoder"]["embed_VD"].shape[0]
  if rows != vocab:
    raise ValueError(
      f"{folder}: a model of {rows} tokens, where {workdir}/tokenizer.json "
      f"has {vocab}"
    )
  # The trainer's device layout is of no use to one question.
  return audio_lm.unstack(jax.tree.map(np.asarray, params))


def read_released(folder, *, dtype=None, vllm: bool = False) -> Listener:
  """A checkpoint in Hugging Face's layout, or one of `convert import`.

  All but its parameters, which are read later; on several devices they are
  split over them by heads and hidden units.

  Args:
    folder: with config.json, a tokenizer, and safetensors or `params`.
    dtype: of the weights; None is what config.json says, or the files' own;
      of an imported folder, that of its parameters.
    vllm: count Step-Audio's audio tokens, and mask its encoder, as its server
      does.

  Raises:
    ValueError: anything of it is missing or does not fit; one line.
  """
  folder = epath.Path(folder)
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
  if not (folder / "params").is_dir():
    dtype = dtype or released.dtype(folder)
  known = _release(model)
  return Listener(
    folder=folder,
    model=model,
    tokenizer=tokenizer,
    weights=functools.partial(_parameters, folder, model, dtype, mesh),
    sampling=families.sampling(known.sampling, folder),
    opening=known.prefill,
    banned=families.never_generated(tokenizer, model.family, vocab),
    stop_ids=families.stop_ids(tokenizer, model.family, folder),
    context=model.decoder.context,
    mesh=mesh,
  )


def _parameters(folder, model, dtype, mesh) -> dict:
  """Of `convert import`'s folder, or of safetensors."""
  shardings = mesh and sharding.shardings(mesh, audio_lm.abstract(model))
  if not (folder / "params").is_dir():
    return convert.load(
      folder, model, dtype=dtype, shardings=shardings, unstacked=True
    )
  like = checkpoint.shapes(folder / "params", audio_lm.abstract(model))
  if dtype:
    like = jax.tree.map(lambda x: x.update(dtype=dtype), like)
  if shardings:
    like = jax.tree.map(lambda x, s: x.update(sharding=s), like, shardings)
  return audio_lm.unstack(checkpoint.restore(folder / "params", like))


def _release(model: audio_lm.Config) -> families.Released:
  """The release of these sizes, or the family's first one."""
  alike = [n for n, r in families.RELEASED.items() if r.family == model.family]
  for name in alike:
    if audio_lm.VARIANTS[name]().decoder.width == model.decoder.width:
      return families.RELEASED[name]
  return families.RELEASED[alike[0]]
