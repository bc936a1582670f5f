from .run import (
    Evaluation as Evaluation,
)
from .run import (
    Run as Run,
)
from .run import (
    RunData as RunData,
)
from .search import (
    Trial as Trial,
)
from .store import (
    Outcome as Outcome,
)
from .store import (
    Record as Record,
)
from .store import (
    Store as Store,
)
from .sweep import (
    Progress as Progress,
)
from .sweep import (
    Sweep as Sweep,
)
from .sweep import (
    complete as complete,
)
from .sweep import (
    groups as groups,
)
from .sweep import (
    sweep as sweep,
)
from .tune import (
    Tuned as Tuned,
)
from .tune import (
    tune as tune,
)
