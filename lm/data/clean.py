"""What is done with odd documents, block by block: every byte is kept or counted."""

import codecs

from lm.data.source import Document
from lm.errors import ConfigError

INVALID_UTF8 = ("replace", "error", "keep")
POLICY_COUNTS = (
    "invalid_utf8_documents",  # holding bytes that are not UTF-8
    "replaced_characters",  # U+FFFD put in their place (invalid_utf8="replace")
    "empty_documents",  # nothing, or line ends alone: dropped
    "dropped_bytes",  # in empty documents
    "whitespace_documents",  # white space alone, more than line ends: kept
    "bom_stripped",  # UTF-8 byte order marks at the start of a file
    "crlf_kept",  # line ends of two bytes
    "documents_split",  # longer than max_document: each piece is a document
    "longest_document_tokens",  # before it was cut
)


class Cleaner:
    """Called with the blocks of documents in order: the text that each adds.

    Where a document is cut into blocks changes neither its text nor the counts. Held
    back until the next block: half a mark, half a character, and line ends at the start
    of a document, which is dropped if there is nothing else in it.
    """

    def __init__(self, invalid_utf8: str):
        self.counts = dict.fromkeys(POLICY_COUNTS, 0)
        self._policy = invalid_utf8
        self._open()

    def _open(self) -> None:
        self._mark: bytes | None = b""  # None: no byte order mark can come any more
        self._line_ends: list[bytes] | None = []  # None: there was other text
        self._blank = self._valid = True
        self._cr = False
        self._partial = b""  # of a character

    def __call__(self, document: Document) -> bytes:
        """ConfigError, naming file and byte, if `invalid_utf8` is "error" and it is."""
        text, final = document.text, not document.more
        if self._mark is not None:
            text = self._unmarked(document)
        if self._line_ends is not None:
            text = self._opening(text, final)
        if text:
            self._blank = self._blank and text.isspace()
            self.counts["crlf_kept"] += text.count(b"\r\n")
            if self._cr:
                self.counts["crlf_kept"] += text.startswith(b"\n")
            self._cr = text.endswith(b"\r")
        text = self._decodable(text, document)
        if final:
            if self._line_ends is None:
                self.counts["whitespace_documents"] += self._blank
                self.counts["invalid_utf8_documents"] += not self._valid
            self._open()
        return text

    def _unmarked(self, document: Document) -> bytes:
        """The block without the file's byte order mark."""
        text, start = self._mark + document.text, document.offset - len(self._mark)
        if start or not text.startswith(codecs.BOM_UTF8[: len(text)]):
            self._mark = None
            return text
        if len(text) < len(codecs.BOM_UTF8) and document.more:
            self._mark = text
            return b""
        self._mark = None
        if text.startswith(codecs.BOM_UTF8):
            self.counts["bom_stripped"] += 1
        return text.removeprefix(codecs.BOM_UTF8)

    def _opening(self, text: bytes, final: bool) -> bytes:
        """The start of a document, once it has more than line ends."""
        if text.strip(b"\r\n"):
            if self._line_ends:
                text = b"".join([*self._line_ends, text])
            self._line_ends = None
            return text
        self._line_ends.append(text)
        if final:
            self.counts["empty_documents"] += 1
            self.counts["dropped_bytes"] += sum(map(len, self._line_ends))
        return b""

    def _decodable(self, text: bytes, document: Document) -> bytes:
        """`text` and what was held back, in whole characters, or after the policy."""
        if self._partial:
            text = self._partial + text
        final = not document.more
        try:
            _, n = codecs.utf_8_decode(text, "strict", final)
        except UnicodeDecodeError as error:
            if self._policy == "error":
                end = document.offset + len(document.text)
                raise ConfigError(
                    f"data.path: {document.file!r} is not UTF-8 at byte "
                    f"{end - len(text) + error.start}; mend it, or set "
                    "data.invalid_utf8 to 'replace' or 'keep'"
                ) from error
            self._valid = False
            ignored, n = codecs.utf_8_decode(text, "ignore", final)
            if self._policy == "replace":
                replaced, _ = codecs.utf_8_decode(text, "replace", final)
                put = replaced.count("\ufffd") - ignored.count("\ufffd")
                self.counts["replaced_characters"] += put
                self._partial = text[n:]
                return replaced.encode()
        self._partial = text[n:]
        return text[:n]
