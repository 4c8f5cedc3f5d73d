"""Every family of models beside its arithmetic written out: hooks, padding, truncation, what directions promote."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from resources.hookpoints import FAMILIES, hookpoint_of
from resources.interventions import run_prompts
from resources.latent_changes import Added
from resources.model_structure import NoSuchHookpoint, Structure
from resources.subject_model import SubjectModel
from tests.families import HIDDEN, LAYERS, LENS_IDS, SMALL, VOCABULARY, make_family
from tests.plain_forward import PlainModel

GOLDEN = Path(__file__).parent / "golden" / "transformer_lens"
IDS = torch.randint(2, VOCABULARY, (9,), generator=torch.Generator().manual_seed(0))
ALL = pytest.mark.parametrize("family", SMALL)


@pytest.fixture(scope="module")
def of(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The subject model of a family."""

    @cache
    def load(family: str) -> SubjectModel:
        return SubjectModel(make_family(family, tmp_path_factory.mktemp(family)), None, "float32", "cpu")

    return load


def layer(subject: SubjectModel, number: int) -> str:
    return f"{subject.structure.layers_path}.{number}"


def test_every_family_of_the_table_is_tried() -> None:
    assert set(SMALL) == set(FAMILIES)


@ALL
def test_what_stands_at_every_place_that_transformer_lens_names(of: Any, family: str) -> None:
    subject: SubjectModel = of(family)
    plain = PlainModel(subject.model).run(IDS)
    config = subject.model.config.to_dict()
    names = {name: hookpoint_of(name, config) for name in plain if name != "logits"}
    assert len(names) >= 11 * LAYERS + 1
    for hookpoint in names.values():
        subject.check_hookpoint(hookpoint)
    seen = subject.activations(IDS[None], list(names.values()))
    for name, hookpoint in names.items():
        assert float(plain[name].std()) > 0.01
        torch.testing.assert_close(seen[hookpoint][0], plain[name], atol=1e-4, rtol=1e-3, msg=f"{name}: {hookpoint}")
    logits = subject.model(IDS[None]).logits[0]
    if (cap := getattr(subject.model.config.get_text_config(), "final_logit_softcapping", None)) is not None:
        plain["logits"] = cap * (plain["logits"] / cap).tanh()
    bias = getattr(subject.model.get_output_embeddings(), "bias", None)
    torch.testing.assert_close(logits, plain["logits"] + (0 if bias is None else bias), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("file", sorted(GOLDEN.glob("*.safetensors")), ids=lambda file: file.stem)
def test_a_place_holds_what_transformer_lens_holds_there(of: Any, file: Path) -> None:
    """TransformerLens itself, on the same weights; `golden/make_transformer_lens.py` made the files."""
    subject: SubjectModel = of(file.stem)
    expected = load_file(file)
    assert torch.equal(expected.pop("weights"), subject.model.get_input_embeddings().weight[:2]), "make them anew"
    names = {name: hookpoint_of(name, subject.model.config.to_dict()) for name in expected}
    assert len(names) >= 11
    seen = subject.activations(LENS_IDS[None], list(names.values()))
    for name, hookpoint in names.items():
        torch.testing.assert_close(seen[hookpoint][0], expected[name], atol=2e-4, rtol=1e-3, msg=f"{name}: {hookpoint}")


def test_all_that_transformer_lens_was_asked_for_is_there() -> None:
    assert {file.stem for file in GOLDEN.glob("*.safetensors")} == {"gpt2", "gpt_neox", "llama", "gemma2"}


@ALL
def test_module_paths_are_read_whether_states_are_handed_on_by_name_or_in_a_tuple(of: Any, family: str) -> None:
    subject: SubjectModel = of(family)
    parts, plain = FAMILIES[family], PlainModel(subject.model).run(IDS)
    attention = parts.attention_out.partition(".")[0]
    places = [f"{layer(subject, 1)}.{attention}:in", f"{layer(subject, 1)}.{attention}", f"{layer(subject, 1)}.mlp"]
    seen = subject.activations(IDS[None], places)
    read = subject.activations(IDS[None], [f"{layer(subject, 1)}.{parts.attention_norm}"])
    torch.testing.assert_close(seen[places[0]], *read.values())
    if parts.after_attention is None:
        torch.testing.assert_close(seen[places[1]][0], plain["blocks.1.hook_attn_out"], atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(seen[places[2]][0], plain["blocks.1.mlp.hook_out"], atol=1e-4, rtol=1e-3)


def test_embeddings_are_scaled_as_the_model_scales_them(of: Any) -> None:
    for family in ("gemma2", "gemma3"):
        subject = of(family)
        name = hookpoint_of("hook_embed", subject.model.config.to_dict())
        scaled = subject.model.get_input_embeddings().weight[IDS] * HIDDEN**0.5
        torch.testing.assert_close(subject.activations(IDS[None], [name])[name][0], scaled)


def test_soft_capping_of_attention_counts(tmp_path: Path) -> None:
    """Torch's own attention leaves it out silently: then all that follows is another model's."""
    folder = make_family("gemma2", tmp_path)
    subject = SubjectModel(folder, None, "float32", "cpu")
    fast = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="sdpa").eval()
    right = subject.model(IDS[None]).logits
    assert (fast(IDS[None]).logits - right).abs().max() > 0.01
    fast.set_attn_implementation("eager")
    torch.testing.assert_close(fast(IDS[None]).logits, right)


@ALL
def test_layers_behind_the_deepest_hookpoint_are_not_run(of: Any, family: str) -> None:
    subject: SubjectModel = of(family)
    ran: list[int] = []
    handles = [
        each.register_forward_hook(lambda *_, i=i: ran.append(i)) for i, each in enumerate(subject.structure.layers)
    ]
    subject.activations(IDS[None], [layer(subject, 0), f"{layer(subject, 1)}.{FAMILIES[family].mlp_norm}:in"])
    for handle in handles:
        handle.remove()
    assert ran == [0]


@ALL
def test_padding_on_the_right_touches_nothing(of: Any, family: str) -> None:
    subject: SubjectModel = of(family)
    place = layer(subject, LAYERS - 1)
    rows = torch.zeros(2, len(IDS) + 5, dtype=torch.int64)
    rows[0, : len(IDS)], rows[1, :4] = IDS, IDS[:4]
    seen = subject.activations(rows, [place])[place]
    for row, length in ((0, len(IDS)), (1, 4)):
        alone = subject.activations(rows[row : row + 1, :length], [place])[place][0]
        torch.testing.assert_close(seen[row, :length], alone, atol=1e-4, rtol=1e-3)


@ALL
def test_padding_on_the_left_touches_nothing(of: Any, family: str) -> None:
    """Prompts of different lengths, padded and continued from kept keys and values, beside each one run alone."""
    subject: SubjectModel = of(family)
    prompts: Sequence[list[int]] = [IDS.tolist(), IDS[3:6].tolist(), [*IDS.tolist(), *IDS.tolist()]]
    place = layer(subject, 1)
    run = run_prompts(subject, place, prompts, longest=20, new_tokens=1, batch_tokens=64)
    logits = run.next_token(Added(torch.zeros(3), torch.zeros(3, HIDDEN)))
    for row, prompt in zip(logits, prompts, strict=True):
        alone = subject.model(torch.tensor([prompt])).logits[0, -1]
        torch.testing.assert_close(row, alone, atol=1e-3, rtol=1e-3)


@ALL
def test_what_a_direction_promotes_equals_brute_force(of: Any, family: str) -> None:
    subject: SubjectModel = of(family)
    plain = PlainModel(subject.model)
    directions = torch.randn(4, HIDDEN, generator=torch.Generator().manual_seed(1)) + 0.7
    found = subject.promoted_tokens(directions, n=5)
    for row, direction in enumerate(directions):
        moved = plain.moved_logits(direction)
        order = moved.argsort(descending=True)
        assert found.promoted[row].tolist() == order[:5].tolist()
        assert found.suppressed[row].tolist() == order.flip(0)[:5].tolist()
        torch.testing.assert_close(found.promoted_logits[row], moved[order[:5]], atol=1e-4, rtol=1e-4)


def test_unembeddings_of_both_kinds_are_among_the_families(of: Any) -> None:
    tied = {
        family: of(family).model.get_output_embeddings().weight is of(family).model.get_input_embeddings().weight
        for family in SMALL
    }
    assert tied["gpt2"] and tied["gemma2"]
    assert not tied["llama"] and not tied["gpt_neox"]


@ALL
def test_a_family_that_is_not_in_the_table_is_found_by_shape(of: Any, family: str) -> None:
    subject: SubjectModel = of(family)
    structure = Structure(subject.model)
    structure.family = None
    parts = FAMILIES[family]
    assert structure.layers_path == parts.text + parts.layers
    assert structure.down_projection(layer(subject, 1)) == f"{layer(subject, 1)}.{parts.mlp_out}"


def test_layers_of_the_other_modality_are_not_taken_for_the_decoder(of: Any) -> None:
    subject = of("gemma3")
    lists = [name for name, module in subject.modules.items() if isinstance(module, torch.nn.ModuleList)]
    assert len(lists) == 2  # as many layers in each
    assert subject.structure.layers_path == "language_model.layers"
    assert subject.same_place_elsewhere("language_model.layers.1.mlp") == [
        "language_model.layers.0.mlp",
        "language_model.layers.2.mlp",
    ]


def test_only_norms_have_an_input_over_its_scale(of: Any) -> None:
    subject = of("llama")
    for module in ("layers.0.mlp", "layers.0.mlp.down_proj", "layers.0", "layers.0.mlp.act_fn"):
        with pytest.raises(NoSuchHookpoint, match=rf"{module}:normed reads a norm, but \w+ is no norm"):
            subject.check_hookpoint(f"{module}:normed")
    subject.check_hookpoint("layers.0.input_layernorm:normed")
    with pytest.raises(NoSuchHookpoint, match="nothing can be changed there"):
        run_prompts(subject, "layers.0.input_layernorm:normed", [[2, 3]], longest=2, new_tokens=1, batch_tokens=8)


def test_a_transcoder_reads_before_the_gain_and_writes_behind_the_mlp(of: Any) -> None:
    """What it adds at its output depends on a tensor that no module puts out."""
    subject = of("gemma2")
    reads, writes = (
        hookpoint_of(f"blocks.1.{each}", {"model_type": "gemma2"}) for each in ("ln2.hook_normalized", "hook_mlp_out")
    )
    prompt = IDS.tolist()
    told: list[Tensor] = []

    class Told:
        def of(self, x: Tensor) -> Tensor:
            told.append(x.clone())
            return torch.ones(1, HIDDEN)

        def rows(self, which: Tensor) -> Told:
            return self

    run = run_prompts(subject, reads, [prompt], longest=len(prompt), new_tokens=1, batch_tokens=64, writes=writes)
    moved = run.next_token(Told())
    plain = PlainModel(subject.model).run(IDS)
    torch.testing.assert_close(told[0][0], plain["blocks.1.ln2.hook_normalized"][-1], atol=1e-4, rtol=1e-3)
    assert (moved[0] - subject.model(IDS[None]).logits[0, -1]).abs().max() > 0.01


def test_directions_of_the_residual_stream(of: Any) -> None:
    subject = of("gemma2")
    inside = ["layers.1", "layers.1:in", "layers.1.pre_feedforward_layernorm:in", "layers.1.post_feedforward_layernorm"]
    outside = ["layers.1.mlp.down_proj:in", "layers.1.self_attn.o_proj:in", "layers.1.pre_feedforward_layernorm:normed"]
    assert all(subject.writes_to_residual_stream(each, HIDDEN) for each in inside)
    assert not any(subject.writes_to_residual_stream(each, HIDDEN) for each in outside)
    assert not subject.writes_to_residual_stream("layers.1", HIDDEN + 1)
