"""Nets in training mode: dropout is off while something samples, however many do, and training goes on as it was."""

import threading
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from sdescore import VPSDE, Denoiser, sample, trajectory
from sdescore.common.evaluation_mode import evaluating


class Dropping(nn.Module):
    """A net that says so when it is called in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.5)
        self.kept = nn.BatchNorm1d(2).eval()  # as a user has it, for good
        self.wrong = 0

    def forward(self, x: Tensor, c_noise: Tensor) -> Tensor:
        self.wrong += self.dropout.training + self.training
        return self.dropout(x)


@pytest.fixture
def net() -> Dropping:
    return Dropping().train()


def states(net: Dropping, seed: int) -> Iterator[Tensor]:
    net.kept.eval()
    return trajectory(VPSDE(), Denoiser(net, VPSDE()), (4, 2), solver="ddim", steps=6, seed=seed)


def test_interleaved_samplings_of_one_net_are_those_of_each_alone(net: Dropping) -> None:
    alone = [[*states(net, seed)] for seed in (1, 2)]
    one, other = states(net, 1), states(net, 2)
    together: list[list[Tensor]] = [[], []]
    for k in range(len(alone[0])):
        together[0].append(next(one))
        assert net.training and net.dropout.training and not net.kept.training  # whoever trains in between
        if k < 3:
            together[1].append(next(other))
    together[1] += [*other]
    for a, b in zip(alone, together, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    assert net.wrong == 0 and net.training and net.dropout.training and not net.kept.training


def test_a_sampling_that_is_given_up_leaves_the_net_in_training_mode(net: Dropping) -> None:
    begun = states(net, 1)
    next(begun), next(begun)
    assert net.training and net.dropout.training


def test_samplings_in_threads_never_see_dropout(net: Dropping) -> None:
    found: list[Tensor] = []
    denoiser = Denoiser(net, VPSDE())  # each call sums its uses of a net in training mode
    expected = sample(VPSDE(), denoiser, (4, 2), solver="ddim", steps=40, seed=1)
    threads = [
        threading.Thread(
            target=lambda: found.extend(
                sample(VPSDE(), denoiser, (4, 2), solver="ddim", steps=40, seed=1) for _ in range(4)
            )
        )
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 12 and all(torch.equal(x, expected) for x in found)
    assert net.wrong == 0 and net.training


def test_what_two_nets_share_is_counted_for_both() -> None:
    shared = nn.Dropout()
    one, other = nn.Sequential(shared), nn.Sequential(shared, nn.Dropout())
    first, second = evaluating(one), evaluating(other)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert one.training and not shared.training and not other.training
    second.__exit__(None, None, None)
    assert shared.training and other.training and other[1].training
