"""Small models of diffusers with random weights, the same each time."""

import json
from pathlib import Path
from typing import Any

import torch


def unet(**changes: Any) -> Any:
    import diffusers

    torch.manual_seed(0)
    small = {
        "sample_size": 8,
        "in_channels": 3,
        "out_channels": 3,
        "layers_per_block": 1,
        "block_out_channels": (8, 16),
        "norm_num_groups": 4,
        "down_block_types": ("DownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "UpBlock2D"),
        "add_attention": False,
    }
    return diffusers.UNet2DModel(**{**small, **changes}).eval()


def dit() -> Any:
    import diffusers

    torch.manual_seed(0)
    net = diffusers.DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=8,
        num_layers=2,
        sample_size=8,
        num_embeds_ada_norm=10,
    ).eval()
    return filled(net)


def filled(net: torch.nn.Module) -> torch.nn.Module:
    """With parameters drawn at random, so that no branch is zero."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.normal_(0, 0.15, generator=generator)
    return net


def conditional() -> Any:
    import diffusers

    torch.manual_seed(0)
    return diffusers.UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=(8, 16),
        norm_num_groups=4,
        attention_head_dim=4,
        cross_attention_dim=8,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    ).eval()


def series() -> Any:
    import diffusers

    torch.manual_seed(0)
    return diffusers.UNet1DModel(
        sample_size=16,
        in_channels=2,
        out_channels=2,
        layers_per_block=1,
        block_out_channels=(8, 16),
        time_embedding_type="positional",
        use_timestep_embedding=True,
        act_fn="silu",
        norm_num_groups=4,
        down_block_types=("DownResnetBlock1D", "DownResnetBlock1D"),
        up_block_types=("UpResnetBlock1D",),
        mid_block_type="MidResTemporalBlock1D",
        out_block_type="OutConv1DBlock",
        extra_in_channels=0,
    ).eval()


def saved(path: Path, net: Any, scheduler: Any) -> Path:
    """A model and its scheduler as pipelines lay them out."""
    net.save_pretrained(path / "unet")
    scheduler.save_pretrained(path / "scheduler")
    index = {"unet": ["diffusers", type(net).__name__], "scheduler": ["diffusers", type(scheduler).__name__]}
    (path / "model_index.json").write_text(json.dumps({"_class_name": "DDPMPipeline", **index}))
    return path
