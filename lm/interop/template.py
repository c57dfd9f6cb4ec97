"""Chat templates of Hugging Face's tokenizers, rendered as transformers does.

A template is a program from outside: Jinja runs it in its sandbox, which refuses what
reaches for Python's internals or changes its arguments.
"""

import datetime
import json
from pathlib import Path

from lm.errors import ConfigError
from lm.interop.folder import json_of
from lm.interop.prompts import special
from lm.interop.tokenizer import settings_of, text_of

FILE = "chat_template.jinja"
TOKENS = [
    f"{name}_token" for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
]


class ChatTemplate:
    """source: of the template; key: what it is called in errors; tokens: {"bos_token":
    text} and its kin. ConfigError for a source that is no Jinja."""

    def __init__(self, source: str, key: str, tokens: dict[str, str]):
        from jinja2 import TemplateError

        self._key, self._tokens = key, tokens
        try:
            self._template = _environment().from_string(source)
        except TemplateError as error:
            raise ConfigError(f"{key} is no template of Jinja: {error}") from error

    def render(self, messages: list[dict[str, str]]) -> str:
        """The conversation up to where the next answer begins.

        Args:
          messages: {"role": "system", "user" or "assistant", "content": words} each.

        ConfigError for what the template refuses, or is refused.
        """
        try:
            return self._template.render(
                messages=messages,
                add_generation_prompt=True,
                tools=None,
                documents=None,
                **self._tokens,
            )
        # A template may fail in any way that a program can.
        except Exception as error:
            raise ConfigError(
                f"{self._key} takes no such conversation: {error}"
            ) from error


def template_of(folder: str | Path) -> ChatTemplate | None:
    """chat_template.jinja, else that of tokenizer_config.json, or None.

    ConfigError for several of which none is the default.
    """
    folder = Path(folder)
    settings, path = settings_of(folder), folder / FILE
    stored, extra = dict(settings), folder / "special_tokens_map.json"
    if "added_tokens_decoder" not in settings and extra.is_file():
        stored |= json_of(extra)
    tokens = {name: special(stored, name) for name in TOKENS}
    tokens = {name: token for name, token in tokens.items() if token is not None}
    if path.is_file():
        return ChatTemplate(text_of(path), str(path), tokens)
    key = f"{folder / 'tokenizer_config.json'}: chat_template"
    found = settings.get("chat_template")
    if isinstance(found, list):
        entries = [each for each in found if isinstance(each, dict)]
        named = {each.get("name"): each.get("template") for each in entries}
        if "default" not in named:
            raise ConfigError(f"{key} has {', '.join(map(str, named))}, no default")
        found = named["default"]
    if found is None:
        return None
    if not isinstance(found, str):
        raise ConfigError(f"{key} is no text")
    return ChatTemplate(found, key, tokens)


def _environment():
    """Jinja with what transformers adds for templates."""
    from jinja2 import TemplateError, nodes
    from jinja2.ext import Extension, LoopControlExtension
    from jinja2.sandbox import ImmutableSandboxedEnvironment
    from jinja2.utils import Namespace

    class Generation(Extension):
        """{% generation %} marks what a model says, and changes no text."""

        tags = {"generation"}

        def parse(self, parser):
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body).set_lineno(line)

    def refuse(message):
        raise TemplateError(message)

    class Checked(Namespace):
        """A namespace without private names, by which a template could get out."""

        def __init__(*args, **values):
            self, *rest = args
            values = dict(*rest, **values)
            for name in values:
                Checked.check(name)
            Namespace.__init__(self, values)

        def __setitem__(self, name, value):
            Checked.check(name)
            super().__setitem__(name, value)

        @staticmethod
        def check(name):
            if name.startswith("_"):
                refuse(f"a namespace has no {name}")

    class Dict:
        """dict, without its other attributes."""

        def __call__(self, *args, **values):
            return dict(*args, **values)

        def fromkeys(self, *args):
            return dict.fromkeys(*args)

    def to_json(
        value, ensure_ascii=False, indent=None, separators=None, sort_keys=False
    ):
        return json.dumps(
            value,
            ensure_ascii=ensure_ascii,
            indent=indent,
            separators=separators,
            sort_keys=sort_keys,
        )

    made = ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[Generation, LoopControlExtension],
    )
    made.filters["tojson"] = to_json
    made.globals |= {
        "raise_exception": refuse,
        "strftime_now": lambda form: datetime.datetime.now().strftime(form),
        "namespace": Checked,
        "dict": Dict(),
    }
    return made
