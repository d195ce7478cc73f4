"""Autoencoders, whose codes a net may be trained on instead of data: latent diffusion.

Rombach et al. 2022, https://arxiv.org/abs/2112.10752, call codes latents. Here latents are something else: the noise to
which the flow of encode() and decode() carries data.
"""

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sdescore.common.checks import described
from sdescore.common.evaluation_mode import evaluating
from sdescore.common.fingerprint import fingerprint
from sdescore.common.random import generator
from sdescore.denoisers.codes import Codes
from sdescore.denoisers.denoiser import modules_within, state_like

__all__ = ["Autoencoder"]


class Autoencoder(nn.Module):
    """An encoder from data to codes and a decoder from codes to data.

    Args:
        encoder: A function of data in [-1, 1], (batch, *shape), that returns codes (batch, *others), or the means and
            standard deviations of codes, of which one is drawn for each sample.
        decoder: A function of codes that returns data in [-1, 1].
        name: What it is found by again: a folder or repository of diffusers, or module:name.
        args: The arguments that go with the name.
        version: What tells it apart from others beside its weights and arguments.

    Modules that the functions use are found, moved and put in evaluation mode with it.
    """

    def __init__(
        self,
        encoder: Callable[[Tensor], Any],
        decoder: Callable[[Tensor], Tensor],
        name: str = "",
        args: Mapping[str, Any] | None = None,
        version: str = "",
    ) -> None:
        super().__init__()
        for each, function in (("encoder", encoder), ("decoder", decoder)):
            if not callable(function):
                raise TypeError(f"{each} is a {type(function).__name__}; expected a function or a module")
        self.encoder = encoder
        self.decoder = decoder
        self.name = name
        self.args = dict(args or {})
        self.version = version
        self.used = nn.ModuleList(dict.fromkeys([*modules_within(encoder), *modules_within(decoder)]))
        self.eval()

    def fingerprint(self) -> str:
        """What tells it apart from others: a digest of its weights, arguments and version; of its name if it has none.

        A folder may thus be moved.
        """
        known = (self.args, self.version or ("" if state_like(self) is not None else self.name))
        return hashlib.sha256(f"{known!r} {fingerprint(self.used)}".encode()).hexdigest()

    def check(self, codes: Codes) -> None:
        """Raise ValueError for codes of another autoencoder."""
        if self.fingerprint() != codes.fingerprint:
            raise ValueError(
                f"autoencoder {self.name!r} is not the one that made the codes, {codes.autoencoder!r}: its weights, "
                f"name or arguments are others; expected arguments {codes.args}"
            )

    def _given(self, x: Tensor) -> Tensor:
        like = state_like(self)
        return x if like is None else x.to(like.device, like.dtype)

    @torch.no_grad()
    def to_codes(self, x: Tensor, index_offset: int = 0) -> Tensor:
        """The codes of data (batch, *shape) in [-1, 1], at least in float32.

        What is drawn for row i depends on index_offset + i alone. Raises ValueError for an encoder that returns
        something else than codes.
        """
        with evaluating(self):
            found = self.encoder(self._given(x))
        parts = [_wide(part, x, "encoder") for part in (found if isinstance(found, tuple | list) else [found])]
        if len(parts) == 1:
            return parts[0]
        if len(parts) != 2 or parts[0].shape != parts[1].shape:
            raise ValueError(f"encoder returned {len(parts)} tensors; expected codes, or their means and deviations")
        mean, std = parts
        rows = range(index_offset, index_offset + len(x))
        eps = torch.stack([torch.randn(mean.shape[1:], generator=generator("codes", i)) for i in rows])
        return mean + std * eps.to(mean)

    @torch.no_grad()
    def to_data(self, codes: Tensor) -> Tensor:
        """The data of codes (batch, *others), in [-1, 1] as far as the decoder keeps to it, at least in float32."""
        with evaluating(self):
            return _wide(self.decoder(self._given(codes)), codes, "decoder")


def _wide(found: Any, given: Tensor, name: str) -> Tensor:
    """A tensor that a function returned for a batch. Raises ValueError for anything else."""
    if not isinstance(found, Tensor) or found.ndim < 2 or len(found) != len(given):
        raise ValueError(
            f"{name} returned {described(found)} for {len(given)} samples; expected a tensor ({len(given)}, *shape)"
        )
    return found.to(torch.promote_types(found.dtype, torch.float32))
