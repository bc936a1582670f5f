"""The rows of the paper as data, and what turns their runs into tables, figures and a document.

What happens to a row, and where:

    rows        a `Row`: its claim, what theory says, and the `Grid`s of its runs
    grids       a grid becomes `Member`s: one run each, with the values that it has in the grid
    execution   a run that is not kept yet is trained on its `data` and measured (`measuring`)
    checks      a kept run becomes a `Result`; checks hold what was measured against expectations
    deliverables    results become a `Part` of the row: tables, figures, checks, notes
    figures     plain values become a `Chart`: a figure, and the numbers behind it
    reproducing     all of this, row by row; the parts become what is left of it
    reproduced      that, and the `result.json` which keeps it
    document    the results of all rows become one page
    trust       those of X3a to X3g become a page and the README's table (`trust_table`)

Names are imported when first used, so that the document is written without torch.
"""

from posterior_collapse.errors import lazily

__getattr__, __dir__, __all__ = lazily(__name__, __file__)
