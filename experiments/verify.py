"""A loaded model beside arrays that somebody computed elsewhere.

    REF.npz --spans of placeholders--> clips, rows
    clips --log-mel--> mel_k --encoder--> feat_lens --decoder--> logits

Each arrow's result that the file holds is compared.  A reference must have
heard each clip alone: in a padded batch of the published class, padding leaks
into the last embedding of a shorter clip.  The arrays:

    input_ids       [B, T]      ids, audio placeholders expanded
    attention_mask  [B, T]      1 where a token is, padded on either side
    wave_0, wave_1  [W]         float32 at 16 kHz, one a span, row by row
    logits          [B, T, V']  of every column; V' is the vocabulary, or
    logit_ids       [V']        the ids that were kept
    mel_k           [M, R]      optional: the log-mel of wave_k
    feat_lens       [clips]     optional: frames or tokens of each clip
"""

import dataclasses
import functools
import pathlib
import re
import zipfile

import jax
import numpy as np

from mgrd_jax import sharding
from mgrd_jax.audio import features
from mgrd_jax.models import audio_lm, convert
from mgrd_jax.types import Batch


@dataclasses.dataclass(frozen=True)
class Reference:
  """The arrays of a file, checked.

  Attributes:
    path: of the file.
    ids_BT: tokens.
    mask_BT: True where one is.
    waves: one a clip.
    spans: (row, column) of each clip's first placeholder.
    counts: placeholders of each clip.
    logits: [B, T, V'].
    logit_ids: ids of the last axis, or None for the whole vocabulary.
    mels: [M, R] by clip, where given.
    feat_lens: by clip, or None.
  """

  path: pathlib.Path
  ids_BT: np.ndarray
  mask_BT: np.ndarray
  waves: list[np.ndarray]
  spans: list[tuple[int, int]]
  counts: list[int]
  logits: np.ndarray
  logit_ids: np.ndarray | None
  mels: dict[int, np.ndarray]
  feat_lens: np.ndarray | None


@dataclasses.dataclass(frozen=True)
class Difference:
  """How far one stage of one row is from the reference."""

  stage: str
  row: int
  values: int
  largest: float
  where: str
  note: str = ""


def read(path, config: audio_lm.Config) -> Reference:
  """Reads and checks a reference.

  Raises:
    ValueError: an array is missing or does not fit the others or the model;
      one line that names the file, the array and the fix.
  """
  path = pathlib.Path(path)
  arrays = _arrays(path)
  ids_BT = _array(path, arrays, "input_ids", 2, "iu")
  vocab = config.decoder.vocab
  mask_BT = _mask(path, arrays, ids_BT.shape)
  if ids_BT[mask_BT].min() < 0 or ids_BT[mask_BT].max() >= vocab:
    raise ValueError(f"{path}: input_ids: give ids from 0 to {vocab - 1}")
  waves = _waves(path, arrays)
  counts = [_count(path, k, wave, config) for k, wave in enumerate(waves)]
  spans = _spans(path, ids_BT, mask_BT, counts, config.patch_id)
  logits, logit_ids = _logits(path, arrays, ids_BT.shape, vocab)
  mels = {}
  for k in range(len(waves)):
    if f"mel_{k}" in arrays:
      mels[k] = _array(path, arrays, f"mel_{k}", 2, "f")
      if len(mels[k]) != features.MELS:
        raise ValueError(
          f"{path}: mel_{k} is {mels[k].shape}; give [{features.MELS}, frames]"
        )
  feat_lens = None
  if "feat_lens" in arrays:
    feat_lens = _array(path, arrays, "feat_lens", 1, "iu")
    if len(feat_lens) != len(waves):
      raise ValueError(
        f"{path}: feat_lens has {len(feat_lens)} entries; give one for each "
        f"of the {len(waves)} waves"
      )
  return Reference(
    path, ids_BT, mask_BT, waves, spans, counts, logits, logit_ids, mels,
    feat_lens,
  )  # fmt: skip


def _arrays(path):
  try:
    arrays = np.load(path, allow_pickle=False)
  except FileNotFoundError as error:
    raise ValueError(f"{path}: no such file") from error
  except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
    raise ValueError(f"{path}: not an .npz; write it with np.savez") from error
  if not isinstance(arrays, np.lib.npyio.NpzFile):
    raise ValueError(f"{path}: one array; write an .npz with np.savez")
  return arrays


def _array(path, arrays, name: str, rank: int, kinds: str) -> np.ndarray:
  if name not in arrays:
    raise ValueError(f"{path}: no array {name}; it has {', '.join(arrays)}")
  try:
    found = arrays[name]
  except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
    raise ValueError(f"{path}: {name} cannot be read; write it anew") from error
  if found.ndim != rank or found.dtype.kind not in kinds:
    wanted = "floats" if kinds == "f" else "integers"
    raise ValueError(
      f"{path}: {name} is {found.dtype} {list(found.shape)}; give {wanted} of "
      f"{rank} dimensions"
    )
  return found


def _mask(path, arrays, shape) -> np.ndarray:
  found = _array(path, arrays, "attention_mask", 2, "iub")
  if found.shape != shape:
    raise ValueError(
      f"{path}: attention_mask is {list(found.shape)}; give the shape of "
      f"input_ids, {list(shape)}"
    )
  mask_BT = found != 0
  for row, mask_T in enumerate(mask_BT):
    at = np.flatnonzero(mask_T)
    if not at.size or at[-1] - at[0] + 1 != len(at):
      raise ValueError(
        f"{path}: attention_mask: row {row} is not one run of 1; pad it on "
        "the left or on the right alone"
      )
  if not mask_BT.size:
    raise ValueError(f"{path}: input_ids has no rows; give one or more")
  return mask_BT


def _waves(path, arrays) -> list[np.ndarray]:
  numbers = sorted(
    int(match[1])
    for name in arrays
    if (match := re.fullmatch(r"wave_(\d+)", name))
  )
  if numbers != list(range(len(numbers))):
    raise ValueError(
      f"{path}: waves {', '.join(f'wave_{k}' for k in numbers)}; number them "
      "from wave_0 on, without a gap"
    )
  waves = []
  for k in numbers:
    wave = _array(path, arrays, f"wave_{k}", 1, "f").astype(np.float32)
    if not len(wave) or not np.isfinite(wave).all():
      fault = "holds NaN or infinity" if len(wave) else "is empty"
      raise ValueError(f"{path}: wave_{k} {fault}; give 16 kHz samples")
    waves.append(wave)
  return waves


def _count(path, k: int, wave, config) -> int:
  """Placeholders of a clip, by the family's rule."""
  try:
    count = features.token_count(len(wave), audio_lm.convention(config))
  except ValueError as error:
    raise ValueError(f"{path}: wave_{k}: {error}") from error
  if count < 1:
    raise ValueError(
      f"{path}: wave_{k} of {len(wave)} samples is too short to be heard; "
      "give at least 0.1 s"
    )
  return count


def _spans(path, ids_BT, mask_BT, counts, patch) -> list[tuple[int, int]]:
  """Where each clip begins: its run of placeholders, row by row.

  Clips with no token between them share a run.
  """
  spans = []
  for row, (ids_T, mask_T) in enumerate(zip(ids_BT, mask_BT, strict=True)):
    is_patch = np.concatenate([[False], (ids_T == patch) & mask_T, [False]])
    edges = np.flatnonzero(is_patch[1:] != is_patch[:-1])
    for start, stop in zip(edges[::2], edges[1::2], strict=True):
      at, first = int(start), len(spans)
      while at < stop and len(spans) < len(counts):
        spans.append((row, at))
        at += counts[len(spans) - 1]
      if at != stop:
        taken = [
          f"wave_{k} takes {counts[k]}" for k in range(first, len(spans))
        ]
        raise ValueError(
          f"{path}: input_ids: row {row} has {stop - start} placeholders "
          f"{patch} from column {start} on, where "
          f"{' and '.join(taken) or 'no wave is left'}; expand each clip by "
          "the count rule, and give waves in the order of their spans"
        )
  if len(spans) < len(counts):
    raise ValueError(
      f"{path}: input_ids: placeholders {patch} for {len(spans)} of "
      f"{len(counts)} waves; give one span a wave"
    )
  return spans


def _logits(path, arrays, shape, vocab: int):
  logits = _array(path, arrays, "logits", 3, "f")
  if logits.shape[:2] != shape:
    raise ValueError(
      f"{path}: logits is {list(logits.shape)}; give [{shape[0]}, {shape[1]}, "
      "V'], a row for each of input_ids"
    )
  if "logit_ids" not in arrays:
    if logits.shape[2] != vocab:
      raise ValueError(
        f"{path}: logits has {logits.shape[2]} ids of {vocab}; add logit_ids "
        "that says which"
      )
    return logits, None
  ids = _array(path, arrays, "logit_ids", 1, "iu")
  if len(ids) != logits.shape[2] or len(ids) < 1:
    raise ValueError(
      f"{path}: logit_ids has {len(ids)} entries, where logits has "
      f"{logits.shape[2]}; give one each"
    )
  if ids.min() < 0 or ids.max() >= vocab:
    raise ValueError(f"{path}: logit_ids: give ids from 0 to {vocab - 1}")
  return logits, ids


def parameters(folder, config: audio_lm.Config, dtype) -> dict:
  """A checkpoint's parameters, split over all devices.

  Raises:
    ConversionError: as `convert.load`.
  """
  placed = None
  if jax.device_count() > 1:
    mesh = sharding.make_mesh()
    placed = sharding.shardings(mesh, audio_lm.abstract(config))
  return convert.load(folder, config, dtype=dtype, shardings=placed)


def compare(params, config: audio_lm.Config, ref: Reference):
  """Differences by stage and row: what of mel and lengths is given, logits."""
  with jax.default_matmul_precision("highest"):
    enc_BAE, found = _hear(params, config, ref)
    return found + _speak(params, config, ref, enc_BAE)


def _hear(params, config, ref):
  """The encoder's states of all clips, and the stages before the decoder."""
  if not ref.waves:
    return np.zeros((0, 1, config.encoder.width), np.float32), []
  len_B = np.array([len(wave) for wave in ref.waves], np.int32)
  wave_BW = np.zeros((len(len_B), len_B.max()), np.float32)
  for k, wave in enumerate(ref.waves):
    wave_BW[k, : len(wave)] = wave
  hear = jax.jit(functools.partial(audio_lm.hear, config=config))
  enc_BAE, enc_len_B = hear(params["encoder"], wave_BW, len_B)
  found = []
  if ref.mels:
    log_mel = jax.jit(functools.partial(audio_lm.log_mel, config=config))
    mel_BRM = log_mel(wave_BW, len_B)
    for k, mel in ref.mels.items():
      # A clip's own frames; Qwen2-Audio's encoder hears all of them.
      frames = features.mel_frames(len_B[k])
      own_RM = mel_BRM[k] if config.encoder.fixed else mel_BRM[k, :frames]
      found.append(_mel_difference(ref, k, np.asarray(own_RM), mel))
  if ref.feat_lens is not None:
    ours = {
      "placeholders": np.array(ref.counts),
      "encoder frames": np.asarray(enc_len_B),
      "mel frames": np.asarray(audio_lm.mel_len(len_B, config=config)),
      "mel frames, the tail's too": features.mel_frames(len_B),
    }
    found += _length_differences(ref, ours)
  return enc_BAE, found


def _mel_difference(ref, k: int, ours_RM, theirs) -> Difference:
  frames, given = len(ours_RM), theirs.shape[1]
  both = min(frames, given)
  largest, (frame, mel) = _largest(ours_RM[:both], theirs.T[:both])
  # A batch's padding may follow; frames may not lack.
  note = "" if given == frames else f"{given} frames given, {frames} ours"
  return Difference(
    f"mel_{k}",
    ref.spans[k][0],
    both * theirs.shape[0],
    largest if given >= frames else np.inf,
    f"frame {frame}, bin {mel}",
    note,
  )


def _length_differences(ref, ours: dict) -> list[Difference]:
  """feat_lens against the length that it is: the nearest of ours."""
  gaps = {name: np.abs(n - ref.feat_lens) for name, n in ours.items()}
  name = min(gaps, key=lambda key: gaps[key].max())
  found = {}
  for k, gap in enumerate(gaps[name]):
    row = ref.spans[k][0]
    if row not in found or gap > found[row].largest:
      where = f"wave_{k}: {ref.feat_lens[k]}, ours {ours[name][k]}"
      found[row] = Difference("feat_lens", row, 1, float(gap), where, name)
  return list(found.values())


def _speak(params, config, ref: Reference, enc_BAE) -> list[Difference]:
  """Logits, a row at a time."""
  time = int(ref.mask_BT.sum(1).max())
  frames = -(-enc_BAE.shape[1] // audio_lm.stride(config))
  spoken = {part: params[part] for part in ("adapter", "decoder")}
  apply = jax.jit(functools.partial(audio_lm.apply, config=config))
  found = []
  for row, mask_T in enumerate(ref.mask_BT):
    first, length = int(mask_T.argmax()), int(mask_T.sum())
    columns = slice(first, first + length)
    tokens_BT = np.zeros((1, time), np.int32)
    tokens_BT[0, :length] = ref.ids_BT[row, columns]
    valid_BT = np.arange(time)[None] < length
    audio_index_BT = np.full((1, time), -1, np.int32)
    for k, (home, start) in enumerate(ref.spans):
      if home == row:
        at, count = start - first, ref.counts[k]
        audio_index_BT[0, at : at + count] = k * frames + np.arange(count)
    batch = Batch(
      tokens_BT, valid_BT, np.zeros_like(valid_BT), audio_index_BT, enc_BAE
    )
    ours = np.asarray(apply(spoken, batch)[0, :length], np.float32)
    if ref.logit_ids is not None:
      ours = ours[:, ref.logit_ids]
    theirs = ref.logits[row, columns].astype(np.float32)
    largest, (column, at) = _largest(ours, theirs)
    token = at if ref.logit_ids is None else ref.logit_ids[at]
    same = int((ours.argmax(-1) == theirs.argmax(-1)).sum())
    where = f"column {first + column}, id {token}"
    note = f"greedy equal in {same} of {length}"
    found.append(Difference("logits", row, ours.size, largest, where, note))
  return found


def _largest(ours, theirs) -> tuple[float, tuple[int, int]]:
  """The largest difference and where; what is no number is furthest."""
  with np.errstate(invalid="ignore"):
    gap = np.where(ours == theirs, 0.0, np.abs(ours - theirs))
  gap = np.where(np.isnan(gap), np.inf, gap)
  at = np.unravel_index(int(gap.argmax()), gap.shape)
  return float(gap[at]), tuple(int(i) for i in at)
