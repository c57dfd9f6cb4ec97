"""python run.py train --config=configs/pretrained.py:FOLDER --workdir=runs/tuned

A pretrained model of Hugging Face, trained further: FOLDER, or a name on the hub, says
the architecture, the tokenizer and the first parameters. The text is data.corpus, as
for every run; data.context may be less than the model's, and is 128 or that.
"""


def get_config(source: str):
    from lm import interop  # imports jax, which reading other configs does not

    config = interop.config_of(source)
    config.name = "pretrained"
    context = min(128, config.data.context)
    config.data.context = context
    config.train.update(duration="200 steps", batch_tokens=16 * context)
    config.eval.stream_chunk = min(64, context)
    config.optim.update(lr=1e-4, weight_decay=0.01)
    config.run.sample_tokens = min(100, context // 2)
    return config
