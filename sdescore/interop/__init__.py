"""To and from other libraries: diffusers' models and pipelines, k-diffusion's interface, EDM's pickles."""

from sdescore.interop.clipped import Clipped
from sdescore.interop.diffusers_models import load_diffusers, save_diffusers
from sdescore.interop.edm import load_edm
from sdescore.interop.schedules import Clip, Schedule, read_schedule

__all__ = ["Clip", "Clipped", "Schedule", "load_diffusers", "load_edm", "read_schedule", "save_diffusers"]
