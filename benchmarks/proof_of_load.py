"""What the proof of load measures of real SAEs, and of SAEs that reproduce one massive dimension and nothing else.

The demo's SAEs on SmolLM2-135M, on text that they were not trained on: as they are, with a quarter of their latents a token,
and on the layer before. With `--gguf FILE` also any model of transformers that lies in a GGUF file, such as one of the Gemma 3
family: of each fourth layer the dimension with the largest variance, and what an SAE of two latents leaves that reproduces it.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.measuring import quick, show
from interp_assets.activations.variance import largest_dimension, measured, typical_tokens
from interp_assets.corpus.contexts import documents, pack, tokens_matrix
from interp_assets.progress import Progress
from interp_assets.settings import ProofOfLoad
from interp_assets.study import PROJECT, Study, load_study
from resources.sparse_autoencoders.autoencoder import SparseAutoencoder
from resources.sparse_autoencoders.read import read_sae
from resources.subject_model import SubjectModel
from resources.tokenizers import load_tokenizer, vocabulary_size

CONTEXT, EVERY = 256, 4


def main() -> None:
    study = load_study(PROJECT / "studies" / "smollm2_demo.yaml")
    of_the_demo(study, 1024 if quick() else 4096)
    show("allowed_dimension_fvu_share", ProofOfLoad().dimension_limit)
    if "--gguf" in sys.argv:
        of_a_gguf(study, Path(sys.argv[sys.argv.index("--gguf") + 1]), 1024 if quick() else 4096)


def of_the_demo(study: Study, tokens: int) -> None:
    path = study.path(study.subject_model.path)
    corpus = study.corpus.model_copy(update={"tokens": tokens})
    texts = documents(corpus, study.path(corpus.path))
    table = pack(texts, load_tokenizer(path), corpus, vocabulary_size(path), Progress("", 1, ""))
    subject = SubjectModel(path, None, "float32", "cpu")
    layers = [layer for layer in study.layers if layer.control is None]
    hookpoints = ["layers.7", *(layer.hookpoint for layer in layers)]
    found = subject.activations(torch.from_numpy(tokens_matrix(table).astype("int64")), hookpoints)
    places = {name: x[:, 1:].flatten(0, 1).float() for name, x in found.items()}
    for before, layer in zip(hookpoints, layers, strict=False):
        sae, here = read_sae(layer.location), layer.hookpoint
        show_figures(here, sae, places[here])
        show_figures(f"{here}_quarter_of_the_latents", replace(sae, k=(sae.k or 4) // 4), places[here])
        show_figures(f"{here}_on_{before}", sae, places[before])


def of_a_gguf(study: Study, file: Path, tokens: int) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    model: Any = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32).model
    text = "\n\n".join(
        document
        for document, _ in zip(documents(study.corpus, study.path(study.corpus.path)), range(400), strict=False)
    )
    ids = torch.tensor(tokenizer(text, add_special_tokens=False)["input_ids"])
    rows = ids[: tokens // CONTEXT * (CONTEXT - 1)].view(-1, CONTEXT - 1)
    rows = torch.cat([torch.full((len(rows), 1), tokenizer.bos_token_id), rows], 1)
    kept: dict[int, list[Tensor]] = {number: [] for number in range(0, len(model.layers), EVERY)}
    for number in kept:
        keep = kept[number]
        model.layers[number].register_forward_hook(
            lambda module, given, out, keep=keep: keep.append((out[0] if isinstance(out, tuple) else out)[:, 1:])
        )
    with torch.inference_mode():
        for batch in rows.split(4):
            model(batch, use_cache=False)
    for number, parts in kept.items():
        x = torch.cat(parts).flatten(0, 1)
        largest = largest_dimension(x[typical_tokens(x, x).alike])
        name = f"gguf_layer_{number}"
        show(f"{name}_largest_dimension", largest["dimension"])
        show(f"{name}_its_share_of_the_variance", largest["share"])
        show(f"{name}_tokens_that_stand_out_by_norm", len(x) - int(typical_tokens(x, x).as_is.sum()))
        show_figures(f"{name}_two_latents", reproducing(largest["dimension"], x.mean(0)), x)


def reproducing(dimension: int, mean: Tensor) -> SparseAutoencoder:
    """An SAE of two latents that reproduces one dimension, and of the others their mean."""
    rows = torch.zeros(2, len(mean))
    rows[:, dimension] = torch.tensor([1.0, -1.0])
    return SparseAutoencoder(rows.T.contiguous(), torch.zeros(2), rows, mean, "relu")


def show_figures(name: str, sae: SparseAutoencoder, x: Tensor) -> None:
    for figure, value in measured(sae.reconstruct(x), x, typical_tokens(x, x)).items():
        show(f"{name}_{figure}_share", value)


if __name__ == "__main__":
    main()
