"""Settings of every test process; OpenBLAS reads its own when numpy is imported."""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import jax  # noqa: E402
import pytest  # noqa: E402

# Two shapes of one rank may broadcast; a missing axis is a bug, not a convenience.
jax.config.update("jax_numpy_rank_promotion", "allow")
pytest.register_assert_rewrite("tests.contract", "tests.subjects")
