"""Hugging Face safetensors ⇄ params, a leaf at a time.

    folder --inspect--> tensors --match--> rows, or every fault at once
    rows --read, stack, transpose by letters--> params, each at its sharding
    params --cut, transpose back--> folder, byte for byte what was read

A load holds the result, and where the devices have memories of their own one
leaf besides: a stack of layers, or one tensor where each layer has leaves of
its own.  An export holds the parameters and a piece of a tensor.
"""

import dataclasses
import math
import os
import pathlib
import shutil
from concurrent import futures

import jax
import numpy as np
import safetensors

from mgrd_jax import sharding
from mgrd_jax.models import assemble, audio_lm, names, shards
from mgrd_jax.models.names import Row
from mgrd_jax.models.shards import ConversionError, Tensor

SHARD_BYTES = 5_000_000_000
_LINES, _COLUMNS = 240, 1024  # of what is transposed at a time
expected = names.expected


@dataclasses.dataclass(frozen=True)
class Source:
  """A checkpoint whose tensors are those of a model.

  Attributes:
    tensors: of the checkpoint, by name.
    rows: the leaves of the model, each with its tensors' names.
    tied: the head that stands beside tied embeddings, equal to them.
  """

  tensors: dict[str, Tensor]
  rows: list[Row]
  tied: Row | None

  @property
  def written(self) -> list[Row]:
    """All that the files hold."""
    return self.rows + [self.tied] * bool(self.tied)


def inspect(folder) -> dict[str, Tensor]:
  """The tensors of a checkpoint, by name; reads headers alone.

  Raises:
    ConversionError: as `shards.inspect`, or a file that safetensors itself
      refuses.
  """
  found = shards.inspect(folder)
  problems = []
  for file in sorted({tensor.file for tensor in found.values()}):
    try:
      # What else the format forbids: holes, overlaps, sizes that do not fit.
      with safetensors.safe_open(file, framework="np"):
        pass
    except (safetensors.SafetensorError, OSError) as error:
      problems.append(f"{file}: not sound safetensors ({error})")
  if problems:
    raise ConversionError(problems)
  return found


def match(folder, config: audio_lm.Config) -> Source:
  """A checkpoint against the model that `config` describes.

  Raises:
    ConversionError: as `inspect`; a dtype that no released model has, alone;
      else every missing, unexpected and misshapen tensor.
  """
  found = inspect(folder)
  alien = [t for t in found.values() if t.dtype not in shards.DTYPES]
  if alien:
    more = f", as are {len(alien) - 1} more" if alien[1:] else ""
    raise ConversionError(
      f"{alien[0].file}: tensor {alien[0].name} is {alien[0].dtype}{more}; "
      f"give a checkpoint in {', '.join(shards.DTYPES)}, not a quantised one"
    )
  source = Source(
    found, names.rows(config, found), names.tied_head(config, found)
  )
  spare = dict(found)
  missing, misshapen = [], []
  for row in source.written:
    for layer, name in enumerate(row.names):
      tensor = spare.pop(name, None)
      wanted = f"{row.ours(layer)} takes {list(row.tensor_shape)}"
      if tensor is None:
        missing.append(f"{folder}: missing {name}: {wanted}")
      elif tensor.shape != row.tensor_shape:
        misshapen.append(
          f"{tensor.file}: misshapen {name} {list(tensor.shape)}: {wanted}"
        )
  unexpected = [
    f"{tensor.file}: unexpected {name} {list(tensor.shape)}: no parameter of "
    "ours takes it"
    for name, tensor in spare.items()
  ]
  lines = missing + unexpected + misshapen
  if lines:
    count = sum(len(row.names) for row in source.written)
    if 2 * len(missing) > count:
      lines.insert(
        0,
        f"{folder}/config.json: describes a {config.family} model, of whose "
        f"{count} tensors {len(missing)} are not here; is it another model's?",
      )
    raise ConversionError(lines)
  if source.tied:
    _check_tied(source)
  return source


def _check_tied(source: Source) -> None:
  embed = next(row for row in source.rows if row.stem == "embed")
  head = source.tensors[source.tied.pattern]
  if not shards.same_bytes(head, source.tensors[embed.pattern]):
    raise ConversionError(
      f"{head.file}: tensor {head.name} differs from {embed.pattern}, where "
      "config.json says tie_word_embeddings: set that to false"
    )


def load(
  folder,
  config: audio_lm.Config,
  *,
  dtype=None,
  shardings=None,
  unstacked: bool = False,
) -> dict:
  """Parameters of the model from a checkpoint.

  Args:
    folder: of the checkpoint.
    config: of the model.
    dtype: of the parameters; None is the files' own (of a leaf whose tensors
      differ in it, one that holds all their values).
    shardings: a tree of shardings, one a leaf; each device is given what it
      holds, and this process reads no layer or row that none of its devices
      holds.
    unstacked: as `audio_lm.unstack` leaves them, without ever holding a stack
      of the decoder's; `shardings` are those of the stacks all the same.

  Returns:
    {"encoder", "adapter", "decoder"}.

  Raises:
    ConversionError: as `match`; nothing is loaded.
  """
  source = match(folder, config)
  params: dict = {row.part: {} for row in source.rows}
  layers: list[dict] = [{} for _ in range(config.decoder.layers)]
  # The largest leaves first, while little of the result is held.
  rows = sorted(source.rows, key=lambda row: -math.prod(row.shape))
  with futures.ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
    for row in rows:
      tensors = [source.tensors[name] for name in row.names]
      kinds = {shards.DTYPES[tensor.dtype] for tensor in tensors}
      own = kinds.pop() if len(kinds) == 1 else np.float32
      placed = shardings and shardings[row.part][row.leaf]
      parts = [(row, tensors, params[row.part])]
      if unstacked and row.part == "decoder" and row.stacked:
        placed = placed and sharding.of_layer(placed)
        each = zip(row.layers, tensors, layers, strict=True)
        parts = [(alone, [tensor], home) for alone, tensor, home in each]
      for part, held, home in parts:
        leaf = assemble.leaf(part, held, dtype or own, placed, pool)
        home[part.leaf] = jax.block_until_ready(leaf)
  if unstacked:
    params["decoder"]["layers"] = tuple(layers)
  return params


def ready(folder, config: audio_lm.Config, like) -> Source:
  """What `save` asks of `folder` and `like`, before there are parameters.

  Returns:
    The source that `like` is.

  Raises:
    ConversionError: as `check_new`, `match` and `check_room`.
  """
  folder, like = check_new(folder), pathlib.Path(like)
  source = match(like, config)
  weights = sum(t.stop - t.start for t in source.tensors.values())
  check_room(folder, weights + shards.size(shards.rest(like, folder)))
  return source


def check_new(folder) -> pathlib.Path:
  """The folder's absolute path, if nothing is there or an empty folder.

  Raises:
    ConversionError: it is taken.
  """
  folder = pathlib.Path(folder).absolute()
  if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
    raise ConversionError(
      f"{folder}: holds other things; name a new folder or remove it first"
    )
  return folder


def check_room(folder: pathlib.Path, need: int) -> None:
  """Raises ConversionError unless `need` bytes are free where it will be."""
  home = next(p for p in (folder, *folder.parents) if p.exists())
  # What a write that was cut short has left makes way for the next one.
  left = shards.size([folder.with_name(f".{folder.name}.part")])
  free = shutil.disk_usage(home).free + left
  if need > free:
    raise ConversionError(
      f"{folder}: {need / 1e9:.1f} GB are needed and {free / 1e9:.1f} GB free; "
      "make room or name another folder"
    )


def save(params, config: audio_lm.Config, folder, *, like=None) -> None:
  """Writes params as a checkpoint that transformers reads.

  Args:
    params: {"encoder", "adapter", "decoder"} of arrays, whole on this process.
    config: of the model.
    folder: a new or an empty one; it appears whole or not at all.
    like: the checkpoint that the model came from.  Its names, dtypes and
      split into files are kept, so that unchanged parameters give equal
      files, and all but its weights is copied.  Without it: published names,
      the parameters' own dtypes, files of 5 GB, and no config.json.

  Raises:
    ConversionError: parameters of another model, a folder that is taken, or
      no room on the disk.
  """
  folder = check_new(folder)
  _check_params(params, names.rows(config))
  if like is None:
    rows = names.rows(config)
    files = _new_files(params, rows)
    check_room(folder, sum(t.stop - t.start for t in sum(files.values(), [])))
    heads = {file: shards.new_header(files[file]) for file in files}
  else:
    like, source = pathlib.Path(like), ready(folder, config, like)
    rows = source.written
    files = shards.by_file(source.tensors.values())
    heads = {file: shards.readable_header(like / file) for file in files}
  part = folder.with_name(f".{folder.name}.part")
  shutil.rmtree(part, ignore_errors=True)
  part.mkdir(parents=True)
  try:
    of = {n: (row, i) for row in rows for i, n in enumerate(row.names)}
    for file, tensors in files.items():
      with (part / file).open("wb") as out:
        out.write(heads[file])
        for tensor in tensors:
          out.writelines(_pieces(params, *of[tensor.name], tensor.dtype))
    # Last: without them no folder looks like a checkpoint.
    sharded = shards.SINGLE not in files
    if sharded:
      (part / shards.INDEX).write_text(shards.index_of(files))
    if like is not None:
      shards.copy(shards.rest(like, part, index=sharded), part)
    part.replace(folder)
  finally:
    shutil.rmtree(part, ignore_errors=True)


def _check_params(params, rows) -> None:
  have = {
    jax.tree_util.keystr(path, simple=True, separator="/"): leaf
    for path, leaf in jax.tree_util.tree_leaves_with_path(params)
  }
  problems = []
  for row in rows:
    name = f"{row.part}/{row.leaf}"
    leaf = have.pop(name, None)
    if leaf is None or tuple(leaf.shape) != row.shape:
      shape = "absent" if leaf is None else list(leaf.shape)
      problems.append(
        f"params: {name} is {shape}, where {row.pattern} takes "
        f"{list(row.shape)}"
      )
    elif not getattr(leaf, "is_fully_addressable", True):
      problems.append(f"params: {name} is spread over several processes")
  problems += [f"params: {name} has no place in a checkpoint" for name in have]
  if problems:
    raise ConversionError(problems)


def _new_files(params, rows) -> dict[str, list[Tensor]]:
  code = {dtype: name for name, dtype in shards.DTYPES.items()}
  entries = []
  for row in rows:
    dtype = np.dtype(params[row.part][row.leaf].dtype)
    if dtype not in code:
      raise ConversionError(
        f"params: {row.part}/{row.leaf} is {dtype}; cast it to bfloat16, "
        "float16 or float32"
      )
    entries += [(name, code[dtype], row.tensor_shape) for name in row.names]
  # Wider ones first, as readers ask for aligned tensors.
  entries.sort(key=lambda entry: -shards.DTYPES[entry[1]].itemsize)
  return shards.plan(entries, SHARD_BYTES)


def _pieces(params, row: Row, layer: int, dtype: str):
  """The bytes of one tensor of a file, some rows at a time."""
  leaf, letters = params[row.part][row.leaf], row.letters
  along = row.order.index(row.stacked)  # our axis that is theirs of rows
  back = np.argsort([axis for axis in row.order if axis or not row.stacked])
  rows, *unit = row.block[row.stacked :]
  step = max(1, _LINES // math.prod(unit[:-1])) if unit else rows
  for start in range(0, rows, step):
    cut = [layer if letter == "L" else slice(None) for letter in letters]
    cut[along] = slice(start, min(start + step, rows))
    host = np.asarray(leaf[tuple(cut)])
    host = host.astype(shards.DTYPES[dtype], copy=False)
    # As integers, which numpy moves without a look at each, and some columns
    # at a time, which stay in a core's cache.
    plain = host.view(f"u{host.itemsize}").transpose(back)
    out = np.empty(plain.shape, plain.dtype)
    for first in range(0, out.shape[-1], _COLUMNS):
      part = (..., slice(first, first + _COLUMNS))
      out[part] = plain[part]
    yield memoryview(out.reshape(-1).view(np.uint8))


def encoder_differences(folder, config, other, other_config) -> list[str]:
  """Whether two checkpoints hold one encoder, bit for bit (system.md 2.7).

  Returns:
    A line for each tensor that differs; none where all are equal.

  Raises:
    ConversionError: one of them is torn or lacks a tensor of its encoder.
  """
  left, right = _encoder(folder, config), _encoder(other, other_config)
  lines = []
  for ours in sorted(left.keys() | right.keys()):
    a, b = left.get(ours), right.get(ours)
    if a is None or b is None:
      lines.append(f"{ours}: only {(a or b).file.parent} has it")
    elif not shards.same_bytes(a, b):
      kinds = [f"{t.name} {t.dtype} {list(t.shape)}" for t in (a, b)]
      lines.append(f"{ours}: {kinds[0]} differs from {kinds[1]}")
  return lines


def _encoder(folder, config) -> dict[str, Tensor]:
  """Tensors of the encoder, by the names of our leaves."""
  found = inspect(folder)
  rows = [row for row in names.rows(config, found) if row.part == "encoder"]
  lacking = [n for row in rows for n in row.names if n not in found]
  if lacking:
    raise ConversionError([f"{folder}: missing {name}" for name in lacking])
  return {r.ours(i): found[n] for r in rows for i, n in enumerate(r.names)}
