"""Golden SAEs of Gemma Scope and Gemma Scope 2, computed by their maker's own classes.

Their maker has put one class for each into a tutorial's notebook, and into no package. That of Gemma Scope is carried by
eai-delphi as it is; that of Gemma Scope 2 is taken from a copy of the notebook, and known by its syntax tree. SAELens must
agree with all, and circuit-tracer, which reads the very files, with those of Gemma Scope 2 and all transcoders.
"""

from __future__ import annotations

import ast
import hashlib
import json
from importlib.metadata import distribution
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType

import numpy as np
import torch
from circuit_tracer.transcoder.single_layer_transcoder import (
    load_gemma_scope_2_transcoder,
    load_gemma_scope_transcoder,
)
from drawing import D_IN, HERE, N_LATENTS, TOKENS, Draw, positive_threshold, store
from sae_lens import JumpReLUSAE, JumpReLUSAEConfig
from sae_lens.saes.transcoder import JumpReLUSkipTranscoder, JumpReLUSkipTranscoderConfig
from safetensors.torch import load_file, save_file
from torch import Tensor

TUTORIAL_CLASS_SHA256 = "23831fba56a4eeb8ceed5e62bdc99ce80a07681337bd725e44f05fed178cc8a3"
"Of the class as Python writes it from the syntax tree: without comments, in one layout."
COMMON = {"d_in": D_IN, "d_sae": N_LATENTS, "apply_b_dec_to_input": False}


def module_in(file: object) -> ModuleType:
    spec = spec_from_file_location("tutorial", str(file))
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def of_the_tutorial(file: Path) -> torch.nn.Module:
    """A file of Gemma Scope in the class of its tutorial; the rest of eai-delphi is not imported."""
    module = module_in(distribution("eai-delphi").locate_file("delphi/sparse_coders/custom/gemmascope.py"))
    with np.load(file) as arrays:
        names = {"w_enc": "W_enc", "w_dec": "W_dec"}
        weights = {names.get(name, name): torch.from_numpy(each) for name, each in arrays.items()}
    sae = module.JumpReluSae(*weights["W_enc"].shape)
    sae.load_state_dict(weights)
    return sae


def class_in(notebook: Path) -> type[torch.nn.Module]:
    """The class of Gemma Scope 2's tutorial, from the notebook or a Python file that holds it.

    Raises:
        SystemExit: it is not there, or is another.
    """
    text = notebook.read_text(encoding="utf-8")
    if notebook.suffix == ".ipynb":
        cells = ["".join(cell["source"]) for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
        text = next((cell for cell in cells if "class JumpReLUSAE(" in cell), "")
    classes = [node for node in ast.parse(text).body if isinstance(node, ast.ClassDef) and node.name == "JumpReLUSAE"]
    # Whatever else stands in the file is not run.
    code = "".join(ast.unparse(node) for node in classes)
    if (found := hashlib.sha256(code.encode()).hexdigest()) != TUTORIAL_CLASS_SHA256:
        raise SystemExit(f"{notebook}: not the class of the tutorial (sha256 {found}, not {TUTORIAL_CLASS_SHA256})")
    with TemporaryDirectory() as folder:
        file = Path(folder) / "tutorial.py"
        file.write_text(f"import torch\nfrom torch import nn\n\n{code}\n", encoding="utf-8")
        return module_in(file).JumpReLUSAE


def agree(encoding: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(encoding, other, atol=1e-5, rtol=1e-5)


def gemma_scope(case: str, seed: int, release: str, lower: bool = False) -> None:
    """Lieberum et al. 2024."""
    draw = Draw(seed)
    threshold = positive_threshold(draw)
    folder = HERE / case / f"gemma-scope-2b-pt-{release}" / "layer_3" / "width_64" / "average_l0_20"
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        "W_enc": draw.W_enc,
        "b_enc": draw.b_enc,
        "W_dec": draw.W_dec,
        "b_dec": draw.b_dec,
        "threshold": threshold,
    }
    arrays = {name.lower() if lower else name: each.numpy() for name, each in tensors.items()}
    file = folder / "params.npz"
    with file.open("wb") as opened:
        np.savez(opened, **arrays)
    sae = of_the_tutorial(file)
    encoding, reconstruction = sae.encode(draw.x), sae(draw.x)
    second = JumpReLUSAE(JumpReLUSAEConfig(**COMMON))
    second.load_state_dict(tensors)
    agree(encoding, second.encode(draw.x))
    target = None
    if release == "transcoders":
        third = load_gemma_scope_transcoder(str(file), 3, device=torch.device("cpu"))
        agree(encoding, third.encode(draw.x))
        agree(reconstruction, third(draw.x))
        target = draw.normal(TOKENS, D_IN)
    store(case, "eai-delphi", draw.x, encoding, reconstruction, target)


def gemma_scope_2(maker: type[torch.nn.Module], case: str, seed: int, place: str, affine: bool | None = None) -> None:
    """As Gemma Scope; a transcoder may have an affine connection, stored [d_in, d_out]."""
    draw = Draw(seed)
    threshold, connection = positive_threshold(draw), draw.normal(D_IN, D_IN) * 0.2
    folder = HERE / case
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        "w_enc": draw.W_enc,
        "b_enc": draw.b_enc,
        "w_dec": draw.W_dec,
        "b_dec": draw.b_dec,
        "threshold": threshold,
    }
    layer = "model.layers.3"
    config = {"architecture": "jump_relu", "model_name": "gemma-v3-1b-pt", "width": N_LATENTS, "l0": 20}
    if affine is None:
        config |= {"hf_hook_point_in": f"{layer}.{place}", "hf_hook_point_out": f"{layer}.{place}"}
    else:
        config["hf_hook_point_in"] = f"{layer}.pre_feedforward_layernorm.output"
        config |= {"hf_hook_point_out": f"{layer}.post_feedforward_layernorm.output", "affine_connection": affine}
        tensors |= {"affine_skip_connection": connection} if affine else {}
    save_file({name: each.contiguous() for name, each in tensors.items()}, folder / "params.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    sae = maker(D_IN, N_LATENTS, affine_skip_connection=bool(affine))
    sae.load_state_dict(load_file(folder / "params.safetensors"))
    encoding, reconstruction = sae.encode(draw.x), sae(draw.x)
    third = load_gemma_scope_2_transcoder(str(folder / "params.safetensors"), 3, device=torch.device("cpu"))
    agree(encoding, third.encode(draw.x))
    agree(reconstruction, third(draw.x))
    names = {"w_enc": "W_enc", "w_dec": "W_dec"}
    state = {names.get(name, name): each for name, each in tensors.items() if name != "affine_skip_connection"}
    second = JumpReLUSAE(JumpReLUSAEConfig(**COMMON))
    second.load_state_dict(state)
    agree(encoding, second.encode(draw.x))
    if affine:
        second = JumpReLUSkipTranscoder(JumpReLUSkipTranscoderConfig(**COMMON, d_out=D_IN))
        second.load_state_dict({**state, "W_skip": connection.T})
        agree(reconstruction, second(draw.x))
    target = None if affine is None else draw.normal(TOKENS, D_IN)
    store(case, "tutorial of Gemma Scope 2", draw.x, encoding, reconstruction, target)


def make(notebook: Path | None) -> None:
    """
    Args:
        notebook: of Gemma Scope 2; without it, that release's files stay as they are.
    """
    gemma_scope("gemma_scope_res", 61, "res")
    gemma_scope("gemma_scope_lower_case", 62, "mlp", lower=True)
    gemma_scope("gemma_scope_att", 63, "att")
    gemma_scope("gemma_scope_transcoder", 64, "transcoders")
    if notebook is None:
        return
    maker = class_in(notebook)
    gemma_scope_2(maker, "gemma_scope_2_res", 65, "output")
    gemma_scope_2(maker, "gemma_scope_2_att", 66, "self_attn.o_proj.input")
    gemma_scope_2(maker, "gemma_scope_2_transcoder", 67, "", affine=False)
    gemma_scope_2(maker, "gemma_scope_2_affine", 68, "", affine=True)
