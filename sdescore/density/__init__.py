"""Densities along the probability-flow ODE: likelihoods, the evidence lower bound, quantised data, latents."""

from sdescore.density.dequantisation import QuantisedLikelihood, bits_per_dim, dequantize, quantised_likelihood
from sdescore.density.elbo import ELBO, elbo
from sdescore.density.flow import ProbabilityFlowODE
from sdescore.density.gaussian_fit import GaussianFit
from sdescore.density.latents import decode, encode, scale_temperature, slerp
from sdescore.density.likelihood import Likelihood, likelihood, log_likelihood
from sdescore.density.traces import Trace, hutch_plus_plus, orthogonal

__all__ = [
    "ELBO",
    "GaussianFit",
    "Likelihood",
    "ProbabilityFlowODE",
    "QuantisedLikelihood",
    "Trace",
    "bits_per_dim",
    "decode",
    "dequantize",
    "elbo",
    "encode",
    "hutch_plus_plus",
    "likelihood",
    "log_likelihood",
    "orthogonal",
    "quantised_likelihood",
    "scale_temperature",
    "slerp",
]
