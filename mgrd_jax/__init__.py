"""Modality-grounded reasoning distillation for audio, in JAX."""

__version__ = "0.1.0"
