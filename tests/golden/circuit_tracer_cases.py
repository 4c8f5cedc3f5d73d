"""Golden transcoders of circuit-tracer, written and read back by its own class."""

from __future__ import annotations

import torch
from circuit_tracer.transcoder.activation_functions import JumpReLU
from circuit_tracer.transcoder.single_layer_transcoder import SingleLayerTranscoder, load_relu_transcoder
from drawing import D_IN, HERE, N_LATENTS, TOKENS, Draw, positive_threshold, store

SETTINGS = """\
model_name: "Qwen/Qwen3-4B"
model_kind: "transcoder_set"
feature_input_hook: "mlp.hook_in"
feature_output_hook: "mlp.hook_out"
"""
CPU = torch.device("cpu")


def circuit_tracer(case: str, seed: int, jumps: bool = False, skips: bool = False) -> None:
    draw = Draw(seed)
    threshold = positive_threshold(draw)
    activation = JumpReLU(threshold) if jumps else torch.nn.functional.relu
    maker = SingleLayerTranscoder(
        D_IN, N_LATENTS, activation, 3, skip_connection=skips, device=CPU, dtype=torch.float32
    )
    maker.W_enc.copy_(draw.W_enc.T)
    maker.b_enc.copy_(draw.b_enc)
    maker.W_dec.copy_(draw.W_dec)
    maker.b_dec.copy_(draw.b_dec)
    if skips:
        maker.W_skip.copy_(draw.normal(D_IN, D_IN) * 0.2)
    (HERE / case).mkdir(exist_ok=True)
    (HERE / case / "config.yaml").write_text(SETTINGS)
    file = str(HERE / case / "layer_3.safetensors")
    maker.to_safetensors(file)
    maker = load_relu_transcoder(file, 3, CPU, lazy_encoder=False, lazy_decoder=False)
    store(case, "circuit-tracer", draw.x, maker.encode(draw.x), maker(draw.x), draw.normal(TOKENS, D_IN))


def make() -> None:
    circuit_tracer("circuit_tracer_relu", 81)
    circuit_tracer("circuit_tracer_jumprelu", 82, jumps=True)
    circuit_tracer("circuit_tracer_skip", 83, skips=True)
    circuit_tracer("circuit_tracer_jumprelu_skip", 84, jumps=True, skips=True)
