from .completing import (
    Progress as Progress,
)
from .completing import (
    complete as complete,
)
from .completing import (
    groups as groups,
)
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
    Sweep as Sweep,
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
