"""The page of a made-up result: words and numbers that follow from it, and nothing else."""

import re

from open_mythos.suite.cell import CellResult
from open_mythos.suite.plan import Cell, Plan
from open_mythos.suite.story import (
    beyond_table,
    figures,
    findings,
    in_short,
    lead,
    report,
    sentence,
    verdict_table,
)
from open_mythos.suite.summary import summarise


Results = list[tuple[Cell, CellResult]]


def test_one_sentence_for_each_design_with_its_numbers(plan: Plan, results: Results) -> None:
    ours, theirs, tied, _ = summarise(results)
    assert sentence(theirs, "terms") == (
        "om05: collapse. Trained on at most 2 terms and 2 loops, it answers these at 0.900, "
        "with 4 loops at 0.300, solves up to 1 terms at 95%, and answers 4 terms with 4 loops at "
        "0.300; chance is 0.333. Of what there is to gain over chance it has 0.000 at 2 times the "
        "trained difficulty."
    )
    said = sentence(tied, "terms")
    assert "gains in 1 of 2 seeds" in said
    assert "0 to 4 terms by seed" in said
    assert "with as many loops as that at 0.750 (0.500 to 1.000)" in said
    assert "chance is 0.333" in sentence(ours, "terms")


def test_the_table_has_every_design_and_task(plan: Plan, results: Results) -> None:
    summaries = summarise(results)
    table = verdict_table(plan, summaries)
    assert table[0] == ["design", "free (2)", "tied (2)"]
    assert [row[0] for row in table[1:]] == ["mythos", "om05"]
    assert table[2][1] == in_short(summaries[1]) == "collapse; 1"
    partial = verdict_table(plan, summaries[1:2])
    assert partial[1:] == [["om05", "collapse; 1", ""]]


def test_beyond_the_training_has_a_row_for_each_task_and_design(
    plan: Plan, results: Results
) -> None:
    table = beyond_table(plan, summarise(results))
    assert table[0] == ["task", "design", "seeds", "2 x", "4 x", "lost by 4 x the loops, points"]
    assert [row[:3] for row in table[1:]] == [
        ["free", "mythos", "2"],
        ["free", "om05", "2"],
        ["tied", "mythos", "2"],
        ["tied", "om05", "2"],
    ]
    # 1.0 and 0.5 of 4 terms, chance a third: all, and a quarter of what is to gain.
    assert table[1][3] == "0.625 (0.250 to 1.000)"
    assert [row[4] for row in table[1:]] == [""] * 4
    # 2 terms: 0.9, 1.0, 1.0 with 1, 2 and 4 loops; two are needed, eight were not asked for.
    assert [row[5] for row in table[1:]] == [""] * 4


def test_the_page_shows_every_task_and_says_what_failed(plan: Plan, results: Results) -> None:
    summaries = summarise(results)
    drawn = figures(plan, summaries)
    assert set(drawn) == {
        f"{task}-{what}" for task in ("free", "tied") for what in ("maps", "designs", "curves")
    }
    page = report(plan, summaries, drawn, {"tied om05 seed 1": "out of <memory>"})
    assert page.count("data:image/png;base64,") == len(drawn)
    for words in ("Sums, free", "Sums, tied", "Verdicts", "has no result: out of &lt;memory&gt;"):
        assert words in page
    for text in findings(plan, summaries)["sentences"]["free"]:
        assert text in page
    assert not re.search(r"https?://", page)


def test_a_task_without_results_is_left_out(plan: Plan, results: Results) -> None:
    summaries = summarise([pair for pair in results if pair[0].problem == "tied"])
    drawn = figures(plan, summaries)
    assert not any(name.startswith("free") for name in drawn)
    assert "Sums, free" not in report(plan, summaries, drawn, {})


def test_the_lead_counts(plan: Plan) -> None:
    assert lead(plan).startswith("2 tasks, 2 designs of the loop, 2 seeds:")
