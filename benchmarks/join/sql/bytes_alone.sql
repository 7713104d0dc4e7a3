-- The least that Python can be given: whether it is a feature, and the bytes.
SELECT 1, v FROM features
UNION ALL
SELECT 0, v FROM actions;
