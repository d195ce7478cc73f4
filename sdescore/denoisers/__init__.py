"""Nets as denoisers: every prediction from any other, a net's own terms, energies, guidance, clipping, posteriors, the
exact denoiser of a mixture, autoencoders, saved folders."""

from sdescore.denoisers.autoencoder import Autoencoder
from sdescore.denoisers.clipping import Clip, Clipped, clipped
from sdescore.denoisers.codes import Codes
from sdescore.denoisers.conversions import PREDICTIONS, Pair, check_prediction, convert
from sdescore.denoisers.denoiser import BareDenoiser, Denoiser, as_denoiser
from sdescore.denoisers.energy import Distance, Energy, log_density
from sdescore.denoisers.guidance import classifier_guided, guided
from sdescore.denoisers.guidance_rules import APG, CFGZero
from sdescore.denoisers.mixture import GaussianMixture
from sdescore.denoisers.posterior import posterior
from sdescore.denoisers.posterior_methods import LGD
from sdescore.denoisers.terms import NetTerms

__all__ = [
    "APG",
    "LGD",
    "PREDICTIONS",
    "Autoencoder",
    "BareDenoiser",
    "CFGZero",
    "Clip",
    "Clipped",
    "Codes",
    "Denoiser",
    "Distance",
    "Energy",
    "GaussianMixture",
    "NetTerms",
    "Pair",
    "as_denoiser",
    "check_prediction",
    "classifier_guided",
    "clipped",
    "convert",
    "guided",
    "log_density",
    "posterior",
]
