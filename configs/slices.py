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
# `useful` and `within` are what `data.packing` makes of responses of 2,500
# tokens in the mean (log-normal, sigma .4) behind prompts of 500.
_LARGE = dict(
  rows=0,
  accumulate=1,
  time=10_240,
  clips=4,
  examples=4,
  useful=0.93,
  within=0.31,
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
    # Its width has no more powers of two.
    mesh=dict(data=0, fsdp=8, sequence=1, tensor=1),
    rollout=dict(data=0, tensor=2, rows=0, prompt=128, slots=256),
  ),
}
# Rows that are sampled at once by one copy of the weights.
_SAMPLED = {"v5e": 8, "v5p": 32, "v6e": 32}
# Where memory is to spare, attention is not made twice; where it is short, a
# row's tokens lie on several chips.
_CHANGES = {
  ("step-audio-r1", "v5e-64"): {"mesh.sequence": 4},
  ("step-audio-r1", "v5e-256"): {"mesh.sequence": 2},
  ("step-audio-r1", "v5p-64"): {"remat": "attention"},
  ("step-audio-r1", "v5p-128"): {"remat": "attention"},
  ("step-audio-r1", "v5p-256"): {"remat": "attention"},
  ("step-audio-r1", "v6e-64"): {"mesh.sequence": 2},
  ("step-audio-2-mini", "v5e-16"): {"mesh.sequence": 2},
}


def settings(model: str, tpu: str, programs: tuple[str, ...]) -> ConfigDict:
  """Fields of a stage on a slice.

  Attributes of the result:
    slice, chips: what is rented.
    programs: what the stage runs there.
    rows, time: of a train step, packed; a row on each part of `fsdp` and `data`
      by default.
    accumulate: micro-batches that the rows of a step are taken in.
    clips, examples: most of a row.
    useful: share of a row's columns that hold tokens.
    within: share of a row's pairs of columns that are of one example.
    chunks: of the head's vocabulary, on each of the mesh's tensor parts.
    mesh: sizes of the axes; the one that is 0 takes the chips that are left.
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
  found.update_from_flattened_dict(_CHANGES.get((model, tpu), {}))
  found.slice, found.chips, found.programs = tpu, chips, programs
  mesh, rollout = found.mesh, found.rollout
  named = (mesh.data or 1) * (mesh.fsdp or 1) * mesh.sequence * mesh.tensor
  mesh.data = mesh.data or chips // named
  mesh.fsdp = mesh.fsdp or chips // named
  found.rows = found.rows or mesh.data * mesh.fsdp
  rollout.data = rollout.data or chips // rollout.tensor
  each = _SAMPLED[tpu.split("-")[0]]
  rollout.rows = rollout.rows or each * rollout.data
  return found
