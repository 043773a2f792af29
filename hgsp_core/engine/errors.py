"""A pass over the layers that cannot run."""

from __future__ import annotations

from hgsp_core.errors import HgspError


class EngineError(HgspError):
    """A pass over the layers that cannot run as configured."""

    @classmethod
    def unknown_token(cls, token: int, rows: int) -> EngineError:
        return cls(
            f"The tokenizer gave token {token}, but the model's embedding has {rows} rows: tokenizer and weights do not "
            "match. Copy the original model's tokenizer files into its directory."
        )

    @classmethod
    def nothing_to_hold_out(cls, samples: int) -> EngineError:
        return cls(
            f"reconstruct: {samples} calibration sample cannot be split into one to fit on and one to judge by. "
            "Raise calibrate.samples to at least 2."
        )

    @classmethod
    def too_short(cls, seq_len: int) -> EngineError:
        return cls(
            f"Calibration samples have {seq_len} token(s); the loss needs at least 2, one to read and one to predict. "
            "Raise calibrate.seq_len."
        )

    @classmethod
    def no_tokens(cls) -> EngineError:
        return cls("The calibration set is empty. Raise calibrate.samples to at least 1.")

    @classmethod
    def too_many_processes(cls, processes: int, parts: int) -> EngineError:
        return cls(
            f"{processes} processes cannot share a calibration set of only {parts} part(s). "
            f"Start at most {parts} (--nproc-per-node), or raise calibrate.samples."
        )

    @classmethod
    def graphs_streamed(cls) -> EngineError:
        return cls(
            "memory: graphs needs the model in memory, but its weights are streamed. Use memory: auto, cpu or disk."
        )

    @classmethod
    def no_room(cls, memory: str, needed: str, free: str, share: float) -> EngineError:
        helps = {"graphs": "memory: device", "device": "memory: cpu or disk", "cpu": "memory: disk"}.get(
            memory, "a larger disk for temporary files (TMPDIR)"
        )
        return cls(
            f"memory: {memory}: the activations need {needed}, but only {free} are free (hgsp uses at most {share:.0%} of free memory). "
            f"Use {helps}, or lower calibrate.samples."
        )

    @classmethod
    def out_of_memory(cls, free: str, error: Exception) -> EngineError:
        return cls(
            f"The pass over the layers ran out of memory with {free} free: {str(error).splitlines()[0]} "
            "Lower calibrate.batch_size, use memory: cpu or disk, or stream the weights."
        )
