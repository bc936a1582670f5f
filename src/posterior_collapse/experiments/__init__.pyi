from . import (
    document as document,
)
from .checks import (
    Result as Result,
)
from .deliverables import (
    DELIVERABLES as DELIVERABLES,
)
from .execution import (
    Executor as Executor,
)
from .grids import (
    Member as Member,
)
from .grids import (
    Plan as Plan,
)
from .grids import (
    Row as Row,
)
from .reproducing import (
    State as State,
)
from .reproducing import (
    reproduce as reproduce,
)
from .rows import (
    ROWS as ROWS,
)
from .rows import (
    chosen as chosen,
)
