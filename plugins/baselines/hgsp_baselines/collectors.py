"""Statistics that these methods need and the core does not measure."""

from dataclasses import dataclass

from hgsp_core import Collector, Depth, Layer, LayerStatistics, Sums


@dataclass(frozen=True)
class WriterColumns(Collector):
    """`LINEAR.abs` and `LINEAR.square` -> Σ_i |W_ij| and Σ_i W_ij² of each column, [in], of the linears whose columns are units."""

    depth = Depth.WEIGHTS

    def reduce(self, layer: Layer, sums: Sums) -> LayerStatistics:
        found = {}
        for block in layer.layout.written.values():
            w = layer.weights[block.writer.weight].float()  # [out, in]
            linear = block.writer.local
            found[f"{linear}.abs"] = w.abs().sum(0).double().cpu().numpy()
            found[f"{linear}.square"] = w.square().sum(0).double().cpu().numpy()
        return found
