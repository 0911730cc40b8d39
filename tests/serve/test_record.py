"""A record counts, and holds nothing of what was said."""

from open_mythos.serve.record import Record


def test_tokens_and_loops_add_up() -> None:
    record = Record("POST", "/x", caller="ann", keyed=True)
    assert "tokens" not in record.line
    for loops in (3, 1, 2):
        record.said(loops)
    record.prompt_tokens = 4
    assert (record.tokens, record.loops) == (3, 6)
    assert 0 <= (record.first or 0) <= record.seconds
    assert record.line["loops"] == 6
    assert "asked" not in record.line
    assert len({Record("GET", "/").id for _ in range(10)}) == 10


def test_cached_prompts_are_shared_inside_of_one_key_only() -> None:
    assert Record("GET", "/", caller="ann", keyed=True).namespace == "ann"
    assert Record("GET", "/", caller="10.0.0.1").namespace == ""
