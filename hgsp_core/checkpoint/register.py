"""With this package imported, transformers knows model type `hgsp`: no `trust_remote_code` is needed.

Importing this package must import neither torch nor transformers, and the class must be there in whatever order a user
imports things. So a stand-in for the config class is registered as soon as transformers' table of configs exists; it
brings in the real classes when the first such model is loaded.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any

from hgsp_core.checkpoint import MODEL_TYPE

if TYPE_CHECKING:
    from hgsp_core.checkpoint.modeling_hgsp import HgspConfig

_TABLE = "transformers.models.auto.configuration_auto"


def register() -> None:
    """Make the classes known to AutoConfig, AutoModel and AutoModelForCausalLM; save_pretrained ships their file."""
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

    from hgsp_core.checkpoint.modeling_hgsp import HgspConfig, HgspForCausalLM, HgspModel

    AutoConfig.register(MODEL_TYPE, HgspConfig, exist_ok=True)
    AutoModel.register(HgspConfig, HgspModel, exist_ok=True)
    AutoModelForCausalLM.register(HgspConfig, HgspForCausalLM, exist_ok=True)
    HgspConfig.register_for_auto_class()
    HgspModel.register_for_auto_class("AutoModel")
    HgspForCausalLM.register_for_auto_class("AutoModelForCausalLM")


def register_on_import() -> None:
    """Register the stand-in now if transformers' table is loaded, else at the moment it gets loaded."""
    if _TABLE in sys.modules:
        _register_stand_in()
    elif not any(isinstance(finder, _TableFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _TableFinder())


class _StandIn:
    """Looks to AutoConfig like HgspConfig, and becomes it on first use."""

    model_type = MODEL_TYPE

    def __new__(cls, *args: Any, **kwargs: Any) -> HgspConfig:  # type: ignore[misc]  # that is its purpose
        return _real_config()(*args, **kwargs)

    @classmethod
    def from_dict(cls, *args: Any, **kwargs: Any) -> HgspConfig | tuple[HgspConfig, dict[str, Any]]:
        return _real_config().from_dict(*args, **kwargs)


def _real_config() -> type[HgspConfig]:
    register()
    from hgsp_core.checkpoint.modeling_hgsp import HgspConfig

    return HgspConfig


def _register_stand_in() -> None:
    table = sys.modules[_TABLE].CONFIG_MAPPING
    if MODEL_TYPE not in table:
        table.register(MODEL_TYPE, _StandIn)


class _TableFinder(MetaPathFinder):
    """Finds transformers' table of configs like the others do, and registers the stand-in once it has run."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != _TABLE:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            spec.loader = _TableLoader(spec.loader)
        return spec


class _TableLoader(Loader):
    def __init__(self, loader: Loader):
        self.loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self.loader.exec_module(module)
        module.__loader__ = self.loader
        if module.__spec__ is not None:
            module.__spec__.loader = self.loader
        _register_stand_in()
