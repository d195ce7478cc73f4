"""The judge of the digits: a classifier of the training digits, and distances in its features."""

import torch

from sdescore.cli import digits_judge
from sdescore.data.load import digits
from sdescore.evaluation.metrics import frechet_distance


class TestJudge:
    """The judge of the digits knows the training digits alone."""

    def test_the_classifier_is_accurate_calibrated_and_doubts_what_is_no_digit(self) -> None:
        test = digits("test")
        assert test.labels is not None
        x = test.scaling.to_model(test.raw)
        sure, answer = digits_judge.probabilities(x).max(1)
        right = (answer == test.labels).double()
        assert right.mean() >= 0.98
        assert (sure >= 0.9).double().mean() >= 0.9
        assert abs(float(sure.mean() - right.mean())) <= 0.02 and right[sure >= 0.9].mean() >= 0.98
        own = torch.Generator().manual_seed(0)
        scrambled = x.flatten(1)[:, torch.randperm(64, generator=own)].reshape(x.shape)
        assert (digits_judge.probabilities(scrambled).max(1).values >= 0.9).double().mean() <= 0.05

    def test_the_distance_rises_with_every_defect(self) -> None:
        train, test = digits("train"), digits("test")
        assert train.labels is not None
        x, real = train.scaling.to_model(train.raw), digits_judge.features(test.scaling.to_model(test.raw))
        own = torch.Generator().manual_seed(0)
        noisy = x + 0.4 * torch.randn(x.shape, generator=own)
        mixed = (x + x[torch.randperm(len(x), generator=own)]) / 2
        least = frechet_distance(digits_judge.features(x), real)
        for worse in (noisy, mixed, x[train.labels != 8]):
            assert frechet_distance(digits_judge.features(worse), real) > 1.5 * least
