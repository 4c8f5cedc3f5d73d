"""A golden SAE of Qwen Scope. Its maker gives its rules on the model cards, and has no package; SAELens reads the files."""

from __future__ import annotations

import json

import torch
from drawing import D_IN, HERE, N_LATENTS, Draw, store
from sae_lens import TopKSAE, TopKSAEConfig
from sae_lens.loading import pretrained_sae_loaders as loaders

REPOSITORY = "Qwen/SAE-Res-Qwen3-1.7B-Base-W32K-L0_8"
"Its name tells SAELens k and the width; the width is that of the file here."


def qwen_scope(case: str, seed: int) -> None:
    draw = Draw(seed)
    folder = HERE / case
    folder.mkdir(exist_ok=True)
    settings = {"model_type": "topk_sae", "base_model": "Qwen/Qwen3-1.7B-Base", "d_model": D_IN, "d_sae": N_LATENTS}
    settings |= {"k": 8, "num_layers": 28, "hook_point": "resid_post", "dtype": "float32"}
    (folder / "config.json").write_text(json.dumps(settings, indent=2))
    tensors = {"W_enc": draw.W_enc.T, "W_dec": draw.W_dec.T, "b_enc": draw.b_enc, "b_dec": draw.b_dec}
    torch.save({name: each.contiguous() for name, each in tensors.items()}, folder / "layer3.sae.pt")
    loaders.hf_hub_download = lambda repo_id, filename, force_download: str(folder / filename)
    said, weights, _ = loaders.qwen_scope_sae_huggingface_loader(REPOSITORY, "layer3.sae.pt")
    config = TopKSAEConfig(
        d_in=D_IN,
        d_sae=N_LATENTS,
        k=said["activation_fn_kwargs"]["k"],
        apply_b_dec_to_input=said["apply_b_dec_to_input"],
    )
    sae = TopKSAE(config)
    sae.load_state_dict(weights)
    # The card's own rule: the k largest, whatever their sign. None of these is below 0.
    largest = (draw.x @ weights["W_enc"] + weights["b_enc"]).topk(8, dim=-1)
    assert bool((largest.values > 0).all())
    by_card = torch.zeros(len(draw.x), N_LATENTS).scatter(1, largest.indices, largest.values)
    torch.testing.assert_close(sae.encode(draw.x), by_card, atol=1e-5, rtol=1e-5)
    store(case, "sae-lens", draw.x, sae.encode(draw.x), sae(draw.x))


def make() -> None:
    qwen_scope("qwen_scope_topk", 91)
