"""The on-disk format of a pruned model: a Hugging Face directory that loads without this package.

`config` and `rehouse` make its config.json, `write` the directory; `modeling_hgsp` runs it where no stock class can;
`read` and `fingerprint` tell what a directory holds, `load` makes transformers objects of it, `register` lets
transformers find the class, `verify` proves that it loads.
"""

MODEL_TYPE = "hgsp"
