"""python -m benchmarks.tokenizers [--out=FOLDER] [NAME ...]: one text, five tokenizers.

Trains configs/base.py on kjv with each: 400 updates of about 2,048 bytes in 16 rows, so
that all see as much text and as far back, and are scored on the same text. Writes
FOLDER/tokenizers.json and prints a table.
"""

from benchmarks.arms import table

ROWS = 16
BASE = {
    "train.duration": "400 steps",
    "eval.every": "100%",
    "data.eval_bytes": 65_536,
    "run.sample_tokens": 0,
}
# Tokens of a row of about 128 bytes, keys of the tokenizer.
ARMS = {
    "bytes": (128, {"data.tokenizer": "bytes"}),
    "characters": (128, {"data.tokenizer": "characters"}),
    "bpe 1,024": (44, {"data.tokenizer": "bpe", "data.vocab_size": 1024}),
    "bpe 4,096": (33, {"data.tokenizer": "bpe", "data.vocab_size": 4096}),
    "words": (28, {"data.tokenizer": "words"}),
}


def arm(context: int, keys: dict) -> dict:
    rows = {"data.context": context, "train.batch_tokens": ROWS * context}
    return BASE | keys | rows | {"eval.stream_chunk": min(context, 64)}


def main() -> None:
    arms = {name: arm(*of) for name, of in ARMS.items()}
    rows = table("tokenizers", __doc__, arms)
    print("| tokenizer | parameters | without embeddings | bytes a token |", end="")
    print(" nats a token | unknown tokens | bits per byte |")
    print("|---|---|---|---|---|---|---|")
    for row in rows:
        text, count = row["validation"], row["count"]
        unknown = text.get("unknown", {"tokens": 0})["tokens"] / text["tokens"]
        print(
            f"| {row['name']} | {count['params']:,} | "
            f"{count['params_non_embedding']:,} | {text['bytes'] / text['tokens']:.2f} "
            f"| {text['nats_per_token']:.3f} | {100 * unknown:.1f} % | "
            f"{text['bits_per_byte']:.3f} |"
        )


if __name__ == "__main__":
    main()
