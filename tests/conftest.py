"""Settings of every test process; OpenBLAS reads its own when numpy is imported."""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import jax  # noqa: E402
import pytest  # noqa: E402

names = ("contract", "contract_numerics", "subjects")
pytest.register_assert_rewrite(*(f"tests.{name}" for name in names))


@pytest.fixture(autouse=True, scope="module")
def forget_compiled():
    """Compiled programs of a module go with it: a thousand tests hold 6 GB of them."""
    yield
    jax.clear_caches()
