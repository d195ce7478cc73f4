"""Pipelines of diffusers made here from small nets with random weights: nothing is loaded."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import tiny_diffusers
import torch
from torch import Tensor

__all__ = ["ddpm", "dit", "stable_diffusion", "stable_diffusion_3"]

CHANNELS = 4  # of the latents
LATENT = 8  # their width


@cache
def unet() -> Any:
    return tiny_diffusers.unet(
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        add_attention=True,
    )


@cache
def vae() -> Any:
    import diffusers

    torch.manual_seed(1)
    net = diffusers.AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=CHANNELS,
        norm_num_groups=4,
        sample_size=16,
    )
    return net.eval()


def quiet(pipe: Any) -> Any:
    pipe.set_progress_bar_config(disable=True)
    return pipe


def ddpm(scheduler: Any) -> Any:
    """Unconditional."""
    import diffusers

    pipe = quiet(diffusers.DDPMPipeline(unet(), scheduler))
    pipe.scheduler = scheduler  # DDIMPipeline's constructor would replace it
    return pipe


@cache
def transformer() -> Any:
    import diffusers

    torch.manual_seed(2)
    net = diffusers.DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=CHANNELS,
        out_channels=2 * CHANNELS,  # with a learned variance
        num_layers=1,
        norm_num_groups=4,
        sample_size=LATENT,
        num_embeds_ada_norm=1000,
    )
    for parameter in net.parameters():  # its last layer would return 0
        torch.nn.init.normal_(parameter, std=0.2)
    return net.eval()


def dit(scheduler: Any) -> Any:
    """Class-conditional."""
    import diffusers

    return quiet(diffusers.DiTPipeline(transformer(), vae(), scheduler))


@cache
def text_parts(folder: str) -> dict[str, Any]:
    """A tokenizer of single letters, a CLIP text encoder and a U-Net that attends to it."""
    import diffusers
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    letters = "abcdefghijklmnopqrstuvwxyz"
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    place = Path(folder)
    (place / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (place / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer.from_pretrained(folder, model_max_length=12)
    torch.manual_seed(3)
    text = CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=12,
        bos_token_id=len(words) - 2,
        eos_token_id=len(words) - 1,
    )
    net = diffusers.UNet2DConditionModel(
        sample_size=LATENT,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        cross_attention_dim=16,
        attention_head_dim=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )
    return {"tokenizer": tokenizer, "text_encoder": CLIPTextModel(text).eval(), "unet": net.eval()}


def stable_diffusion(scheduler: Any, folder: Path) -> Any:
    """From text, under guidance."""
    import diffusers

    return quiet(
        diffusers.StableDiffusionPipeline(
            vae=vae(),
            scheduler=scheduler,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
            **text_parts(str(folder)),
        )
    )


@cache
def flow_transformer() -> Any:
    import diffusers

    torch.manual_seed(4)
    net = diffusers.SD3Transformer2DModel(
        sample_size=LATENT,
        patch_size=2,
        in_channels=CHANNELS,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=16,
        caption_projection_dim=16,
        pooled_projection_dim=16,
        out_channels=CHANNELS,
    )
    return net.eval()


def stable_diffusion_3(scheduler: Any) -> Any:
    """Flow matching, from texts that are embedded already, under guidance."""
    import diffusers

    none = ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2", "text_encoder_3", "tokenizer_3")
    parts: dict[str, Any] = dict.fromkeys(none)
    return quiet(
        diffusers.StableDiffusion3Pipeline(transformer=flow_transformer(), vae=vae(), scheduler=scheduler, **parts)
    )


def embedded_texts() -> dict[str, Tensor]:
    """What stable_diffusion_3 is given for two texts and their negatives."""
    own = torch.Generator().manual_seed(5)
    names = {"prompt_embeds": (2, 7, 16), "pooled_prompt_embeds": (2, 16)}
    return {
        f"{negative}{name}": torch.randn(shape, generator=own)
        for negative in ("", "negative_")
        for name, shape in names.items()
    }
