"""Only a device that can start a kernel early is asked to."""

import torch

from open_mythos.kernels.dependent import dependent_launch


def test_a_cpu_cannot_and_a_gpu_can_from_hopper_on() -> None:
    assert not dependent_launch(torch.device("cpu"))
    if torch.cuda.is_available():
        major = torch.cuda.get_device_capability()[0]
        assert dependent_launch(torch.device("cuda", 0)) == (major >= 9)
