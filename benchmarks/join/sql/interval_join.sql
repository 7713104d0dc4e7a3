-- An example is (label, features): a positive as soon as its action is there; a negative, one of ${sample_one_of}, once no
-- action has come within the window.
CREATE TEMPORARY TABLE examples (
    label STRING,
    v BYTES
) WITH (
    'connector' = 'kafka',
    'topic' = '${examples}',
    'properties.bootstrap.servers' = '${servers}',
    'properties.transaction.timeout.ms' = '900000',
    'properties.compression.type' = 'lz4',
    'sink.delivery-guarantee' = 'exactly-once',
    'sink.transactional-id-prefix' = '${name}',
    'key.format' = 'raw',
    'key.fields' = 'label',
    'value.format' = 'raw',
    'value.fields-include' = 'EXCEPT_KEY'
);

INSERT INTO examples
SELECT
    CASE WHEN a.k IS NULL THEN '0' ELSE '1' END,
    f.v
FROM features AS f
LEFT JOIN actions AS a
    ON f.k = a.k
    AND a.ts >= f.ts
    AND a.ts < f.ts + INTERVAL '${window_s}' SECOND(3)
WHERE a.k IS NOT NULL OR MOD(HASH_CODE(f.k), ${sample_one_of}) = 0;
