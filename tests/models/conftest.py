"""Each test that asks for a family, or its config, runs for both."""

import pytest

from mgrd_jax.models import released
from tests.models import checkpoints


@pytest.fixture(params=sorted(checkpoints.FAMILIES))
def family(request):
  return request.param


@pytest.fixture
def config(family):
  return released.from_json(checkpoints.FAMILIES[family])
