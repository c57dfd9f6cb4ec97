"""How the leaves of a training state are split over devices."""

import functools

from jax.sharding import PartitionSpec

from lm import sharding


def test_the_rule_of_a_leaf_goes_by_its_path():
    spec = functools.partial(sharding.parameter_spec, fsdp=4)
    assert spec("params/embedding", (256, 16)) == PartitionSpec("fsdp")
    assert spec("params/units/block_0/mlp/wi/kernel", (8, 16, 32)) == PartitionSpec(
        None, None, "fsdp"
    )
    assert spec("params/units/block_0/mixer_norm/scale", (8, 16)) == PartitionSpec()
    assert spec("params/units/block_0/mixer/decay", (8, 16)) == PartitionSpec()
    assert spec("params/tail_block_0/mlp/wo/kernel", (3, 5)) == PartitionSpec()
    # Never along the stacked axis of the repeats.
    assert spec("params/units/block_0/mlp/wo/kernel", (8, 3, 5)) == PartitionSpec()
