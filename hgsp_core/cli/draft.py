"""From flags to a recipe: a mapping filled key by key, and which flag set each key.

Every given flag must end in the recipe, a check or an error: `Draft.recipe` refuses unused flags.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hgsp_core.errors import FlagError, RecipeError
from hgsp_core.files.paths import expanded, is_hub_id
from hgsp_core.model.layout import count_of

if TYPE_CHECKING:
    from hgsp_core.runtime.recipe import Recipe


class Draft:
    """A recipe in the making.

    data    the recipe so far
    notes   for the user: flags that change less than their names say
    """

    def __init__(self, command: str, given: Mapping[str, Any]):
        self.command = command
        self.given = dict(given)
        self.data: dict[str, Any] = {}
        self.notes: list[str] = []
        self._set_by: dict[str, str] = {}  # recipe key -> flag
        self._used: set[str] = set()

    def take(self, *flags: str) -> Any:
        """The value of flags that mean the same, or None where none is given.

        Raises:
            FlagError: two of them are given, with different values.
        """
        there = [flag for flag in flags if flag in self.given]
        self._used.update(there)
        for other in there[1:]:
            if self.given[other] != self.given[there[0]]:
                raise FlagError.contradict((there[0], self.given[there[0]]), (other, self.given[other]))
        return self.given[there[0]] if there else None

    def put(self, key: str, *flags: str, default: Any = None) -> None:
        """Set a recipe key from flags that mean the same; without any, to the default, where there is one."""
        value = self.take(*flags)
        self.set(key, default if value is None else value, next((flag for flag in flags if flag in self.given), ""))

    def put_model(self, name: str, given: str | None, alias: str) -> str:
        """Set `model.path` from the argument `name`, or from the flag that means the same. Returns it.

        Raises:
            FlagError: neither is given, or both with different values.
        """
        self.put("model.path", alias, default=given)
        path = self.data.get("model", {}).get("path")
        if path is None:
            raise FlagError.required(name, f"{self.command} results/first")
        if given not in (None, path):
            raise FlagError.contradict((name, given), (alias, path))
        return path

    def set(self, key: str, value: Any, flag: str = "") -> None:
        """Set a recipe key, if the value is not None; `flag` is what the user called it."""
        from hgsp_core.runtime.recipe import assign

        if value is None:
            return
        if flag:
            self._set_by[key] = flag
        assign(self.data, key.split("."), value, f"{self.command}: {key}")

    def load(self, path: Path, part: str) -> None:
        """Start from one part of a recipe.

        Raises:
            RecipeError: the file cannot be read, or has no such part.
        """
        from hgsp_core.runtime.recipe import parse_mapping, read_text

        data = parse_mapping(read_text(path, "recipe"), str(path))
        if not data or data.get(part) is None:
            fix = "`hgsp plugins list` shows the available methods."
            raise RecipeError.at(str(path), part, f"the file has no part '{part}:'.", fix)
        self.data[part] = data[part]

    def recipe(self, settings: Sequence[str] | None = None) -> Recipe:
        """The checked recipe, with `--set` applied.

        Raises:
            RecipeError: a value that no recipe takes; the message names the flag that set it.
        """
        import yaml

        from hgsp_core.runtime.recipe import parse_recipe

        unused = [flag for flag in self.given if flag not in self._used]
        if unused:
            raise FlagError.unused(unused, self.command)
        try:
            return parse_recipe(yaml.safe_dump(self.data, sort_keys=False), self.command, settings or ())
        except RecipeError as error:
            raise RecipeError("\n".join(self._with_flag(line) for line in str(error).splitlines())) from None

    def _with_flag(self, line: str) -> str:
        """`hgsp prune: allocate.with.ratio: ...` -> `hgsp prune: --pruning_ratio (allocate.with.ratio): ...`."""
        for key, flag in self._set_by.items():
            line = line.replace(f"{self.command}: {key}:", f"{self.command}: {flag} ({key}):", 1)
        return line


def as_yaml(recipe: Recipe, *parts: str) -> str:
    """The keys that were set in a recipe, or only these parts, as YAML."""
    import yaml

    data = recipe.model_dump(mode="json", exclude_unset=True)
    data = {key: data[key] for key in parts} if parts else {"version": 1, **data}
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True, default_flow_style=None, width=100)


def existing_file(flag: str, path: Path) -> str:
    """The path of a file that is there. Raises FlagError."""
    path = expanded(path)
    if not path.is_file():
        near = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise FlagError.no_file(flag, path, near)
    return str(path)


def check_model(draft: Draft) -> None:
    """--head_dim and --gqa_ratio, where given, are those of the model; of the model, only config.json is read.

    Raises:
        FlagError: one of them differs. CheckpointError: the model is not there. LayoutError: its config.json says nothing.
    """
    head_dim, gqa_ratio = draft.take("--head_dim"), draft.take("--gqa_ratio")
    if head_dim is None and gqa_ratio is None:
        return
    path = draft.data["model"]["path"]
    config = model_config(path)
    heads = count_of(config, "num_attention_heads")
    there = config.get("head_dim") or count_of(config, "hidden_size") // heads
    if head_dim not in (None, there):
        raise FlagError.model_differs("--head_dim", head_dim, path, there)
    ratio = heads // (config.get("num_key_value_heads") or heads)
    if gqa_ratio not in (None, ratio):
        raise FlagError.model_differs("--gqa_ratio", gqa_ratio, path, ratio)


def model_config(path: str) -> dict[str, Any]:
    """config.json of a directory or hub id; nothing else of a hub id is fetched."""
    from hgsp_core.checkpoint.errors import CheckpointError
    from hgsp_core.checkpoint.read import read_config

    if expanded(path).is_dir():
        return read_config(expanded(path))
    if not is_hub_id(path):
        raise CheckpointError.no_directory(Path(path))
    from huggingface_hub import hf_hub_download

    try:
        return read_config(Path(hf_hub_download(path, "config.json")).parent)
    except CheckpointError:
        raise
    except Exception as error:  # noqa: BLE001 - network, authorisation and cache faults have no common type
        raise CheckpointError.hub(path, error) from None
