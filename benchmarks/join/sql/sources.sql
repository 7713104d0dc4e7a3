-- The two raw topics as a Flink user declares them: the key is the impression, the value goes through as bytes, the
-- record's timestamp is the event time. Bounded, so that the job ends; the rest is as rillet's own job has it.
CREATE TEMPORARY TABLE features (
    k STRING,
    v BYTES,
    ts TIMESTAMP_LTZ(3) METADATA FROM 'timestamp' VIRTUAL,
    WATERMARK FOR ts AS ts - INTERVAL '${lateness_s}' SECOND(3)
) WITH (
    'connector' = 'kafka',
    'topic' = '${features}',
    'properties.bootstrap.servers' = '${servers}',
    'properties.group.id' = '${name}-features',
    'scan.startup.mode' = 'earliest-offset',
    'scan.bounded.mode' = 'latest-offset',
    'scan.watermark.alignment.group' = 'bench',
    'scan.watermark.alignment.max-drift' = '${max_drift_ms} ms',
    'scan.watermark.alignment.update-interval' = '200 ms',
    'key.format' = 'raw',
    'key.fields' = 'k',
    'value.format' = 'raw',
    'value.fields-include' = 'EXCEPT_KEY'
);

CREATE TEMPORARY TABLE actions WITH (
    'topic' = '${actions}',
    'properties.group.id' = '${name}-actions'
) LIKE features;
