"""`output`: squared error of the block's output when a unit goes. `obs`: the same when what stays is refitted."""

from hgsp_core.artifacts import Scores
from hgsp_core.engine.collectors import OutputError
from hgsp_core.plugin.method import Params
from hgsp_core.score.contract import ScoreJob, Scorer
from hgsp_core.score.output_error_params import ObsParams


class Output(Scorer[Params]):
    """Σ |W_S (x_S − mean)|² over the tokens, x the writer's input and S the columns of the unit (after FLAP, An et al. 2024)."""

    collectors = (OutputError(),)

    def __call__(self, job: ScoreJob) -> Scores:
        return Scores.of(job.layout, job.statistics[self.collectors[0]])


class Obs(Scorer[ObsParams]):
    """tr(W_S [(H⁻¹)_SS]⁻¹ W_Sᵀ): Hassibi & Stork 1993 for a set of columns, as SlimGPT (Ling et al. 2024) scores groups."""

    def __init__(self, params: ObsParams):
        super().__init__(params)
        self.collectors = (OutputError(params.damping),)

    def __call__(self, job: ScoreJob) -> Scores:
        return Scores.of(job.layout, job.statistics[self.collectors[0]])
