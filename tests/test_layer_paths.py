"""What holds of every family of causal language models that transformers can build: where layers lie, what neurons are."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM

from resources.hookpoints import FAMILIES, UnknownHook, hookpoint_of
from resources.layer_paths import LAYER_PATHS, WITHOUT_PATHS
from resources.mlp_neurons import widths
from resources.model_structure import NoSuchHookpoint, Structure
from tests.every_family import LAYERS, WIDTH
from tests.layer_paths_table import ALL, IDS, layers_of, tiny_model


def test_every_family_is_in_one_of_the_two_tables() -> None:
    """A family that transformers has got since: run `python -m tests.layer_paths_table`."""
    assert sorted([*LAYER_PATHS, *WITHOUT_PATHS]) == ALL


@pytest.mark.parametrize("family", ALL)
def test_the_table_of_layers_is_what_a_tiny_model_shows(family: str) -> None:
    assert layers_of(family) == LAYER_PATHS.get(family, WITHOUT_PATHS.get(family))


def test_the_two_tables_of_families_agree() -> None:
    for family, parts in FAMILIES.items():
        assert LAYER_PATHS[family] == (parts.base, parts.text + parts.layers)


@pytest.mark.parametrize("family", LAYER_PATHS)
def test_the_ends_of_a_layer_are_known_in_every_family(family: str) -> None:
    _, layers = LAYER_PATHS[family]
    config = {"model_type": family}
    assert hookpoint_of("blocks.3.hook_resid_post", config) == f"{layers}.3"
    assert hookpoint_of("blocks.3.hook_resid_pre", config) == f"{layers}.3:in"
    base, _ = LAYER_PATHS[family]
    for path in (f"{layers}.3", f"{base}.{layers}.3", f"{layers.rpartition('.')[2]}.3"):
        assert hookpoint_of(path, config) == f"{layers}.3"
    if family not in FAMILIES:
        with pytest.raises(
            UnknownHook, match=r"only blocks\.L\.hook_resid_pre and blocks\.L\.hook_resid_post are; name"
        ):
            hookpoint_of("blocks.3.hook_mlp_out", config)


def test_a_family_whose_layers_hold_no_residual_stream_is_refused_with_the_reason() -> None:
    with pytest.raises(
        UnknownHook, match="'bert' is not known: its layers put out what a norm has made of the residual"
    ):
        hookpoint_of("blocks.3.hook_resid_post", {"model_type": "bert"})
    with pytest.raises(UnknownHook, match="'nonesuch' is not known: the installed tables"):
        hookpoint_of("blocks.3.hook_resid_post", {"model_type": "nonesuch"})


@pytest.mark.parametrize("family", LAYER_PATHS)
def test_neurons_are_those_of_a_dense_mlp_or_refused(family: str) -> None:
    model = tiny_model(family)
    structure = Structure(model)
    structure.family = None
    for number, module in enumerate(structure.layers):
        layer = f"{structure.layers_path}.{number}"
        found, refusal = attempt(structure, layer)
        assert ("is a mixture of 4 experts" in refusal) == routed(module)
        assert not refusal or routed(module) or not has_mlp(module), refusal
        if not refusal:
            assert_neurons_of_an_mlp(model, structure, found)


def attempt(structure: Structure, layer: str) -> tuple[str, str]:
    """The down projection of a layer, and why there is none; one of the two is empty."""
    try:
        return structure.down_projection(layer), ""
    except NoSuchHookpoint as error:
        return "", str(error)


def routed(layer: nn.Module) -> bool:
    """As its makers call its parts."""
    return any("expert" in type(module).__name__.lower() for module in layer.modules())


def has_mlp(layer: nn.Module) -> bool:
    """As its makers call its parts. The feed-forward of RWKV has another form: its neurons are gated behind the last map."""
    names = {type(module).__name__.lower() for module in layer.modules()}
    return any("mlp" in name or "feedforward" in name.replace("rwkvfeedforward", "") for name in names)


def assert_neurons_of_an_mlp(model: Any, structure: Structure, path: str) -> None:
    """What goes in at a token depends on what its block reads at that token and at no other, and not linearly."""
    last = structure.modules[path]
    holder = path
    others: list[nn.Module] = []
    while not others:
        holder = holder.rpartition(".")[0]
        block = structure.modules[holder]
        own = [each for name, each in block.named_modules() if "." not in name or holder != path.rpartition(".")[0]]
        others = [each for each in own if widths(each) is not None and each is not last and widths(each)[0] == WIDTH]
    seen: dict[str, Tensor] = {}

    def reads(_module: nn.Module, given: Any) -> Any:
        if "read" not in seen:
            seen["read"] = given[0].detach().requires_grad_(True)
        return (seen["read"], *given[1:])

    handles = [each.register_forward_pre_hook(reads) for each in others]
    handles.append(last.register_forward_pre_hook(lambda _module, given: seen.__setitem__("neurons", given[0])))
    model.base_model(IDS[:1], use_cache=False)
    for handle in handles:
        handle.remove()
    if "neurons" not in seen:
        return  # a layer that reads another modality, which does not run on text
    neurons = seen["neurons"].reshape(IDS.shape[1], -1)
    assert neurons.shape[1] == widths(last)[0] and widths(last)[1] == WIDTH
    (moved,) = torch.autograd.grad(neurons[5].sum(), seen["read"])
    by_token = moved.reshape(IDS.shape[1], -1).abs().sum(1)
    assert by_token[5] > 0, path
    assert by_token[:5].sum() + by_token[6:].sum() == 0, path


def test_a_shared_expert_was_taken_for_the_whole_mlp() -> None:
    """The control: the one map onto the stream that reads neither that nor heads is the shared expert, or the attention."""
    silent = {}
    for family in LAYER_PATHS:
        structure = Structure(tiny_model(family))
        if routed(structure.layers[-1]) and len(only := onto_the_stream(structure, LAYERS - 1)) == 1:
            silent[family] = only[0]
    assert silent["qwen2_moe"] == "mlp.shared_expert.down_proj"
    assert silent["llama4"] == "feed_forward.shared_expert.down_proj"
    assert len(silent) > 10


def onto_the_stream(structure: Structure, number: int) -> list[str]:
    sizes = {name: widths(module) for name, module in structure.layers[number].named_modules()}
    heads = structure.config.num_attention_heads * 8
    return [name for name, size in sizes.items() if size and size[1] == WIDTH and size[0] not in (WIDTH, heads)]


def gemma_4(**changes: Any) -> Structure:
    config = AutoConfig.for_model(
        "gemma4_text",
        **{
            "vocab_size": 64,
            "vocab_size_per_layer_input": 64,
            "hidden_size": WIDTH,
            "hidden_size_per_layer_input": 8,
            "intermediate_size": 48,
            "num_hidden_layers": 4,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "global_head_dim": 16,
            "num_kv_shared_layers": 0,
        }
        | changes,
    )
    return Structure(AutoModelForCausalLM.from_config(config))


def test_gemma_4_has_heads_and_mlps_of_several_sizes() -> None:
    """Its settings refuse to be asked for one size of heads; those of a layer that attends to all are larger."""
    # vllm-project/vllm #52768
    structure = gemma_4(num_kv_shared_layers=2, use_double_wide_mlp=True)
    with pytest.raises(Exception, match="head_dim"):
        _ = structure.config.head_dim
    found = [structure.down_projection(f"layers.{number}") for number in range(4)]
    assert found == [f"layers.{number}.mlp.down_proj" for number in range(4)]
    assert [widths(structure.modules[path]) for path in found] == [(48, 32)] * 2 + [(96, 32)] * 2
    assert structure.modules["layers.1.self_attn.o_proj"].in_features == 64


def test_gemma_4_with_experts_beside_its_mlp_is_refused() -> None:
    structure = gemma_4(enable_moe_block=True, num_experts=4, top_k_experts=2, moe_intermediate_size=24)
    with pytest.raises(
        NoSuchHookpoint, match=r"^layers\.1 is a mixture of 4 experts, .*; leave out controls\.neurons, or"
    ):
        structure.down_projection("layers.1")
