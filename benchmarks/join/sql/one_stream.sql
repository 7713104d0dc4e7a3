-- Both topics as one stream, for the jobs in Python.
SELECT
    TRUE,
    k,
    EXTRACT(EPOCH FROM ts) * 1000 + EXTRACT(MILLISECOND FROM ts),
    v
FROM features
UNION ALL
SELECT
    FALSE,
    k,
    EXTRACT(EPOCH FROM ts) * 1000 + EXTRACT(MILLISECOND FROM ts),
    v
FROM actions;
