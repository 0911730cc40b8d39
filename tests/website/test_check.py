"""The checker of a built site finds each fault that it is for, and only those."""

from pathlib import Path

import pytest

from website.check import faults


GOOD = '<link rel="stylesheet" href="a.css"><h1 id="top">x</h1><a href="b.html#here">b</a>'
OTHER = (
    '<p id="here"><a href="a.html">a</a><a href="https://example.org/x">out</a>'
    '<img src="data:,"></p>'
)


def site(folder: Path, **files: str) -> Path:
    for name, text in {"a.html": GOOD, "b.html": OTHER, "a.css": "p{}", **files}.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def test_a_whole_site_has_none(tmp_path: Path) -> None:
    assert list(faults(site(tmp_path))) == []


def test_an_empty_folder_is_no_site(tmp_path: Path) -> None:
    assert "no page" in next(faults(tmp_path))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('<a href="c.html">c</a>', "there is no c.html"),
        ('<a href="b.html#gone">c</a>', "no such place"),
        ('<a href="#gone">c</a>', "no such place"),
        ('<img src="gone.png">', "there is no gone.png"),
        ('<script src="https://example.org/x.js"></script>', "fetches https://example.org/x.js"),
        ('<link rel="stylesheet" href="//example.org/x.css">', "fetches //example.org/x.css"),
        ('<link rel="preconnect" href="https://example.org">', "fetches https://example.org"),
        ('<pre class="mermaid">x</pre>', "wants a script"),
    ],
)
def test_each_fault_is_told(text: str, said: str, tmp_path: Path) -> None:
    (told,) = faults(site(tmp_path, **{"d.html": text}))
    assert told.startswith("d.html: ")
    assert said in told


def test_a_font_from_elsewhere_is_told(tmp_path: Path) -> None:
    css = "@font-face{src:url(https://example.org/x.woff2)} p{background:url('i.png')}"
    (told,) = faults(site(tmp_path, **{"a.css": css}))
    assert "fetches https://example.org/x.woff2" in told
