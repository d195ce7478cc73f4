"""Train, sample and score for as long as you like while everything goes wrong, and compare with what should come out.

    python scripts/soak.py --minutes 30         the same command adds to what is in runs/soak/state.json
    python scripts/soak.py --report

A training run is killed at random instants (SIGKILL, SIGTERM, Ctrl-C) and resumed to its end; two processes sample and
score into the same folders at once, one of them killed too. One file call of a hundred in all of them fails with EIO
or ENOSPC, and a write that fails has written a half. Weights, samples, likelihoods and logs must be those of the same
commands undisturbed, bit by bit, and the memory of the process that is never killed must not grow.
"""

import argparse
import importlib
import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["ACCELERATE_USE_CPU"] = "true"

import numpy as np
import torch
from safetensors.torch import load_file
from shared.file_faults import INJECTED, inject

from sdescore.cli import likelihood, sample, train
from sdescore.cli.outputs import write_json
from sdescore.training import checkpoints

# What commands find by name, and would import again in every process.
for _name in ("sdescore.nets", "sdescore.solvers"):
    importlib.import_module(_name)

FORK = multiprocessing.get_context("fork")  # of a process that has imported everything
SEEDS = 3  # of the samples and likelihoods, each of which is made again and again
PAUSE = 0.5  # seconds between commands, so that the machine is not busy with this alone
SIGNALS = ["SIGKILL", "SIGTERM", "SIGINT"]
NET = {"base_width": 8, "multipliers": [1], "blocks": 1, "dropout": 0.2}
TRAIN = ["--data", "digits", "--net", "UNet", "--net_args", json.dumps(NET), "--flips", "true", "--conditional", "true"]
TRAIN += ["--steps", "40", "--batch_size", "8", "--accumulation", "2", "--save_every", "4", "--log_every", "5"]
TRAIN += ["--snapshot_every", "10", "--ema_widths", "[0.1]", "--sample_every", "0", "--tracker", "none"]
TRAIN += ["--progress", "false"]
SAMPLE = ["--count", "20", "--batch_size", "5", "--steps", "4", "--solver", "ddpm", "--label", "-1"]
SCORE = ["--count", "6", "--batch_size", "2", "--bound", "2", "--ode", "0"]
ENDS = {
    "done": r": done$",
    "failed call": INJECTED,
    "folder in use": "is in use",
    "made by the other": r": 2$|exists; expected a new",  # a setting that is refused ends a command with 2
    "signal": r"(: 130|: 143|interrupted|SIGINT|SIGTERM)",
}
EMPTY: dict[str, Any] = {"sessions": 0, "minutes": 0.0, "runs": 0, "starts": 0, "kills": {}, "ends": {}, "calls": 0}
EMPTY |= {"faults": 0, "made": 0, "wrong": [], "memory": []}


def become(log: Path, faults: tuple[Path, int, Any] | None) -> None:
    """Make a forked process one of its own, whose output is added to a file and whose file calls may fail."""
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(output, stream)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell lets its background jobs ignore
    torch.set_num_threads(1)
    if faults is not None:
        inject(*faults)


def command(program: Any, arguments: list[str]) -> bool:
    """Run a command, and add what it says at its end to the log; returns whether it succeeded."""
    try:
        program.main(arguments)
        said = "done"
    except SystemExit as error:
        said = str(error.code)
    except BaseException:
        said = f"crash: {traceback.format_exc()!r}"
    os.write(2, f"\n== {program.__name__}: {said}\n".encode())
    return said == "done"


def run_once(log: Path, faults: tuple[Path, int, Any] | None, program: Any, arguments: list[str]) -> None:
    become(log, faults)
    os._exit(0 if command(program, arguments) else 1)


def jobs(root: Path, model: Path, number: int) -> list[tuple[Any, list[str], Path]]:
    """The commands that make one set of samples and one of likelihoods, and the files that are there in the end."""
    own = ["--model", str(model), "--seed", str(number % SEEDS)]
    samples, scores = root / f"samples-{number}", root / f"scores-{number}.json"
    return [
        (sample, [*own, *SAMPLE, "--out", str(samples)], samples / "samples.npz"),
        (likelihood, [*own, *SCORE, "--out", str(scores)], scores),
    ]


def work(log: Path, faults: tuple[Path, int, Any] | None, root: Path, model: Path, current: Any) -> None:
    """Sample and score into the current folders, as another process does at the same time."""
    become(log, faults)
    while current[0] >= 0:
        missing = [job for job in jobs(root, model, current[0]) if not os.path.exists(job[2])]
        for program, arguments, _ in missing:
            command(program, arguments)
            time.sleep(PAUSE)
        if not missing:
            time.sleep(0.02)
    os._exit(0)


def numbers(file: Path) -> Any:
    """What a command computed."""
    if file.suffix == ".npz":
        with np.load(file) as found:
            return {name: found[name].tobytes() for name in found}
    return json.loads(file.read_text())["samples"]


def result(out: Path) -> dict[str, Any]:
    """What a finished training run left: the bits of its tensors, and the steps that its log has lines for."""
    files = [*checkpoints.newest(out / "checkpoints").glob("*.safetensors"), *out.glob("snapshots/**/*.safetensors")]
    files += [out / "model/model.safetensors"]
    tensors = {str(f.relative_to(out)): {k: v.numpy().tobytes() for k, v in load_file(f).items()} for f in files}
    lines = [json.loads(line)["step"] for line in (out / "log.jsonl").read_text().splitlines()]
    return {"tensors": tensors, "steps": [step for step in lines if step % 5 == 0]}


def memory(process: int) -> float:
    """Resident memory in MiB."""
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


class Soak:
    """One session, which adds to the figures of those before."""

    def __init__(self, root: Path, seed: int | None) -> None:
        self.root, self.file = root, root / "state.json"
        self.state: dict[str, Any] = json.loads(self.file.read_text()) if self.file.exists() else dict(EMPTY)
        self.draw = random.Random(self.state["sessions"] if seed is None else seed)
        self.counts = [FORK.RawArray("q", 2) for _ in range(3)]  # calls and faults of the trainer and the two others
        self.seen = [0, 0]
        self.place = root / "now"
        shutil.rmtree(self.place, ignore_errors=True)
        self.place.mkdir(parents=True)
        self.state["sessions"] += 1

    def save(self) -> None:
        calls, faults = (sum(each[k] for each in self.counts) for k in (0, 1))
        self.state["calls"] += calls - self.seen[0]
        self.state["faults"] += faults - self.seen[1]
        self.seen = [calls, faults]
        write_json(self.file, self.state)

    def faults(self, number: int) -> tuple[Path, int, Any]:
        return self.place, self.draw.randrange(2**31), self.counts[number]

    def wrong(self, what: str) -> None:
        print(f"WRONG: {what}", flush=True)
        self.state["wrong"].append(what)

    def read(self, log: Path) -> None:
        """Count how commands ended, and note what none of what was done to them explains."""
        for said in re.findall(r"^== (.*)$", log.read_text(errors="replace"), re.M):
            kind = next((kind for kind, pattern in ENDS.items() if re.search(pattern, said)), "unexplained")
            self.state["ends"][kind] = self.state["ends"].get(kind, 0) + 1
            if kind == "unexplained":
                self.wrong(said[-3000:])
        log.rename(log.with_suffix(".read"))

    def reference(self) -> None:
        """The same commands undisturbed."""
        log, out = self.root / "reference.txt", self.place / "reference"
        process = FORK.Process(target=run_once, args=(log, None, train, [*TRAIN, "--out", str(out)]))
        began = time.monotonic()
        process.start()
        process.join()
        self.longest = 0.7 * (time.monotonic() - began)  # so that a run is killed some times
        self.trained, self.made = result(out), {}
        self.model = self.root / "model"  # out of the reach of faults in the folder of this session
        shutil.rmtree(self.model, ignore_errors=True)
        shutil.copytree(out / "model", self.model)
        for number in range(SEEDS):
            for program, arguments, file in jobs(self.place / "reference", self.model, number):
                process = FORK.Process(target=run_once, args=(log, None, program, arguments))
                process.start()
                process.join()
                self.made[number, program] = numbers(file)

    def train_under_fire(self, until: float, meanwhile: Callable[[], None]) -> None:
        """One run of training, killed and resumed until it ends."""
        out, log = self.place / "run", self.place / "train.txt"
        shutil.rmtree(out, ignore_errors=True)
        while time.monotonic() < until:
            resume = ["--resume"] if any(out.glob("checkpoints/step-*")) else []
            arguments = (log, self.faults(0), train, [*TRAIN, "--out", str(out), *resume])
            process = FORK.Process(target=run_once, args=arguments)
            process.start()
            self.state["starts"] += 1
            kill = time.monotonic() + self.draw.uniform(0.1, self.longest)
            while process.is_alive() and time.monotonic() < kill:
                process.join(0.1)
                meanwhile()
            if process.is_alive():
                name = self.draw.choice(SIGNALS)
                os.kill(process.pid or 0, getattr(signal, name))
                self.state["kills"][name] = self.state["kills"].get(name, 0) + 1
            while process.is_alive():
                process.join(0.1)
                meanwhile()
            if log.exists():
                self.read(log)
            self.save()
            if process.exitcode == 0:
                found = result(out)
                same = found == self.trained
                if not same:
                    which = [k for k, v in self.trained["tensors"].items() if found["tensors"].get(k) != v]
                    kept = self.root / f"wrong-{self.state['runs']}"
                    shutil.copytree(out, kept, dirs_exist_ok=True)
                    self.wrong(f"a run ended otherwise: {which}, log of steps {found['steps']}; see {kept}")
                self.state["runs"] += 1
                return

    def run(self, minutes: float) -> None:
        began = time.monotonic()
        self.reference()
        until = time.monotonic() + 60 * minutes
        current = FORK.RawArray("q", 1)
        logs = [self.place / f"worker-{k}.txt" for k in (0, 1)]

        def start(k: int) -> Any:
            arguments = (logs[k], self.faults(1 + k), self.place, self.model, current)
            process = FORK.Process(target=work, args=arguments)
            process.start()
            return process

        workers = [start(0), start(1)]
        kill = time.monotonic() + self.draw.uniform(5, 30)

        def meanwhile() -> None:
            nonlocal kill
            number = current[0]
            done = jobs(self.place, self.model, number)
            if all(job[2].exists() for job in done):
                for program, _, file in done:
                    if numbers(file) != self.made[number % SEEDS, program]:
                        self.wrong(f"{file} is not what it should be")
                    self.state["made"] += 1
                current[0] = number + 1
                for _, _, file in jobs(self.place, self.model, number - 3):
                    shutil.rmtree(file.parent, ignore_errors=True) if file.suffix == ".npz" else file.unlink(True)
                self.state["memory"].append([round((time.monotonic() - began) / 60, 2), memory(workers[0].pid)])
            if not workers[0].is_alive():
                self.wrong("a process that nobody killed has ended")
                workers[0] = start(0)
            if time.monotonic() > kill:
                workers[1].kill()
                workers[1].join()
                self.state["kills"]["SIGKILL of a sampler"] = self.state["kills"].get("SIGKILL of a sampler", 0) + 1
                workers[1] = start(1)
                kill = time.monotonic() + self.draw.uniform(5, 30)

        while time.monotonic() < until:
            self.train_under_fire(until, meanwhile)
        current[0] = -1
        for worker, log in zip(workers, logs, strict=True):
            worker.join(300)
            worker.kill()
            if log.exists():
                self.read(log)
        self.state["minutes"] += (time.monotonic() - began) / 60
        self.state["memory"].append(None)  # the end of a session
        self.save()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--folder", type=Path, default=Path("runs/soak"))
    parser.add_argument("--seed", type=int, help="by default the number of sessions before")
    parser.add_argument("--report", action="store_true", help="say what is known so far, and end")
    given = parser.parse_args()
    if not given.report:
        Soak(given.folder.resolve(), given.seed).run(given.minutes)
    state = json.loads((given.folder / "state.json").read_text())
    print(json.dumps({name: value for name, value in state.items() if name != "memory"}, indent=1))
    seen = state["memory"]
    print("memory of the process that is never killed, minutes: MiB", *seen[:3], "...", *seen[-4:])
    if state["wrong"]:
        raise SystemExit(f"{len(state['wrong'])} things went wrong")


if __name__ == "__main__":
    main()
