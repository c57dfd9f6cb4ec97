"""What a run left behind, ready to be used: its model, parameters and data."""

from pathlib import Path

from lm import averages, count, runtime
from lm import config as configs
from lm import model as models
from lm.checkpoint import Checkpoints
from lm.config import ConfigError
from lm.data import prepare


def load(workdir: Path):
    """(config, model, params, corpus) of the newest checkpoint of a workdir."""
    runtime.keep_compiled()
    path = workdir / "config.json"
    try:
        config = configs.resolve(configs.from_json(path.read_text()))
    except ConfigError as error:
        raise ConfigError(f"{path} is of another version of lm: {error}") from error
    corpus = prepare(config.data)
    model = models.build(config, corpus.vocab_size)
    checkpoints = Checkpoints(workdir / "checkpoints", config.run.keep)
    latest = checkpoints.latest()
    if latest is None:
        raise ConfigError(f"{workdir} has no checkpoint yet: train it first")
    params = averages.restored(
        config, checkpoints, latest, count.abstract_params(model)
    )
    checkpoints.close()
    return config, model, params, corpus
