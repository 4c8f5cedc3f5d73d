"""SAE files made to do harm: each is refused with one line, and none takes memory that its file does not have."""

from __future__ import annotations

import io
import json
import pickle
import resource
import shutil
import struct
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from resources.errors import UnusableInput
from resources.sparse_autoencoders.locate import locate
from resources.sparse_autoencoders.location import describe
from resources.sparse_autoencoders.read import read_sae
from tests.golden_cases import GOLDEN

ROOM = 200 << 20
"Bytes that may be asked for while a file is refused."
Harm = Callable[[Path], None]
NPZ, PT = "gemma-scope-2b-pt-res/layer_3/width_64/average_l0_20/params.npz", "ae.pt"
SPARSIFY, SAELENS = "sae.safetensors", "sae_weights.safetensors"


class Ran:
    """Leaves a trace where it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (str(self.trace), "w")


def members(file: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(file) as opened:
        return {each.filename: opened.read(each) for each in opened.infolist()}


def rewritten(file: Path, compression: int = zipfile.ZIP_STORED, **changed: bytes | None) -> None:
    """The archive with other members; None leaves one out."""
    kept = members(file) | changed
    with zipfile.ZipFile(file, "w", compression) as opened:
        for name, content in kept.items():
            if content is not None:
                opened.writestr(name, content)


def array(shape: tuple[int, ...], data: bytes, dtype: str = "<f4") -> bytes:
    """An array of numpy whose header says what it likes."""
    header = f"{{'descr': {dtype!r}, 'fortran_order': False, 'shape': {shape}, }}"
    header += " " * (-(len(header) + 11) % 64) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + data


def pickled_array(folder: Path) -> None:
    content = io.BytesIO()
    np.save(content, np.array([Ran(folder.parent / "ran")], dtype=object), allow_pickle=True)
    rewritten(folder / NPZ, **{"b_dec.npy": content.getvalue()})


def zip_bomb(folder: Path) -> None:
    """Half a GB of zeros in half a MB."""
    with zipfile.ZipFile(folder / NPZ, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as opened:
        zeros = bytes(16 << 20)
        with opened.open("W_enc.npy", "w", force_zip64=True) as stream:
            stream.write(array((2**15, 2**15), b""))
            for _ in range(2**29 // len(zeros)):
                stream.write(zeros)


def lying_member(folder: Path) -> None:
    rewritten(folder / NPZ, **{"W_enc.npy": array((10**6, 10**6), bytes(64))})


def two_of_a_name(folder: Path) -> None:
    with zipfile.ZipFile(folder / NPZ, "a") as opened, pytest.warns(UserWarning, match="Duplicate name"):
        opened.writestr("W_enc.npy", array((16, 64), bytes(4096)))


def whole_numbers(folder: Path) -> None:
    rewritten(folder / NPZ, **{"b_enc.npy": array((64,), bytes(512), "<i8")})


def header_of_code(folder: Path) -> None:
    trace = folder.parent / "ran"
    rewritten(folder / NPZ, **{"b_enc.npy": array(f"__import__('pathlib').Path({str(trace)!r}).touch()", bytes(256))})  # type: ignore[arg-type]


def plain_pickle(folder: Path) -> None:
    (folder / PT).write_bytes(pickle.dumps({"encoder.weight": Ran(folder.parent / "ran")}))


def pickle_in_a_state_dict(folder: Path) -> None:
    torch.save(torch.load(folder / PT, weights_only=True) | {"more": Ran(folder.parent / "ran")}, folder / PT)


def not_a_state_dict(folder: Path) -> None:
    torch.save([torch.zeros(3)], folder / PT)


def one_number_for_all(folder: Path) -> None:
    """A view of one number that claims to be 10^12."""
    state = torch.load(folder / PT, weights_only=True)
    torch.save(state | {"encoder.weight": torch.zeros(1).expand(10**6, 10**6)}, folder / PT)


def pt_bomb(folder: Path) -> None:
    inside = members(folder / PT)
    (largest,) = [name for name in inside if name.endswith("data/0")]
    with zipfile.ZipFile(folder / PT, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as opened:
        for name, content in inside.items():
            if name != largest:
                opened.writestr(name, content)
        with opened.open(largest, "w", force_zip64=True) as stream:
            for _ in range(32):
                stream.write(bytes(16 << 20))


def header_that_claims(length: int, entries: object = None) -> Harm:
    """A safetensors file whose header has a length, and says what it likes."""

    def harm(folder: Path) -> None:
        content = json.dumps(entries).encode() if entries is not None else b""
        (folder / SPARSIFY).write_bytes(struct.pack("<Q", length or len(content)) + content + bytes(64))

    return harm


LARGE = {"encoder.weight": {"dtype": "F32", "shape": [10**9, 10**9], "data_offsets": [0, 64]}}


def claimed_by_settings(folder: Path) -> None:
    file = folder / "cfg.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"num_latents": 10**15, "d_in": 10**15}))


def settings_text(text: str) -> Harm:
    def harm(folder: Path) -> None:
        (folder / "cfg.json").write_text(text)

    return harm


def yaml_text(text: str) -> Harm:
    def harm(folder: Path) -> None:
        (folder / "config.yaml").write_text(text)

    return harm


def hook(name: str) -> Harm:
    def harm(folder: Path) -> None:
        file = folder / "cfg.json"
        settings = json.loads(file.read_text())
        file.write_text(json.dumps(settings | {"metadata": settings["metadata"] | {"hook_name": name}}))

    return harm


def only_nan(folder: Path) -> None:
    tensors = load_file(folder / SAELENS)
    save_file(tensors | {"W_dec": torch.full_like(tensors["W_dec"], torch.nan)}, folder / SAELENS)


def cut(name: str, share: float) -> Harm:
    def harm(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: int(len(content) * share)])

    return harm


RES, STANDARD, DICTIONARY, TOPK = "gemma_scope_res", "saelens_standard", "dictionary_learning_standard", "sparsify_topk"
TRACED = "circuit_tracer_relu"
SET = "model_kind: transcoder_set\nfeature_input_hook: mlp.hook_in\nfeature_output_hook: mlp.hook_out\n"
BOMB = "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [{', '.join(f'*a{i - 1}' for _ in range(9))}]\n" for i in range(1, 9))
HARMS: dict[str, tuple[str, Harm, str]] = {
    "pickled array": (RES, pickled_array, "'b_dec' holds object, not numbers; pickled objects are never loaded"),
    "zip bomb as npz": (RES, zip_bomb, "bytes would unpack to 536,87"),
    "array that claims more": (RES, lying_member, "'W_enc' says it has shape (1000000, 1000000) of float32, but it has 64"),
    "two arrays of a name": (RES, two_of_a_name, "'W_enc' stands there twice"),
    "whole numbers": (RES, whole_numbers, "b_enc holds torch.int64, not real numbers"),
    "header of code": (RES, header_of_code, "'b_enc' is no array that can be read"),
    "npz cut short": (RES, cut(NPZ, 0.6), "params.npz: damaged or cut short (File is not a zip file)"),
    "npz of nothing": (RES, cut(NPZ, 0), "params.npz: damaged or cut short"),
    "plain pickle": (DICTIONARY, plain_pickle, "ae.pt: damaged or cut short (File is not a zip file)"),
    "pickle in a state dict": (DICTIONARY, pickle_in_a_state_dict, "ae.pt: not a file of tensors alone; nothing else"),
    "no state dict": (DICTIONARY, not_a_state_dict, "ae.pt: holds no state dict"),
    "one number for all": (DICTIONARY, one_number_for_all, "claims shape (1000000, 1000000), more numbers than the file"),
    "zip bomb as pt": (DICTIONARY, pt_bomb, "bytes would unpack to 536,8"),
    "pt cut short": (DICTIONARY, cut(PT, 0.5), "ae.pt: damaged or cut short"),
    "header of no length": (TOPK, header_that_claims(2**62), "sae.safetensors: damaged or cut short"),
    "shape beyond the file": (TOPK, header_that_claims(0, LARGE), "sae.safetensors: damaged or cut short"),
    "settings that claim more": (TOPK, claimed_by_settings, "the settings say 1,000,000,000,000,000 latents of 1,000,000,000,000,000 dimensions, but no tensor"),
    "weights cut short": (TOPK, cut(SPARSIFY, 0.9), "sae.safetensors: damaged or cut short (of encoder.weight"),
    "a key twice": (TOPK, settings_text('{"k": 8, "d_in": 16, "k": 9}'), "the key 'k' stands there twice"),
    "a key twice, deep down": (
        STANDARD,
        settings_text('{"d_in": 16, "d_sae": 64, "metadata": {"a": 1, "a": 2}}'),
        "the key 'a' stands there twice",
    ),
    "too deep": (TOPK, settings_text('{"k":' * 100_000), "cfg.json: not valid JSON"),
    "too long a number": (TOPK, settings_text('{"k": ' + "9" * 5000 + ', "d_in": 16}'), "cfg.json: not valid JSON"),
    "too large": (TOPK, settings_text(" " * (5 << 20)), "5,242,880 bytes are too many for the settings of an SAE"),
    "not a number": (TOPK, settings_text('{"k": NaN, "d_in": 16, "num_latents": 64}'), "k is not a number (nan)"),
    "half a latent": (TOPK, settings_text('{"k": 8, "d_in": 16, "num_latents": 1.5}'), "num_latents is 1.5, not a whole"),
    "a way up": (STANDARD, hook("../../etc/passwd"), "'../../etc/passwd' is no hookpoint"),
    "a way out": (STANDARD, hook("/layers.3"), "'/layers.3' is no hookpoint"),
    "a control's name": (STANDARD, hook("layers.3@random"), "'layers.3@random' is no hookpoint"),
    "lines in a name": (STANDARD, hook("layers.3\n\x1b[31mfine"), "is no hookpoint"),
    "a key twice in YAML": (TRACED, yaml_text(f"{SET}model_kind: x\n"), "line 4: not valid YAML (model_kind stands there twice"),
    "code in YAML": (TRACED, yaml_text(f"{SET}x: !!python/object/apply:os.getcwd []\n"), "config.yaml: line 4: not valid YAML"),
    "aliases in YAML": (TRACED, yaml_text(SET + BOMB), "its aliases stand for more than 100,000 values"),
    "no mapping in YAML": (TRACED, yaml_text("- model_kind\n"), "config.yaml: not a mapping"),
    "a way up in YAML": (TRACED, yaml_text(SET.replace("mlp.hook_in", "../../x")), "this TransformerLens name is not supported"),
    "NaN": (STANDARD, only_nan, "W_dec holds 1,024 values that are NaN or infinite"),
}  # fmt: skip


@contextmanager
def little_memory() -> Iterator[None]:
    """Inside, the process can take no more than ROOM on top of what it has."""
    with Path("/proc/self/statm").open() as statm:
        taken = int(statm.read().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (taken + ROOM, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def look_and_read(folder: Path) -> None:
    for location in locate(folder):
        describe(location)
        read_sae(location)


@pytest.mark.parametrize("name", HARMS)
def test_harm_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    case, harm, said = HARMS[name]
    folder = tmp_path / "sae"
    shutil.copytree(GOLDEN / case, folder)
    harm(folder)
    with little_memory(), pytest.raises(UnusableInput) as refused:
        look_and_read(folder)
    message = str(refused.value)
    assert said in message
    assert "\n" not in message
    assert len(message) < 1000
    assert not (tmp_path / "ran").exists()


def test_the_same_files_unharmed_are_read(tmp_path: Path) -> None:
    """Control: with so little memory each of them can be read, and pickles do leave their trace."""
    with little_memory():
        for case in (RES, STANDARD, DICTIONARY, TOPK, TRACED):
            look_and_read(GOLDEN / case)
    pickle.loads(pickle.dumps(Ran(tmp_path / "ran")))  # noqa: S301 our own
    assert (tmp_path / "ran").exists()


def test_so_little_memory_is_noticed() -> None:
    """Control: what the bombs unpack to does not fit."""
    with little_memory(), pytest.raises(MemoryError):
        bytearray(2 * ROOM)


def test_compressed_weights_are_weights(tmp_path: Path) -> None:
    """An archive that is packed as tightly as weights can be is read like any other."""
    shutil.copytree(GOLDEN / RES, tmp_path, dirs_exist_ok=True)
    rewritten(tmp_path / NPZ, zipfile.ZIP_DEFLATED)
    look_and_read(tmp_path)
