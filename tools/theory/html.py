"""HTML of the page: small pieces as strings, everything inline, no network."""

import base64
from html import escape

from tools.theory.learned import Sheet

STYLE = """
:root { color-scheme: light; }
body { margin: 0 auto; max-width: 60rem; padding: 1rem; font: 1rem/1.55 system-ui, sans-serif; color: #1b1f24;
  background: #fff; }
h1 { font-size: 1.6rem; line-height: 1.25; } h2 { font-size: 1.25rem; margin-top: 2.5rem; }
p { max-width: 44rem; } code { background: #eef3f7; padding: 0 .25em; overflow-wrap: anywhere; }
.wide { overflow-x: auto; } svg, img { max-width: 100%; height: auto; }
.graph svg { width: 100%; min-width: 38rem; max-width: 46rem; }
.grid { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(9.5rem, 1fr)); }
.large { grid-template-columns: repeat(auto-fill, minmax(min(100%, 16.5rem), 1fr)); }
figure { margin: 0; } figure svg, figure > img { width: 100%; } figcaption { font-size: .9rem; line-height: 1.35; }
figcaption span { color: #5b6570; display: block; }
table { border-collapse: collapse; font-size: .9rem; }
th, td { padding: .35rem .6rem; border-bottom: 1px solid #d5dbe1; text-align: left; vertical-align: middle; }
th { font-weight: 600; } td.no { color: #8a949e; } tr.apart td, tr.apart th { border-top: 2px solid #5b6570; }
.sheet td { padding: .2rem; border: 0; }
.sheet img { width: clamp(3.6rem, 16vw, 5.25rem); max-width: none; display: block; image-rendering: pixelated; }
.sheet th { font-weight: 400; font-size: .8rem; line-height: 1.2; padding: .2rem; border: 0;
  max-width: 5.25rem; }
.sheet tbody th { position: sticky; left: 0; background: #fff; font-weight: 600; min-width: 5rem; max-width: 5rem; }
.matrix { image-rendering: pixelated; }
.pair { display: grid; gap: 1.5rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 23rem), 1fr)); }
.pair figure > img { width: 10.5rem; image-rendering: pixelated; }
"""


def page(title: str, body: list[str]) -> str:
    """A whole document."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(body)
        + "\n</body>\n</html>\n"
    )


def image(png: bytes, alt: str, css: str = "") -> str:
    data = base64.b64encode(png).decode()
    kind = f' class="{css}"' if css else ""
    return f'<img{kind} alt="{escape(alt)}" src="data:image/png;base64,{data}">'


def figure(picture: str, caption: str, note: str = "") -> str:
    below = f"<span>{escape(note)}</span>" if note else ""
    return f"<figure>{picture}<figcaption>{escape(caption)}{below}</figcaption></figure>"


def grid(figures: list[str], css: str = "") -> str:
    return f'<div class="grid {css}">' + "\n".join(figures) + "</div>"


def paragraphs(text: str) -> str:
    """Paragraphs divided by empty lines; HTML inside is kept."""
    return "\n".join(f"<p>{part.strip()}</p>" for part in text.strip().split("\n\n"))


def table(heads: list[str], rows: list[list[str]], apart: int) -> str:
    """A table whose rows from ``apart`` on are divided from those before; "-" is shown pale."""
    lines = ["<tr>" + "".join(f"<th>{escape(head)}</th>" for head in heads) + "</tr>"]
    for index, cells in enumerate(rows):
        first = f"<th>{escape(cells[0])}</th>"
        rest = "".join(f'<td class="{"no" if c == "-" else "yes"}">{escape(c)}</td>' for c in cells[1:])
        kind = ' class="apart"' if index == apart else ""
        lines.append(f"<tr{kind}>{first}{rest}</tr>")
    return '<div class="wide"><table>' + "\n".join(lines) + "</table></div>"


def sheet(content: Sheet) -> str:
    """A table of pictures, its first column in sight while it is scrolled."""
    heads = "".join(f"<th>{escape(column)}</th>" for column in ["", *content.columns])
    lines = [f"<thead><tr>{heads}</tr></thead><tbody>"]
    for row in content.rows:
        cells = "".join(
            f"<td>{image(png, f'{row.label}, {column}')}</td>"
            for png, column in zip(row.pictures, content.columns, strict=True)
        )
        lines.append(f"<tr><th>{escape(row.label)}</th>{cells}</tr>")
    return '<div class="wide"><table class="sheet">' + "\n".join(lines) + "</tbody></table></div>"
