from open_mythos.train.records import EvalRecord, StepRecord
from open_mythos.train.scalars import TAGS, eval_scalars, step_scalars


RECORD = StepRecord(
    step=3,
    loss=2.0,
    terms={"cross_entropy": 1.5, "ponder": 0.5},
    accuracy=0.5,
    lr=1e-3,
    grad_norm=2.0,
    n_loops=4,
    given_loops=3.5,
    mean_loops=3.0,
    tokens=10,
    tokens_per_second=1.0,
    skipped=True,
    router_dead=1,
    entropy_by_loop=[0.5, 1.0],
    memory=3 * 2**29,
)


def test_every_number_has_one_tag_and_absent_ones_none() -> None:
    found = step_scalars(RECORD)
    assert found["train/loss"] == 2.0
    assert found["train/ponder"] == 0.5
    assert found["train/skipped"] == 1.0
    assert found["loop/given"] == 3.5
    assert found["speed/memory_gib"] == 1.5
    assert found["router_entropy/loop_01"] == 0.5
    assert found["router_entropy/loop_02"] == 1.0
    assert not {"speed/mfu", "loop/rho_a", "train/epoch"} & found.keys()
    assert all(type(value) is float for value in found.values())
    fewer = step_scalars(RECORD, by_loop=False)
    assert found.keys() - fewer.keys() == {f"router_entropy/loop_0{i}" for i in (1, 2)}


def test_tags_name_fields_that_records_have() -> None:
    assert set(TAGS.values()) <= vars(RECORD).keys()
    assert len(set(TAGS.values())) == len(TAGS)


def test_evaluations_have_a_group_of_their_own() -> None:
    record = EvalRecord(step=3, values={"validation/loss": 1.0}, texts={"samples/1": "x"})
    assert eval_scalars(record) == {"eval/validation/loss": 1.0}
