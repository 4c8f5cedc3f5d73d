"""Train the demo's SAEs and write them to `demo/saes/layers.N/` in the sparsify layout.

    python demo/prepare_weights.py && python demo/train_saes.py      # about 40 minutes on 2 cores, 7 GB of memory

TopK SAEs (Gao et al. 2024: decoder rows of unit norm, encoder started as the decoder's transpose, an auxiliary loss
that lets dead latents explain the error) on the residual stream after layers 8, 9 and 10 of SmolLM2-135M-Instruct.
The first HELD_OUT_TOKENS of `demo/corpus.parquet` are never trained on: the demo's study reads only those, and the
fraction of variance unexplained (FVU) printed at the end is measured on them. Weights are kept as float16, which
halves the files; the FVU is that of the rounded weights.

All layers start from the same random numbers and see the same tokens in the same order, which makes the latents of
neighbouring layers more alike. How much, `python -m benchmarks.shared_start` says; it needs a layer from another start:

    python demo/train_saes.py --layers 9 --seed 1 --folder demo/saes_other_start
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
import torch
from safetensors.torch import save_file
from transformers import AutoModel, AutoTokenizer

DEMO = Path(__file__).parent
LAYERS = (8, 9, 10)
LATENTS, K, AUXILIARY_K = 2_048, 32, 256
HELD_OUT_TOKENS = 300_000
CONTEXT_LENGTH = 256
BATCH, EPOCHS, LEARNING_RATE = 4_096, 4, 1.2e-3
DEAD_AFTER_TOKENS = 300_000


def contexts() -> torch.Tensor:
    """The corpus as [contexts, CONTEXT_LENGTH] token ids, each context beginning with BOS, as the pipeline packs it."""
    tokenizer = AutoTokenizer.from_pretrained(DEMO / "weights/SmolLM2-135M-Instruct")
    ids: list[int] = []
    for piece in tokenizer([text + "\n\n" for text in pl.read_parquet(DEMO / "corpus.parquet")["text"]])["input_ids"]:
        ids.extend(piece)
    rows = torch.tensor(ids[: len(ids) // (CONTEXT_LENGTH - 1) * (CONTEXT_LENGTH - 1)]).view(-1, CONTEXT_LENGTH - 1)
    return torch.cat([torch.full((len(rows), 1), tokenizer.bos_token_id), rows], dim=1)


@torch.inference_mode()
def activations(tokens: torch.Tensor, folder: Path, layers: Sequence[int] = LAYERS) -> dict[int, torch.Tensor]:
    """Residual stream after each layer, bfloat16 [tokens without BOS, d_in], kept in `folder` from run to run."""
    files = {layer: folder / f"layers.{layer}.npy" for layer in layers}
    count = tokens.shape[0] * (CONTEXT_LENGTH - 1)
    if not all(file.exists() for file in files.values()):
        model = AutoModel.from_pretrained(DEMO / "weights/SmolLM2-135M-Instruct", dtype=torch.bfloat16)
        model.layers = model.layers[: max(layers) + 1]
        kept = {layer: torch.empty(count, model.config.hidden_size, dtype=torch.bfloat16) for layer in layers}
        current: dict[int, torch.Tensor] = {}
        for layer in layers:
            model.layers[layer].register_forward_hook(lambda _m, _i, out, layer=layer: current.__setitem__(layer, out))
        started, done = time.time(), 0
        for batch in tokens.split(16):
            model(batch, use_cache=False)
            rows = batch.shape[0] * (CONTEXT_LENGTH - 1)
            for layer in layers:
                kept[layer][done : done + rows] = current[layer][:, 1:].reshape(rows, -1)
            done += rows
            if done // rows % 50 == 0:
                print(f"activations: {done:,}/{count:,} tokens, {done / (time.time() - started):,.0f}/s", flush=True)
        folder.mkdir(parents=True, exist_ok=True)
        for layer, file in files.items():
            np.save(file, kept[layer].view(torch.int16).numpy())
    return {layer: torch.from_numpy(np.load(file)).view(torch.bfloat16) for layer, file in files.items()}


class Trained(torch.nn.Module):
    def __init__(self, mean: torch.Tensor) -> None:
        super().__init__()
        d_in = len(mean)
        decoder = torch.nn.functional.normalize(torch.randn(LATENTS, d_in), dim=1)
        self.W_dec = torch.nn.Parameter(decoder)
        self.W_enc = torch.nn.Parameter(decoder.clone())
        self.b_enc = torch.nn.Parameter(torch.zeros(LATENTS))
        self.b_dec = torch.nn.Parameter(mean.clone())

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.linear(x - self.b_dec, self.W_enc, self.b_enc)


def keep_top(values: torch.Tensor, k: int) -> torch.Tensor:
    top = values.topk(k, dim=1)
    return torch.zeros_like(values).scatter(1, top.indices, top.values.relu())


def train(train_x: torch.Tensor, label: str, seed: int = 0) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    sample = train_x[torch.randperm(len(train_x))[:50_000]].float()
    scale = sample.shape[1] ** 0.5 / sample.norm(dim=1).mean()
    sae = Trained(sample.mean(0) * scale)
    optimizer = torch.optim.Adam(sae.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.999))
    steps = len(train_x) * EPOCHS // BATCH
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / 100) * min(1.0, (steps - step) / (0.4 * steps))
    )
    silent_for = torch.zeros(LATENTS)
    order, started = torch.randperm(len(train_x)), time.time()
    for step in range(steps):
        start = step * BATCH % (len(train_x) - BATCH)
        x = train_x[order[start : start + BATCH]].float() * scale
        with torch.autocast("cpu", torch.bfloat16):
            pre = sae.encode(x)
            acts = keep_top(pre, K)
            error = x - (acts @ sae.W_dec + sae.b_dec).float()
            variance = (x - x.mean(0)).square().sum()
            loss = error.square().sum() / variance
            silent_for = torch.where((acts > 0).any(0), 0.0, silent_for + BATCH)
            dead = silent_for > DEAD_AFTER_TOKENS
            if dead.any():
                extra = keep_top(pre.masked_fill(~dead, -torch.inf), min(AUXILIARY_K, int(dead.sum())))
                loss = loss + (error.detach() - extra @ sae.W_dec).square().sum() / variance / 32
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(sae.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            sae.W_dec.copy_(torch.nn.functional.normalize(sae.W_dec, dim=1))
        if step % 100 == 0:
            fvu, seconds = float(error.square().sum() / variance), time.time() - started
            print(f"{label}: step {step}/{steps}, FVU {fvu:.3f}, {int(dead.sum())} dead, {seconds:.0f} s", flush=True)
    # Fold the scale in: activations come out in units of the residual stream, decoder rows keep unit norm.
    return {
        "encoder.weight": sae.W_enc.detach(),
        "encoder.bias": sae.b_enc.detach() / scale,
        "W_dec": sae.W_dec.detach(),
        "b_dec": sae.b_dec.detach() / scale,
    }


def held_out_fvu(weights: dict[str, torch.Tensor], x: torch.Tensor) -> float:
    x, w = x.float(), {name: tensor.float() for name, tensor in weights.items()}
    pre = (x - w["b_dec"]) @ w["encoder.weight"].T + w["encoder.bias"]
    error = x - (keep_top(pre, K) @ w["W_dec"] + w["b_dec"])
    return float(error.square().sum() / (x - x.mean(0)).square().sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--activations", type=Path, default=DEMO.parent / ".interp/demo_activations", help="kept between runs"
    )
    parser.add_argument("--layers", type=int, nargs="+", default=LAYERS, choices=LAYERS)
    parser.add_argument("--seed", type=int, default=0, help="of the initial weights and of the order of the tokens")
    parser.add_argument("--folder", type=Path, default=DEMO / "saes", help="where the SAEs are written")
    arguments = parser.parse_args()
    per_layer = activations(contexts(), arguments.activations, arguments.layers)
    for layer, x in per_layer.items():
        weights = {
            name: tensor.half().contiguous()
            for name, tensor in train(x[HELD_OUT_TOKENS:], f"layers.{layer}", arguments.seed).items()
        }
        folder = arguments.folder / f"layers.{layer}"
        folder.mkdir(parents=True, exist_ok=True)
        save_file(weights, folder / "sae.safetensors")
        config = {
            "activation": "topk",
            "expansion_factor": 32,
            "normalize_decoder": True,
            "num_latents": LATENTS,
            "k": K,
        }
        config |= {"multi_topk": False, "skip_connection": False, "transcode": False, "d_in": x.shape[1]}
        (folder / "cfg.json").write_text(json.dumps(config, indent=1) + "\n")
        print(f"layers.{layer}: held-out FVU {held_out_fvu(weights, x[:50_000]):.4f}", flush=True)


if __name__ == "__main__":
    main()
