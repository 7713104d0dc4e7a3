"""Builds the joiner's job and prints its operators as JSON, without running it: ``python -m tests.jobs.joiner_graph CONFIG``.

In a process of its own, since PyFlink keeps one Java process per Python process.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from rillet.jobs.config import load_config
from rillet.jobs.toolchain import fetch_jars, python_environment


def main(config: Path) -> None:
    """Prints a list of [name, uid, kind of operator, parallelism]."""
    os.environ.update(python_environment())
    from pyflink.datastream import StreamExecutionEnvironment

    from rillet.jobs.joiner_job import JobOptions, build

    env = StreamExecutionEnvironment.get_execution_environment()
    env.add_jars(fetch_jars().connector.as_uri())
    build(env, load_config(config), JobOptions(topic_ids={"features": "F", "actions": "A"}))
    found = []
    for node in env._generate_stream_graph().getStreamNodes().toArray():
        kind = node.getOperatorFactory().getClass().getSimpleName()
        found.append([node.getOperatorName(), node.getTransformationUID(), kind, node.getParallelism()])
    print(json.dumps(found))
    sys.stdout.flush()
    # Nothing of the Java process is wanted any more; to end it takes seconds.
    os._exit(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
