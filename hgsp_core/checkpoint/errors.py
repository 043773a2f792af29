"""A model directory that cannot be read or written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hgsp_core.errors import HgspError, first_few, first_line, library_words, shown


class CheckpointError(HgspError):
    """A model directory that cannot be read, written or trusted."""

    @classmethod
    def no_directory(cls, path: Path) -> CheckpointError:
        return cls(f"There is no model directory '{path}'. Give a directory with config.json and safetensors files.")

    @classmethod
    def no_config(cls, path: Path) -> CheckpointError:
        return cls(
            f"'{path}' has no config.json, so it is not a Hugging Face model directory. Check the path, or download it again."
        )

    @classmethod
    def bad_json(cls, path: Path, reason: str) -> CheckpointError:
        return cls(f"'{path}' cannot be read: {reason}. Download or save the model again.")

    @classmethod
    def no_weights(cls, path: Path) -> CheckpointError:
        return cls(f"'{path}' has no model.safetensors and no model.safetensors.index.json. Download the weights too.")

    @classmethod
    def pickles(cls, path: Path, names: Sequence[str]) -> CheckpointError:
        return cls(
            f"'{path}' has no safetensors, only {', '.join(names[:3])}. Pickles are not read, because loading one can run code. "
            f"If you trust it, convert it: AutoModelForCausalLM.from_pretrained('{path}').save_pretrained('NEW_DIRECTORY')."
        )

    @classmethod
    def damaged(cls, path: Path, error: Exception) -> CheckpointError:
        return cls(f"'{path}' is damaged or incomplete: {error}. Download or save the model again.")

    @classmethod
    def no_shard(cls, path: Path, index: str) -> CheckpointError:
        return cls(f"'{path}' is missing, but {index} lists it. Download that file, or the model again.")

    @classmethod
    def in_two_shards(cls, name: str, one: Path, other: Path) -> CheckpointError:
        return cls(f"Tensor '{name}' is in both '{one}' and '{other}'. Download or save the model again.")

    @classmethod
    def gguf(cls, path: Path) -> CheckpointError:
        return cls(
            f"'{path}' is a GGUF model for llama.cpp, which cannot be pruned. Give the Hugging Face "
            "directory (config.json and safetensors) that it was made from, and export the result with: hgsp export RUN --to gguf"
        )

    @classmethod
    def file(cls, path: Path) -> CheckpointError:
        return cls(f"'{path}' is a file. Give a directory with config.json and safetensors files.")

    @classmethod
    def adapter(cls, path: Path) -> CheckpointError:
        return cls(
            f"'{path}' holds an adapter (adapter_config.json), not a model. Merge it into its base model first: "
            f"AutoPeftModelForCausalLM.from_pretrained('{path}').merge_and_unload().save_pretrained('NEW_DIRECTORY'), "
            "and save the tokenizer there too."
        )

    @classmethod
    def hub_cache(cls, path: Path, snapshots: Sequence[Path]) -> CheckpointError:
        which = f"one of its snapshots: '{snapshots[-1]}'" if snapshots else "download the model again: none is there"
        return cls(f"'{path}' is a folder of the hub's cache, not a model directory. Give the hub id, or {which}.")

    @classmethod
    def other_task(cls, path: Path, name: str) -> CheckpointError:
        return cls(
            f"'{path}': architectures: {name} is not a language model: it has no LM head. "
            "Give its base model, or another one whose class ends in ForCausalLM."
        )

    @classmethod
    def wrapped(cls, path: Path, name: str, part: str, wrapper: str) -> CheckpointError:
        return cls(
            f"'{path}': the tensor '{name}' has '{part}' in its name: the checkpoint was saved from inside {wrapper}, so its "
            f"weights cannot be loaded. Save the model itself, or rename the tensors without '{part}'."
        )

    @classmethod
    def no_prefix(cls, path: Path | str, prefix: str) -> CheckpointError:
        return cls(
            f"'{path}': the tensor names lack the prefix '{prefix}.': this was saved from the base class, without a head. "
            f"Save the language model: AutoModelForCausalLM.from_pretrained('{path}').save_pretrained('NEW_DIRECTORY'). "
            "Check its output first: an untied head is missing."
        )

    @classmethod
    def other_head(cls, path: Path | str, head: str, embed: str) -> CheckpointError:
        return cls(
            f"'{path}': config.json has tie_word_embeddings: true, but '{head}' is stored and differs from '{embed}'. transformers 5 "
            "would use it, older versions would not. Set tie_word_embeddings to false to keep this head, or delete the tensor."
        )

    @classmethod
    def no_window(cls, path: Path | str) -> CheckpointError:
        return cls(
            f"'{path}': config.json: layer_types has sliding_attention, but sliding_window is not set to a number of tokens (or "
            "use_sliding_window is false). Set the window, or make these layers full_attention."
        )

    @classmethod
    def number_type(cls, path: Path, key: str, value: str, known: Sequence[str]) -> CheckpointError:
        return cls(f"'{path}': {key} is {shown(value)}. Convert it to {' or '.join(known)}, and set {key} to that.")

    @classmethod
    def token_id(cls, path: Path | str, key: str, value: object, rows: int) -> CheckpointError:
        return cls(
            f"'{path}': {key} is {value}, but the embedding has {rows} rows (ids 0 to {rows - 1}), so transformers cannot build "
            f"the model. Set {key} to null or to an id below {rows}, or enlarge the embedding: model.resize_token_embeddings(N)."
        )

    @classmethod
    def not_in_shard(cls, name: str, path: Path, index: str) -> CheckpointError:
        return cls(f"'{path}' has no tensor '{name}', although {index} lists it. Download or save the model again.")

    @classmethod
    def not_loaded(cls, path: Path | str, error: Exception) -> CheckpointError:
        place = Path(path).name if str(path).endswith(".json") else "config.json"
        return cls(f"transformers cannot load '{path}': {library_words(error, place)}")

    @classmethod
    def missing_keys(cls, path: Path | str, names: Sequence[str]) -> CheckpointError:
        return cls(
            f"'{path}' has no weights for {first_few(names)}; transformers would initialize them at random. "
            "config.json and the weights do not match: download or save the model again."
        )

    @classmethod
    def no_place(cls, path: Path | str, names: Sequence[str]) -> CheckpointError:
        return cls(
            f"'{path}': config.json has no place for {first_few(names)}; transformers would ignore them. A setting such as "
            "attention_bias or tie_word_embeddings is wrong, or config.json and the weights do not match."
        )

    @classmethod
    def other_shape(cls, path: Path | str, name: str, stored: Sequence[int], wanted: Sequence[int]) -> CheckpointError:
        return cls(
            f"'{path}': the tensor '{name}' has the shape {tuple(stored)}, but config.json implies {tuple(wanted)}. "
            "config.json and the weights do not match: download or save the model again."
        )

    @classmethod
    def own_code(cls, path: Path | str, names: Sequence[str]) -> CheckpointError:
        return cls(
            f"'{path}': auto_map: the model has custom code ({', '.join(names)}), which may differ from the stock class of its "
            "model_type and is not run. Remove 'auto_map' from config.json if the stock class is meant."
        )

    @classmethod
    def own_kernel(cls, path: Path | str, key: str, name: str) -> CheckpointError:
        return cls(
            f"'{path}': {key}: '{name}' is a kernel from the hub: code, which is not downloaded or run. Remove {key} from config.json."
        )

    @classmethod
    def own_tokenizer(cls, path: Path | str, names: Sequence[str]) -> CheckpointError:
        return cls(
            f"'{path}': auto_map: the tokenizer has custom code ({', '.join(names)}), which is not run, and there is no "
            "tokenizer.json to use instead. Put a tokenizer.json (a fast tokenizer's save_pretrained writes it) into the directory."
        )

    @classmethod
    def other_code(cls, fault: str) -> CheckpointError:
        return cls(
            f"{fault}. It is not run. Export the model again (hgsp export DIR --to huggingface) to get the modeling file of hgsp-core."
        )

    @classmethod
    def panic(cls, error: BaseException) -> CheckpointError:
        return cls(
            f"The library that reads tokenizers and weights failed: {str(error).strip()}. A file of the model, most likely "
            "tokenizer.json, contains invalid values: download or save the model again."
        )

    @classmethod
    def no_tokenizer(cls, path: Path, error: Exception) -> CheckpointError:
        reason = library_words(error, "its files").splitlines()[0]
        return cls(f"'{path}' has no readable tokenizer: {reason} Copy the original model's tokenizer files into it.")

    @classmethod
    def exists(cls, path: Path) -> CheckpointError:
        return cls(f"'{path}' exists and is not overwritten. Choose another directory, or move it away.")

    @classmethod
    def no_room(cls, path: Path, needed: int, free: int) -> CheckpointError:
        return cls(
            f"'{path}' needs {needed / 1e9:,.3f} GB, but the disk has {free / 1e9:,.3f} GB free. Nothing was written; free some space or "
            "choose another place (--output DIR)."
        )

    @classmethod
    def not_written(cls, path: Path, error: Exception, needed: int, free: int) -> CheckpointError:
        return cls(
            f"'{path}' cannot be written: {error}. Its weights take {needed / 1e9:,.3f} GB, and the disk has {free / 1e9:,.3f} GB "
            "free. Nothing was kept; free some space or choose another place."
        )

    @classmethod
    def not_reloaded(cls, path: Path, output: str) -> CheckpointError:
        reason = "\n".join(output.strip().splitlines()[-5:])
        return cls(f"'{path}' was written, but a fresh process cannot load it:\n{reason}")

    @classmethod
    def differs(cls, path: Path, difference: float) -> CheckpointError:
        return cls(
            f"'{path}' was written, but its logits after reloading differ by {difference:g} from those in memory; they must be equal. "
            "The disk or the memory is faulty, or this is a bug: please report it."
        )

    @classmethod
    def no_model_type(cls, path: Path) -> CheckpointError:
        return cls(f"'{path}' has no 'model_type', so its architecture is unknown. Download or save the model again.")

    @classmethod
    def pruned_already(cls, path: Path) -> CheckpointError:
        return cls(
            f"'{path}' is already pruned, and its layers differ in size or the stock class of its family cannot hold their sizes. "
            "Prune the original model with a larger ratio instead, or start from a model with equal layers "
            "(allocate: {use: uniform, with: {uniform: true}})."
        )

    @classmethod
    def quantised(cls, path: Path, stored: str, known: Sequence[str]) -> CheckpointError:
        return cls(f"'{path}' stores {stored}, which cannot be pruned. Convert the model to {' or '.join(known)}.")

    @classmethod
    def can_be_dequantised(cls, path: Path, method: str, settings: str) -> CheckpointError:
        # in the original format, which is the default, transformers would write the scales instead of the weights
        return cls(
            f"'{path}' stores quantised weights ({method}), which cannot be pruned. transformers can convert them: "
            f"AutoModelForCausalLM.from_pretrained('{path}', dtype='bfloat16', quantization_config={settings}(dequantize=True))"
            ".save_pretrained('NEW_DIRECTORY', save_original_format=False). Save the tokenizer there too."
        )

    @classmethod
    def no_safetensors(cls, name: str) -> CheckpointError:
        return cls(
            f"model.path: the hub's '{name}' has no model.safetensors and no model.safetensors.index.json; pickles and GGUF files "
            "are not read. Use a repository or a revision (model.revision) that has safetensors."
        )

    @classmethod
    def hub(cls, name: str, error: Exception) -> CheckpointError:
        return cls(
            f"model.path: '{name}' is not a local directory, and could not be downloaded from the hub: {first_line(error)}\n"
            "Check the name, the network (HF_HUB_OFFLINE) and your access to it, or give a local directory."
        )

    @classmethod
    def no_model_in_run(cls, path: Path) -> CheckpointError:
        return cls(
            f"The run '{path}' contains no model to evaluate: its recipe exported none. Run it with export: [{{use: huggingface}}]."
        )

    @classmethod
    def several_models(cls, path: Path, folders: Sequence[str]) -> CheckpointError:
        return cls(f"The run '{path}' contains several models: {', '.join(folders)}. Name the folder of one of them.")
