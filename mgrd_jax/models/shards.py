"""The files of a checkpoint: which tensor lies where, and its bytes.

    folder --headers--> {name: Tensor(file, dtype, shape, start, stop)}
    file = length of the header (8 bytes), header (JSON), bytes of tensors

Files are read and never mapped, so that no page of them stays resident.
"""

import collections
import dataclasses
import json
import math
import pathlib
import re
import shutil
from collections.abc import Iterable

import ml_dtypes
import numpy as np

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
DTYPES = {
  "BF16": np.dtype(ml_dtypes.bfloat16),
  "F16": np.dtype(np.float16),
  "F32": np.dtype(np.float32),
}
_PIECE = 32 << 20  # bytes compared at once
_SHARD = re.compile(r"model-(\d+)-of-(\d+)\.safetensors")
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".msgpack", ".h5")


class ConversionError(ValueError):
  """A checkpoint that cannot be used; one line for each fault.

  Attributes:
    problems: the lines.
  """

  def __init__(self, problems: str | Iterable[str]):
    self.problems = [problems] if isinstance(problems, str) else list(problems)
    super().__init__("\n".join(self.problems))


@dataclasses.dataclass(frozen=True)
class Tensor:
  """A tensor in a file.

  Attributes:
    file: that holds it.
    name: there.
    dtype: as the file writes it, such as "BF16".
    shape: its dimensions.
    start: of its bytes in the file.
    stop: past its bytes.
  """

  file: pathlib.Path
  name: str
  dtype: str
  shape: tuple[int, ...]
  start: int
  stop: int


def inspect(folder) -> dict[str, Tensor]:
  """The tensors of a checkpoint, by name; reads headers alone.

  Raises:
    ConversionError: no checkpoint, or one that is torn: a shard missing or
      truncated, a tensor twice, or not where the index says.
  """
  folder = pathlib.Path(folder)
  files, index = _files(folder)
  found: dict[str, Tensor] = {}
  problems, readable = [], set()
  for file in files:
    if not (folder / file).is_file():
      held = [name for name, home in index.items() if home == file]
      hint = f", with {held[0]} and {len(held) - 1} more" if held else ""
      problems.append(f"{folder / file}: this shard is missing{hint}; fetch it")
      continue
    try:
      tensors = _header(folder / file)
    except ConversionError as error:
      problems += error.problems
      continue
    readable.add(file)
    for tensor in tensors:
      fault = ""
      if tensor.name in found:
        fault = f"is in {found[tensor.name].file.name} too; remove one of them"
      elif index and tensor.name not in index:
        fault = f"is not in {INDEX}; remove it or mend the index"
      if fault:
        problems.append(f"{tensor.file}: tensor {tensor.name} {fault}")
      found[tensor.name] = tensor
  for name, file in index.items():
    at = found.get(name)
    if file in readable and (at is None or at.file.name != file):
      problems.append(
        f"{folder / file}: no tensor {name} here, where {INDEX} puts it"
      )
  if problems:
    raise ConversionError(problems)
  return found


def _files(folder: pathlib.Path) -> tuple[list[str], dict[str, str]]:
  """Names of the files that should be there, and the index if there is one."""
  if not folder.is_dir():
    raise ConversionError(f"{folder}: no such folder")
  if (folder / SINGLE).exists():
    return [SINGLE], {}
  if (folder / INDEX).exists():
    index = _index(folder / INDEX)
    return sorted(set(index.values())), index
  for path in sorted(folder.iterdir()):
    if shard := _SHARD.fullmatch(path.name):
      width, count = len(shard[1]), int(shard[2])
      numbers = range(1, count + 1)
      return [_shard_name(i, count, width) for i in numbers], {}
  other = sorted(p.name for p in folder.iterdir() if p.suffix in _WEIGHTS)
  raise ConversionError(
    f"{folder}: neither {SINGLE} nor {INDEX} here"
    + (f", only {other[0]}" if other else "")
    + "; name the folder of a checkpoint in safetensors"
  )


def _shard_name(number: int, count: int, width: int = 5) -> str:
  return f"model-{number:0{width}d}-of-{count:0{width}d}.safetensors"


def _index(path: pathlib.Path) -> dict[str, str]:
  try:
    index = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
    plain = all(pathlib.PurePath(f).name == f for f in index.values())
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    raise ConversionError(f"{path}: not an index of shards") from error
  if not index or not plain:
    raise ConversionError(f"{path}: names no shards of this folder")
  return index


def raw_header(path: pathlib.Path) -> bytes:
  """The file up to the first tensor's bytes."""
  with path.open("rb") as file:
    length = file.read(8)
    return length + file.read(int.from_bytes(length, "little"))


def _header(path: pathlib.Path) -> list[Tensor]:
  """The tensors of one file, in the order of their bytes."""
  size = path.stat().st_size
  with path.open("rb") as file:
    length = file.read(8)
  if length == b"version ":
    raise ConversionError(
      f"{path}: a pointer of Git LFS, not the file; run git lfs pull"
    )
  first = 8 + int.from_bytes(length, "little")
  try:
    header = json.loads(raw_header(path)[8:] if first <= size else b"")
    header.pop("__metadata__", None)
    tensors = [
      Tensor(
        path,
        name,
        entry["dtype"],
        tuple(entry["shape"]),
        *(first + at for at in entry["data_offsets"]),
      )
      for name, entry in header.items()
    ]
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    raise ConversionError(
      f"{path}: truncated within its header, or not safetensors at all "
      f"({size} bytes); fetch it again"
    ) from error
  tensors.sort(key=lambda tensor: (tensor.start, tensor.stop))
  for tensor in tensors:
    if tensor.stop > size:
      raise ConversionError(
        f"{path}: truncated in tensor {tensor.name}: {size} bytes, where its "
        f"header says {tensors[-1].stop}; fetch it again"
      )
  return tensors


def reader(tensor: Tensor, start: int):
  """The tensor's file, open at its element `start`."""
  file = tensor.file.open("rb", buffering=0)
  file.seek(tensor.start + start * DTYPES[tensor.dtype].itemsize)
  return file


def fill(file, tensor: Tensor, out: np.ndarray) -> None:
  """Fills a contiguous array of the tensor's width from its open file."""
  view = memoryview(out.reshape(-1).view(np.uint8))
  while view:
    count = file.readinto(view)
    if not count:
      raise ConversionError(f"{tensor.file}: ends within {tensor.name}")
    view = view[count:]


def same_bytes(a: Tensor, b: Tensor) -> bool:
  """Whether two tensors are equal in dtype, shape and every bit."""
  if (a.dtype, a.shape) != (b.dtype, b.shape):
    return False
  with a.file.open("rb") as left, b.file.open("rb") as right:
    left.seek(a.start)
    right.seek(b.start)
    for at in range(a.start, a.stop, _PIECE):
      size = min(_PIECE, a.stop - at)
      if left.read(size) != right.read(size):
        return False
  return True


def plan(
  entries: Iterable[tuple[str, str, tuple[int, ...]]], limit: int
) -> dict[str, list[Tensor]]:
  """Places tensors (name, dtype, shape) in files of at most `limit` bytes.

  Returns:
    File name -> its tensors, from byte 0 after the header on; a file holds
    at least one tensor, however large.
  """
  groups: list[list[Tensor]] = [[]]
  at = 0
  for name, dtype, shape in entries:
    size = math.prod(shape) * DTYPES[dtype].itemsize
    if groups[-1] and at + size > limit:
      groups.append([])
      at = 0
    groups[-1].append(Tensor(pathlib.Path(), name, dtype, shape, at, at + size))
    at += size
  if len(groups) == 1:
    return {SINGLE: groups[0]}
  count = len(groups)
  return {_shard_name(i, count): g for i, g in enumerate(groups, start=1)}


def new_header(tensors: list[Tensor]) -> bytes:
  """The head of a file that holds `tensors`, as `plan` placed them."""
  entries = {
    t.name: {
      "dtype": t.dtype,
      "shape": list(t.shape),
      "data_offsets": [t.start, t.stop],
    }
    for t in tensors
  }
  return _head({"__metadata__": {"format": "pt"}} | entries)


def readable_header(path: pathlib.Path) -> bytes:
  """A file's head, with the mark of the format that transformers asks for."""
  raw = raw_header(path)
  header = json.loads(raw[8:])
  if header.get("__metadata__", {}).get("format") == "pt":
    return raw
  metadata = header.pop("__metadata__", {}) | {"format": "pt"}
  return _head({"__metadata__": metadata} | header)


def _head(header: dict) -> bytes:
  text = json.dumps(header, separators=(",", ":")).encode()
  text += b" " * (-len(text) % 8)
  return len(text).to_bytes(8, "little") + text


def index_of(files: dict[str, list[Tensor]]) -> str:
  """The text of an index of shards."""
  shards = {t.name: file for file, tensors in files.items() for t in tensors}
  total = sum(t.stop - t.start for ts in files.values() for t in ts)
  index = {"metadata": {"total_size": total}, "weight_map": shards}
  return json.dumps(index, indent=2) + "\n"


def rest(
  source: pathlib.Path, target: pathlib.Path, *, index: bool = False
) -> list[pathlib.Path]:
  """What is not weights: config, tokenizer, code, folders; config.json last.

  The index is left out unless it is asked for, and so are hidden folders (what
  git keeps of a clone is the weights once more) and one that holds `target`.
  """

  def kept(path: pathlib.Path) -> bool:
    if path.is_dir():
      inside = target.resolve().is_relative_to(path.resolve())
      return not path.name.startswith(".") and not inside
    weights = path.suffix in _WEIGHTS or (path.name == INDEX and not index)
    return path.is_file() and not weights

  key = lambda path: (path.name == "config.json", path.name)
  return sorted(filter(kept, source.iterdir()), key=key)


def size(paths: Iterable[pathlib.Path]) -> int:
  """Bytes of files, and of all files in folders."""
  return sum(
    file.stat().st_size
    for path in paths
    for file in ([path] if path.is_file() else path.rglob("*"))
    if file.is_file()
  )


def copy(paths: Iterable[pathlib.Path], target: pathlib.Path) -> None:
  """Copies files and folders in their order.

  config.json comes last of `rest`, so that a folder cut short looks like none.
  """
  for path in paths:
    if path.is_dir():
      shutil.copytree(path, target / path.name, dirs_exist_ok=True)
    else:
      shutil.copyfile(path, target / path.name)


def by_file(tensors: Iterable[Tensor]) -> dict[str, list[Tensor]]:
  """File name -> its tensors, in the order of their bytes."""
  files = collections.defaultdict(list)
  for tensor in sorted(tensors, key=lambda t: (t.start, t.stop)):
    files[tensor.file.name].append(tensor)
  return dict(files)
