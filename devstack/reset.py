"""`rillet reset`: starting over. Says what it would delete and what follows from that, and then does it.

Nothing is deleted while a service runs that uses it. Asked again it finds nothing left, which is no error.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from rillet.connectors.errors import BrokerUnavailableError
from rillet.connectors.topics import create_topics, delete_topics, ensure_broker, topic_ends
from rillet.devstack.stack import Stack
from rillet.jobs.config import RilletConfig
from rillet.jobs.data_lock import hold, unwritable
from rillet.jobs.errors import ServiceError
from rillet.jobs.services import probe, ready_url
from rillet.sync import ModelStore


@dataclass(frozen=True, slots=True)
class Reset:
    """What is to be deleted of one configuration: at least one part."""

    stack: Stack
    topics: bool = False
    model: bool = False
    joiner: bool = False

    @property
    def config(self) -> RilletConfig:
        """The configuration."""
        return self.stack.config

    @property
    def checkpoints(self) -> Path:
        """The trainer's checkpoints of the model, of all its feature specs."""
        return self.config.data_dir / "checkpoints" / self.config.model.name

    @property
    def joiner_state(self) -> Path:
        """What the joiner keeps: open windows, and where it has read the topics to."""
        return self.config.data_dir / "joiner"

    @property
    def topics_left(self) -> dict[str, str]:
        """Raw topics that are other applications' data, with the reason: those of a format that is not our own."""
        topics, sources = self.config.kafka.topics, self.config.sources
        formats = {topics.features: sources.features.format, topics.actions: sources.actions.format}
        return {
            topic: f"its format is {used} in [sources], so it is an application's own"
            for topic, used in formats.items()
            if used != "rillet"
        }

    @property
    def topics_to_delete(self) -> dict[str, int]:
        """Topics that rillet alone writes, or that are in its own format, and the configured number of partitions."""
        left = self.topics_left
        return {topic: count for topic, count in self.config.kafka.topic_partitions.items() if topic not in left}

    @contextmanager
    def prepared(self) -> Iterator[None]:
        """Keeps out the services that use what is deleted, and starts this data_dir's own broker where it is needed.

        :raises ServiceError: such a service runs, or the topics would go and what names their offsets would stay.
        :raises BrokerUnavailableError: topics are to be deleted, and no broker answers.
        """
        self._refuse_offsets_of_deleted_topics()
        data_dir, name = self.config.data_dir, self.config.model.name
        held = {f"train-{name}"} if self.topics or self.model else set()
        if self.topics or self.joiner:
            held.add("join")
        if self.topics:
            # Trainers of other models read and write the same topics.
            held |= {"dump", *(path.stem for path in (data_dir / "locks").glob("train-*.lock"))}
        if self.topics or self.model:
            self._refuse_server()
        with ExitStack() as stack:
            for service in sorted(held):
                stack.enter_context(hold(data_dir, service))
            if self.topics:
                stack.enter_context(self._broker())
            yield

    def plan(self) -> list[str]:
        """What would be deleted and what follows from it, a line each.

        :raises StoreUnavailableError: the store cannot be read.
        """
        config, lines = self.config, []
        if self.topics:
            kafka = config.kafka
            lines.append(
                f"delete     the topics on {kafka.bootstrap_servers} with all their records, and make them anew:"
            )
            for topic, partitions in self.topics_to_delete.items():
                ends = topic_ends(kafka.connection, topic)
                if ends is None:
                    lines.append(f"             {topic} is not there, {partitions} partitions")
                else:
                    records = sum(end - first for first, end in ends.values())
                    lines.append(f"             {topic} {records:,} records, {len(ends)} partitions")
            lines += [f"leave      the topic {topic}: {why}" for topic, why in self.topics_left.items()]
        if self.model:
            name, found = config.model.name, len(self._store.bases().manifests)
            lines += [
                f"delete     the checkpoints of model {name}, of every feature spec: {_there(self.checkpoints)}",
                f"delete     its bases and dense weights: {config.store_url}/{name}, {found} bases",
            ]
        if self.joiner:
            lines.append(f"delete     the joiner's open windows and positions: {_there(self.joiner_state)}")
        return [*lines, *(f"afterwards {line}" for line in self._consequences())]

    def run(self, say: Callable[[str], None]) -> None:
        """Deletes it; inside of :meth:`prepared`.

        :raises ServiceError: a folder cannot be deleted.
        :raises RilletError: of the broker or the store; run it again once that is mended.
        """
        config = self.config
        # What names offsets goes before the topics: cut short in between, nothing points to offsets that are gone.
        if self.model:
            _delete(self.checkpoints)
            self._store.delete()
            say(f"deleted    model {config.model.name}: checkpoints, bases, dense weights")
        if self.joiner:
            _delete(self.joiner_state)
            say("deleted    the joiner's state")
        if self.topics:
            kafka = config.kafka
            # A topic that somebody has made with more partitions than we would gets as many again.
            partitions = {
                topic: len(topic_ends(kafka.connection, topic) or ()) or configured
                for topic, configured in self.topics_to_delete.items()
            }
            delete_topics(kafka.connection, list(partitions))
            create_topics(kafka.connection, partitions, replication=kafka.replication)
            say(f"made anew  {', '.join(partitions)}")

    @property
    def _store(self) -> ModelStore:
        return ModelStore(self.config.store_url, self.config.model.name)

    def _consequences(self) -> Sequence[str]:
        lines = []
        if self.model:
            begins = "with the first new example" if self.topics else "by learning all examples of the topic again"
            lines.append(f"`rillet train` begins {begins}; servers are not ready before its first base")
        if self.joiner and not self.topics:
            lines.append(
                "`rillet join` joins all events again and writes every example a second time: with --topics it does not"
            )
        if self.joiner and self.topics and self.topics_left:
            lines.append(f"`rillet join` reads {' and '.join(self.topics_left)} again from the beginning")
        if self.topics:
            lines.append(
                f"`rillet dump` does not go on in {self.config.dump_url}, which names offsets of the old topic:"
                " name another folder in [dump] to"
            )
        return lines

    def _refuse_offsets_of_deleted_topics(self) -> None:
        if not self.topics:
            return
        kept = {"--model": self.checkpoints} if not self.model else {}
        kept |= {"--joiner": self.joiner_state} if not self.joiner else {}
        if missing := {option: path for option, path in kept.items() if path.exists()}:
            raise ServiceError(
                f"--topics alone would leave {' and '.join(map(str, missing.values()))} with offsets of topics that are"
                f" gone: add {' '.join(missing)}"
            )

    def _refuse_server(self) -> None:
        url, pid = ready_url(self.config, "serve"), self.stack.process("serve").pid
        if pid is not None or (url is not None and probe(url) is not None):
            where = f"pid {pid}" if pid is not None else f"it answers at {url}"
            raise ServiceError(f"serve runs ({where}): stop it first, with `rillet down` or by hand")

    @contextmanager
    def _broker(self) -> Iterator[None]:
        """The broker of the configuration; one of this data_dir that does not run is started meanwhile."""
        try:
            ensure_broker(self.config.kafka.connection, timeout_s=2.0)
        except BrokerUnavailableError:
            if not (self.config.data_dir / "broker" / "data").is_dir():
                raise
            self.stack.broker.start()
            try:
                yield
            finally:
                self.stack.broker.stop()
        else:
            yield


def _there(folder: Path) -> str:
    if not folder.exists():
        return f"{folder} is not there"
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return f"{folder}, {size / 1e6:.1f} MB"


def _delete(folder: Path) -> None:
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:
        return
    except OSError as error:
        raise unwritable(folder, error) from error
