import pytest
import torch

from open_mythos.train.peaks import peak_flops, stated_flops


@pytest.mark.parametrize(
    ("name", "teraflops"),
    [
        ("NVIDIA H100 80GB HBM3", 989.4),
        ("NVIDIA H200", 989.4),
        ("NVIDIA GH200 480GB", 989.4),
        ("NVIDIA GH200 144G HBM3e", 989.4),
        ("NVIDIA H100 PCIe", 756.5),
        ("NVIDIA H100 NVL", 835.5),
        ("NVIDIA A100-SXM4-80GB", 312.0),
        ("NVIDIA A100-PCIE-40GB", 312.0),
        ("NVIDIA A100 80GB PCIe", 312.0),
        ("A100-SXM4-40GB", 312.0),
        ("NVIDIA B200", 2250.0),
        ("NVIDIA L4", 121.0),
        ("NVIDIA L40S", 362.05),
    ],
)
def test_known_names_have_the_stated_dense_rate(name: str, teraflops: float) -> None:
    assert stated_flops(name, "bf16") == pytest.approx(teraflops * 1e12)


@pytest.mark.parametrize(
    "name",
    [
        "NVIDIA H100 80GB HBM3 MIG 1g.10gb",
        "NVIDIA A100-SXM4-40GB MIG 3g.20gb",
        "NVIDIA GH200 480GB MIG 1g.12gb",
        "NVIDIA H200 MIG 2g.35gb",
        "NVIDIA A10G",
        "NVIDIA L40",
        "a card of tomorrow",
        "",
    ],
)
def test_no_number_is_made_up_for_other_names(name: str) -> None:
    assert stated_flops(name, "bf16") is None


def test_the_precision_decides_which_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")
    gpu = torch.device("cuda:0")
    half, bf16 = peak_flops(gpu, "fp16"), peak_flops(gpu, "bf16")
    assert half == bf16 == 989.4e12
    for allowed, rate in (("highest", 66.9e12), ("high", 494.7e12)):
        monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda p=allowed: p)
        assert peak_flops(gpu, "fp32") == pytest.approx(rate)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    assert peak_flops(gpu, "bf16") is None
    assert peak_flops(gpu, "fp16") == 65e12
    assert peak_flops(gpu, "fp32") == pytest.approx(8.1e12)  # no TF32 unit


def test_a_cpu_has_no_stated_rate() -> None:
    assert peak_flops(torch.device("cpu"), "fp32") is None
