"""What is learned with from each data set: chosen by backtests on requests that the demo does not show.

``docs/decisions/0012-what-the-demo-shows.md`` has the tables.
"""

from __future__ import annotations

from rillet.embeddings import TableConfig

_HOUR_S = 3_600.0
_DAY_S = 24 * _HOUR_S


def chosen_table(dataset: str) -> TableConfig:
    """The embedding table's settings for the data set of a recording; the defaults for one that is not ours.

    :param dataset: as recordings name it.
    """
    if dataset == "MovieLens-1M":
        # Its users come once, within 100 days that are over in 20 minutes: what a film's row has learned stays true.
        return TableConfig(learning_rate=0.07, init_scale=0.01, accumulator_half_life_s=30 * _DAY_S)
    if dataset == "synthetic":
        # Tastes walk away and items are renewed within hours.
        # Users and tags say nothing there: large sums at the start keep the steps of rare rows small.
        return TableConfig(
            learning_rate=0.06, init_scale=0.01, initial_accumulator=5.0, accumulator_half_life_s=4 * _HOUR_S
        )
    return TableConfig()
