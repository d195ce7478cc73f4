"""Random numbers of training: each setting's own, by seed, step and, for dropout, process."""

from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator
from training_runs import make_trainer, next_batch

from sdescore.training.config import TrainConfig
from sdescore.training.draws import draw


class TestDraws:
    def test_each_setting_draws_for_itself(self, config: TrainConfig) -> None:
        a = draw(config, 3, (1, 8, 8))
        b = draw(replace(config, flips=False, drop=0.0, dequantize=True), 3, (1, 8, 8))
        assert a.u.equal(b.u) and a.eps.equal(b.eps) and not b.flip.any() and not b.drop.any()
        assert not a.shift.any() and b.shift.all()

    def test_nothing_drawn_tells_of_anything_else(self, config: TrainConfig) -> None:
        config = replace(config, batch_size=4000, time_distribution="uniform", drop=0.5, dequantize=True)
        draws = draw(config, 0, (1,))
        assert (
            torch.corrcoef(torch.stack([each.flatten().double() for each in draws])).sub_(torch.eye(5)).abs().max()
            < 0.08
        )

    def test_dropout_is_anothers_in_each_step_and_process(
        self, config: TrainConfig, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        own, seeds = make_trainer(config), []
        own.denoiser.net.register_forward_pre_hook(lambda *_: seeds.append(torch.initial_seed()))
        for rank in (0, 1):
            monkeypatch.setattr(Accelerator, "process_index", rank)
            for own.step in (0, 1):
                own.update(*next_batch(own))
        assert len(set(seeds)) == 4

    def test_steps_and_seeds_differ(self, config: TrainConfig) -> None:
        first = draw(config, 0, (2,))
        for other in (draw(config, 1, (2,)), draw(replace(config, seed=1), 0, (2,))):
            assert not first.u.equal(other.u) and not first.eps.equal(other.eps)
