"""Where rows are cut into blocks: by their number, and by the bytes that a block has once encoded."""

from __future__ import annotations

import numpy as np

from rillet.schemas.arrays import Int64s


def cuts(
    request: Int64s, row_bytes: Int64s, request_bytes: Int64s, most_rows: int, most_bytes: int, largest_bytes: int
) -> list[slice]:
    """Stretches of rows, each as long as it may be; a row that is larger than ``most_bytes`` on its own is alone.

    :param request: int64[n], number of each row's request, in order.
    :param row_bytes: int64[n], what each row adds.
    :param request_bytes: int64[R], what each request adds to every block that has a row of it.
    :param largest_bytes: of a block whose first request takes more than half of ``most_bytes``. Such a block may be twice as
        large as that request: otherwise it would be written again with each of its rows.

    >>> cuts(np.array([0, 0, 1]), np.array([5, 5, 5]), np.array([10, 10]), 9, 20, 20)
    [slice(0, 2, None), slice(2, 3, None)]
    >>> cuts(np.array([0, 0, 1]), np.array([5, 5, 5]), np.array([15, 15]), 9, 20, 25)
    [slice(0, 2, None), slice(2, 3, None)]
    """
    n = len(request)
    first = np.ones(n, np.bool_)
    first[1:] = request[1:] != request[:-1]
    ends = np.cumsum(row_bytes + np.where(first, request_bytes[request], 0))
    found, start = [], 0
    while start < n:
        before = int(ends[start - 1]) if start else 0
        # The request of the first row is in this block too, though it may have begun in another.
        again = 0 if first[start] else int(request_bytes[request[start]])
        most = max(most_bytes, min(2 * int(request_bytes[request[start]]), largest_bytes))
        stop = int(np.searchsorted(ends, before + most - again, side="right"))
        stop = max(start + 1, min(stop, start + most_rows))
        found.append(slice(start, stop))
        start = stop
    return found
