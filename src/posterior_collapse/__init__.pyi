from .data import (
    Dataset as Dataset,
)
from .data import (
    load as load,
)
from .diagnosis import (
    Diagnosis as Diagnosis,
)
from .diagnosis import (
    LevelDiagnosis as LevelDiagnosis,
)
from .diagnosis import (
    LogLikelihood as LogLikelihood,
)
from .diagnosis import (
    Onset as Onset,
)
from .diagnosis import (
    diagnose as diagnose,
)
from .diagnosis import (
    diagnose_arrays as diagnose_arrays,
)
from .diagnosis import (
    log_likelihood as log_likelihood,
)
from .diagnosis import (
    onset as onset,
)
from .errors import (
    DataError as DataError,
)
from .errors import (
    InvalidArgumentError as InvalidArgumentError,
)
from .errors import (
    NotSolvedError as NotSolvedError,
)
from .errors import (
    OutputError as OutputError,
)
from .errors import (
    PosteriorCollapseError as PosteriorCollapseError,
)
from .errors import (
    UnboundedObjectiveError as UnboundedObjectiveError,
)
from .moments import (
    Moments as Moments,
)
from .moments import (
    cross_fitted_residuals as cross_fitted_residuals,
)
from .report import (
    plot as plot,
)
from .runs import (
    Sweep as Sweep,
)
from .runs import (
    Tuned as Tuned,
)
from .runs import (
    sweep as sweep,
)
from .runs import (
    tune as tune,
)
from .specs import (
    ChainSpec as ChainSpec,
)
from .specs import (
    CVAESpec as CVAESpec,
)
from .specs import (
    HVAESpec as HVAESpec,
)
from .specs import (
    Spec as Spec,
)
from .specs import (
    VAESpec as VAESpec,
)
from .theory import (
    Advice as Advice,
)
from .theory import (
    EffectiveBeta as EffectiveBeta,
)
from .theory import (
    FewSamplesWarning as FewSamplesWarning,
)
from .theory import (
    Forecast as Forecast,
)
from .theory import (
    Level as Level,
)
from .theory import (
    Minimum as Minimum,
)
from .theory import (
    PhaseDiagram as PhaseDiagram,
)
from .theory import (
    Verification as Verification,
)
from .theory import (
    effective_beta as effective_beta,
)
from .theory import (
    forecast as forecast,
)
from .theory import (
    minimise as minimise,
)
from .theory import (
    phase_diagram as phase_diagram,
)
from .theory import (
    unclaimed_signal as unclaimed_signal,
)
from .theory import (
    verify as verify,
)
from .training import (
    Fitted as Fitted,
)
from .training import (
    Settings as Settings,
)
from .training import (
    fit as fit,
)
from .training import (
    fit_many as fit_many,
)
