"""Linear: the bias-free map of every layer, quick for the single row of a decoding step."""

from torch import Tensor, nn

from open_mythos.ops.few import linear


class Linear(nn.Linear):
    """`nn.Linear` without a bias, run by `ops.few.linear`."""

    def __init__(self, dim_in: int, dim_out: int) -> None:
        """Map width `dim_in` to `dim_out`."""
        super().__init__(dim_in, dim_out, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        return linear(x, self.weight)
