from .arguments import UnboundedObjectiveWarning as UnboundedObjectiveWarning
from .course import Progress as Progress
from .fitted import Fitted as Fitted
from .fitting import fit as fit
from .fitting import fit_many as fit_many
from .settings import Settings as Settings
from .units import ACTIVE_INFORMATION as ACTIVE_INFORMATION
