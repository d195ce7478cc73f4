"""Terms of nets whose time or whose sign runs the other way."""

import torch
from prediction_kinds import DATA_STD
from torch import Tensor

from sdescore import Denoiser, FlowSDE, NetTerms


def test_a_net_whose_data_is_at_time_1_runs_by_its_own_time_and_sign() -> None:
    """Lipman et al. 2023 as written: x_s = s x1 + (1 - s) eps, and the velocity x1 - eps, for N(0, DATA_STD^2)."""

    def mean(x: Tensor, s: Tensor) -> Tensor:
        return x * (s * DATA_STD**2 / (s**2 * DATA_STD**2 + (1 - s) ** 2))[:, None]

    def net(x: Tensor, s: Tensor) -> Tensor:
        data = mean(x, s)
        return data - (x - s[:, None] * data) / (1 - s[:, None])

    terms = NetTerms("state", "t", -1.0, time_shift=1.0, predicts="velocity", output_scale=-1.0)
    x = torch.randn(3, 2, dtype=torch.float64)
    t = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    found = Denoiser(net, FlowSDE(), terms=terms, data_std=DATA_STD)(x, t)
    torch.testing.assert_close(found, mean(x, 1 - t))
