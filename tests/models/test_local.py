"""A folder in Hugging Face's layout as a model: the same numbers as transformers, and errors that name what is not covered."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers.models.llama.configuration_llama import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaForCausalLM

from paceline.base.errors import ConfigError
from paceline.models.language import LanguageModel, prepare_model
from paceline.models.local import import_folder

TEMPLATE = "{% for message in messages %}{{ message['content'] }}\n{% endfor %}"


def quiet(line):
    return None


def write_tokenizer(path):
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = {character: index for index, character in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=words, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<end>"])
    tokenizer.save(str(path))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("folders") / "My Tiny_Model"
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=257,
        hidden_size=32,
        intermediate_size=48,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_hidden_layers=3,
        max_position_embeddings=64,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=256,
    )
    twin = LlamaForCausalLM(config).to(torch.bfloat16).eval()
    twin.save_pretrained(folder)
    write_tokenizer(folder / "tokenizer.json")
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": TEMPLATE}))
    return folder, twin


@pytest.fixture
def folder(made, tmp_path):
    target = tmp_path / "My Tiny_Model"
    shutil.copytree(made[0], target)
    return target


def change_config(folder, **changes):
    path = folder / "config.json"
    config = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({name: value for name, value in config.items() if value is not None}))


def test_a_folder_computes_what_transformers_computes(made, tmp_path):
    folder, twin = made
    model_id = import_folder(folder, tmp_path, progress=quiet)
    model = LanguageModel.load(prepare_model(tmp_path, model_id, progress=quiet))
    assert model_id.startswith("my-tiny-model-") and model.model_id == model_id
    assert (model.eos_token_ids, model.traced_layers, model.context_tokens) == ((256,), (0, 1), 64)
    tokens = model.encode_chat([{"role": "user", "content": "Grüße"}])
    assert model.decode(tokens) == "Grüße\n"
    with torch.inference_mode():
        wanted = twin(torch.tensor([tokens])).logits[0].float()
    found = torch.stack(list(model.iterate_logits(tokens, 0)))
    assert (wanted - found).abs().max() < 0.02 * wanted.abs().max()


def test_the_id_follows_from_the_content(folder, tmp_path):
    first = import_folder(folder, tmp_path / "a", progress=quiet)
    assert import_folder(folder, tmp_path / "a", progress=quiet) == first
    assert import_folder(folder, tmp_path / "b", progress=quiet) == first
    one, other = (LanguageModel.load(tmp_path / place / first).content_hash for place in "ab")
    assert one == other
    (folder / "chat_template.jinja").write_text("other")
    assert import_folder(folder, tmp_path / "a", progress=quiet) != first


def test_nothing_is_left_behind_by_a_refused_folder(folder, tmp_path):
    change_config(folder, num_hidden_layers=4)
    with pytest.raises(ConfigError, match=r"lacks the tensor.*layers\.3"):
        import_folder(folder, tmp_path / "cache", progress=quiet)
    assert [file.suffix for file in (tmp_path / "cache").iterdir()] == [".lock"]


def test_configs_of_older_libraries_are_understood(folder, tmp_path):
    change_config(folder, rope_parameters=None, rope_theta=10_000.0, head_dim=None)
    import_folder(folder, tmp_path / "cache", progress=quiet)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"model_type": "qwen2"}, "model_type is 'qwen2'"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling"),
        ({"attention_bias": True}, "attention_bias"),
        ({"vocab_size": None}, "lacks vocab_size"),
        ({"hidden_size": 64}, "do not fit"),
        ({"vocab_size": 300}, "scores 257 tokens"),
        ({"tie_word_embeddings": True, "eos_token_id": 999}, "outside its tokenizer"),
    ],
)
def test_invalid_config(folder, tmp_path, changes, told):
    (folder / "generation_config.json").unlink()
    change_config(folder, **changes)
    with pytest.raises(ConfigError, match=told):
        import_folder(folder, tmp_path / "cache", progress=quiet)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("config.json", "config.json is missing"),
        ("tokenizer.json", "tokenizer.json is missing"),
        ("model.safetensors", "holds no"),
        ("tokenizer_config.json", "no chat template"),
    ],
)
def test_invalid_missing_file(folder, tmp_path, name, told):
    (folder / name).unlink()
    with pytest.raises(ConfigError, match=told):
        import_folder(folder, tmp_path / "cache", progress=quiet)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("model.layers.0.self_attn.q_proj.bias", "biases"),
        ("model.layers.0.self_attn.q_norm.weight", "q_norm"),
        ("vision.weight", "vision"),
    ],
)
def test_invalid_tensors_that_would_be_ignored(folder, tmp_path, name, told):
    params = load_file(folder / "model.safetensors") | {name: torch.ones(8)}
    save_file(params, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=told):
        import_folder(folder, tmp_path / "cache", progress=quiet)


def test_invalid_tokenizer_of_another_kind(folder, tmp_path):
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "<unk>": 1}, unk_token="<unk>"))
    tokenizer.save(str(folder / "tokenizer.json"))
    with pytest.raises(ConfigError, match="byte-level"):
        import_folder(folder, tmp_path / "cache", progress=quiet)
