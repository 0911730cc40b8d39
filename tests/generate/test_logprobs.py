"""Reports against a softmax in plain Python."""

import math

import pytest
import torch
from hypothesis import given, strategies as st

from open_mythos.generate.logprobs import token_logprobs


@given(wanted=st.lists(st.none() | st.integers(0, 12), min_size=1, max_size=5))
def test_each_row_is_told_what_it_wants_of_the_unmodified_softmax(wanted: list[int | None]) -> None:
    logits = torch.randn(len(wanted), 9).double() * 3
    tokens = torch.randint(0, 9, (len(wanted),))
    told = token_logprobs(logits, tokens, wanted)
    for row, token, count, report in zip(logits, tokens, wanted, told, strict=True):
        if count is None:
            assert report is None
            continue
        total = math.log(sum(math.exp(v) for v in row.tolist()))
        score = [v - total for v in row.tolist()]
        assert report is not None
        assert report.token == int(token)
        assert report.logprob == pytest.approx(score[int(token)])
        best = sorted(range(9), key=lambda t: -score[t])[:count]
        assert [t for t, _ in report.top] == best
        assert [v for _, v in report.top] == pytest.approx([score[t] for t in best])
