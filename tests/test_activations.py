"""Activations at hookpoints against transformers' own hidden states; the cache of a real pass against a plain one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from interp_assets.activations.cache_file import CacheReader
from interp_assets.activations.proof_of_load import prove
from interp_assets.corpus.contexts import tokens_matrix
from interp_assets.settings import ProofOfLoad
from interp_assets.study import Study
from resources.model_structure import NoSuchHookpoint
from resources.partition_files import Partition
from resources.sparse_autoencoders.autoencoder import SparseAutoencoder
from resources.sparse_autoencoders.read import read_sae
from resources.subject_model import SubjectModel
from tests.tiny import VOCABULARY, make_model


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> SubjectModel:
    return SubjectModel(make_model(tmp_path_factory.mktemp("subject"), layers=4), None, "float32", "cpu")


@pytest.fixture
def ids() -> torch.Tensor:
    return torch.randint(2, len(VOCABULARY), (3, 12), generator=torch.Generator().manual_seed(0))


def test_hookpoints_hold_the_models_hidden_states(subject: SubjectModel, ids: torch.Tensor) -> None:
    with torch.inference_mode():
        hidden = subject.model(ids, output_hidden_states=True).hidden_states
    names = ["layers.1", "embed_tokens", "layers.2", "layers.1:in"]
    got = subject.activations(ids, names)
    torch.testing.assert_close(got["embed_tokens"], hidden[0])
    torch.testing.assert_close(got["layers.1:in"], hidden[1])
    torch.testing.assert_close(got["layers.1"], hidden[2])
    torch.testing.assert_close(got["layers.2"], hidden[3])
    # Module outputs add up as the architecture says: the residual stream after attention and MLP.
    parts = subject.activations(ids, ["layers.2.self_attn.o_proj", "layers.2.mlp", "layers.2:in"])
    torch.testing.assert_close(sum(parts.values()), hidden[3])


def test_the_pass_ends_after_the_deepest_hookpoint(subject: SubjectModel, ids: torch.Tensor) -> None:
    ran: list[int] = []
    handles = [subject.modules[f"layers.{i}"].register_forward_hook(lambda *_, i=i: ran.append(i)) for i in range(4)]
    subject.activations(ids, ["layers.1", "layers.0"])
    assert ran == [0, 1]
    subject.activations(ids, ["layers.3", "layers.3"])
    assert ran == [0, 1, 0, 1, 2, 3]
    for handle in handles:
        handle.remove()
    # Nothing of ours is left behind: a plain pass runs to its end.
    assert subject.model(ids).logits.shape[1] == 12


@pytest.mark.parametrize(
    ("hookpoint", "listed"),
    [
        ("layers.9", "layers.0, layers.1, layers.2, layers.3"),
        ("h.1", "embed_tokens, layers"),
        ("layers.1.attn", "layers.1.self_attn"),
        ("layers.1.attn:in", "layers.1.mlp"),
    ],
)
def test_an_unknown_hookpoint_is_answered_with_those_there_are(
    subject: SubjectModel, hookpoint: str, listed: str
) -> None:
    with pytest.raises(NoSuchHookpoint) as error:
        subject.check_hookpoint(hookpoint)
    assert listed in str(error.value)
    subject.check_hookpoint("layers.1")


def test_promoted_tokens_are_those_of_the_folded_unembedding(subject: SubjectModel) -> None:
    with torch.no_grad():
        subject.modules["norm"].weight.copy_(torch.linspace(0.1, 3, subject.modules["norm"].weight.numel()))
    directions = torch.randn(5, subject.model.config.hidden_size, generator=torch.Generator().manual_seed(1))
    got = subject.promoted_tokens(directions, n=4)
    for row, direction in enumerate(directions):
        logits = subject.model.lm_head.weight @ (direction * subject.modules["norm"].weight)
        order = logits.argsort(descending=True)
        assert got.promoted[row].tolist() == order[:4].tolist()
        assert got.suppressed[row].tolist() == order.flip(0)[:4].tolist()
        torch.testing.assert_close(got.promoted_logits[row], logits[order[:4]])
        torch.testing.assert_close(got.suppressed_logits[row], logits[order.flip(0)[:4]])


def test_the_cache_of_a_pass_equals_a_plain_forward_and_encode(tiny: Study, tiny_tables: dict[str, Partition]) -> None:
    tokens = tokens_matrix(tiny_tables["corpus"].read("corpus"))
    assert tokens.size == tiny.corpus.tokens == tiny_tables["activation_cache"].metadata["tokens_used"]
    assert (tokens[:, 0] == 0).all()
    subject = SubjectModel(tiny.path(tiny.subject_model.path), None, "float32", "cpu")
    sae = read_sae(tiny.layers[0].location)
    expected = np.zeros((*tokens.shape, sae.n_latents), dtype=np.float32)
    for i, context in enumerate(tokens):
        x = subject.activations(torch.from_numpy(context[None].astype(np.int64)), ["embed_tokens"])["embed_tokens"][0]
        top = sae.encode(x)
        for position in range(1, len(context)):  # BOS, at 0, is read by the model and its activations are dropped
            expected[i, position, top.indices[position].numpy()] = top.activations[position].detach().numpy()
    got = np.zeros_like(expected)
    for latents, entries in CacheReader(tiny_tables["activation_cache"]).blocks():
        got[entries.context, entries.position, entries.latent] = entries.activation
        assert latents.start == 0
    np.testing.assert_allclose(got, expected, atol=1e-5)
    assert (expected > 0).sum() == tokens[:, 1:].size


def test_bos_is_part_of_the_input(subject: SubjectModel, ids: torch.Tensor) -> None:
    """What stands at later positions depends on the first token: dropping it from the input would be seen."""
    with_bos = subject.activations(torch.cat([torch.zeros_like(ids[:, :1]), ids], 1), ["layers.1"])["layers.1"][:, 1:]
    without = subject.activations(ids, ["layers.1"])["layers.1"]
    assert (with_bos - without).abs().max() > 1e-4


def test_massive_activations_do_not_hide_what_is_unexplained() -> None:
    """An SAE that knows one of four directions, and three tokens of enormous norm along just that one."""
    one = torch.eye(4)[:1]
    sae = SparseAutoencoder(one.T, torch.zeros(1), one, torch.zeros(4), "topk", k=1)
    usual = torch.randn(500, 4, generator=torch.Generator().manual_seed(0))
    limits = ProofOfLoad(max_fvu=0.99)
    proof = prove(sae, torch.cat([usual, 500 * one.expand(3, -1)]), "here", None, limits)
    assert proof["tokens_with_massive_activations"] == 3
    assert proof["fvu_with_massive_activations"] < 0.01
    assert proof["fvu"] == prove(sae, usual, "here", None, limits)["fvu"] > 0.7
