"""A report's parts, each written as Markdown and as HTML; plain text in, escaped."""

import base64
import html
import re
from dataclasses import dataclass

# Tab and newline are kept; what else no HTML or terminal can show becomes a mark.
UNSHOWN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


def escape(text: str) -> str:
    """Text for HTML; unprintable characters become U+FFFD."""
    return html.escape(UNSHOWN.sub("\ufffd", text))


def _inline(text: str) -> str:
    """Text for Markdown: no HTML, no emphasis, no broken table cell."""
    text = html.escape(UNSHOWN.sub("\ufffd", text), quote=False)
    return re.sub(r"([\\`*_|\[\]])", r"\\\1", text).replace("\n", " ")


@dataclass(frozen=True)
class Heading:
    """A heading of level 1 to 3."""

    level: int
    text: str

    def markdown(self) -> str:
        return f"{'#' * self.level} {_inline(self.text)}"

    def html(self) -> str:
        return f"<h{self.level}>{escape(self.text)}</h{self.level}>"


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str

    def markdown(self) -> str:
        return _inline(self.text)

    def html(self) -> str:
        return f"<p>{escape(self.text)}</p>"


@dataclass(frozen=True)
class Warnings:
    """What a reader must know before believing a figure."""

    items: list[str]

    def markdown(self) -> str:
        return "\n".join(f"> **Note:** {_inline(item)}  " for item in self.items)

    def html(self) -> str:
        items = "".join(f"<li>{escape(item)}</li>" for item in self.items)
        return f'<ul class="warnings">{items}</ul>'


@dataclass(frozen=True)
class Bullets:
    """A list."""

    items: list[str]

    def markdown(self) -> str:
        return "\n".join(f"- {_inline(item)}" for item in self.items)

    def html(self) -> str:
        items = "".join(f"<li>{escape(item)}</li>" for item in self.items)
        return f"<ul>{items}</ul>"


@dataclass(frozen=True)
class Answer:
    """A claim's verdict with its numbers, and what the paper says."""

    verdict: str
    claim: str
    numbers: str
    paper: str

    def markdown(self) -> str:
        paper = f" Paper: {_inline(self.paper)}." if self.paper else ""
        return (
            f"- **{self.verdict.upper()}** {_inline(self.claim)}. "
            f"{_inline(self.numbers)}.{paper}"
        )

    def html(self) -> str:
        paper = f" Paper: {escape(self.paper)}." if self.paper else ""
        kind = self.verdict.replace(" ", "-")
        return (
            f'<div class="claim"><span class="verdict {kind}">{escape(self.verdict)}'
            f"</span><div><strong>{escape(self.claim)}</strong><br>"
            f"{escape(self.numbers)}.{paper}</div></div>"
        )


@dataclass(frozen=True)
class Box:
    """Parts that stand out together."""

    parts: list

    def markdown(self) -> str:
        return "\n\n".join(part.markdown() for part in self.parts)

    def html(self) -> str:
        parts = "\n".join(part.html() for part in self.parts)
        return f'<section class="answer">{parts}</section>'


@dataclass(frozen=True)
class Grid:
    """A table: the first column names its rows."""

    header: list[str]
    rows: list[list[str]]

    def markdown(self) -> str:
        lines = [self.header, ["---"] * len(self.header), *self.rows]
        cells = [[_inline(c) if c != "---" else c for c in line] for line in lines]
        return "\n".join(f"| {' | '.join(line)} |" for line in cells)

    def html(self) -> str:
        head = "".join(f'<th scope="col">{escape(c)}</th>' for c in self.header)
        body = "".join(
            f'<tr><th scope="row">{escape(row[0])}</th>'
            + "".join(f"<td>{escape(cell)}</td>" for cell in row[1:])
            + "</tr>"
            for row in self.rows
        )
        return (
            f'<div class="scroll" tabindex="0"><table><thead><tr>{head}</tr></thead>'
            f"<tbody>{body}</tbody></table></div>"
        )


@dataclass(frozen=True)
class Link:
    """A link to another page, to its Markdown or its HTML."""

    text: str
    markdown_path: str
    html_path: str

    def markdown(self) -> str:
        return f"[{_inline(self.text)}]({self.markdown_path})"

    def html(self) -> str:
        path = html.escape(self.html_path)
        return f'<p><a href="{path}">{escape(self.text)}</a></p>'


@dataclass(frozen=True)
class Picture:
    """A figure: a PNG beside the Markdown, an SVG inside the HTML."""

    path: str
    caption: str
    svg: bytes

    def markdown(self) -> str:
        return f"![{_inline(self.caption)}]({self.path})\n\n{_inline(self.caption)}"

    def html(self) -> str:
        data = base64.b64encode(self.svg).decode()
        caption = escape(self.caption)
        return (
            f'<figure><img alt="{caption}" src="data:image/svg+xml;base64,{data}">'
            f"<figcaption>{caption}</figcaption></figure>"
        )


@dataclass(frozen=True)
class Pictures:
    """Figures, side by side where there is room."""

    items: list[Picture]

    def markdown(self) -> str:
        return "\n\n".join(item.markdown() for item in self.items)

    def html(self) -> str:
        items = "".join(item.html() for item in self.items)
        return f'<div class="figures">{items}</div>'


@dataclass(frozen=True)
class Sample:
    """Text as a model wrote it."""

    title: str
    text: str

    def markdown(self) -> str:
        ticks = max((len(run) for run in re.findall("`+", self.text)), default=0)
        fence = "`" * max(ticks + 1, 3)
        text = UNSHOWN.sub("\ufffd", self.text)
        return f"**{_inline(self.title)}**\n\n{fence}text\n{text}\n{fence}"

    def html(self) -> str:
        return f"<h3>{escape(self.title)}</h3><pre>{escape(self.text)}</pre>"


def to_markdown(parts) -> str:
    """The whole report as Markdown."""
    return "\n\n".join(part.markdown() for part in parts) + "\n"


def to_html(title: str, parts) -> str:
    """The whole report as one page that needs no other file."""
    body = "\n".join(part.html() for part in parts)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


STYLE = """
:root { color-scheme: light; --ink: #1c1c1e; --soft: #5a5a5f; --line: #d9d9de; }
* { box-sizing: border-box; }
body { margin: 0; background: #fff; color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 1240px; margin: 0 auto; padding: 24px 20px 64px; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: .4em 0; max-width: 32em; }
h2 { font-size: 1.25rem; margin: 2.2em 0 .6em; border-bottom: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.6em 0 .4em; }
p, ul { max-width: 48em; }
.answer { border: 1px solid var(--line); border-left: 5px solid #0072b2;
  border-radius: 6px; padding: 4px 20px 10px; margin: 18px 0; background: #f7f9fb; }
.answer h2 { margin-top: .6em; border: 0; }
.claim { display: flex; gap: 14px; align-items: flex-start; margin: 12px 0; }
.verdict { flex: none; width: 11em; text-align: center; font-weight: 600;
  font-size: .85rem; border: 2px solid; border-radius: 5px; padding: 3px 4px; }
.reproduced { color: #fff; background: #0072b2; border-color: #0072b2; }
.not-reproduced { color: #9c3d00; border-color: #9c3d00; }
.inconclusive, .withheld { color: #444; border-style: dashed; }
.warnings { border-left: 5px solid #e69f00; background: #fff8e8; list-style: none;
  margin: 16px 0; padding: 10px 16px; border-radius: 4px; }
.scroll { overflow-x: auto; margin: 12px 0 24px; }
table { border-collapse: collapse; font-size: .84rem; line-height: 1.35;
  font-variant-numeric: tabular-nums; }
th, td { padding: 6px 7px; border-bottom: 1px solid var(--line); text-align: right;
  vertical-align: top; white-space: pre-line; }
thead th { white-space: pre; border-bottom: 2px solid var(--ink);
  vertical-align: bottom; }
th:first-child { position: sticky; left: 0; background: #fff; text-align: left; }
.figures { display: grid; gap: 20px 28px;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 480px), 1fr)); }
figure { margin: 0; break-inside: avoid; }
figure img { width: 100%; max-width: 640px; height: auto; display: block; }
figcaption { color: var(--soft); font-size: .86rem; max-width: 44em; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: #f6f6f7;
  padding: 12px 14px; border-radius: 5px; font-size: .86rem; max-width: 56em; }
@media (max-width: 640px) { main { padding: 12px 14px 40px; }
  .claim { display: block; } .verdict { display: inline-block; margin-bottom: 4px; }
  .answer { padding: 2px 14px 8px; } h1 { font-size: 1.35rem; } }
@media print { main { max-width: none; padding: 0; } .scroll { overflow: visible; }
  table { font-size: 7pt; } th, td { padding: 3px 4px; } }
"""
