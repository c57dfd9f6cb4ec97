"""Every key that is not a mixer's own, once, with the value of the smallest real run.

A file in configs/ is a diff of this one. A duration is a string with a unit: "400
steps", "8M tokens", "2 epochs", or "5%" of training; resolved once, after overrides.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.name = "base"
    config.seed = 0  # drives initialisation, data order and dropout

    config.data = ConfigDict(
        dict(
            corpus="kjv",  # kjv pystdlib text jsonl parquet tfds mixture
            # text, jsonl, parquet: a file or a glob; tfds: name[/config][:version]
            path=placeholder(str),
            document="file",  # corpus="text": file | line | paragraph
            column="text",  # jsonl, parquet, tfds: what of a row is the text
            # jsonl, parquet, tfds: rows as pairs for data.task.kind=text_to_text, by
            # templates such as "{question}" and "{answers.text.0}", or by the turns
            # of a list of {"role", "content"}
            source=placeholder(str),
            target=placeholder(str),
            dialogue=placeholder(str),
            tfds_split="train",  # tfds: also slices and sums, train[:10%]+test
            mixture=ConfigDict(),  # mixture: name -> weight, corpus and its keys
            task=ConfigDict(),  # kind, fields and tests of a synthetic task, for text
            tfds_dir=placeholder(str),  # tfds: where sets are; default: TFDS's own
            invalid_utf8="replace",  # replace | error | keep
            max_document=placeholder(
                int
            ),  # tokens; longer documents are cut into pieces
            tokenizer="bytes",  # bytes | characters | words | bpe | file
            tokenizer_path=placeholder(str),  # of file: tokenizer.json or *.model
            vocab_size=4096,  # tokenizer="bpe": most tokens
            min_count=2,  # characters, words, pairs of bpe that are seen less: none
            split=(
                0.9,
                0.05,
                0.05,
            ),  # train, validation, test: contiguous, in this order
            train_bytes=placeholder(int),  # cap on the training split: its first bytes
            eval_bytes=placeholder(int),  # cap on each held-out split: its first bytes
            context=128,  # tokens of a training row
            cache=placeholder(str),  # token files; default: the user's cache directory
        )
    )
    config.model = ConfigDict(
        dict(
            width=64,
            depth=2,
            pattern=("attention",),  # repeated to depth; a partial repeat is the tail
            mixers=ConfigDict(),  # name -> fields of the mixer; kind= names its class
            # shared plain post_norm olmo parallel parallel_one_norm rwkv xlstm
            block="shared",
            conv_width=1,  # taps of a causal convolution before each mixer; 1: none
            mlp="swiglu",  # swiglu | geglu | gelu | gelu_exact | none
            mlp_width=256,
            norm="rmsnorm",  # rmsnorm | layernorm | none
            norm_eps=1e-6,
            bias=False,  # in the MLP
            position="none",  # none | learned; RoPE is a key of attention
            token_types=0,  # rows of a table of kinds of tokens, as BERT's; 0: none
            embedding_norm=False,  # of the sum of a token's embeddings
            embedding_scale=1.0,  # of a token's embedding; Gemma's is sqrt(width)
            logit_cap=0.0,  # c of c tanh(logits / c), 0: none; Gemma's is 30
            tied=True,  # the head is the embedding
            output_layer="linear",  # linear | transform: BERT's layer before it
            output_bias=False,  # of the logits
            word_dropout=0.0,  # of a token at all its places in a row
            embedding_dropout=0.0,
            residual_dropout=0.0,
            output_dropout=0.0,  # of what the head reads
            dropout_mask="token",  # of the last three: token | sequence, one for a row
            dtype="float32",  # float32 | bfloat16: activations; parameters are float32
            matmul_precision="highest",  # default | high | highest
            remat="none",  # none | full | dots
        )
    )
    # Beside the cross-entropy; of training alone. See lm/loss.py.
    config.loss = ConfigDict(
        dict(
            label_smoothing=0.0,  # weight of the uniform distribution in the targets
            z_loss=0.0,  # weight of (log Z)^2; PaLM's is 1e-4
            ar=0.0,  # of the mean square of the last block's output; AWD-LSTM's is 2
            tar=0.0,  # of that of its change from token to token; AWD-LSTM's is 1
        )
    )
    config.optim = ConfigDict(
        dict(
            name="adamw",  # adamw | muon | lion | sgd | schedule_free
            lr=6e-3,
            schedule="cosine",  # cosine | linear | wsd | constant | inverse_sqrt
            warmup="5%",
            decay="20%",  # of training, at its end: wsd's
            final_lr=0.1,  # fraction of lr at the end of training
            weight_decay=0.1,
            momentum=0.95,  # of muon and sgd
            b1=0.9,  # of the others, and of muon for what is no matrix; so b2 and eps
            b2=0.95,
            eps=1e-8,
            clip=1.0,  # global norm
        )
    )
    config.train = ConfigDict(
        dict(
            duration="400 steps",
            batch_tokens=2048,  # global, whatever the number of devices
            micro_tokens=placeholder(int),  # most tokens a device holds at once
            state="reset",  # reset: rows start afresh | carry: truncated BPTT
            average="none",  # none | ema | polyak: of parameters, to be evaluated
            ema_decay=0.999,
            polyak_start="50%",  # of training, that the mean leaves out
            # whose parameters start this run: a workdir, or a Hugging Face folder
            init_from=placeholder(str),
        )
    )
    config.eval = ConfigDict(
        dict(
            every="10%",
            rows=32,  # windows evaluated at once
            stream_chunk=64,  # stream: tokens a step, and an attention cache
        )
    )
    config.mesh = ConfigDict(dict(data=-1, fsdp=1))  # -1: every device that is left
    # Keys that do not change the result; like those of mesh, they may change later.
    config.run = ConfigDict(
        dict(
            checkpoint_every="25%",
            keep=2,
            log_every="10 steps",
            prompt="In the beginning ",
            sample_tokens=200,
            accept_data=placeholder(str),  # go on with a text of this fingerprint
            record=(),  # metrics also to: tensorboard, wandb, trackio
        )
    )
    return config


def small(name: str) -> ConfigDict:
    """The setting of the architecture files: about 0.4M parameters, a few CPU minutes.

    300 updates of 32 rows of 128 bytes; the bits per byte in their headers are of the
    validation text (kjv) at the end, on two cores of an AMD EPYC: `python -m
    benchmarks.architectures` trains them all.
    """
    config = get_config()
    config.name = name
    config.model.width = 128
    config.data.eval_bytes = 65_536
    config.train.update(duration="300 steps", batch_tokens=4096)
    config.eval.every = "50%"
    config.optim.lr = 4e-3
    return config
