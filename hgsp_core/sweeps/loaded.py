"""Imported by the server that the processes of a sweep are forked from: all that every run needs is then there at once."""

import matplotlib.backends.backend_agg
import matplotlib.figure  # noqa: F401
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel  # noqa: F401

import hgsp_core.repair.sequential
import hgsp_core.runtime.cut
import hgsp_core.sweeps.shared  # noqa: F401
from hgsp_core.plugin import registry

registry.installed()
