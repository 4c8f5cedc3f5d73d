"""The subject model with a latent changed, beside full forward passes with a hook, no cache and no padding."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, GPTNeoXConfig, GPTNeoXForCausalLM, LlamaConfig, LlamaForCausalLM

from interp_assets.study import PROJECT
from resources import kept_prompts
from resources.forward_hooks import at, changed, layers_below
from resources.interventions import run_prompts
from resources.latent_changes import Added, Change, TakenAway
from resources.sparse_autoencoders.autoencoder import SparseAutoencoder, TopActivations
from resources.sparse_autoencoders.locate import locate
from resources.sparse_autoencoders.read import read_sae
from resources.subject_model import SubjectModel
from resources.whole_prompts import WholePrompts

D, VOCABULARY, LATENTS, NEW = 32, 60, 12, 4
PROMPTS = [[5, 9, 2, 44, 17, 3, 8, 21, 30], [7, 7, 1], [11, 52, 3, 9, 28, 6, 19, 40, 2, 2, 33, 1, 15, 27, 4, 50, 9]]
SEEDS = [3, 1, 4]


def llama(folder: Path) -> None:
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=D,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.3,
    )
    LlamaForCausalLM(config).save_pretrained(folder)


def gpt2(folder: Path) -> None:
    config = GPT2Config(vocab_size=VOCABULARY, n_embd=D, n_layer=3, n_head=4, initializer_range=0.3, n_positions=64)
    GPT2LMHeadModel(config).save_pretrained(folder)


def neox(folder: Path) -> None:
    config = GPTNeoXConfig(
        vocab_size=VOCABULARY,
        hidden_size=D,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        initializer_range=0.3,
    )
    GPTNeoXForCausalLM(config).save_pretrained(folder)


ARCHITECTURES = {"llama": llama, "gpt2": gpt2, "neox": neox}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, SubjectModel]:
    found = {}
    for name, make in ARCHITECTURES.items():
        folder = tmp_path_factory.mktemp(name)
        torch.manual_seed(0)
        make(folder)
        found[name] = SubjectModel(folder, None, "float32", "cpu")
    return found


@pytest.fixture(scope="module")
def sae() -> SparseAutoencoder:
    draw = torch.Generator().manual_seed(1)
    W_enc, W_dec = torch.randn(D, LATENTS, generator=draw), torch.randn(LATENTS, D, generator=draw)
    return SparseAutoencoder(W_enc, torch.zeros(LATENTS), W_dec, torch.randn(D, generator=draw), "relu")


def changes(sae: SparseAutoencoder) -> dict[str, Change]:
    latents = torch.tensor([2, 5, 7])
    return {
        "added": Added(torch.tensor([1.5, 0.7, 3.0]), sae.W_dec[latents]),
        "taken_away": TakenAway(sae, latents),
    }


@torch.inference_mode()
def full_pass(
    subject: SubjectModel, reads: str, writes: str, ids: Sequence[int], changed_from: int, until: int, change: Change
) -> Tensor:
    """Logits float32 [length, vocabulary] of one sequence, all of it run at once, positions changed_from..until changed."""
    read: dict[str, Tensor] = {}

    def edit(x: Tensor) -> Tensor:
        source = x if reads == writes else read["x"]
        x = x.clone()
        for position in range(changed_from, min(until, x.shape[1])):
            x[:, position] += change.of(source[:, position].float()).to(x.dtype)
        return x

    handles = [at(subject, reads, lambda x: read.__setitem__("x", x))] if reads != writes else []
    handles.append(at(subject, writes, edit))
    try:
        return subject.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].float()
    finally:
        for handle in handles:
            handle.remove()


PLACES = [
    ("llama", "layers.1", "layers.1"),
    ("llama", "layers.0", "layers.0"),
    ("llama", "layers.2", "layers.2"),
    ("llama", "embed_tokens", "embed_tokens"),
    ("llama", "layers.1:in", "layers.1:in"),
    ("llama", "layers.1.mlp", "layers.1.mlp"),
    ("llama", "layers.1.mlp:in", "layers.1.mlp"),  # a transcoder
    ("gpt2", "h.1", "h.1"),
    ("gpt2", "h.1.mlp", "h.1.mlp"),
    ("gpt2", "h.2.mlp:in", "h.2.mlp"),
    ("neox", "layers.1", "layers.1"),
    ("neox", "layers.1.mlp", "layers.1.mlp"),
]


@pytest.mark.parametrize(("architecture", "reads", "writes"), PLACES)
@pytest.mark.parametrize("kind", ["added", "taken_away"])
def test_every_step_is_that_of_a_full_pass(
    models: dict[str, SubjectModel],
    sae: SparseAutoencoder,
    architecture: str,
    reads: str,
    writes: str,
    kind: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At the prompt's last token and at every token written after it; a change of the prompt alone is another thing."""
    subject, change = models[architecture], changes(sae)[kind]
    run = run_prompts(subject, reads, PROMPTS, longest=20, new_tokens=NEW, batch_tokens=40, writes=writes)
    steps: list[Tensor] = []
    step = run._step
    run.next_token(Added(torch.zeros(3), sae.W_dec[:3]))  # from here on layers below are not run again
    monkeypatch.setattr(run, "_step", lambda *asked: steps.append(step(*asked)) or steps[-1])
    written = run.write(change, SEEDS, NEW)
    prefill_only = []
    for row, prompt in enumerate(PROMPTS):
        last = len(prompt) - 1
        own = only_row(change, row)
        ids = [*prompt, *written[row].tolist()]
        expected = full_pass(subject, reads, writes, ids, last, len(ids), own)[last : last + NEW]
        mine = torch.stack([logits[row] for logits in steps])
        torch.testing.assert_close(mine, expected, atol=2e-4, rtol=1e-3)
        at_once = full_pass(subject, reads, writes, ids, last, last + 1, own)[last : last + NEW]
        torch.testing.assert_close(mine[0], at_once[0], atol=2e-4, rtol=1e-3)
        prefill_only.append(float((mine[1:] - at_once[1:]).abs().max()))
    assert max(prefill_only) > 0.01


def only_row(change: Change, row: int) -> Change:
    return change.rows(torch.tensor([row]))


def test_what_is_drawn_follows_the_probabilities(models: dict[str, SubjectModel], sae: SparseAutoencoder) -> None:
    rows = 3000
    run = run_prompts(models["llama"], "layers.1", [PROMPTS[0]] * rows, longest=20, new_tokens=1, batch_tokens=40_000)
    none = Added(torch.zeros(rows), sae.W_dec[:1].expand(rows, D))
    expected = run.next_token(none)[0].softmax(-1)
    drawn = torch.bincount(run.write(none, range(rows), 1)[:, 0], minlength=VOCABULARY) / rows
    assert float((drawn - expected).abs().sum()) < 0.12
    assert expected.max() < 0.9


def test_layers_below_are_not_run_again(models: dict[str, SubjectModel], sae: SparseAutoencoder) -> None:
    subject, ran = models["llama"], []
    run = run_prompts(subject, "layers.1", PROMPTS, longest=20, new_tokens=NEW, batch_tokens=400)
    handles = [
        subject.modules[f"layers.{i}.mlp"].register_forward_hook(lambda *_, i=i: ran.append(i))  # type: ignore[misc]
        for i in range(3)
    ]
    try:
        for _ in range(3):
            run.next_token(changes(sae)["added"])
        assert ran == [0, 1, 2, 2, 2]
        ran.clear()
        subject.activations(torch.tensor([PROMPTS[0]]), ["layers.2"])
        assert ran == [0, 1, 2]
    finally:
        for handle in handles:
            handle.remove()
    assert layers_below(subject, "norm") == []


def distance(clean: Tensor, other: Tensor) -> Tensor:
    """KL(clean || other) of each row, nats."""
    p, q = clean.log_softmax(-1), other.log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1)


# --- the demo's model and SAE ---

TEXTS = [list(range(300, 300 + n)) for n in (12, 30, 9, 21)]
FEATURES = torch.tensor([3, 700, 3, 1500])


@pytest.fixture(scope="module")
def demo_sae() -> SparseAutoencoder:
    return read_sae({each.hookpoint: each for each in locate(PROJECT / "demo" / "saes", "auto")}["layers.9"])


@pytest.fixture(scope="module", params=["bfloat16", "float32"])
def smollm2(request: pytest.FixtureRequest) -> SubjectModel:
    return SubjectModel(PROJECT / "demo" / "weights" / "SmolLM2-135M-Instruct", None, request.param, "cpu")


def run_texts(subject: SubjectModel, rows: Sequence[int] = range(4)) -> WholePrompts:
    return run_prompts(subject, "layers.9", [TEXTS[row] for row in rows], longest=40, new_tokens=NEW, batch_tokens=4096)


def test_strength_zero_changes_no_logit_and_a_huge_one_many(
    smollm2: SubjectModel, demo_sae: SparseAutoencoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    directions = demo_sae.W_dec[FEATURES]
    with monkeypatch.context() as no_hooks:
        no_hooks.setattr(kept_prompts, "changed", lambda *_: nullcontext())
        untouched = run_texts(smollm2).next_token(Added(torch.zeros(4), directions))
    run = run_texts(smollm2)
    for _ in range(2):
        assert torch.equal(run.next_token(Added(torch.zeros(4), directions)), untouched)
    assert not torch.equal(run.next_token(Added(torch.full((4,), 0.5), directions)), untouched)
    assert (distance(untouched, run.next_token(Added(torch.full((4,), 1e4), directions))) > 1).all()


def test_a_row_does_not_depend_on_those_beside_it(smollm2: SubjectModel, demo_sae: SparseAutoencoder) -> None:
    strengths, directions = torch.tensor([20.0, 40.0, 0.0, 30.0]), demo_sae.W_dec[FEATURES]
    change, seeds = Added(strengths, directions), [11, 12, 13, 14]
    together = run_texts(smollm2)
    logits, written = together.next_token(change), together.write(change, seeds, NEW)
    for rows in ([2, 0], [3, 1], [1, 2, 3]):
        which = torch.tensor(rows)
        apart = run_texts(smollm2, rows)
        if smollm2.model.dtype == torch.bfloat16:
            assert torch.equal(apart.next_token(change.rows(which)), logits[which])
        chosen = [seeds[row] for row in rows]
        assert torch.equal(apart.write(change.rows(which), chosen, NEW), written[which])
        assert torch.equal(together.rows(which).write(change.rows(which), chosen, NEW), written[which])
    other = together.write(change, [1, 2, 3, 4], NEW)
    assert not torch.equal(other, written)


def test_what_the_sae_does_not_reconstruct_is_kept(smollm2: SubjectModel, demo_sae: SparseAutoencoder) -> None:
    seen: dict[str, Tensor] = {}
    strengths = torch.tensor([25.0])
    with torch.inference_mode():
        before = at(smollm2, "layers.9", lambda x: seen.__setitem__("before", x[0, -1:].float().clone()))
        with changed(smollm2, "layers.9", "layers.9", Added(strengths, demo_sae.W_dec[[700]]).of):
            after = at(smollm2, "layers.9", lambda x: seen.__setitem__("after", x[0, -1:].float().clone()))
            smollm2.model.base_model(torch.tensor([TEXTS[0]]))
        before.remove()
        after.remove()
    top = demo_sae.encode(seen["before"])
    more = TopActivations(
        torch.cat([top.activations, strengths[:, None]], 1), torch.cat([top.indices, torch.tensor([[700]])], 1)
    )
    error = seen["before"] - demo_sae.decode(top)
    kept = seen["after"] - demo_sae.decode(more)
    tolerance = 0.02 if smollm2.model.dtype == torch.bfloat16 else 1e-4
    assert float((kept - error).norm()) < tolerance * float(seen["before"].norm())
    assert float(error.norm()) > 0.1 * float(seen["before"].norm())


def test_a_hookpoint_that_is_not_there(models: dict[str, SubjectModel]) -> None:
    asked: dict[str, Any] = {"longest": 20, "new_tokens": 1, "batch_tokens": 40}
    with pytest.raises(Exception, match=r"no module 'layers\.9'"):
        run_prompts(models["llama"], "layers.9", PROMPTS, **asked)
