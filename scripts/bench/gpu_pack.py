#!/usr/bin/env python
"""Pack what a machine without a network lacks for bench/gpu.py: wheels, this project's among them, and images.

    python scripts/bench/gpu_pack.py --data FOLDER      into build/gpu/pack; then copy the clone there and run .ci/gpu

The other machine has torch and what many projects need (NumPy, SciPy, scikit-learn, Pillow, matplotlib, accelerate,
einops, huggingface_hub, safetensors, tqdm, filelock, PyYAML, tensorboard, torchdiffeq, pytest, hypothesis). FOLDER has
cifar10_train.npz and cifar10_test.npz, with images (n, 32, 32, 3) in x, and resnet20.th, of github.com/akamaster's
pytorch_resnet_cifar10. The whole set of 141 MB does not fit into 64 MiB: some of the images go, of all classes alike.
"""

import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.append(str(Path(__file__).parents[1]))  # for what scripts share
from bench.gpu import ROOT, commit

from sdescore.cli.command_line import run_with_settings
from sdescore.cli.outputs import make_folder, npz_bytes, write_whole
from sdescore.cli.tables import markdown

LACKING = (
    *("torchsde", "trampoline", "torchode", "torchtyping", "typeguard", "diffusers", "importlib-metadata"),
    *("lazy-importer", "jsonargparse", "docstring-parser", "typeshed-client", "greenlet"),
)
GLIBC = ("2_28", "2_27", "2_24", "2_17")
LIMIT = 64 * 2**20


@dataclass(frozen=True)
class PackConfig:
    """Settings of the pack.

    Args:
        data: Folder of the images and of the judge's weights; without it both are left out, and made up there.
        out: Folder of the pack; what is in it is removed.
        python: Version of Python there.
        images: How many training images.
        test_images: How many test images.
    """

    data: str | None = None
    out: str = "build/gpu/pack"
    python: str = "3.12"
    images: int = 15_000
    test_images: int = 1024


def wheels(out: Path, python: str) -> None:
    """Those of other projects, at the tested versions, and this one's."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    platforms = [f"--platform=manylinux_{version}_x86_64" for version in GLIBC]
    where = ["--only-binary=:all:", f"--python-version={python}", "--implementation=cp", *platforms]
    constraints = ["-c", str(ROOT / "constraints.txt")]
    subprocess.run([*pip, "download", "-q", "--no-deps", *where, *constraints, "-d", str(out), *LACKING], check=True)
    subprocess.run([*pip, "wheel", "-q", "--no-deps", "-w", str(out), str(ROOT)], check=True)


def evenly(path: Path, count: int) -> np.ndarray:
    """So many images (count, 32, 32, 3) of a file sorted by class, evenly spaced and then mixed."""
    with np.load(path) as file:
        x = file["x"]
    chosen = np.linspace(0, len(x) - 1, min(count, len(x))).round().astype(int)
    return x[np.random.default_rng(0).permutation(chosen)]


def images(data: Path, out: Path, config: PackConfig) -> None:
    """The images, and the judge's weights as a file that cannot hold code."""
    import torch
    from safetensors.torch import save_file

    train, test = (
        evenly(data / f"cifar10_{name}.npz", count)
        for name, count in (("train", config.images), ("test", config.test_images))
    )
    write_whole(out / "cifar10.npz", npz_bytes(train=train, test=test))
    saved = torch.load(data / "resnet20.th", map_location="cpu", weights_only=True)["state_dict"]
    save_file({name.removeprefix("module."): value for name, value in saved.items()}, out / "resnet20.safetensors")


def pack(config: PackConfig) -> None:
    """Fill the folder, and say how large everything is that travels. Raises ValueError above 64 MiB."""
    out = Path(config.out)
    shutil.rmtree(out, ignore_errors=True)
    make_folder(out)
    wheels(out, config.python)
    if config.data is not None:
        images(Path(config.data), out, config)
    write_whole(out / "commit.txt", commit(out) + "\n")
    sizes = {path.name: path.stat().st_size for path in sorted(out.iterdir())}
    listed = subprocess.run(["git", "-C", str(ROOT), "ls-files", "-z"], capture_output=True, text=True, check=True)
    tracked = [ROOT / name for name in listed.stdout.split("\0") if name]
    sizes["the clone's files"] = sum(path.stat().st_size for path in tracked if path.is_file())
    sizes["all"] = sum(sizes.values())
    print(markdown([{"what": name, "MiB": f"{size / 2**20:.2f}"} for name, size in sizes.items()]))
    if sizes["all"] > LIMIT:
        raise ValueError(f"images={config.images}: {sizes['all'] / 2**20:.1f} MiB in all; expected at most 64")


def main(arguments: Sequence[str] | None = None) -> None:
    run_with_settings(PackConfig, pack, "bench/gpu_pack.py", __doc__, arguments)


if __name__ == "__main__":
    main()
