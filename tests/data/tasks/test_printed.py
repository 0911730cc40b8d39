from open_mythos.data.batch import IGNORE
from open_mythos.data.tasks.addition import Addition
from open_mythos.data.tasks.printed import printed


def test_a_row_is_read_above_what_it_wants() -> None:
    task = Addition(queries=1, batch_size=2)
    batch = task.evaluation_batch(2, seed=7)
    read, wanted = printed(task, 2, seed=7).split("\n")
    signs = [*"0123456789+=_"]
    assert read.split() == [signs[i] for i in batch.ids[0].tolist()]
    assert wanted.split() == ["." if i == IGNORE else signs[i] for i in batch.targets[0].tolist()]


def test_columns_are_as_wide_as_the_wider_word() -> None:
    task = Addition(queries=1, batch_size=1)
    read, wanted = printed(task, 1).split("\n")
    assert read.index("_") == wanted.index(wanted.replace(".", " ").split()[0])
