"""The few pieces of HTML that a report is made of: the page that needs nothing beside it, text, pictures, tables."""

import base64
import html
import io
from collections.abc import Callable, Sequence
from typing import IO, Any

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { margin-bottom: 0; } h2 { margin-top: 2.5rem; border-bottom: 1px solid var(--line); }
img { max-width: 100%; background: #fff; border-radius: 4px; }
table { border-collapse: collapse; } td, th { padding: .15rem .8rem .15rem 0; text-align: left; vertical-align: top; }
th { font-weight: 600; } .number { text-align: right; font-variant-numeric: tabular-nums; }
.figures { display: flex; flex-wrap: wrap; gap: 1rem; margin: 1rem 0; }
.figures div { background: var(--soft); border-radius: 6px; padding: .6rem 1rem; }
.figures b { display: block; font-size: 1.6rem; } .figures .main { outline: 2px solid #2a7; }
pre { background: var(--soft); padding: .8rem; overflow-x: auto; border-radius: 6px; }
details > summary { cursor: pointer; } .runs img { max-height: 9rem; }
"""


def document(title: str, body: str) -> str:
    """A whole page, its style within it."""
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{text(title)}</title>'
    return (
        f'<!doctype html>\n<html lang="en"><head>{head}<style>{_STYLE}</style></head><body>\n{body}\n</body></html>\n'
    )


def text(value: Any) -> str:
    """What stands in a page as it is written."""
    return html.escape(str(value))


def picture(draw: Callable[[IO[bytes]], Any], alt: str) -> str:
    """What `draw` writes into a file, PNG or GIF, as part of the page; nothing where it writes nothing."""
    file = io.BytesIO()
    draw(file)
    coded = base64.b64encode(file.getvalue()).decode()
    kind = "gif" if file.getvalue()[:3] == b"GIF" else "png"
    return f'<img alt="{text(alt)}" src="data:image/{kind};base64,{coded}">' if coded else ""


def table(rows: Sequence[Sequence[Any]], head: Sequence[str] = (), numbers: int = 0) -> str:
    """Cells are text; the last `numbers` columns are set as numbers."""

    def line(cells: Sequence[Any], tag: str) -> str:
        first = len(cells) - numbers
        return "".join(
            f"<{tag}{' class=number' if i >= first else ''}>{text(cell)}</{tag}>" for i, cell in enumerate(cells)
        )

    lines = [line(head, "th")] if head else []
    lines += [line(row, "td") for row in rows]
    return f"<table>{''.join(f'<tr>{cells}</tr>' for cells in lines)}</table>"
