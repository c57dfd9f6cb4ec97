"""python run.py train --config=configs/awd_lstm.py --workdir=runs/awd_lstm

AWD-LSTM (Merity, Keskar and Socher 2018, arXiv 1708.02182), scaled down: a plain stack
of three LSTM layers over words with one matrix at both ends, variational dropout,
dropped words and recurrent weights, AR and TAR, truncated backpropagation through time
and averaged parameters; on the first 500 kB of the default corpus, 0.74M parameters.
docs/regularisation.md has their settings beside these, and how it did.
"""

from configs import base


def get_config():
    config = base.get_config()
    config.name = "awd_lstm"
    config.data.update(
        tokenizer="words", train_bytes=500_000, eval_bytes=65_536, context=64
    )
    config.model.update(
        width=128,
        depth=3,
        pattern=("lstm",),
        block="plain",
        mlp="none",
        norm="none",
        word_dropout=0.05,
        embedding_dropout=0.2,
        residual_dropout=0.1,
        output_dropout=0.3,
        dropout_mask="sequence",
    )
    config.model.mixers.lstm = dict(weight_dropout=0.2)
    config.loss.update(ar=2.0, tar=1.0)
    config.optim.update(lr=4e-3, weight_decay=0.0)
    config.train.update(
        duration="12 epochs", state="carry", average="polyak", polyak_start="75%"
    )
    config.eval.stream_chunk = 64
    return config
