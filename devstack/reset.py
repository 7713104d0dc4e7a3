"""`rillet reset`: starting over. Says what it would delete and what follows from that, and then does it.

Nothing is deleted while a service runs that uses it. Asked again it finds nothing left, which is no error.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from rillet.connectors.errors import BrokerUnavailableError, TopicError
from rillet.connectors.newest import newest_records, require_broker
from rillet.connectors.topics import create_topics, delete_topics, ensure_broker, topic_ends
from rillet.devstack.own_files import BACKFILLS, CHECKPOINTS, JOINER, Contents, OwnFolder
from rillet.devstack.stack import Stack
from rillet.jobs.config import RilletConfig
from rillet.jobs.data_lock import hold
from rillet.jobs.errors import ServiceError
from rillet.jobs.services import probe, ready_url
from rillet.schemas import RecordError, decode
from rillet.sync import ModelStore

#: a model that was written within so many of its intervals may have a trainer
_INTERVALS = 3
#: records of the delta log that are looked at for the newest of the model
_LOOKED_AT = 100
#: names of what is left that are shown
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Reset:
    """What is to be deleted of one configuration: at least one part."""

    stack: Stack
    topics: bool = False
    model: bool = False
    joiner: bool = False
    #: a model is deleted that a trainer elsewhere seems to hold
    force: bool = False

    @property
    def config(self) -> RilletConfig:
        """The configuration."""
        return self.stack.config

    @property
    def checkpoints(self) -> OwnFolder:
        """The trainer's checkpoints of the model, of all its feature specs."""
        return OwnFolder(self.config.data_dir / "checkpoints" / self.config.model.name, CHECKPOINTS)

    @property
    def joiner_state(self) -> OwnFolder:
        """What the joiner keeps: open windows, and where it has read the topics to."""
        return OwnFolder(self.config.data_dir / "joiner", JOINER)

    @property
    def backfills(self) -> OwnFolder:
        """What ``rillet backfill`` keeps, of each of its topics: offsets of the raw topics, as the joiner's state."""
        return OwnFolder(self.config.data_dir / "backfills", BACKFILLS)

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

        :raises ServiceError: such a service runs; the topics would go and what names their offsets would stay; or a
            folder is a symbolic link.
        :raises BrokerUnavailableError: topics are to be deleted, and no broker answers.
        """
        self._refuse_offsets_of_deleted_topics()
        self._refuse_links()
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
            if "join" in held:
                for lock in sorted(self.backfills.path.glob("*/locks/join.lock")):
                    stack.enter_context(hold(lock.parent.parent, "join"))
            if self.topics:
                stack.enter_context(self._broker())
            if self.model and not self.force:
                self._refuse_model_of_another_trainer()
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
                    lines.append(f"             {topic} is not there, {_partitions(partitions)}")
                else:
                    records = sum(end - first for first, end in ends.values())
                    lines.append(f"             {topic} {records:,} records, {_partitions(len(ends))}")
            lines += [f"leave      the topic {topic}: {why}" for topic, why in self.topics_left.items()]
        if self.model:
            name, found = config.model.name, len(self._store.bases().manifests)
            lines += [
                f"delete     the checkpoints of model {name}, of every feature spec: {_there(self.checkpoints)}",
                *_left(self.checkpoints.look().others),
                f"delete     its bases and dense weights: {config.store_url}/{name}, {found} bases",
                *_left([f"{config.store_url}/{name}/{path}" for path in self._store.contents()[1]]),
            ]
        if self.joiner:
            lines += [
                f"delete     the joiner's open windows and positions: {_there(self.joiner_state)}",
                *_left(self.joiner_state.look().others),
                f"delete     the state of backfills, not their topics: {_there(self.backfills)}",
                *_left(self.backfills.look().others),
            ]
        return [*lines, *(f"afterwards {line}" for line in self._consequences())]

    def run(self, say: Callable[[str], None]) -> None:
        """Deletes it; inside of :meth:`prepared`.

        :raises ServiceError: a folder cannot be deleted.
        :raises RilletError: of the broker or the store; run it again once that is mended.
        """
        config = self.config
        # What names offsets goes before the topics: cut short in between, nothing points to offsets that are gone.
        if self.model:
            self.checkpoints.delete()
            self._store.delete()
            say(f"deleted    model {config.model.name}: checkpoints, bases, dense weights")
        if self.joiner:
            self.joiner_state.delete()
            self.backfills.delete()
            say("deleted    the state of the joiner and of backfills")
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
        kept = [("--model", self.checkpoints)] if not self.model else []
        kept += [("--joiner", folder) for folder in (self.joiner_state, self.backfills) if not self.joiner]
        if left := [(option, folder.path) for option, folder in kept if folder.look().own]:
            folders = " and ".join(str(path) for _, path in left)
            options = " ".join(dict.fromkeys(option for option, _ in left))
            raise ServiceError(
                f"--topics alone would leave {folders} with offsets of topics that are gone: add {options}"
            )

    def _refuse_links(self) -> None:
        """What a link points to may be anything, and deleting only the link would leave the state where it is found again."""
        links: list[Path] = []
        if self.model:
            links += self.checkpoints.look().links
            scheme, _, path = self.config.store_url.rpartition("://")
            if scheme in ("", "file", "local"):
                root = Path(path)
                folders = [root, root / self.config.model.name, *(root / self.config.model.name).glob("*")]
                links += [folder for folder in folders if folder.is_symlink() and folder.is_dir()]
        if self.joiner:
            links += [*self.joiner_state.look().links, *self.backfills.look().links]
        parents = {self.config.data_dir / "checkpoints"} if self.model else set()
        if links := [*(path for path in parents if path.is_symlink()), *links]:
            link = links[0]
            raise ServiceError(
                f"{link} is a symbolic link to {link.readlink()}: reset follows none and has deleted nothing. Move what"
                f" it points to into its place (rm {link}; mv {link.resolve()} {link}), or delete both by hand"
            )

    def _refuse_model_of_another_trainer(self) -> None:
        """The lock is this data_dir's; a trainer of another one may have the store, and shows by what it writes."""
        name, publisher, ours = self.config.model.name, self.config.publisher, self._newest_epoch_of_ours()
        if not self._store.contents()[0]:
            return
        written = [
            (manifest.created_ms, publisher.base_interval_s, f"base {manifest.name}")
            for manifest in self._store.bases().manifests[:1]
            if manifest.epoch > ours
        ]
        written += [
            (time_ms, max(publisher.sparse_interval_s, publisher.dense_interval_s), "a record of the delta log")
            for time_ms, epoch in self._newest_deltas()
            if epoch > ours
        ]
        now_ms = time.time_ns() // 1_000_000
        for time_ms, interval_s, what in written:
            if now_ms - time_ms < _INTERVALS * interval_s * 1000:
                raise ServiceError(
                    f"model {name} in {self.config.store_url} may be held by a trainer of another data_dir: {what} was"
                    f" written {(now_ms - time_ms) / 1000:.0f} s ago, and not from a checkpoint in {self.checkpoints.path}."
                    " Stop that trainer first; where none runs, add --force"
                )

    def _newest_deltas(self) -> list[tuple[int, int]]:
        """Time and epoch of the newest record of the model in the delta log; none where the broker or the log is away."""
        kafka, found = self.config.kafka, list[tuple[int, int]]()
        try:
            require_broker(kafka.connection)
            records, _ = newest_records(kafka.connection, kafka.topics.deltas, _LOOKED_AT)
        except (BrokerUnavailableError, TopicError):
            return []  # then nobody can publish either
        for record in records:
            try:
                delta = decode(record.value or b"")
            except RecordError:
                continue
            if getattr(delta, "model", None) == self.config.model.name:
                found.append((record.timestamp_ms, int(getattr(delta, "epoch", 0))))
        return found[-1:]

    def _newest_epoch_of_ours(self) -> int:
        """The newest epoch that a trainer of this data_dir has noted in a checkpoint, 0 without any."""
        newest = 0
        for path in self.checkpoints.look().own:
            if path.name == "manifest.json":
                try:
                    newest = max(newest, int(json.loads(path.read_bytes())["meta"]["extra"]["publisher"]["epoch"]))
                except (OSError, ValueError, KeyError, TypeError, RecursionError):
                    continue  # a damaged checkpoint is deleted like any other
        return newest

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
            if self.stack.broker.running:
                self.stack.broker.wait()
                yield
                return
            self.stack.broker.start()
            try:
                yield
            finally:
                self.stack.broker.stop()
        else:
            yield


def _partitions(count: int) -> str:
    return f"{count} {'partition' if count == 1 else 'partitions'}"


def _there(folder: OwnFolder) -> str:
    contents: Contents = folder.look()
    if not contents.own:
        return f"{folder.path} is not there" if not contents.others else f"{folder.path} holds none"
    return f"{folder.path}, {contents.size / 1e6:.1f} MB"


def _left(others: Sequence[object]) -> list[str]:
    lines = [f"leave      {path}: rillet does not write such files" for path in others[:_SHOWN]]
    return lines + ([f"leave      {len(others) - _SHOWN} more like that"] if len(others) > _SHOWN else [])
