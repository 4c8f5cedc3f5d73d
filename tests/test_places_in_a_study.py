"""Studies at places that are no module's output, and of models without a BOS token, carried to their activations."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import PreTrainedTokenizerFast

from interp_assets.activations.cache_file import CacheReader
from interp_assets.corpus.contexts import tokens_matrix
from interp_assets.job import make_partition
from interp_assets.study import Study, load_study
from resources.errors import UnusableInput
from resources.loaded_models import LoadedModels
from resources.partition_files import Partition
from resources.subject_model import SubjectModel
from tests.changed_study import changed
from tests.tiny import HIDDEN, make_study

NORMED = "layers.1.post_attention_layernorm:normed"


def make_mirror(folder: Path) -> Path:
    """An SAE that reconstructs whatever it reads: one latent for each direction and one for its opposite."""
    folder.mkdir()
    both = torch.cat([torch.eye(HIDDEN), -torch.eye(HIDDEN)])
    weights = {"encoder.weight": both, "encoder.bias": torch.zeros(2 * HIDDEN), "W_dec": both.clone()}
    save_file(weights | {"b_dec": torch.zeros(HIDDEN)}, folder / "sae.safetensors")
    settings = {"d_in": HIDDEN, "num_latents": 2 * HIDDEN, "k": HIDDEN, "activation": "topk"}
    (folder / "cfg.json").write_text(json.dumps(settings))
    return folder


@pytest.fixture
def file(tmp_path: Path) -> Path:
    saes = [{"path": str(make_mirror(tmp_path / "mirror")), "hookpoints": [NORMED]}]
    limits = {"tokens": 1024, "compare_layers": False}
    return make_study(
        tmp_path, saes=saes, proof_of_load=limits, engines={}, scorers={}, explainers={"q": {"kind": "extractive"}}
    )


def harvested(study: Study, layer: str) -> dict[str, Partition]:
    models, key = LoadedModels(), {"corpus": None}
    assets = ("sae_weights", "corpus", "activation_cache", "latent_statistics")
    return {asset: make_partition(study, asset, key.get(asset, layer), models).partition for asset in assets}


def expected(study: Study, tokens: np.ndarray) -> torch.Tensor:
    """What goes into the norm over its root mean square, from the module itself; float32 [contexts, length, d]."""
    subject = SubjectModel(study.path(study.subject_model.path), None, "float32", "cpu")
    place = NORMED.replace(":normed", ":in")
    ids = torch.from_numpy(tokens.astype(np.int64))
    parts = [subject.activations(part, [place])[place] for part in ids.split(8)]
    x = torch.cat(parts)
    return x / (x.pow(2).mean(-1, keepdim=True) + subject.model.config.rms_norm_eps).sqrt()


def as_read(made: dict[str, Partition], shape: tuple[int, ...]) -> np.ndarray:
    """What the mirror read, put together again from the cache."""
    found = np.zeros((*shape, 2 * HIDDEN), dtype=np.float32)
    for _, entries in CacheReader(made["activation_cache"]).blocks():
        found[entries.context, entries.position, entries.latent] = entries.activation
    return found[..., :HIDDEN] - found[..., HIDDEN:]


def test_a_norms_input_over_its_scale_is_a_layer_like_any_other(file: Path) -> None:
    study = load_study(file)
    made = harvested(study, NORMED)
    tokens = tokens_matrix(made["corpus"].read("corpus"))
    np.testing.assert_allclose(as_read(made, tokens.shape)[:, 1:], expected(study, tokens)[:, 1:], atol=1e-5)
    assert made["activation_cache"].metadata["proof"]["fvu"] < 1e-6
    # What is read there is no part of the residual stream, so that its directions promote nothing.
    assert made["latent_statistics"].read("statistics")["promoted_tokens"].null_count() == 2 * HIDDEN


def test_a_model_without_a_bos_token(file: Path) -> None:
    folder = file.parent / "model"
    plain = PreTrainedTokenizerFast.from_pretrained(folder)
    (folder / "tokenizer_config.json").unlink()
    (folder / "special_tokens_map.json").unlink(missing_ok=True)
    PreTrainedTokenizerFast(tokenizer_object=plain.backend_tokenizer, unk_token="<unk>").save_pretrained(folder)
    with pytest.raises(UnusableInput, match=r"corpus\.bos: the tokenizer has no BOS token; set bos: false"):
        harvested(load_study(file), NORMED)
    study = load_study(changed(file, {"corpus.bos": False}, file.name))
    made = harvested(study, NORMED)
    tokens = tokens_matrix(made["corpus"].read("corpus"))
    assert (tokens != 0).all()  # which would be <s>
    read = as_read(made, tokens.shape)
    assert (np.abs(read[:, 0]).sum(-1) > 0).all()  # the first token is one like the others
    np.testing.assert_allclose(read, expected(study, tokens), atol=1e-5)
