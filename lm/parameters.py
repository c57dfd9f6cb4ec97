"""What optimisers and shardings know of a parameter: its path, never its rank."""

import re

import jax

from lm.mixers import MIXERS

# What a parameter is to an optimiser of matrices, by the end of its path; a mixer adds
# its own. A matrix is the last two axes, [in, out]; axes before them (repeats R, heads)
# count matrices. Names that no rule has are vectors.
KINDS = (
    (r"(head|conv)_kernel$", "vector"),
    (r"kernel$", "matrix"),
)


def paths(tree):
    """The tree with each leaf replaced by its path, 'units/block_0/mixer/bias'."""
    name = lambda path, _: jax.tree_util.keystr(path, simple=True, separator="/")
    return jax.tree_util.tree_map_with_path(name, tree)


def by_path(tree) -> dict:
    """{path: leaf}."""
    return dict(zip(jax.tree.leaves(paths(tree)), jax.tree.leaves(tree), strict=True))


def kinds(params):
    """The tree of "matrix" (Muon orthogonalises it) and "vector" (Adam's)."""
    rules = [rule for kind in MIXERS.values() for rule in kind.parameter_kinds]

    def kind(path: str) -> str:
        found = (k for pattern, k in (*rules, *KINDS) if re.search(pattern, path))
        return next(found, "vector")

    return jax.tree.map(kind, paths(params))
