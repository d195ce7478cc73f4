"""To and from other libraries: diffusers' models and pipelines, k-diffusion's interface, EDM's pickles."""

from typing import TYPE_CHECKING, Any

from sdescore.interop.autoencoders import find_autoencoder, load_autoencoder
from sdescore.interop.diffusers_models import load_diffusers, save_diffusers
from sdescore.interop.edm import load_edm
from sdescore.interop.k_diffusion import from_k_diffusion, k_diffusion_sampler
from sdescore.interop.schedules import Schedule, read_schedule

if TYPE_CHECKING:
    from sdescore.interop.diffusers_scheduler import DiffusersScheduler

__all__ = [
    "DiffusersScheduler",
    "Schedule",
    "find_autoencoder",
    "from_k_diffusion",
    "k_diffusion_sampler",
    "load_autoencoder",
    "load_diffusers",
    "load_edm",
    "read_schedule",
    "save_diffusers",
]


def __getattr__(name: str) -> Any:
    """DiffusersScheduler is one of diffusers' own classes, which is loaded when it is asked for."""
    if name != "DiffusersScheduler":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from sdescore.interop.diffusers_scheduler import DiffusersScheduler
    except ImportError as error:
        raise ImportError(f"{error}; DiffusersScheduler needs pip install 'sdescore[interop]'") from error
    return DiffusersScheduler
