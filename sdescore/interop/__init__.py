"""To and from other libraries: diffusers' models and pipelines, k-diffusion's interface, EDM's pickles."""

from sdescore.interop.edm import load_edm
from sdescore.interop.schedules import Clip, Schedule, read_schedule

__all__ = ["Clip", "Schedule", "load_edm", "read_schedule"]
