"""The contract of lm/mixers/base.py, for every registered mixer, without more code."""

import pytest

from lm.mixers import MIXERS
from tests import contract
from tests.subjects import VARIANTS


@pytest.mark.parametrize("check", contract.CHECKS)
@pytest.mark.parametrize("name", [*MIXERS, *VARIANTS])
def test_contract(name, check):
    contract.CHECKS[check](name)
