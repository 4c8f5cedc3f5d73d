"""Where the layers of every family of causal language models lie, seen in small models of them.

python -m tests.layer_paths_table    (writes `resources/layer_paths.py`: the paths, or why they cannot be told)
"""

from __future__ import annotations

import warnings
from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from resources.errors import UnusableInput
from resources.model_structure import Structure, looks_like_norm
from tests.every_family import FAMILIES, WIDTH, small_config

ALL = sorted(FAMILIES)
IDS = torch.randint(2, 60, (2, 12), generator=torch.Generator().manual_seed(0))


@cache
def tiny_model(family: str) -> PreTrainedModel:
    """With random weights, gains of norms and biases included.

    Raises:
        Exception: whatever transformers says of settings that do not fit one another.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model: Any = AutoModelForCausalLM.from_config(small_config(family), attn_implementation="eager")
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.4 * torch.randn(parameter.shape, generator=draw))
    return model.float().eval()


def layers_of(family: str) -> tuple[str, str] | str:
    """Where the base model of a family stands in the model with its head, and where its layers stand in the base model,
    if each of them reads and writes the residual stream; else why that is not so, seen by running it.
    """
    try:
        model: Any = tiny_model(family)
        structure = Structure(model)
        norms = [module for module in model.modules() if looks_like_norm(module, WIDTH)]
        into, out_of, normed = run(model, structure, norms, IDS)
        changed = IDS.clone()
        changed[:, -1] += 1
        later = run(model, structure, norms, changed)[1]
    except UnusableInput as error:
        return str(error)
    except Exception as error:
        return f"its default settings, made small, make no model that runs: {type(error).__name__}"
    if not all(isinstance(each, Tensor) for each in out_of):
        return f"its layers put out no tensor, but a {type(out_of[0]).__name__}"
    if any(each.shape != (*IDS.shape, WIDTH) for each in out_of):
        return f"its layers put out no vector for each token, but {list(out_of[0].shape)} for {list(IDS.shape)} tokens"
    if any(each is one for each in out_of for one in normed):
        return "its layers put out what a norm has made of the residual stream"
    if not all(torch.equal(one, other) for one, other in zip(out_of, into[1:], strict=False)):
        return "its layers do not read what the layers before them put out"
    if not all(torch.allclose(a[:, :-1], b[:, :-1], rtol=1e-3, atol=1e-3) for a, b in zip(out_of, later, strict=True)):
        return "what stands at a token depends on later ones"
    return model.base_model_prefix, structure.layers_path


@torch.no_grad()
def run(
    model: Any, structure: Structure, norms: list[nn.Module], ids: Tensor
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """What goes into each layer, what comes out of it, and what norms put out."""
    into: list[Tensor] = []
    out_of: list[Tensor] = []
    normed: list[Tensor] = []

    def layer_ran(_layer: nn.Module, given: Any, named: Any, out: Any) -> None:
        into.append(given[0] if given else next(iter(named.values())))
        out_of.append(out[0] if isinstance(out, tuple) else out)

    handles = [each.register_forward_hook(layer_ran, with_kwargs=True) for each in structure.layers]
    handles += [each.register_forward_hook(lambda _norm, _given, out: normed.append(out)) for each in norms]
    model.base_model(ids, use_cache=False)
    for handle in handles:
        handle.remove()
    return into, out_of, normed


def main() -> None:
    measured = {family: layers_of(family) for family in ALL}
    lines = [
        f'"""Where the layers of each family of models lie, as seen in tiny models of transformers {transformers.__version__}.',
        "",
        "Written by `python -m tests.layer_paths_table`; a test compares it with the transformers that is installed.",
        '"""',
        "",
        "LAYER_PATHS = {",
        *(f"    {family!r}: {found!r}," for family, found in measured.items() if not isinstance(found, str)),
        "}",
        '"By `model_type`: the base model in the model with its head, and the layers in the base model."',
        "",
        "WITHOUT_PATHS = {",
        *(f"    {family!r}: {found!r}," for family, found in measured.items() if isinstance(found, str)),
        "}",
        '"By `model_type`, why."',
    ]
    file = Path(__file__).parents[1] / "resources" / "layer_paths.py"
    file.write_text("\n".join(lines) + "\n")
    print(f"{file}: format it with ruff")


if __name__ == "__main__":
    main()
