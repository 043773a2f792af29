"""The on-disk format of a pruned model: a Hugging Face directory that loads without this package.

`config` makes its config.json, `write` the directory, `modeling_hgsp` runs it where no stock class can, `read` tells what
a directory holds, `load` makes transformers objects of it, `register` lets transformers find the class, `verify` proves it.
"""

MODEL_TYPE = "hgsp"
