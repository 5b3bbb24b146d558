"""What a model on a TPU slice moves: mesh, rows, how they are run; data only.

`settings` is `config.tpu` of the stages that take `model=..., tpu=...`;
`python -m experiments.fit` says what each costs before a slice is rented.
"""

from ml_collections import ConfigDict

# A v5p's name counts cores, two a chip.
CHIPS = {
  "v5e-16": 16,
  "v5e-64": 64,
  "v5e-256": 256,
  "v5p-16": 8,
  "v5p-64": 32,
  "v5p-128": 64,
  "v5p-256": 128,
  "v6e-16": 16,
  "v6e-64": 64,
  "v6e-256": 256,
}
# Rows of the longest sequence of the paper's PPO (4.3); full rows by default.
_LARGE = dict(
  rows=0,
  accumulate=1,
  time=10_240,
  clips=4,
  examples=4,
  useful=1.0,
  dtype="bfloat16",
  remat="full",
  attention="splash",
  chunks=10,
  mesh=dict(data=1, fsdp=0, sequence=1, tensor=1),
  # As many parts as the smaller models have key heads.
  rollout=dict(data=0, tensor=4, rows=0, prompt=1024, slots=10_240),
)
_MODELS = {
  "step-audio-r1": _LARGE
  | dict(
    rollout=dict(data=0, tensor=8, rows=0, prompt=1024, slots=10_240),
  ),
  "step-audio-2-mini": _LARGE,
  "qwen2-audio-7b": _LARGE,
  "tiny": _LARGE
  | dict(
    time=512,
    attention="reference",
    chunks=2,
    rollout=dict(data=0, tensor=2, rows=0, prompt=128, slots=256),
  ),
}


def settings(model: str, tpu: str, programs: tuple[str, ...]) -> ConfigDict:
  """Fields of a stage on a slice.

  Attributes of the result:
    slice, chips: what is rented.
    programs: what the stage runs there.
    rows, time: of a train step, packed; a row a chip by default.
    accumulate: micro-batches that the rows of a step are taken in.
    clips, examples: most of a row.
    useful: share of a row's columns that hold tokens.
    chunks: of the head's vocabulary, on each of the mesh's tensor parts.
    mesh: sizes of the axes; fsdp=0 takes the chips that are left.
    rollout: sizes of sampling's own mesh, and rows sampled at once.

  Raises:
    ValueError: an unknown slice, or a model without settings.
  """
  if tpu not in CHIPS:
    raise ValueError(f"unknown slice {tpu!r}; have {', '.join(CHIPS)}")
  if model not in _MODELS:
    raise ValueError(f"unknown model {model!r}; have {', '.join(_MODELS)}")
  chips = CHIPS[tpu]
  found = ConfigDict(_MODELS[model])
  found.slice, found.chips, found.programs = tpu, chips, programs
  found.rows = found.rows or chips
  mesh, rollout = found.mesh, found.rollout
  mesh.fsdp = mesh.fsdp or chips // (mesh.data * mesh.sequence * mesh.tensor)
  rollout.data = rollout.data or chips // rollout.tensor
  rollout.rows = rollout.rows or 32 * rollout.data
  return found
