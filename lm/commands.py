"""The commands of run.py and their flags."""

from lm import actions, inference
from lm.arguments import Command, Flag

WORKERS = Flag("workers", None, "processes; default: one a core or device", int)
CONFIG = Flag("config", "configs/base.py", "a file, or file.py:argument")
RUN = Flag("workdir", None, "the folder of a finished or stopped run")
PRETRAINED = Flag("pretrained", None, "instead: a Hugging Face folder or hub name")
TEXT = Flag("text", [], "may be repeated", list)
LINES = Flag("file", [], "a file of UTF-8, a text a line; may be repeated", list)
DRAWS = (
    Flag("do_sample", True, "false: each token is the likeliest", bool),
    Flag("temperature", 1.0, "0 is greedy", float),
    Flag("top_k", 0, "draw from the k likeliest tokens; 0: from all", int),
    Flag("top_p", 1.0, "draw from the likeliest of this total", float),
    Flag("min_p", 0.0, "draw from those of so much of the likeliest's", float),
    Flag("repetition_penalty", 1.0, "of tokens already there", float),
    Flag("seed", 0, "of the draws", int),
)
COMMANDS = {
    "train": Command(
        actions.train,
        "Train one model; the same command again resumes.",
        (
            CONFIG,
            Flag("workdir", None, "where everything of this run is written"),
            Flag("profile", None, "START:STOP, updates to trace into WORKDIR/profile"),
        ),
        config=True,
    ),
    "compare": Command(
        actions.compare,
        "Run an experiment: all arms, rates and seeds, and their report.",
        (
            Flag("tier", "tiny", "a size that the experiment names"),
            Flag("out", None, "folder of the comparison; default runs/NAME-TIER"),
            Flag("dry", False, "print the plan and its cost, and run nothing", bool),
            WORKERS,
        ),
        positional="EXPERIMENT.py",
    ),
    "reproduce": Command(
        actions.reproduce,
        "Run each experiment that experiments/results lacks; keep its report there.",
        (
            Flag("experiments", "experiments", "folder of experiment files"),
            Flag("tier", "tiny", "of all that have it"),
            WORKERS,
        ),
    ),
    "evaluate": Command(
        inference.evaluate,
        "Evaluate a run, or a model on --tasks of lm-evaluation-harness.",
        (
            RUN,
            Flag("split", "test", "train, validation or test"),
            Flag("protocol", None, "of a text window, stream; of a task its tests"),
            Flag("json", False, "print everything, as JSON", bool),
            Flag("tasks", None, "instead: names of lm-evaluation-harness, with commas"),
            PRETRAINED._replace(help="for --tasks, " + PRETRAINED.help),
            Flag("include_path", None, "for --tasks, a folder with tasks of one's own"),
            Flag("num_fewshot", None, "for --tasks, examples before a question", int),
            Flag("limit", None, "for --tasks, documents of each", int),
        ),
    ),
    "generate": Command(
        inference.generate,
        "Continue prompts with a trained model.",
        (
            RUN,
            PRETRAINED,
            Flag("prompt", [], "may be repeated; default: the run's own", list),
            Flag("max_new_tokens", 200, "at most so many after the prompt", int),
            Flag("max_length", None, "at most so many with the prompt", int),
            *DRAWS,
            Flag("num_return_sequences", 1, "continuations of each prompt", int),
            Flag("num_beams", 1, "above 1: beam search, --do_sample=false", int),
            Flag("length_penalty", 1.0, "of beams: above 0 favours long ones", float),
            Flag("early_stopping", False, "stop when num_beams have ended", bool),
            Flag("stop_strings", [], "may be repeated: where a text ends", list),
            Flag("eos_token_id", [], "the same of tokens; default: the model's", list),
            Flag("stream", False, "print as it is made", bool),
        ),
    ),
    "chat": Command(
        inference.chat,
        "Talk with a model, a line a turn; nothing that was said is read again.",
        (
            RUN,
            PRETRAINED,
            Flag("user", None, "before what is said; default: the model's template"),
            Flag("assistant", None, "before an answer"),
            Flag("end", None, "after an answer, and where one ends"),
            Flag("system", "", "what the conversation begins with"),
            Flag("room", 2048, "tokens that attention keeps", int),
            Flag("max_new_tokens", 200, "at most so many an answer", int),
            *DRAWS,
        ),
    ),
    "score": Command(
        inference.score,
        "log P of texts, perplexity and bits per byte, by a trained model.",
        (
            RUN,
            PRETRAINED,
            TEXT,
            Flag("file", [], "a file of UTF-8, as one text; may be repeated", list),
            Flag("context", None, "tokens of a window; default: the text whole", int),
            Flag("stride", None, "from window to window; default: context - 1", int),
            Flag("json", False, "print everything, with each token's log P", bool),
        ),
    ),
    "fill": Command(
        inference.fill,
        "What may stand in the place of each [MASK], by a masked language model.",
        (
            RUN,
            PRETRAINED,
            TEXT,
            LINES,
            Flag("top_k", 5, "likeliest tokens of each place", int),
            Flag("json", False, "print everything, as JSON", bool),
        ),
    ),
    "embed": Command(
        inference.embed,
        "Write a vector for each text, as an array of NumPy.",
        (
            RUN,
            PRETRAINED,
            TEXT,
            LINES,
            Flag("pool", "mean", "mean, first or pooled, of a text's tokens"),
            Flag("out", None, "a file: float32 [texts, width], rows of length 1"),
        ),
    ),
    "export": Command(
        inference.export,
        "Write a run's model as transformers loads it.",
        (RUN, Flag("out", None, "a folder that holds no model yet")),
    ),
    "count": Command(
        actions.count,
        "Count parameters, FLOPs and state bytes; nothing is trained.",
        (CONFIG, Flag("context", None, "tokens; default: data.context", int)),
        config=True,
    ),
    "bench": Command(
        actions.bench,
        "Time decoding: tokens/s at each context, beside the bound of memory.",
        (
            CONFIG,
            Flag("contexts", "64,1024", "tokens read before, with commas between"),
            Flag("batch", 1, "rows decoded at once", int),
            Flag("tokens", 16, "tokens of a run; the median of 5 runs counts", int),
            Flag("weights", "float32", "float32, or int8: less memory"),
            Flag("vocab", 256, "tokens of the vocabulary; GPT-2 has 50257", int),
        ),
        positional="WHAT",
        config=True,
    ),
    "doctor": Command(
        actions.doctor,
        "Say what this machine has, how fast it is, what is wrong and the fix.",
        (Flag("json", False, "print everything, as JSON", bool),),
    ),
    "report": Command(
        actions.report,
        "Write a comparison's report again from its files; --all: an index of many.",
        (Flag("all", False, "one page over OUT's reports; default: README's", bool),),
        positional="OUT",
        optional=True,
    ),
}
