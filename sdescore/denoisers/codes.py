"""What a saved net knows of the autoencoder whose codes it was trained on."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from sdescore.common.scaling import Scaling

__all__ = ["Codes"]


@dataclass(frozen=True)
class Codes:
    """That samples are the codes of an autoencoder, and of what data; it travels with the net that is trained on them.

    Args:
        autoencoder: Its name: a folder or repository of diffusers, or module:name.
        args: The arguments that go with the name.
        fingerprint: What tells it apart from others.
        shape: Shape of one sample of the data.
        scaling: How raw data was scaled.
    """

    autoencoder: str
    args: dict[str, Any]
    fingerprint: str
    shape: tuple[int, ...]
    scaling: Scaling

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(self.shape))

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Codes":
        """The inverse of to_json(). Raises TypeError or ValueError."""
        return cls(**{**content, "scaling": Scaling(**content["scaling"])})

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON has them."""
        return asdict(self)
