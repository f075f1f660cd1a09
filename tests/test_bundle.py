import errno
import hashlib
import json
import os
import re
import sys
from dataclasses import asdict, replace
from importlib import metadata
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from data_scripts import files
from data_scripts.files import sha256_of
from ulmfit_app.config import ModelSettings
from ulmfit_app.errors import BundleError
from ulmfit_app.evaluation.decisions import Decision
from ulmfit_app.models.awd_lstm import build_language_model
from ulmfit_app.models.bundle import (
    Bundle,
    load_bundle,
    load_weights,
    require_direction,
    save_bundle,
    save_decision,
    seal_of,
    unique_tensors,
    versions,
)
from ulmfit_app.text.rules import SPECIALS

SHAPE = ModelSettings(emb_sz=16, n_hid=24, n_layers=2)
VOCAB = [*SPECIALS, "film", "ünïcödé", "a\nb", "▁", "…", '"', "🙂"]
KIND = "language model"


def made_model(seed: int = 0, shape: ModelSettings = SHAPE):
    torch.manual_seed(seed)
    return build_language_model(len(VOCAB), shape)


def described(**changes) -> Bundle:
    return Bundle(**({"kind": KIND, "shape": SHAPE, "language": "en", "vocab": VOCAB} | changes))


def equal(one, two) -> bool:
    one, two = one.state_dict(), two.state_dict()
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def loaded_model(folder: Path):
    model = made_model(seed=99)
    load_weights(load_bundle(folder, KIND), model)
    return model


def test_in_int8_a_model_takes_a_quarter_of_the_bytes_and_predicts_nearly_the_same(tmp_path):
    vocab = [*SPECIALS, *(f"w{i}" for i in range(500))]
    shape = ModelSettings(emb_sz=64, n_hid=96, n_layers=2)
    torch.manual_seed(0)
    model, again = (build_language_model(len(vocab), shape) for _ in range(2))
    sizes = []
    for in_int8 in (False, True):
        save_bundle(tmp_path, model, described(vocab=vocab, shape=shape), in_int8=in_int8)
        sizes.append(file_of(tmp_path, "weights").stat().st_size)
    assert sizes[1] < 0.28 * sizes[0]
    load_weights(load_bundle(tmp_path, KIND), again)
    for name, weight in unique_tensors(model).items():
        difference = (weight - unique_tensors(again)[name]).abs()
        # Half a step of the 127 that a row's largest number is apart from zero.
        assert (difference <= weight.abs().amax(-1, keepdim=True) / 254 * 1.001).all(), name
    assert again[1].decoder.weight is again[0].encoder.weight


@pytest.fixture
def folder(tmp_path) -> Path:
    """A saved bundle."""
    save_bundle(tmp_path / "lm", made_model(), described())
    return tmp_path / "lm"


def file_of(folder: Path, part: str) -> Path:
    return folder / json.loads((folder / "bundle.json").read_text(encoding="utf-8"))[part]["file"]


def edit(folder: Path, **changes) -> None:
    path = folder / "bundle.json"
    changed = json.loads(path.read_text(encoding="utf-8")) | changes
    # Sealed again, so that what lies behind the seal is tested too.
    path.write_text(json.dumps(changed | {"sha256": seal_of(changed)}), encoding="utf-8")


def test_labels_that_changed_places_are_refused(folder):
    path = folder / "bundle.json"
    changed = json.loads(path.read_text(encoding="utf-8")) | {"labels": ["pos", "neg"]}
    path.write_text(json.dumps(changed), encoding="utf-8")
    with pytest.raises(BundleError, match="altered or damaged"):
        load_bundle(folder, "language model")


# ---------------------------------------------------------------------------------- there and back
def test_a_loaded_model_has_the_saved_weights(folder):
    assert not equal(made_model(seed=99), made_model())
    assert equal(loaded_model(folder), made_model())


def test_tied_weights_stay_tied_and_are_stored_once(folder):
    model = loaded_model(folder)
    names = [
        name
        for name, value in model.state_dict().items()
        if value.shape == (len(VOCAB), SHAPE.emb_sz)
    ]
    assert len(names) > 1
    assert model[0].encoder.weight.data_ptr() == model[1].decoder.weight.data_ptr()
    assert len([name for name in names if name in unique_tensors(model)]) == 1


def test_a_loaded_bundle_says_what_was_saved(tmp_path):
    bundle = described(
        kind="classifier",
        language="de",
        labels=["très bon", "x,\ny"],
        about={"accuracy": 0.5, "of": ["ü"]},
    )
    save_bundle(tmp_path, made_model(), bundle)
    loaded = load_bundle(tmp_path, "classifier")
    assert loaded.weights.parent == tmp_path
    assert asdict(loaded) | {"weights": None} == asdict(bundle)
    text = (tmp_path / "bundle.json").read_text(encoding="utf-8")
    assert "très bon" in text and text.count("\n") > 10, "people can read it"
    assert "ünïcödé" in file_of(tmp_path, "vocab").read_text(encoding="utf-8")


def test_a_bundle_keeps_its_direction(tmp_path):
    save_bundle(tmp_path, made_model(), described(direction="backward"))
    assert load_bundle(tmp_path, KIND).direction == "backward"


@pytest.mark.parametrize(("name", "value"), [("direction", "forward"), ("temperature", 1)])
def test_a_bundle_from_before_directions_and_temperatures_is_forward_and_of_temperature_one(
    folder, name, value
):
    path = folder / "bundle.json"
    found = json.loads(path.read_text(encoding="utf-8"))
    assert found.pop(name) == value
    path.write_text(json.dumps(found | {"sha256": seal_of(found)}), encoding="utf-8")
    loaded = load_bundle(folder, KIND)
    found = loaded.decision.temperature if name == "temperature" else getattr(loaded, name)
    assert found == value


def test_a_temperature_is_put_into_a_bundle_and_changes_nothing_else(tmp_path):
    bundle = described(
        kind="classifier", labels=["a", "b"], about={"of": ["ü"]}, direction="backward"
    )
    save_bundle(tmp_path, made_model(), bundle)
    before = sorted((path.name, path.stat().st_mtime_ns) for path in tmp_path.glob("*-*"))
    save_decision(tmp_path, Decision(temperatures=(1.25,)))
    loaded = load_bundle(tmp_path, "classifier")
    assert asdict(loaded) | {"weights": None} == asdict(
        replace(bundle, decision=Decision(temperatures=(1.25,)))
    )
    assert sorted((path.name, path.stat().st_mtime_ns) for path in tmp_path.glob("*-*")) == before


def test_a_temperature_is_not_put_into_a_bundle_that_was_altered(folder):
    with pytest.raises(BundleError, match="holds a language model, but a classifier is needed"):
        save_decision(folder, Decision(temperatures=(2.0,)))


@pytest.mark.parametrize("temperature", [0, -1.0, "hot", float("nan"), float("inf")])
def test_a_temperature_that_cannot_be_is_refused(folder, temperature):
    edit(folder, temperature=temperature)
    with pytest.raises(BundleError, match="is not a description of a model"):
        load_bundle(folder, KIND)


def test_a_vocabulary_in_another_order_has_another_hash():
    assert described().vocab_hash == described(about={"other": 1}).vocab_hash
    assert described().vocab_hash != described(vocab=VOCAB[::-1]).vocab_hash


def test_nothing_in_a_bundle_is_a_pickle(folder):
    found = sorted(path.suffix for path in folder.iterdir())
    assert found == [".json", ".json", ".safetensors"]
    for path in folder.iterdir():
        # A pickle of protocol 2 or later starts with 0x80, torch's zip archives with PK.
        assert not path.read_bytes().startswith((b"\x80", b"PK")), path.name
        if path.suffix == ".json":
            json.loads(path.read_text(encoding="utf-8"))


def test_the_hashes_are_those_of_the_files(folder):
    described_files = json.loads((folder / "bundle.json").read_text(encoding="utf-8"))
    for part in ("weights", "vocab"):
        assert described_files[part]["sha256"] == sha256_of(file_of(folder, part))


def test_a_seal_does_not_depend_on_the_order_of_the_parts_and_holds_for_every_one():
    parts = {"labels": ["neg", "pos"], "about": {"a": 1, "b": 2}, "temperature": 1.0}
    turned = {name: parts[name] for name in reversed(parts)} | {"about": {"b": 2, "a": 1}}
    assert seal_of(parts) == seal_of(turned) == seal_of(parts | {"sha256": "another"})
    assert len({seal_of(parts), *(seal_of(parts | {name: "x"}) for name in parts)}) == 4


def test_the_versions_are_those_that_are_installed():
    found = versions()
    assert found.pop("python") == ".".join(map(str, sys.version_info[:3]))
    assert {"fastai", "torch"} < set(found)
    assert found == {name: metadata.version(name) for name in found}


# ---------------------------------------------------------------------------- what is not accepted
@pytest.mark.parametrize(("found", "wanted"), [("forward", "backward"), ("backward", "forward")])
def test_only_a_model_of_the_wanted_direction_is_let_through(found, wanted):
    require_direction(wanted, wanted, "The start")
    expected = f"The start learned to read {found}, but is to read {wanted} here.*Try another.$"
    with pytest.raises(BundleError, match=expected):
        require_direction(found, wanted, "The start", "Try another.")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            lambda tensors: tensors.pop("1.decoder.bias"),
            "missing 1.decoder.bias, left over nothing",
        ),
        (lambda tensors: tensors.update(more=torch.ones(2)), "left over more"),
    ],
    ids=["one weight less", "one weight more"],
)
def test_weights_of_other_names_are_refused_and_named(folder, change, expected):
    tensors = unique_tensors(made_model())
    change(tensors)
    data = save(tensors)
    (folder / "weights-x.safetensors").write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()
    edit(folder, weights={"file": "weights-x.safetensors", "sha256": digest})
    with pytest.raises(BundleError, match=expected):
        load_weights(load_bundle(folder, KIND), made_model())


def test_a_permuted_vocabulary_is_refused(folder):
    path = file_of(folder, "vocab")
    path.write_text(
        json.dumps([*VOCAB[:-2], VOCAB[-1], VOCAB[-2]], ensure_ascii=False), encoding="utf-8"
    )
    expected = r"vocab-.*was altered or damaged.*Train the model again"
    with pytest.raises(BundleError, match=expected):
        load_bundle(folder, KIND)


@pytest.mark.parametrize("position", [0, 8, 1000, -1])
def test_a_flipped_bit_in_the_weights_is_refused(folder, position):
    path = file_of(folder, "weights")
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)
    with pytest.raises(BundleError, match=r"weights-.*was altered or damaged"):
        load_bundle(folder, KIND)


def test_truncated_weights_are_refused(folder):
    path = file_of(folder, "weights")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(BundleError, match=r"weights-.*was altered or damaged"):
        load_bundle(folder, KIND)


def test_a_model_of_another_kind_is_refused(folder):
    with pytest.raises(
        BundleError, match="holds a language model, but a classifier is needed here"
    ):
        load_bundle(folder, "classifier")


def test_a_bundle_of_another_format_is_refused(folder):
    edit(folder, format=99)
    with pytest.raises(BundleError, match="has format 99, this version reads formats 2 to 4. "):
        load_bundle(folder, KIND)


def test_a_model_of_an_unknown_architecture_is_refused(folder):
    edit(folder, architecture="transformer-9")
    expected = "has the architecture 'transformer-9'. This version knows: awd-lstm, transformer."
    with pytest.raises(BundleError, match=re.escape(expected)):
        load_bundle(folder, KIND)


def test_a_description_says_its_architecture_and_its_config(folder):
    found = json.loads((folder / "bundle.json").read_text(encoding="utf-8"))
    assert (found["format"], found["architecture"]) == (2, "awd-lstm")
    assert found["config"] == asdict(SHAPE)
    assert load_bundle(folder, KIND).architecture == "awd-lstm"


def test_a_bundle_of_format_1_is_read_as_an_awd_lstm(folder):
    """It had `shape` in the place of architecture and config."""
    now = load_bundle(folder, KIND)
    path = folder / "bundle.json"
    found = json.loads(path.read_text(encoding="utf-8"))
    assert found.pop("architecture") == "awd-lstm"
    config = found.pop("config")
    old = found | {"format": 1, "shape": config}
    path.write_text(json.dumps(old | {"sha256": seal_of(old)}), encoding="utf-8")
    assert load_bundle(folder, KIND) == now
    assert equal(loaded_model(folder), made_model())


def test_a_folder_without_a_bundle_is_refused(tmp_path):
    with pytest.raises(BundleError, match=r"No language model in .*bundle.json"):
        load_bundle(tmp_path / "nowhere", KIND)


@pytest.mark.parametrize("part", ["weights", "vocab"])
def test_a_missing_file_is_named(folder, part):
    path = file_of(folder, part)
    path.unlink()
    with pytest.raises(BundleError, match=f"incomplete: {path.name} is missing"):
        load_bundle(folder, KIND)


@pytest.mark.parametrize("name", ["../{}", "../other/{}", "/{}", ".", ".."])
def test_a_description_cannot_lead_out_of_its_folder(folder, name):
    outside = folder.parent / "stolen.json"
    outside.write_text(json.dumps(VOCAB), encoding="utf-8")
    entry = {"file": name.format("stolen.json"), "sha256": sha256_of(outside)}
    edit(folder, vocab=entry)
    with pytest.raises(BundleError, match="is missing"):
        load_bundle(folder, KIND)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '"text"',
        "{}",
        '{"format": 1}',
        '{"format": 1, "kind": "language model"}',
        '{"format": 2, "kind": "language model"}',
        "\ufffd\x00",
    ],
)
def test_a_description_that_is_none_is_refused(folder, text):
    (folder / "bundle.json").write_text(text, encoding="utf-8")
    with pytest.raises(BundleError, match="is not a description of a model"):
        load_bundle(folder, KIND)


@pytest.mark.parametrize(
    "change",
    [
        {"config": {"emb_sz": 16, "colour": 1}},
        {"config": []},
        {"architecture": []},
        {"weights": None},
        {"weights": {"file": "x"}},
        {"vocab": {"file": 7, "sha256": ""}},
        {"direction": "sideways"},
        {"direction": []},
    ],
    ids=str,
)
def test_a_description_with_a_wrong_part_is_refused(folder, change):
    edit(folder, **change)
    with pytest.raises(BundleError, match=r"is not a description of a model|incomplete"):
        load_bundle(folder, KIND)


def test_latin_1_in_a_description_is_refused(folder):
    (folder / "bundle.json").write_bytes('{"format": "é"}'.encode("latin-1"))
    with pytest.raises(BundleError, match="UnicodeDecodeError"):
        load_bundle(folder, KIND)


@pytest.mark.parametrize(
    "shape",
    [ModelSettings(16, 32, 2), ModelSettings(16, 24, 3), ModelSettings(16, 24, 1)],
    ids=str,
)
def test_weights_of_another_shape_are_refused(folder, shape):
    with pytest.raises(BundleError, match="does not fit the language model it is loaded for"):
        load_weights(load_bundle(folder, KIND), made_model(shape=shape))


def test_weights_that_are_no_safetensors_are_refused(folder):
    data = b"\x80\x04N."  # a pickle, with its hash in order
    path = folder / "weights-of-theirs.safetensors"
    path.write_bytes(data)
    edit(folder, weights={"file": path.name, "sha256": hashlib.sha256(data).hexdigest()})
    with pytest.raises(BundleError, match="does not fit the language model"):
        load_weights(load_bundle(folder, KIND), made_model())


# --------------------------------------------------------------------------------------- replacing
def test_the_files_of_the_model_before_are_removed(folder):
    before = {path.name for path in folder.iterdir()}
    save_bundle(folder, made_model(seed=1), described(vocab=[*VOCAB[:-1], "other"]))
    after = {path.name for path in folder.iterdir()}
    assert before & after == {"bundle.json"}
    assert len(after) == 3


def test_saving_the_same_model_again_keeps_it(folder):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    save_bundle(folder, made_model(), described())
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def full_disk(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("renames", [0, 1, 2])
def test_a_disk_full_at_any_rename_leaves_the_old_model(folder, monkeypatch, renames):
    real, done = os.replace, []

    def failing(source, target):
        if len(done) == renames:
            full_disk()
        done.append(target)
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "replace", failing)
        with pytest.raises(OSError, match="No space left"):
            save_bundle(folder, made_model(seed=1), described(vocab=[*VOCAB[:-1], "other"]))
    assert len(done) == renames
    assert load_bundle(folder, KIND).vocab == VOCAB
    assert equal(loaded_model(folder), made_model())
    assert not [path for path in folder.iterdir() if path.name.startswith(".")], (
        "no drafts are left"
    )


@pytest.mark.parametrize("method", ["write_bytes", "write_text"])
def test_a_disk_full_while_writing_leaves_the_old_model(folder, monkeypatch, method):
    with monkeypatch.context() as patch:

        def half(path, data, *_, **__):
            with open(path, "wb") as file:
                file.write(data.encode()[:10] if isinstance(data, str) else data[:10])
            full_disk()

        patch.setattr(Path, method, half)
        with pytest.raises(OSError, match="No space left"):
            save_bundle(folder, made_model(seed=1), described())
    assert equal(loaded_model(folder), made_model())


def test_the_next_save_clears_what_a_failed_one_left(folder, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full_disk)
        with pytest.raises(OSError, match="No space left"):
            save_bundle(folder, made_model(seed=1), described())
    save_bundle(folder, made_model(seed=2), described())
    assert len(list(folder.iterdir())) == 3
    assert equal(loaded_model(folder), made_model(seed=2))
