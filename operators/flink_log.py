"""Where the Flink inside ``rillet join`` logs: by default into PyFlink's own folder, one file for all jobs, without end."""

from __future__ import annotations

from pathlib import Path

_FILE_BYTES, _FILES = 10 << 20, 5
#: Flink's own pattern
_SETTINGS = """\
rootLogger.level = INFO
rootLogger.appenderRef.file.ref = File
appender.file.name = File
appender.file.type = RollingFile
appender.file.fileName = {file}
appender.file.filePattern = {file}.%i
appender.file.layout.type = PatternLayout
appender.file.layout.pattern = %d{{yyyy-MM-dd HH:mm:ss,SSS}} %-5p %-60c %x - %m%n
appender.file.policies.type = Policies
appender.file.policies.size.type = SizeBasedTriggeringPolicy
appender.file.policies.size.size = {file_bytes}
appender.file.strategy.type = DefaultRolloverStrategy
appender.file.strategy.max = {files}
logger.python.name = PythonWorker
logger.python.level = ALL
"""


def flink_log(folder: Path) -> Path:
    """The log that the process writes which was started with :func:`log_environment`."""
    return folder / "flink.log"


def log_environment(folder: Path) -> dict[str, str]:
    """Environment of Flink's Java process with which it logs into a folder, 60 MB at most.

    :raises OSError: the folder cannot be written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    settings = folder / "log4j.properties"
    file = flink_log(folder.resolve())
    settings.write_text(_SETTINGS.format(file=file, file_bytes=_FILE_BYTES, files=_FILES))
    # RocksDB puts its own here, one for each start of a task.
    for old in folder.glob("*_db_LOG*"):
        old.unlink()
    return {"LOG4J_PROPERTIES": str(settings.resolve()), "FLINK_LOG_DIR": str(folder.resolve())}
