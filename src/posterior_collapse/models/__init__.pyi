from .architecture import (
    ARCHITECTURES as ARCHITECTURES,
)
from .architecture import (
    Architecture as Architecture,
)
from .architecture import (
    Shapes as Shapes,
)
from .build import (
    build as build,
)
from .build import (
    rebuild as rebuild,
)
from .conventions import (
    CONVENTIONS as CONVENTIONS,
)
from .conventions import (
    check_convention as check_convention,
)
from .latent import (
    LatentModel as LatentModel,
)
from .latent import (
    LogTerms as LogTerms,
)
from .likelihoods import (
    OneHots as OneHots,
)
from .linear import (
    LinearValues as LinearValues,
)
from .linear import (
    exact_terms as exact_terms,
)
from .linear import (
    linear_values as linear_values,
)
from .linear import (
    load_parameters as load_parameters,
)
from .linear import (
    read_parameters as read_parameters,
)
from .linear import (
    set_biases as set_biases,
)
from .linear import (
    trained_parameters as trained_parameters,
)
from .markov import (
    MarkovVAE as MarkovVAE,
)
from .objective import (
    Terms as Terms,
)
from .objective import (
    log_normaliser as log_normaliser,
)
from .objective import (
    loss as loss,
)
from .schedules import (
    capacity as capacity,
)
from .schedules import (
    check_warm_up as check_warm_up,
)
from .schedules import (
    cyclical as cyclical,
)
from .schedules import (
    warm_up as warm_up,
)
from .widening import (
    widened as widened,
)
