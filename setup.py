"""pip install -e '.[tiny,dev]'"""

import setuptools

setuptools.setup(
  name="mgrd_jax",
  version="0.1.0",
  description="Modality-grounded reasoning distillation for audio, in JAX.",
  license="Apache-2.0",
  license_files=["LICENSE"],
  packages=setuptools.find_packages(include=["mgrd_jax", "mgrd_jax.*"]),
  python_requires=">=3.11",
  install_requires=[
    # flax <= 0.12.8 breaks with jax >= 0.11.1; Python 3.11 stops at jax 0.10.2
    # and flax 0.12.8, later Pythons take the newer pair.
    'jax>=0.10.2,<0.11; python_version < "3.12"',
    'flax>=0.12.8; python_version < "3.12"',
    'jax>=0.10.2; python_version >= "3.12"',
    'flax>=0.12.9; python_version >= "3.12"',
    "optax>=0.2.8",
    "orbax-checkpoint>=0.12",
    "grain>=0.2.18",
    "array_record>=0.8",
    "ml_collections>=1.1",
    "absl-py>=2.5",
    "librosa>=0.11",
    "soundfile>=0.14",
    "soxr>=1.1",
    "numpy>=2.4",
    "tokenizers>=0.23",
    "safetensors>=0.8",
    "etils[epath]>=1.15",
    "rich>=15.0",
    "matplotlib>=3.11",
    "jaxtyping>=0.3.11",
  ],
  extras_require={
    # GPL speech synthesis: loaded at run time, never vendored.
    "tiny": ["espeakng-loader>=0.2.4"],
    "dev": [
      # pytest 9.2 no longer reads the field that xdist 3.8 writes groups to.
      "pytest>=9.1,<9.2",
      "pytest-xdist>=3.8",
      "hypothesis>=6.170",
      "beartype>=0.23",
      "ruff>=0.17",
      "pre-commit>=4.0",
      "nbclient>=0.11",
      "ipykernel>=7.4",
      "nbformat>=5.11",
      "tensorboardX>=2.6",
    ],
    "parity": ["torch==2.13.0", "transformers>=5.0"],
    "tensorboard": ["tensorboardX>=2.6"],
    "wandb": ["wandb>=0.25"],
    # What reads and writes gs://.
    "gcs": ["etils[epath-gcs]>=1.15"],
    # jax's own extras pin the libtpu and CUDA wheels that match it.
    "tpu": ["jax[tpu]"],
    "gpu": ["jax[cuda13]"],
  },
)
