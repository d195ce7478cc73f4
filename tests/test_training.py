"""Training: gradients, resuming, many processes, and what is refused."""

import json
import logging
import math
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("ACCELERATE_USE_CPU", "true")  # what is compared bit by bit is compared on the CPU

import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from scipy.optimize import brentq

import sdescore.launch
from sdescore import VPSDE, Denoiser, GaussianMixture, Scaling, checkpoints, denoising_score_matching, sample
from sdescore.config import TrainConfig
from sdescore.data import Arrays, order
from sdescore.launch import chosen_precision, launch, launcher_warnings
from sdescore.learner import Learner, draw
from sdescore.reports import read_log
from sdescore.training import train

# One process of several, for torchrun: trains with a config, in float64; may kill itself at its n-th flush to disk, or,
# if it is the last of them, at its n-th update.
WORKER = """
import json, os, signal, sys
import torch
from sdescore.learner import Learner
from sdescore.training import TrainConfig, train

torch.set_num_threads(1)
torch.set_default_dtype(torch.float64)
fields, resume, fatal, fatal_update = json.loads(sys.argv[1])
flush, calls = os.fsync, 0
update, updates = Learner.update, 0

def fsync(handle):
    global calls
    calls += 1
    if calls == fatal:
        os.kill(os.getpid(), signal.SIGKILL)
    flush(handle)

def counted(self, *batch):
    global updates
    updates += 1
    if updates == fatal_update and self.accelerator.is_last_process:
        os.kill(os.getpid(), signal.SIGKILL)
    return update(self, *batch)

os.fsync, Learner.update = fsync, counted
train(TrainConfig(**fields), resume=resume)
if torch.distributed.is_initialized():
    torch.distributed.destroy_process_group()
"""


@pytest.fixture(autouse=True)
def afresh() -> Iterator[None]:
    """accelerate keeps its precision for the life of a process."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def config(tmp_path: Path) -> TrainConfig:
    """A small run that uses everything random: dropout, flips, dropped labels, the data's order."""
    return TrainConfig(
        data="digits",
        flips=True,
        conditional=True,
        label_drop=0.3,
        net_args={"base_width": 8, "multipliers": [1, 2], "blocks": 1, "heads": 2, "dropout": 0.2},
        steps=6,
        batch_size=10,
        accumulation=2,
        lr=1e-3,
        warmup=4,
        ema_halflives=(60, 25),
        ema_warmup=0.5,
        ema_widths=(0.1,),
        save_every=2,
        log_every=3,
        sample_every=0,
        tracker="none",
        progress=False,
        out=str(tmp_path / "run"),
    )


@pytest.fixture
def plain(config: TrainConfig) -> TrainConfig:
    """Nothing random but times and noise, and no parts: what can be computed by hand."""
    args = {**config.net_args, "dropout": 0.0}
    return replace(config, flips=False, conditional=False, accumulation=1, net_args=args)


def learner(config: TrainConfig) -> Learner:
    accelerator = launch(config.mixed_precision, config.tracker, config.out)
    return Learner(config, config.build_source(), accelerator)


def next_batch(own: Learner) -> tuple[torch.Tensor, torch.Tensor | None]:
    config, source = own.config, own.source
    return source.__getitems__(order(config.seed, len(source), own.step, config.batch_size).tolist())


def outcome(out: str | Path) -> dict[str, torch.Tensor]:
    """Everything that the newest checkpoint holds, by file and name."""
    tensors, state = checkpoints.load(checkpoints.newest(Path(out) / "checkpoints"))
    found = {f"{group}.{name}": tensor for group, named in tensors.items() for name, tensor in named.items()}
    return {**found, "step": torch.tensor(state["step"])}


def assert_same_bits(one: str | Path, two: str | Path) -> None:
    a, b = outcome(one), outcome(two)
    assert a.keys() == b.keys()
    assert [name for name in a if not a[name].equal(b[name])] == []


def assert_close(one: str | Path, two: str | Path) -> None:
    """Equal but for the order of sums in float64."""
    a, b = outcome(one), outcome(two)
    assert a.keys() == b.keys()
    for name, value in a.items():
        scale = float(value.abs().max())
        torch.testing.assert_close(b[name], value, rtol=1e-9, atol=1e-10 * scale + 1e-13, msg=name)


def run(
    processes: int, config: TrainConfig, resume: bool = False, fatal: int = 0, fatal_update: int = 0
) -> subprocess.CompletedProcess[str]:
    """Run the worker above as so many processes, under torchrun if they are several."""
    script = Path(config.out).parent / "worker.py"
    script.write_text(WORKER)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    command = [sys.executable, *(launcher if processes > 1 else ()), str(script)]
    command.append(json.dumps([config.to_json(), resume, fatal, fatal_update]))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, cwd=script.parent)


class TestGradient:
    def test_is_that_of_the_mean_squared_error(self, plain: TrainConfig, float64: None) -> None:
        """Against a loss written out by hand, through the first moments that Adam keeps of the first gradient."""
        config = replace(plain, grad_clip=None, times="uniform")
        own = learner(config)
        raw, _ = next_batch(own)
        draws, sde = draw(config, 0, (1, 8, 8)), VPSDE()
        t = (sde.t_min + (1 - sde.t_min) * draws.u).reshape(-1, 1, 1, 1)
        x = sde.alpha(t) * (raw.double() / 8 - 1) + sde.sigma(t) * draws.noise
        wanted_loss = (own.denoiser.noise(x, t.flatten()) - draws.noise).square().mean()
        wanted = torch.autograd.grad(wanted_loss, list(own.denoiser.parameters()))
        loss, norm = own.update(raw, None)
        torch.testing.assert_close(loss, wanted_loss.detach(), rtol=1e-12, atol=0)
        moments = [own.optimizer.state[p]["exp_avg"] / 0.1 for p in own.denoiser.parameters()]
        torch.testing.assert_close(moments, list(wanted), rtol=1e-10, atol=1e-14)
        torch.testing.assert_close(norm, torch.cat([g.flatten() for g in wanted]).norm(), rtol=1e-10, atol=0)

    @pytest.mark.parametrize("parts", [2, 3])
    def test_accumulated_in_parts(self, plain: TrainConfig, float64: None, parts: int) -> None:
        runs = []
        for accumulation in (1, parts):  # 10 samples in 3 parts: of unequal size
            own = learner(replace(plain, accumulation=accumulation))
            updates = [own.update(*next_batch(own)) for _ in range(3)]
            state = own.optimizer.state
            moments = [state[p]["exp_avg"] for p in own.denoiser.parameters()]
            runs.append((torch.tensor(updates), torch.cat([m.flatten() for m in moments])))
        torch.testing.assert_close(runs[0][0], runs[1][0], rtol=1e-10, atol=0)
        torch.testing.assert_close(runs[0][1], runs[1][1], rtol=1e-8, atol=1e-10 * float(runs[0][1].abs().max()))

    def test_clipped(self, plain: TrainConfig) -> None:
        own = learner(replace(plain, grad_clip=1e-3))
        _, norm = own.update(*next_batch(own))
        first = torch.cat([own.optimizer.state[p]["exp_avg"].flatten() for p in own.denoiser.parameters()])
        assert norm > 1e-2
        assert float(first.norm()) / 0.1 == pytest.approx(1e-3, rel=1e-3)

    def test_warmup_and_average(self, plain: TrainConfig, float64: None) -> None:
        """The learning rate rises linearly; the average follows its recursion."""
        own = learner(plain)
        rates, average, mean = [], torch.zeros(()), torch.zeros(())
        # The exponent of width 0.1, by its definition.
        gamma = brentq(lambda g: (g + 1) / ((g + 2) ** 2 * (g + 3)) - 0.1**2, 0, 100)
        for k in range(6):
            rates.append(own.optimizer.param_groups[0]["lr"])
            own.update(*next_batch(own))
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
        own, seen = learner(config), []

        def record(x: torch.Tensor, c_noise: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
            seen.append((x, label))
            return x * next(own.denoiser.parameters()).mean()

        own.net.forward = record
        raw, labels = next_batch(own)
        own.update(raw, labels)
        draws, (y, label) = draw(config, 0, (1, 8, 8)), seen[-1]
        assert labels is not None
        assert label.equal(torch.where(draws.drop, 10, labels))
        # y is a multiple of alpha x0 + sigma eps: what is left of it after eps says which way round x0 is.
        x0 = raw.float() / 8 - 1
        gaps = torch.stack([_distance_to_line(y, draws.noise, each) for each in (x0, x0.flip(-1))])
        assert gaps.argmin(0).bool().equal(draws.flip)
        assert draws.flip.float().mean() == pytest.approx(0.5, abs=0.1)
        assert draws.drop.float().mean() == pytest.approx(0.3, abs=0.09)

    def test_dequantised_data_fills_the_width_of_a_level(self, config: TrainConfig) -> None:
        config = replace(config, batch_size=200, accumulation=1, conditional=False, flips=False, dequantize=True)
        own, seen = learner(config), []

        def record(x: torch.Tensor, c_noise: torch.Tensor) -> torch.Tensor:
            seen.append(x)
            return x * next(own.denoiser.parameters()).mean()

        own.net.forward = record
        raw, _ = next_batch(own)
        own.update(raw, None)
        draws, y = draw(config, 0, (1, 8, 8)), seen[-1]
        assert draws.shift.min() < -0.49 and draws.shift.max() > 0.49 and abs(float(draws.shift.mean())) < 0.01
        # Raw levels are 1 apart, model values in steps of 1/8.
        assert _distance_to_line(y, draws.noise, (raw + draws.shift) / 8 - 1).max() < 1e-5
        assert _distance_to_line(y, draws.noise, raw / 8 - 1).mean() > 1e-2


def _distance_to_line(y: torch.Tensor, noise: torch.Tensor, x0: torch.Tensor) -> torch.Tensor:
    """The residual of y against the span of x0 and noise, for each sample."""
    basis = torch.linalg.qr(torch.stack([noise.flatten(1), x0.flatten(1)], 2).double()).Q
    flat = y.flatten(1).double()
    inside = (basis @ (basis.mT @ flat.unsqueeze(2))).squeeze(2)
    return (flat - inside).norm(dim=1)


class TestDraws:
    def test_each_setting_draws_for_itself(self, config: TrainConfig) -> None:
        a = draw(config, 3, (1, 8, 8))
        b = draw(replace(config, flips=False, label_drop=0.0, dequantize=True), 3, (1, 8, 8))
        assert a.u.equal(b.u) and a.noise.equal(b.noise) and not b.flip.any() and not b.drop.any()
        assert not a.shift.any() and b.shift.all()

    def test_steps_and_seeds_differ(self, config: TrainConfig) -> None:
        first = draw(config, 0, (2,))
        for other in (draw(config, 1, (2,)), draw(replace(config, seed=1), 0, (2,))):
            assert not first.u.equal(other.u) and not first.noise.equal(other.noise)


class TestResume:
    def test_bit_for_bit_in_spite_of_kills(self, config: TrainConfig, tmp_path: Path, monkeypatch: Any) -> None:
        unbroken = replace(config, out=str(tmp_path / "unbroken"))
        train(unbroken)

        class Killed(BaseException):
            pass

        for step in (3, 5):  # after the checkpoints of 2 and 4, before those of 4 and 6
            update = Learner.update

            def killed(self: Learner, *batch: Any, last: int = step, update: Any = update) -> Any:
                if self.step == last:
                    raise Killed
                return update(self, *batch)

            with monkeypatch.context() as patch:
                patch.setattr(Learner, "update", killed)
                with pytest.raises(Killed):
                    train(config, resume=step > 3)
            torch.manual_seed(step)  # no global generator has a say
        train(config, resume=True)
        assert_same_bits(unbroken.out, config.out)
        a, b = (Path(out) / "model/model.safetensors" for out in (unbroken.out, config.out))
        assert a.read_bytes() == b.read_bytes()
        timeless = [[{**line, "images_per_second": 0} for line in read_log(out)] for out in (unbroken.out, config.out)]
        assert timeless[0] == timeless[1]

    def test_stops_in_time_and_goes_on(self, config: TrainConfig, tmp_path: Path, caplog: Any) -> None:
        caplog.set_level(logging.INFO)
        train(config)
        short = replace(config, out=str(tmp_path / "short"), minutes=1e-9)
        train(short)
        assert "stopped at step 3 of 6: minutes=1e-09 are over" in caplog.text
        assert checkpoints.steps(Path(short.out) / "checkpoints") == [2, 3]
        assert Denoiser.from_pretrained(Path(short.out) / "model").shape == (1, 8, 8)
        train(replace(short, minutes=60.0), resume=True)
        assert_same_bits(config.out, short.out)

    def test_leaves_the_global_generator_alone(self, config: TrainConfig) -> None:
        torch.manual_seed(5)
        before = torch.get_rng_state()
        train(replace(config, steps=2))
        assert torch.get_rng_state().equal(before)

    def test_corrupt_checkpoint_is_skipped(self, config: TrainConfig, tmp_path: Path, caplog: Any) -> None:
        train(config)
        train(replace(config, out=str(tmp_path / "other")))
        (Path(config.out) / "checkpoints/step-000006/net.safetensors").write_bytes(b"torn")
        with caplog.at_level(logging.INFO):
            train(config, resume=True)
        assert "skipped a corrupt checkpoint" in caplog.text and "resumed from" in caplog.text
        assert "step-000004" in caplog.text
        assert_same_bits(config.out, tmp_path / "other")

    def test_goes_further(self, config: TrainConfig, tmp_path: Path) -> None:
        train(replace(config, steps=4))
        train(replace(config, save_every=3, keep=1), resume=True)
        train(replace(config, out=str(tmp_path / "other")))
        assert_same_bits(config.out, tmp_path / "other")

    def test_model_is_there_after_a_kill_before_it_was_written(self, config: TrainConfig) -> None:
        trained = train(config)
        (Path(config.out) / "model/config.json").unlink()
        train(config, resume=True)
        loaded = Denoiser.from_pretrained(Path(config.out) / "model")
        assert all(a.equal(b) for a, b in zip(trained.parameters(), loaded.parameters(), strict=True))

    def test_other_settings_are_named(self, config: TrainConfig) -> None:
        train(replace(config, steps=2))
        with pytest.raises(
            ValueError, match=r"given\): net_args \({.*}\), lr \(0.001, 0.002\)\. The run's own are in .*config.json"
        ):
            train(replace(config, lr=2e-3, net_args={**config.net_args, "blocks": 2}), resume=True)

    def test_other_data_is_named(self, config: TrainConfig) -> None:
        config = replace(config, flips=False, conditional=False, net="MLP", net_args={})
        points = torch.randn(50, 2)
        train(replace(config, steps=2), source=Arrays(points))
        with pytest.raises(ValueError, match=r"made with data {'samples': 50.*now it is {'samples': 49"):
            train(config, source=Arrays(points[1:]), resume=True)

    def test_nothing_to_resume(self, config: TrainConfig) -> None:
        with pytest.raises(FileNotFoundError, match="there are no checkpoints in"):
            train(config, resume=True)

    def test_a_new_run_over_an_old_one(self, config: TrainConfig) -> None:
        train(replace(config, steps=2))
        with pytest.raises(FileExistsError, match="has checkpoints; resume that run"):
            train(config)

    def test_two_processes_killed_twice(self, config: TrainConfig, tmp_path: Path) -> None:
        """SIGKILL of the second process in a step, then of the first inside a save."""
        unbroken = replace(config, out=str(tmp_path / "unbroken"))
        assert run(2, unbroken).returncode == 0
        root = Path(config.out) / "checkpoints"
        assert run(2, config, fatal_update=4).returncode != 0
        assert checkpoints.steps(root) == [2]
        assert run(2, config, resume=True, fatal=6).returncode != 0
        assert checkpoints.steps(root) == [2] and list(root.glob(".step-*.writing"))
        last = run(2, config, resume=True)
        assert last.returncode == 0, last.stderr
        assert_same_bits(config.out, unbroken.out)

    @pytest.mark.slow
    def test_two_processes_killed_at_ten_instants(self, config: TrainConfig, tmp_path: Path) -> None:
        """Five times at a flush, most of which are inside a save, and five times in a step."""
        unbroken = replace(config, out=str(tmp_path / "unbroken"), steps=8)
        assert run(2, unbroken).returncode == 0
        choose = random.Random(0)
        for kill in range(10):
            own = replace(unbroken, out=str(tmp_path / f"run{kill}"))
            fatal = {"fatal": choose.randrange(3, 31)} if kill % 2 else {"fatal_update": choose.randrange(1, 9)}
            assert run(2, own, **fatal).returncode != 0
            found = checkpoints.steps(Path(own.out) / "checkpoints")
            resumed = run(2, own, resume=bool(found))
            assert resumed.returncode == 0, resumed.stderr
            assert_same_bits(own.out, unbroken.out)

    @pytest.mark.slow
    def test_three_processes(self, plain: TrainConfig, tmp_path: Path) -> None:
        """Sums over three depend on their order, which the first pass of a process must not decide."""
        unbroken = replace(plain, out=str(tmp_path / "unbroken"), net_args={"base_width": 32})
        assert run(3, unbroken).returncode == 0
        own = replace(unbroken, out=str(tmp_path / "resumed"))
        assert run(3, replace(own, steps=4)).returncode == 0
        assert run(3, own, resume=True).returncode == 0
        assert_same_bits(own.out, unbroken.out)


class TestProcesses:
    def test_gradient_of_two_at_32_is_that_of_one_at_64(
        self, plain: TrainConfig, tmp_path: Path, float64: None
    ) -> None:
        """The first moments after one step are a tenth of the gradient."""
        config = replace(plain, batch_size=64, steps=1, grad_clip=None, warmup=0)
        pair = replace(config, out=str(tmp_path / "pair"))
        train(config)
        two = run(2, pair)
        assert two.returncode == 0, two.stderr
        one, other = outcome(config.out), outcome(pair.out)
        names = [name for name in one if name.endswith("exp_avg")]
        assert names
        gradients = [torch.cat([each[name].flatten() for name in names]) for each in (one, other)]
        assert float(gradients[0].norm()) > 0
        assert float((gradients[0] - gradients[1]).norm() / gradients[0].norm()) <= 1e-10

    def test_two_are_one(self, plain: TrainConfig, tmp_path: Path, float64: None, caplog: Any) -> None:
        """Gradients of the same global batch, in unequal shares, and all that follows; the run goes on with one."""
        config = replace(plain, batch_size=9, conditional=True, flips=True, steps=3, log_every=1)
        pair = replace(config, out=str(tmp_path / "pair"), accumulation=2)
        train(config)
        two = run(2, pair)
        assert two.returncode == 0, two.stderr
        assert_close(config.out, pair.out)
        train(replace(config, steps=5), resume=True)
        train(replace(pair, steps=5), resume=True)
        assert "written by 2 processes and goes on with 1" in caplog.text
        assert_close(config.out, pair.out)
        for one, other in zip(read_log(config.out), read_log(pair.out), strict=True):
            assert other["loss"] == pytest.approx(one["loss"], rel=1e-10)
            assert other["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-9)
            assert other["lr"] == one["lr"]

    def test_more_processes_than_samples(self, plain: TrainConfig) -> None:
        class Two:
            num_processes = 2

        with pytest.raises(ValueError, match="batch_size=3 is less than 2 processes with accumulation=2"):
            Learner(replace(plain, batch_size=3, accumulation=2), plain.build_source(), Two())

    @pytest.mark.slow
    def test_two_train_the_digits_like_one(self, config: TrainConfig, tmp_path: Path) -> None:
        """Means over the last 10 % of the steps, within two standard errors."""
        args = {"base_width": 16, "multipliers": [1, 2], "blocks": 1, "dropout": 0.1}
        config = replace(config, net_args=args, steps=400, batch_size=64, log_every=1, save_every=400, accumulation=1)
        pair = replace(config, out=str(tmp_path / "pair"))
        for processes, own in ((1, config), (2, pair)):
            done = run(processes, own)
            assert done.returncode == 0, done.stderr
        tails = [torch.tensor([line["loss"] for line in read_log(own.out)[-40:]]) for own in (config, pair)]
        means = [float(tail.mean()) for tail in tails]
        error = math.sqrt(sum(float(tail.var()) / len(tail) for tail in tails))
        print(f"one process {means[0]:.5f}, two {means[1]:.5f}, standard error {error:.5f}")
        assert abs(means[0] - means[1]) <= 2 * error
        assert means[0] < 0.5 * read_log(config.out)[0]["loss"]

    @pytest.mark.slow
    def test_accelerate_launch_that_starts_one(self, plain: TrainConfig) -> None:
        script = Path(plain.out).parent / "worker.py"
        script.write_text(WORKER)
        command = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", str(script)]
        command.append(json.dumps([replace(plain, steps=1).to_json(), False, 0, 0]))
        done = subprocess.run(command, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr
        assert "started ONE" in done.stderr and "torchrun" in done.stderr


class TestLauncher:
    def test_warnings(self) -> None:
        asked = {"ACCELERATE_MIXED_PRECISION": "no", "MASTER_ADDR": "127.0.0.1"}
        assert "started ONE" in launcher_warnings(asked, 1, "no")[0]
        assert launcher_warnings(asked, 2, "no") == []
        assert launcher_warnings({"ACCELERATE_MIXED_PRECISION": "no"}, 1, "bf16") == []
        assert "asked for mixed precision bf16" in launcher_warnings({"ACCELERATE_MIXED_PRECISION": "bf16"}, 1, "no")[0]

    def test_absent_tracker(self, config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sdescore.launch, "is_tensorboard_available", lambda: False)
        with pytest.raises(ValueError, match="tracker='tensorboard' is not installed"):
            train(replace(config, tracker="tensorboard"))

    @pytest.mark.parametrize("engine", ["FSDP", "DEEPSPEED", "MEGATRON_LM"])
    def test_engines_that_split_the_weights(
        self, config: TrainConfig, monkeypatch: pytest.MonkeyPatch, engine: str
    ) -> None:
        monkeypatch.setenv(f"ACCELERATE_USE_{engine}", "true")
        with pytest.raises(ValueError, match=f"asked for {engine}, which splits the weights"):
            train(config)
        assert not Path(config.out).exists()

    def test_automatic_precision(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert [chosen_precision(each, {}) for each in ("no", "bf16", "fp16")] == ["no", "bf16", "fp16"]
        assert chosen_precision("auto", {"ACCELERATE_MIXED_PRECISION": "fp16"}) == "fp16"
        for has in (True, False):
            monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
            monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, has=has: has)
            assert chosen_precision("auto", {"ACCELERATE_MIXED_PRECISION": "no"}) == ("bf16" if has else "no")
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        assert chosen_precision("auto", {}) == "no"

    def test_accumulation_by_the_launcher(self, config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
        with pytest.raises(ValueError, match="asks for 4 gradient accumulation steps"):
            train(config)

    def test_fewer_processes_than_started(self, config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
        launch("no", "none", config.out)  # this process is alone for accelerate from now on
        monkeypatch.setenv("WORLD_SIZE", "2")
        with pytest.raises(RuntimeError, match="started 2 processes, but accelerate has 1"):
            launch("no", "none", config.out)


class TestOutcome:
    def test_reaches_the_floor_of_a_gaussian(self, config: TrainConfig) -> None:
        """The loss of the exact score: the mean over t of alpha^2 s^2 / (alpha^2 s^2 + sigma^2)."""
        stds, sde = torch.tensor([0.9, 0.2]), VPSDE()
        oracle = GaussianMixture(torch.tensor([[0.3, -0.1]]), stds[None])
        source = Arrays(4 * oracle.sample(20_000))
        low, high = source.scaling.low, source.scaling.high
        config = replace(
            config,
            flips=False,
            conditional=False,
            net="MLP",
            net_args={"width": 64, "depth": 2},
            steps=1200,
            batch_size=256,
            accumulation=1,
            lr=2e-3,
            warmup=50,
            ema_halflives=(36_000,),
            save_every=1200,
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
                trained, fresh, times="low-discrepancy", generator=torch.Generator().manual_seed(0)
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

    def test_bf16_computes_in_bf16_and_keeps_float32(self, plain: TrainConfig) -> None:
        own = learner(replace(plain, mixed_precision="bf16"))
        seen = []
        conv = own.denoiser.net.get_submodule("entries.0")
        conv.register_forward_hook(lambda module, args, output: seen.append(output.dtype))
        own.update(*next_batch(own))
        assert seen == [torch.bfloat16]
        assert {p.dtype for p in own.denoiser.parameters()} == {torch.float32}

    def test_another_precision_is_named(self, plain: TrainConfig, caplog: Any) -> None:
        train(replace(plain, steps=2, mixed_precision="bf16"))
        AcceleratorState._reset_state(reset_partial_state=True)
        saved = checkpoints.newest(Path(plain.out) / "checkpoints")
        learner(replace(plain, mixed_precision="no")).load(saved)
        assert "was computed in bf16, and goes on in no" in caplog.text

    def test_channels_last_is_the_same_net(self, plain: TrainConfig, float64: None) -> None:
        own, other = learner(replace(plain, channels_last=True)), learner(plain)
        weight = own.denoiser.net.get_parameter("encoder.0.conv1.weight")
        assert weight.is_contiguous(memory_format=torch.channels_last)
        for _ in range(3):
            one, two = own.update(*next_batch(own)), other.update(*next_batch(other))
            torch.testing.assert_close(one, two, rtol=1e-9, atol=0)
        for a, b in zip(own.averaged.parameters(), other.averaged.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9)

    @pytest.mark.slow
    def test_compiled_is_the_same_net(self, plain: TrainConfig) -> None:
        own, other = learner(replace(plain, compile=True)), learner(plain)
        assert own.denoiser.state_dict().keys() == other.denoiser.state_dict().keys()
        for _ in range(2):
            one, two = own.update(*next_batch(own)), other.update(*next_batch(other))
            torch.testing.assert_close(one, two, rtol=1e-4, atol=0)


class TestBadInput:
    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"sde": "VP"}, "sde='VP'; valid are 'VPSDE'"),
            ({"predicts": "eps"}, "predicts='eps'; valid are 'data'"),
            ({"times": "never"}, "times='never'; valid are 'uniform'"),
            ({"weighting": "heavy"}, "weighting='heavy'; valid are 'simple'"),
            ({"optimizer": "sgd"}, "optimizer='sgd'; valid are 'adamw', 'adam'"),
            ({"mixed_precision": "fp8"}, "mixed_precision='fp8'; valid are"),
            ({"sample_solver": "magic"}, "solver='magic' is not installed"),
            ({"lr": 0.0}, "lr=0.0; valid are positive"),
            ({"batch_size": 0}, "batch_size=0; valid are integers of at least 1"),
            ({"minutes": 0.0}, r"minutes=0.0; valid are positive numbers"),
            ({"steps": -1}, "steps=-1; valid are"),
            ({"ema_halflives": ()}, r"ema_halflives=\(\); valid are lists of at least one"),
            ({"ema_halflives": (5, 5.0)}, r"valid are lists without repetitions"),
            ({"ema_halflives": (0,)}, "halflife=0; valid are positive numbers of images"),
            ({"ema_warmup": -1.0}, "ema_warmup=-1.0; valid are"),
            ({"ema_widths": (0.3,)}, r"width=0.3; valid are numbers above 0 and below 0.2887"),
            ({"accumulation": 11, "batch_size": 10}, "accumulation=11; valid are at most batch_size=10"),
            ({"betas": (0.9,)}, r"betas=\(0.9,\); valid are two numbers"),
        ],
    )
    def test_settings(self, fields: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            TrainConfig(**fields)

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"net": "Unet"}, "net='Unet' is not installed; valid are Distance, Energy, MLP, UNet"),
            ({"net": "MLP", "net_args": {}}, "x has shape .*valid is"),
            ({"net_args": {"width": 3}}, "net_args has width; UNet takes channels"),
            ({"sde_args": {"beta": 3}}, "sde_args has beta; VPSDE takes beta_min, beta_max"),
            ({"sde_args": {"beta_max": -3}}, "beta_max=-3"),
            ({"data_low": 0.0, "data_high": 16.0}, "data='digits' has a range of its own"),
            ({"data_levels": 16}, "data_levels=16; the range needs low and high"),
            ({"data": "absent"}, "data='absent'; valid are"),
        ],
    )
    def test_before_training(self, config: TrainConfig, fields: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            train(replace(config, **fields))
        assert not (Path(config.out) / "checkpoints").exists()

    def test_settings_that_do_not_fit_the_data(self, config: TrainConfig) -> None:
        vectors = replace(config, net="MLP", net_args={})
        with pytest.raises(ValueError, match="has no labels"):
            train(vectors, source=Arrays(torch.randn(9, 2)))
        with pytest.raises(ValueError, match=r"dequantize=True, but .* has no levels"):
            train(replace(vectors, conditional=False, flips=False, dequantize=True), source=Arrays(torch.randn(9, 2)))
        with pytest.raises(ValueError, match=r"flips=True, but samples have shape \(2,\)"):
            train(replace(vectors, conditional=False), source=Arrays(torch.randn(9, 2)))

    def test_a_loss_that_runs_away(self, plain: TrainConfig) -> None:
        with pytest.raises(FloatingPointError, match=r"in steps \d to \d the loss is .*last checkpoint is from before"):
            train(replace(plain, lr=1e30, warmup=0, steps=40, save_every=1, log_every=1))
        last = outcome(plain.out)
        assert all(bool(value.isfinite().all()) for name, value in last.items() if name.startswith("optimizer"))


class TestCommandLine:
    @pytest.fixture
    def script(self) -> Any:
        from importlib.util import module_from_spec, spec_from_file_location

        path = Path(__file__).parent.parent / "scripts/train.py"
        if not path.exists():
            pytest.skip("no scripts beside these tests")
        spec = spec_from_file_location("train_script", path)
        assert spec is not None and spec.loader is not None
        module = module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    def test_flags_over_file(self, script: Any, tmp_path: Path) -> None:
        (tmp_path / "a.yaml").write_text("steps: 7\nnet_args: {base_width: 16}\nbetas: [0.8, 0.9]\n")
        arguments = [
            "--config",
            str(tmp_path / "a.yaml"),
            "--steps",
            "9",
            "--net_args.blocks",
            "1",
            "--grad_clip",
            "null",
        ]
        config, resume = script.parse(arguments)
        wanted = TrainConfig(steps=9, net_args={"base_width": 16, "blocks": 1}, betas=(0.8, 0.9), grad_clip=None)
        assert config == wanted and not resume

    def test_a_runs_own_config_is_a_file(self, script: Any, config: TrainConfig) -> None:
        train(replace(config, steps=2))
        again, resume = script.parse(["--config", str(Path(config.out) / "config.json"), "--resume"])
        assert again == replace(config, steps=2) and resume

    def test_help_and_errors(self, script: Any, capsys: pytest.CaptureFixture[str]) -> None:
        for arguments, wanted in ((["--help"], "--batch_size"), (["--sde", "VP"], "valid are 'VPSDE'")):
            with pytest.raises(SystemExit):
                script.parse(arguments)
            said = capsys.readouterr()
            assert wanted in said.out + said.err
