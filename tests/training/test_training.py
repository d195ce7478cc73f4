"""Training: gradients, and the outcome of a run."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from scipy.optimize import brentq
from torch.distributions import Normal
from training_runs import make_trainer, next_batch

from sdescore import VPSDE, Denoiser, GaussianMixture, KarrasSDE, Scaling, denoising_score_matching, sample
from sdescore.data.source import Arrays
from sdescore.evaluation import sliced_wasserstein
from sdescore.training import checkpoints
from sdescore.training.config import TrainConfig
from sdescore.training.draws import draw
from sdescore.training.loop import train
from sdescore.training.run_log import read_log


class TestGradient:
    def test_is_that_of_the_mean_squared_error(self, plain: TrainConfig, float64: None) -> None:
        """Against a loss written out by hand: Adam's first moments after one step are a tenth of the gradient."""
        config = replace(plain, grad_clip=None, time_distribution="uniform")
        own = make_trainer(config)
        raw, _ = next_batch(own)
        draws, sde = draw(config, 0, (1, 8, 8)), VPSDE()
        t = (sde.t_min + (1 - sde.t_min) * draws.u).reshape(-1, 1, 1, 1)
        x = sde.alpha(t) * (raw.double() / 8 - 1) + sde.sigma(t) * draws.eps
        wanted_loss = (own.denoiser.noise(x, t.flatten()) - draws.eps).square().mean()
        wanted = torch.autograd.grad(wanted_loss, list(own.denoiser.parameters()))
        loss, norm = own.update(raw, {})
        torch.testing.assert_close(loss, wanted_loss.detach(), rtol=1e-12, atol=0)
        moments = [own.optimizer.state[p]["exp_avg"] / 0.1 for p in own.denoiser.parameters()]
        torch.testing.assert_close(moments, list(wanted), rtol=1e-10, atol=1e-14)
        torch.testing.assert_close(norm, torch.cat([g.flatten() for g in wanted]).norm(), rtol=1e-10, atol=0)

    def test_is_edms_where_that_is_asked_for(self, plain: TrainConfig, float64: None) -> None:
        """(sigma^2 + d^2) / (sigma d)^2 on the data, ln sigma from N(-1.2, 1.2^2) (Karras et al. 2022)."""
        own = make_trainer(
            replace(
                plain, sde="KarrasSDE", predicts="edm", weighting="edm", time_distribution="log-normal", data_std=0.5
            )
        )
        raw, _ = next_batch(own)
        draws, sde, law = draw(own.config, 0, (1, 8, 8)), KarrasSDE(), Normal(-1.2, 1.2)
        low, high = law.cdf(torch.tensor([sde.t_min, sde.T]).log())
        sigma = law.icdf(low + (high - low) * draws.u).exp().reshape(-1, 1, 1, 1)
        x0 = raw.double() / 8 - 1
        error = own.denoiser(x0 + sigma * draws.eps, sigma.flatten()) - x0
        wanted = ((sigma**2 + 0.25) / (0.5 * sigma) ** 2 * error**2).mean()
        torch.testing.assert_close(own.update(raw, {})[0], wanted.detach(), rtol=1e-9, atol=0)

    @pytest.mark.parametrize("parts", [2, 3])
    def test_accumulated_in_parts(self, plain: TrainConfig, float64: None, parts: int) -> None:
        runs = []
        for accumulation in (1, parts):  # 10 samples in 3 parts: of unequal size
            own = make_trainer(replace(plain, accumulation=accumulation))
            updates = [own.update(*next_batch(own)) for _ in range(3)]
            state = own.optimizer.state
            moments = [state[p]["exp_avg"] for p in own.denoiser.parameters()]
            runs.append((torch.tensor(updates), torch.cat([m.flatten() for m in moments])))
        torch.testing.assert_close(runs[0][0], runs[1][0], rtol=1e-10, atol=0)
        torch.testing.assert_close(runs[0][1], runs[1][1], rtol=1e-8, atol=1e-10 * float(runs[0][1].abs().max()))

    @pytest.mark.parametrize(("name", "cls"), [("adamw", torch.optim.AdamW), ("adam", torch.optim.Adam)])
    def test_goes_into_the_optimizer_that_is_asked_for(
        self, plain: TrainConfig, float64: None, name: str, cls: type[torch.optim.Adam | torch.optim.AdamW]
    ) -> None:
        """Three steps, beside torch's own optimiser, not fused, on copies of the weights."""
        settings: dict[str, Any] = {"betas": (0.8, 0.95), "weight_decay": 0.3}
        own = make_trainer(replace(plain, optimizer=name, warmup=0, **settings))
        weights = [p.detach().clone() for p in own.denoiser.parameters()]
        other, step = cls(weights, lr=plain.lr, fused=False, **settings), own.optimizer.step

        def noted() -> None:
            for copy, p in zip(weights, own.denoiser.parameters(), strict=True):
                assert p.grad is not None
                copy.grad = p.grad.clone()
            step()

        own.optimizer.step = noted
        for _ in range(3):
            own.update(*next_batch(own))
            other.step()
        torch.testing.assert_close(list(own.denoiser.parameters()), weights, check_dtype=False)

    def test_clipped(self, plain: TrainConfig) -> None:
        own = make_trainer(replace(plain, grad_clip=1e-3))
        _, norm = own.update(*next_batch(own))
        first = torch.cat([own.optimizer.state[p]["exp_avg"].flatten() for p in own.denoiser.parameters()])
        assert norm > 1e-2
        assert float(first.norm()) / 0.1 == pytest.approx(1e-3, rel=1e-3)

    def test_warmup_and_average(self, plain: TrainConfig, float64: None) -> None:
        """The learning rate rises linearly; the average follows its recursion."""
        own = make_trainer(replace(plain, steps=40))  # a tenth of which are four steps
        rates, average, mean = [], torch.zeros(()), torch.zeros(())
        # The exponent of width 0.1, by its definition.
        gamma = brentq(lambda g: (g + 1) / ((g + 2) ** 2 * (g + 3)) - 0.1**2, 0, 100)
        for k in range(6):
            own.update(*next_batch(own))
            rates.append(own.optimizer.param_groups[0]["lr"])
            weights = torch.cat([p.detach().flatten() for p in own.denoiser.parameters()])
            decay = 0.5 ** (10 / min(60, 0.5 * 10 * k)) if k else 0.0  # 10 images a step
            average = decay * average + (1 - decay) * weights
            kept = (k / (k + 1)) ** (gamma + 1)
            mean = kept * mean + (1 - kept) * weights
        assert rates == pytest.approx([1e-3 * f for f in (0.25, 0.5, 0.75, 1, 1, 1)])
        for model, wanted in ((own.averaged, average), (own.averages.models[2], mean)):
            torch.testing.assert_close(torch.cat([p.detach().flatten() for p in model.parameters()]), wanted)

    def test_flips_and_dropped_labels_reach_the_net(self, config: TrainConfig) -> None:
        config = replace(config, batch_size=400, accumulation=1)
        own, seen = make_trainer(config), []

        def record(x: torch.Tensor, c_noise: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
            seen.append((x, label))
            return x * next(own.denoiser.parameters()).mean()

        own.net.forward = record
        raw, known = next_batch(own)
        own.update(raw, known)
        draws, (y, label) = draw(config, 0, (1, 8, 8)), seen[-1]
        dropped = draws.drop[:, 0]
        assert label.equal(torch.where(dropped, 10, known["label"]))
        # y is a multiple of alpha x0 + sigma eps: what is left of it after eps says which way round x0 is.
        x0 = raw.float() / 8 - 1
        gaps = torch.stack([_distance_to_line(y, draws.eps, each) for each in (x0, x0.flip(-1))])
        assert gaps.argmin(0).bool().equal(draws.flip)
        assert draws.flip.float().mean() == pytest.approx(0.5, abs=0.1)
        assert dropped.float().mean() == pytest.approx(0.3, abs=0.09)

    def test_dequantised_data_fills_the_width_of_a_level(self, config: TrainConfig) -> None:
        config = replace(config, batch_size=200, accumulation=1, conditional=False, flips=False, dequantize=True)
        own, seen = make_trainer(config), []

        def record(x: torch.Tensor, c_noise: torch.Tensor) -> torch.Tensor:
            seen.append(x)
            return x * next(own.denoiser.parameters()).mean()

        own.net.forward = record
        raw, _ = next_batch(own)
        own.update(raw, {})
        draws, y = draw(config, 0, (1, 8, 8)), seen[-1]
        assert draws.shift.min() < -0.49 and draws.shift.max() > 0.49 and abs(float(draws.shift.mean())) < 0.01
        # Raw levels are 1 apart, model values in steps of 1/8.
        assert _distance_to_line(y, draws.eps, (raw + draws.shift) / 8 - 1).max() < 1e-5
        assert _distance_to_line(y, draws.eps, raw / 8 - 1).mean() > 1e-2


def _distance_to_line(y: torch.Tensor, noise: torch.Tensor, x0: torch.Tensor) -> torch.Tensor:
    """The residual of y against the span of x0 and noise, for each sample."""
    basis = torch.linalg.qr(torch.stack([noise.flatten(1), x0.flatten(1)], 2).double()).Q
    flat = y.flatten(1).double()
    inside = (basis @ (basis.mT @ flat.unsqueeze(2))).squeeze(2)
    return (flat - inside).norm(dim=1)


class TestOutcome:
    def test_reaches_the_floor_of_a_gaussian(self, config: TrainConfig) -> None:
        """The loss of the exact score: the mean over t of alpha^2 s^2 / (alpha^2 s^2 + sigma^2)."""
        stds, sde = torch.tensor([0.9, 0.2]), VPSDE()
        oracle = GaussianMixture(torch.tensor([[0.3, -0.1]]), stds[None])
        source = Arrays(4 * oracle.sample(20_000), scaling="whole")
        low, high = map(float, (source.scaling.low, source.scaling.high))  # type: ignore[arg-type]
        config = replace(
            config,
            flips=False,
            conditional=False,
            net="MLP",
            net_args={"width": 64, "depth": 2},
            steps=400,
            batch_size=256,
            accumulation=1,
            lr=4e-3,
            warmup=30,
            decay="cosine",
            ema_halflives=(12_000,),
            save_every=400,
            log_every=100,
        )
        trained = train(config, source=source)
        scaled = 4 * stds * 2 / (high - low)  # of the data as the net sees it
        t = torch.linspace(sde.t_min, 1, 20_001)
        data, noise = sde.alpha(t)[:, None] ** 2 * scaled**2, sde.sigma(t)[:, None] ** 2
        floor = float((data / (data + noise)).mean())
        fresh = source.scaling.to_model((4 * oracle.sample(200_000, seed=1)).clamp(low, high))
        with torch.no_grad():
            losses = denoising_score_matching(
                trained, fresh, time_distribution="low-discrepancy", generator=torch.Generator().manual_seed(0)
            )
        loss, error = float(losses.mean()), float(losses.std()) / math.sqrt(len(losses))
        assert floor - 4 * error < loss < 1.02 * floor + 4 * error
        assert read_log(config.out)[-1]["loss"] == pytest.approx(floor, rel=0.05)

    def test_folder_is_all_that_sampling_needs(self, config: TrainConfig) -> None:
        trained = train(replace(config, sample_every=4, sample_count=5, sample_steps=3))
        loaded = Denoiser.from_pretrained(Path(config.out) / "model")
        assert loaded.shape == (1, 8, 8) and loaded.scaling == Scaling(0, 16, 17)
        label = {"label": torch.tensor([3, 10])}
        x = sample(loaded.sde, loaded, (2, 1, 8, 8), steps=3, condition=label)
        assert x.equal(sample(trained.sde, trained, (2, 1, 8, 8), steps=3, condition=label))
        pictures = sorted(path.name for path in (Path(config.out) / "samples").iterdir())
        assert pictures == ["step-000004.png", "step-000006.png"]
        ema = load_file(Path(config.out) / "checkpoints/step-000006/halflife-60.safetensors")
        weights = load_file(Path(config.out) / "model/model.safetensors")
        assert all(ema[f"net.{name}"].equal(value) for name, value in weights.items())

    def test_vectors_are_saved_as_numbers(self, config: TrainConfig) -> None:
        config = replace(config, flips=False, conditional=False, net="MLP", net_args={"width": 8}, sample_every=6)
        train(config, source=Arrays(torch.randn(50, 3)))
        assert (Path(config.out) / "samples/step-000006.npz").exists()

    def test_tracker(self, config: TrainConfig) -> None:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        train(replace(config, tracker="tensorboard", steps=4))
        train(replace(config, tracker="tensorboard"), resume=True)
        events = EventAccumulator(str(Path(config.out) / "tracker"))
        events.Reload()
        seen = {event.step: event.value for event in events.Scalars("loss")}
        wanted = {int(line["step"]): line["loss"] for line in read_log(config.out)}
        assert seen == pytest.approx(wanted, rel=1e-6)

    def test_tracker_shows_samples_and_how_far_they_are(self, config: TrainConfig) -> None:
        """The grid that is in the folder too, and the distance of model values to the data, at every preview."""
        from PIL import Image
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        config = replace(config, tracker="tensorboard", steps=4, sample_every=2, sample_count=6, sample_steps=3)
        trained = train(config)
        events = EventAccumulator(str(Path(config.out) / "tracker"))
        events.Reload()
        shown = events.Images("samples")
        with Image.open(Path(config.out) / "samples/step-000004.png") as grid:
            assert shown[-1].step == 4 and (shown[-1].width, shown[-1].height) == grid.size
        given = {"label": torch.arange(6) % 10} if config.conditional else {}
        options: dict[str, Any] = {"solver": config.sample_solver, "steps": 3, "seed": config.seed}
        source = config.build_source()
        x = sample(trained.sde, trained, (6, *source.shape), condition=given, **options)
        chosen = [k * (len(source) - 1) // 511 for k in range(512)]
        real = source.scaling.to_model(source.__getitems__(chosen)[0])
        distance, _ = sliced_wasserstein(x.flatten(1), real.flatten(1), projections=200)
        found = {event.step: event.value for event in events.Scalars("sliced_wasserstein")}
        assert found.keys() == {2, 4} and found[4] == pytest.approx(distance, rel=1e-4)

    def test_bf16_computes_in_bf16_and_keeps_float32(self, plain: TrainConfig) -> None:
        own = make_trainer(replace(plain, mixed_precision="bf16"))
        seen = []
        conv = own.denoiser.net.get_submodule("entries.0")
        conv.register_forward_hook(lambda module, args, output: seen.append(output.dtype))
        own.update(*next_batch(own))
        assert seen == [torch.bfloat16]
        assert {p.dtype for p in own.denoiser.parameters()} == {torch.float32}

    def test_other_parts_are_named(self, config: TrainConfig, caplog: Any) -> None:
        """Dropout is drawn part by part."""
        train(replace(config, steps=2))
        saved = checkpoints.newest(Path(config.out) / "checkpoints")
        make_trainer(config).load(saved)
        assert not caplog.messages
        make_trainer(replace(config, accumulation=3)).load(saved)
        assert "with {'accumulation': 2, " in caplog.text and "dropout may differ" in caplog.text

    def test_another_precision_is_named(self, plain: TrainConfig, caplog: Any) -> None:
        train(replace(plain, steps=2, mixed_precision="bf16"))
        AcceleratorState._reset_state(reset_partial_state=True)
        saved = checkpoints.newest(Path(plain.out) / "checkpoints")
        make_trainer(replace(plain, mixed_precision="no")).load(saved)
        assert "was computed in bf16, and goes on in no" in caplog.text

    def test_channels_last_is_the_same_net(self, plain: TrainConfig, float64: None) -> None:
        own, other = make_trainer(replace(plain, channels_last=True)), make_trainer(plain)
        weight = own.denoiser.net.get_parameter("encoder.0.conv1.weight")
        assert weight.is_contiguous(memory_format=torch.channels_last)
        for _ in range(3):
            one, two = own.update(*next_batch(own)), other.update(*next_batch(other))
            torch.testing.assert_close(one, two, rtol=1e-9, atol=0)
        for a, b in zip(own.averaged.parameters(), other.averaged.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9)

    @pytest.mark.slow
    def test_compiled_is_the_same_net(self, plain: TrainConfig) -> None:
        own, other = make_trainer(replace(plain, compile=True)), make_trainer(plain)
        assert own.denoiser.state_dict().keys() == other.denoiser.state_dict().keys()
        for _ in range(2):
            one, two = own.update(*next_batch(own)), other.update(*next_batch(other))
            torch.testing.assert_close(one, two, rtol=1e-4, atol=0)
