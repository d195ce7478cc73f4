"""Score networks, called as net(x, c_noise, label=None, **conditions).

x (batch, *shape) has about unit variance, c_noise (batch,) is ln(sigma / alpha) / 4, label (batch,) is a class index.
Conditions are vectors, images and sequences of tokens by name; see conditions.py.
"""

from .dit import DiT
from .edm2 import EDM2UNet
from .edm_adm import DhariwalUNet
from .edm_song import SongUNet
from .mlp import MLP
from .unet import UNet

__all__ = ["MLP", "DhariwalUNet", "DiT", "EDM2UNet", "SongUNet", "UNet"]
