"""Golden SAEs of SAELens, as it writes them since 6.0 and as it wrote them before."""

from __future__ import annotations

import json
from typing import Any

import torch
from drawing import D_IN, HERE, HOOK, N_LATENTS, TOKENS, Draw, store
from sae_lens import (
    SAE,
    GatedSAE,
    GatedSAEConfig,
    JumpReLUSAE,
    JumpReLUSAEConfig,
    StandardSAE,
    StandardSAEConfig,
    TopKSAE,
    TopKSAEConfig,
)
from sae_lens.saes.sae import SAEMetadata
from sae_lens.saes.transcoder import (
    JumpReLUSkipTranscoder,
    JumpReLUSkipTranscoderConfig,
    JumpReLUTranscoder,
    JumpReLUTranscoderConfig,
    SkipTranscoder,
    SkipTranscoderConfig,
    Transcoder,
    TranscoderConfig,
)

D_OUT, HEADS = 12, 4
COMMON = {"d_in": D_IN, "d_sae": N_LATENTS, "metadata": SAEMetadata(hook_name=HOOK)}
READS, WRITES = "blocks.3.ln2.hook_normalized", "blocks.3.hook_mlp_out"


def fill(sae: SAE, draw: Draw) -> None:
    """Weights of the draw, whatever the architecture calls them."""
    if hasattr(sae, "threshold"):
        # Some are below 0, where the maker's relu still holds.
        threshold = draw.normal(N_LATENTS) * 0.3 + 0.3
        assert (threshold < 0).any()
        if sae.cfg.d_in == getattr(sae.cfg, "d_out", D_IN):
            # Latent 0 meets its threshold: 1.0 - 0.5 + 0.25 is exactly 0.75 on token 0, the smallest step above it on 1.
            draw.W_enc[:, 0] = 0.0
            draw.W_enc[0, 0] = 1.0
            draw.b_enc[0], draw.b_dec[0], threshold[0] = 0.25, 0.5, 0.75
            draw.x[0, 0] = 1.0
            draw.x[1, 0] = torch.nextafter(torch.tensor(1.0), torch.tensor(2.0))
        sae.threshold.copy_(threshold)
    if isinstance(sae, GatedSAE):
        sae.b_gate.copy_(draw.b_enc)
        sae.b_mag.copy_(draw.b_enc + draw.normal(N_LATENTS) * 0.3)
        sae.r_mag.copy_(draw.normal(N_LATENTS) * 0.3)
    else:
        sae.b_enc.copy_(draw.b_enc)
    if hasattr(sae, "W_skip"):
        sae.W_skip.copy_(draw.normal(*sae.W_skip.shape) * 0.2)
    for name in ("W_enc", "W_dec", "b_dec"):
        getattr(sae, name).copy_(getattr(draw, name))


def before_6(case: str, settings: dict[str, Any]) -> None:
    """Put flat settings, as releases before 6.0 wrote them, in place of today's."""
    file = HERE / case / "cfg.json"
    flat = {"model_name": "tiny", "hook_point": HOOK, "d_in": D_IN, "d_sae": N_LATENTS, "dtype": "torch.float32"}
    file.write_text(json.dumps({**flat, "l1_coefficient": 5, "context_size": 128, **settings}))


def saelens(
    case: str,
    seed: int,
    sae: SAE,
    old: dict[str, Any] | None = None,
    factor: float | None = None,
    heads: int | None = None,
) -> None:
    """
    Args:
        old: settings in the form before 6.0.
        factor: what the input is scaled by, which the maker folds into the weights.
        heads: the input has so many, and is flattened by the maker's class.
    """
    draw = Draw(seed, getattr(sae.cfg, "d_out", D_IN))
    fill(sae, draw)
    sae.save_model(HERE / case)
    if old is not None:
        before_6(case, old)
    file = HERE / case / "cfg.json"
    sae = SAE.load_from_disk(HERE / case)
    if factor is not None:
        assert sae.cfg.normalize_activations == "expected_average_only_in"
        sae.fold_activation_norm_scaling_factor(factor)
        file.write_text(json.dumps(json.loads(file.read_text()) | {"norm_scaling_factor": factor}))
    x = draw.x if heads is None else draw.x.unflatten(1, (heads, -1))
    encoding = sae.encode(x)
    if type(sae) is JumpReLUSAE and sae.cfg.apply_b_dec_to_input:
        assert encoding[0, 0] == 0 and encoding[1, 0] > 0.75
    reconstruction = sae(x)
    target = draw.normal(TOKENS, D_OUT) if isinstance(sae, Transcoder) else None
    store(case, "sae-lens", draw.x, encoding, reconstruction.reshape(TOKENS, -1), target)


def transcoder(case: str, seed: int, cls: type[Transcoder], config: type[TranscoderConfig]) -> None:
    metadata = SAEMetadata(hook_name=READS, hook_name_out=WRITES)
    saelens(case, seed, cls(config(**COMMON | {"metadata": metadata}, d_out=D_OUT, apply_b_dec_to_input=False)))


def make() -> None:
    saelens("saelens_standard", 4, StandardSAE(StandardSAEConfig(**COMMON)))
    saelens("saelens_b_dec_not_subtracted", 5, StandardSAE(StandardSAEConfig(**COMMON, apply_b_dec_to_input=False)))
    saelens("saelens_topk", 6, TopKSAE(TopKSAEConfig(**COMMON, k=8)))
    saelens("saelens_topk_rescaled", 7, TopKSAE(TopKSAEConfig(**COMMON, k=8, rescale_acts_by_decoder_norm=True)))
    saelens("saelens_jumprelu", 8, JumpReLUSAE(JumpReLUSAEConfig(**COMMON)))
    saelens("saelens_gated", 41, GatedSAE(GatedSAEConfig(**COMMON)))
    normed = StandardSAEConfig(**COMMON, normalize_activations="layer_norm")
    saelens("saelens_layer_norm", 42, StandardSAE(normed))
    constant = TopKSAEConfig(**COMMON, k=8, normalize_activations="constant_norm_rescale")
    saelens("saelens_constant_norm", 43, TopKSAE(constant))
    transcoder("saelens_transcoder", 44, Transcoder, TranscoderConfig)
    transcoder("saelens_skip_transcoder", 45, SkipTranscoder, SkipTranscoderConfig)
    transcoder("saelens_jumprelu_transcoder", 46, JumpReLUTranscoder, JumpReLUTranscoderConfig)
    transcoder("saelens_jumprelu_skip_transcoder", 47, JumpReLUSkipTranscoder, JumpReLUSkipTranscoderConfig)
    z = COMMON | {"metadata": SAEMetadata(hook_name="blocks.3.attn.hook_z")}
    saelens("saelens_hook_z", 48, StandardSAE(StandardSAEConfig(**z, reshape_activations="hook_z")), heads=HEADS)

    saelens("saelens_5_standard", 51, StandardSAE(StandardSAEConfig(**COMMON)), {})
    topk = {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": 8}, "architecture": "standard"}
    saelens("saelens_5_topk", 52, TopKSAE(TopKSAEConfig(**COMMON, k=8)), topk)
    saelens("saelens_5_gated", 53, GatedSAE(GatedSAEConfig(**COMMON)), {"architecture": "gated"})
    jumprelu = {"architecture": "jumprelu", "apply_b_dec_to_input": False}
    saelens("saelens_5_jumprelu", 54, JumpReLUSAE(JumpReLUSAEConfig(**COMMON)), jumprelu)
    saelens(
        "saelens_5_average_norm", 55, StandardSAE(StandardSAEConfig(**COMMON)), {"normalize_activations": True}, 1.7
    )
    heads = {"hook_point": "blocks.3.attn.hook_z", "hook_point_head_index": None}
    saelens("saelens_5_hook_z", 56, StandardSAE(StandardSAEConfig(**COMMON)), heads, heads=HEADS)
