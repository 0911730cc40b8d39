"""Numbers of the host as tensors of a device."""

import pytest
import torch

from open_mythos.nn.upload import upload


def test_numbers_and_rows_of_numbers() -> None:
    assert torch.equal(upload([3, 1, 2], torch.device("cpu")), torch.tensor([3, 1, 2]))
    table = upload([[0.5, 1.0]], torch.device("cpu"), torch.float64)
    assert (table.dtype, table.tolist()) == (torch.float64, [[0.5, 1.0]])
    assert upload([1], torch.device("meta")).is_meta


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:Synchronization debug mode:UserWarning")  # a prototype
def test_nobody_waits_for_the_device() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    try:
        torch.cuda.set_sync_debug_mode("error")
        found = upload([4, 5], torch.device("cuda"))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert found.tolist() == [4, 5]
