"""Score networks, called as net(x, c_noise, label=None).

x (batch, *shape) has about unit variance, c_noise (batch,) is ln(sigma / alpha) / 4, label (batch,) is a class index.
"""

from .edm2 import EDM2UNet
from .edm_adm import DhariwalUNet
from .edm_song import SongUNet
from .mlp import MLP
from .unet import UNet

__all__ = ["MLP", "DhariwalUNet", "EDM2UNet", "SongUNet", "UNet"]
