"""Every family of causal language models that transformers builds: what is asked of it equals its own forward pass.

As an engine: log-probabilities, choices, greedy and sampled texts. As a subject: hookpoints, promoted tokens,
interventions. What is refused or left out stands in docs/models.md, and here it is looked at that it is just that.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, DynamicCache

from resources.errors import UnusableInput
from resources.language_models.prompts import seed_of
from resources.language_models.protocol import ChooseRequest, GenerateRequest, LikelihoodRequest, Message
from resources.language_models.transformers_engine import TransformersEngine
from resources.latent_changes import Added
from resources.subject_model import SubjectModel
from tests.every_family import FAMILIES, LAYERS, WIDTH, WORDS, make_family
from tests.family_page import Row, page_rows, row_of

NATS = 1e-2


def messages(number: int) -> tuple[Message, ...]:
    own = " ".join(WORDS[(number * 7 + i) % len(WORDS)] for i in range(5 + number % 4 + 9 * (number % 2)))
    return Message("system", " ".join(WORDS[:20])), Message("user", f"{' '.join(WORDS[30:36])} {own}")


SHARED = len(" ".join(WORDS[30:36])) + 1
CHOICES = (WORDS[3], WORDS[5], f"{WORDS[5]} {WORDS[6]}")
ASKED = [ChooseRequest(messages(i), CHOICES, "one" if i < 3 else "two", SHARED) for i in range(5)]
TEXTS = [LikelihoodRequest(" ".join(WORDS[: 9 + 4 * i]), f" {' '.join(WORDS[40:43])}", "a", 20) for i in range(3)]
TEXTS += [LikelihoodRequest(" ".join(WORDS[i : 33 + i]), f" {' '.join(WORDS[44 : 46 + i])}") for i in range(2)]


class Plain:
    """The model's own forward, uncached, one text at a time."""

    def __init__(self, folder: Path) -> None:
        self.model: Any = AutoModelForCausalLM.from_pretrained(folder).eval()

    @torch.inference_mode()
    def logits(self, ids: Sequence[int]) -> Tensor:
        return self.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].float()

    def log_probability(self, ids: Sequence[int], own: int) -> float:
        table = self.logits(ids).log_softmax(-1)
        return sum(float(table[place - 1, ids[place]]) for place in range(own, len(ids)))


@pytest.fixture(scope="module")
def page() -> dict[str, Row]:
    return page_rows()


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_asked_of_a_family_equals_its_own_forward_pass(
    family: str, page: dict[str, Row], tmp_path: Path
) -> None:
    row = page[family]
    assert row_of(family, tmp_path) == row, "docs/models.md is out of date: python -m tests.family_page"
    if row.left_out:
        return
    plain = Plain(tmp_path)
    if row.engine_refused:
        with pytest.raises(UnusableInput, match="decoder-only"):
            TransformersEngine(tmp_path, dtype="float32", device="cpu")
    else:
        engine_says_what_the_model_does(tmp_path, plain)
    if not row.subject_refused:
        subject = SubjectModel(tmp_path, None, "float32", "cpu")
        hookpoints_hold_what_layers_put_out(subject, plain)
        if row.promoted:
            promoted_tokens_are_those_that_move(subject, plain)
        if row.interventions:
            a_change_does_what_it_does_in_a_full_pass(subject)


def engine_says_what_the_model_does(folder: Path, plain: Plain) -> None:
    engine = TransformersEngine(folder, dtype="float32", device="cpu", batch_size=3)
    for asked, reply in zip(ASKED, engine.choose(ASKED), strict=True):
        prompt = engine.prompts.of_messages(asked.messages)
        for choice, value in zip(CHOICES, reply.log_probabilities, strict=True):
            right = plain.log_probability([*prompt, *engine.prompts.ids(choice)], len(prompt))
            assert value == pytest.approx(right, abs=NATS)
    for text, likelihood in zip(TEXTS, engine.log_likelihood(TEXTS), strict=True):
        ids, own = engine.prompts.of_likelihood(text)
        assert likelihood.log_probability == pytest.approx(plain.log_probability(ids, own), abs=NATS)
    for temperature in (0.0, 1.5):
        request = GenerateRequest(messages(1), max_tokens=5, temperature=temperature)
        (generated,) = engine.generate([request])
        prompt = engine.prompts.of_messages(request.messages)
        assert generated.text == engine.tokenizer.decode(
            written(plain, prompt, temperature, engine._stop), skip_special_tokens=True
        )


def written(plain: Plain, prompt: list[int], temperature: float, stop: list[int]) -> list[int]:
    ids, draw = [*prompt], torch.Generator().manual_seed(seed_of(prompt, 0))
    for _ in range(5):
        logits = plain.logits(ids)[-1]
        weights = (logits / temperature).softmax(-1) if temperature else logits
        token = int(torch.multinomial(weights, 1, generator=draw)) if temperature else int(logits.argmax())
        if token in stop:
            break
        ids.append(token)
    return ids[len(prompt) :]


IDS = torch.randint(4, 60, (2, 24), generator=torch.Generator().manual_seed(3))


@torch.inference_mode()
def hookpoints_hold_what_layers_put_out(subject: SubjectModel, plain: Plain) -> None:
    names = [f"{subject.structure.layers_path}.{i}" for i in range(len(subject.structure.layers))]
    padded = torch.cat([IDS, torch.zeros(2, 7, dtype=torch.int64)], dim=1)
    seen = subject.activations(padded, names)
    modules = dict(plain.model.base_model.named_modules())
    kept: dict[str, Tensor] = {}

    def keep(name: str, output: Any) -> None:
        kept[name] = output if isinstance(output, Tensor) else output[0]

    handles = [modules[n].register_forward_hook(lambda _m, _i, output, n=n: keep(n, output)) for n in names]
    plain.model(input_ids=IDS, use_cache=False)
    for handle in handles:
        handle.remove()
    for name in names:
        torch.testing.assert_close(seen[name][:, : IDS.shape[1]], kept[name], atol=1e-3, rtol=1e-3)


STEP = 0.2
"Of a derivative in float32, in which logits are exact to some 1e-6."


def promoted_tokens_are_those_that_move(subject: SubjectModel, plain: Plain) -> None:
    """Beside the slope of the model's own logits, where the final norm's scale stays as it is."""
    draw = torch.Generator().manual_seed(5)
    directions = torch.randn(3, WIDTH, generator=draw) + 0.5
    found = subject.promoted_tokens(directions, n=5)
    model = plain.model
    last = dict(model.base_model.named_modules())[f"{subject.structure.layers_path}.{LAYERS - 1}"]
    cap = getattr(model.config.get_text_config(), "final_logit_softcapping", None)
    for row, direction in enumerate(directions):
        # A state that the direction does not make longer: behind the norm it moves by the direction over its scale.
        basis, _ = torch.linalg.qr(torch.stack([torch.ones(WIDTH), direction], 1))
        state = torch.randn(WIDTH, generator=draw)
        state = 10 * (state - basis @ (basis.T @ state))
        size = float(state.square().mean().sqrt())
        ahead, back = (behind(model, last, state + step * direction) for step in (STEP, -STEP))
        slope = (ahead - back) / (2 * STEP)
        if torch.allclose(behind(model, last, 2 * state), behind(model, last, state), rtol=1e-3, atol=1e-3):
            slope = slope * size  # there is a norm
        if cap:
            slope = slope / (1 - ((ahead + back) / 2 / cap).square())
        order = slope.argsort(descending=True)
        assert found.promoted[row].tolist() == order[:5].tolist()
        assert found.suppressed[row].tolist() == order.flip(0)[:5].tolist()
        torch.testing.assert_close(found.promoted_logits[row], slope[order[:5]], atol=2e-2, rtol=5e-3)


@torch.inference_mode()
def behind(model: Any, last: torch.nn.Module, state: Tensor) -> Tensor:
    """The model's own logits where the last layer puts out a state."""

    def put(_module: Any, _inputs: Any, output: Any) -> Any:
        new = state.expand_as(output if isinstance(output, Tensor) else output[0])
        return new if isinstance(output, Tensor) else (new, *output[1:])

    handle = last.register_forward_hook(put)
    try:
        return model(input_ids=torch.tensor([[5, 9]]), use_cache=False).logits[0, -1]
    finally:
        handle.remove()


@torch.inference_mode()
def a_change_does_what_it_does_in_a_full_pass(subject: SubjectModel) -> None:
    from resources.interventions import run_prompts
    from tests.test_interventions import full_pass

    prompts = [IDS[0, :9].tolist(), IDS[1, :17].tolist()]
    place = f"{subject.structure.layers_path}.{LAYERS // 2}"
    directions = torch.randn(2, WIDTH, generator=torch.Generator().manual_seed(7))
    change = Added(torch.tensor([1.0, 2.0]), directions)
    run = run_prompts(subject, place, prompts, longest=24, new_tokens=3, batch_tokens=64)
    tokens = run.write(change, [1, 2], 3)
    steps = [run._step([tokens[:, i] for i in range(n)], change) for n in range(3)]
    for row, prompt in enumerate(prompts):
        ids, start = [*prompt, *tokens[row].tolist()], len(prompt) - 1
        own = change.rows(torch.tensor([row]))
        right = full_pass(subject, place, place, ids, start, len(ids), own)[start : start + 3]
        torch.testing.assert_close(torch.stack([logits[row] for logits in steps]), right, atol=2e-3, rtol=1e-3)
    assert (run.next_token(change) - run.next_token(Added(torch.zeros(2), directions))).abs().max() > 1e-3


# --- controls: what the engine did before fails for families that are among them ---


# vllm-project/vllm #52158 and TransformerLensOrg/TransformerLens #828: states times output embeddings, unscaled.
@torch.inference_mode()
@pytest.mark.parametrize("family", ["granite", "cohere", "minicpm3", "hyperclovax"])
def test_unembedded_states_are_not_the_logits_of_every_family(family: str, tmp_path: Path) -> None:
    model = Plain(make_family(family, tmp_path)).model
    states = model.base_model(input_ids=IDS).last_hidden_state
    mine = model.get_output_embeddings()(states).log_softmax(-1)
    assert (mine - model(input_ids=IDS).logits.log_softmax(-1)).abs().max() > 100 * NATS


# huggingface/transformers #43679: caches that models make for themselves do not follow their settings.
@torch.inference_mode()
def test_a_cache_made_without_the_settings_fails_in_hybrids(tmp_path: Path) -> None:
    model = Plain(make_family("qwen3_5_text", tmp_path)).model
    with pytest.raises(IndexError):
        model(input_ids=IDS, past_key_values=DynamicCache(), use_cache=True)


# huggingface/transformers #40827: a recurrent state can be gone on from, and not gone back from.
@torch.inference_mode()
def test_a_recurrent_model_that_is_given_a_second_piece_forgets_the_first(tmp_path: Path) -> None:
    """The engine would give these numbers if it did not measure what a cache can do."""
    plain = Plain(make_family("mamba", tmp_path))
    engine = TransformersEngine(tmp_path, dtype="float32", device="cpu", batch_size=3)
    assert engine.forward.abilities.continuation == "tokens"
    engine.shares_beginnings = True
    prompt = engine.prompts.of_messages(ASKED[0].messages)
    right = plain.log_probability([*prompt, *engine.prompts.ids(CHOICES[0])], len(prompt))
    (reply,) = engine.choose(ASKED[:1])
    assert abs(reply.log_probabilities[0] - right) > 1e-4
