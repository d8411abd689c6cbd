"""Several tests at once: p-values that keep the chance of any false alarm where it was."""

import numpy as np
from numpy.typing import ArrayLike, NDArray


def holm(p_values: ArrayLike) -> NDArray[np.float64]:
    """Return p-values adjusted by Holm's step-down method, in the order given.

    An adjusted value below 0.05 is significant at a familywise error rate of 5 %, whatever the
    tests have to do with each other. A NaN, of a test that could not be made, stays one and does
    not count.
    """
    values = np.asarray(p_values, float)
    adjusted = np.full(len(values), np.nan)
    tested = np.flatnonzero(~np.isnan(values))
    order = tested[np.argsort(values[tested], kind="stable")]
    steps = np.arange(len(order), 0, -1) * values[order]
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted
