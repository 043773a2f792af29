"""Pruned models as one GGUF file for llama.cpp and what is built on it (Ollama, LM Studio).

`network` says which of llama.cpp's architectures holds a model and which tensors it wants, `vocabulary` does so for the
tokenizer, `write` streams both into a file, `check` proves the file. Facts about llama.cpp were found in its sources and
by running llama-cpp-python 0.3.36; the `gguf` package does the reading and writing.
"""
