from html.parser import HTMLParser

from matplotlib.figure import Figure

from open_mythos.report.page import Section, render_page


class Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "img", "link", "br"):
            self.open.append(tag)
        self.addresses += [v for k, v in attrs if k in ("src", "href") and v]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_wide_pictures_have_a_row_of_their_own() -> None:
    drawn = [(name, Figure(figsize=(width, 2))) for name, width in (("a", 6), ("b", 9))]
    page = render_page("t", "l", [Section("s", figures=drawn)])
    assert page.count("<figure>") == 1
    assert page.count('<figure class="wide">') == 1


def test_a_page_is_whole_fetches_nothing_and_escapes_what_models_write() -> None:
    figure = Figure()
    figure.add_subplot().plot([1, 2])
    section = Section(
        "Title & more",
        ["a < b"],
        [("a caption", figure)],
        [["loops", "loss"], ["1", "2.0"]],
        [("4 loops", "<script>alert(1)</script> $body")],
    )
    page = render_page("A page", "Its lead", [section])
    reader = Reader()
    reader.feed(page)
    assert not reader.open
    assert reader.addresses
    assert all(a.startswith("data:image/png;base64,") for a in reader.addresses)
    assert "<script>" not in page
    for text in ("Title & more", "a < b", "<script>alert(1)</script> $body", "a caption", "2.0"):
        assert text in reader.text
