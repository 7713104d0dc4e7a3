"""Says when what the joiner counts is absurd: most actions of a name that nobody asks for, most records refused.

Each single case is counted and stops nothing; a share that only a mistake explains is told once, and again when it has
changed, with minutes between two lines of a kind. Shares are of stretches of records, so that a mistake shows beside a long
good past.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from rillet.joiner.config import JoinerConfig
from rillet.joiner.slices import SliceSchedule
from rillet.schemas import FeatureSpec

#: events that a share is of at least
_STRETCH = 50
#: a share from which on something is wrong, and below which it is well again
_ABSURD, _WELL = 0.5, 0.25
#: of refused records, of which a right source has none; of a mistake of a kind that concerns all records, any share
_ABSURD_REFUSED, _ABSURD_SYSTEMATIC, _WELL_REFUSED = 0.1, 1e-9, 1e-9
_SYSTEMATIC = ("SpecMismatchError", "TimeUnitError", "WaitingFullError")

#: of actions without a value that their task asks for: a task may listen to an action that has none beside one that has
_ABSURD_VALUELESS = 0.9

#: records refused with errors of a kind that are a mistake, and growth of their number that is told
_FEWEST_REFUSED, _TOLD_AGAIN = 10, 10
#: of a stretch of actions that wait, to tell them from those that come a little before their feature events
_WAIT_MS = 60_000
#: between two lines of a kind, and without a bad share until it is well again
_QUIET_S = 300.0

_SETTLED = (
    *("positives", "corrections", "late_positives", "duplicate_actions", "late_actions", "early_actions"),
    *("outside_window", "unknown_impressions", "orphan_actions", "incomplete_actions", "ungathered_actions"),
)
#: how actions end that make no row, and what to look at
_ADVICE = {
    "orphan_actions": "found no feature event of their request within action_wait_ms ({wait:g} s): are both topics keyed by "
    "the same request id, and do feature events reach the topic?",
    "unknown_impressions": "are on impressions that their requests do not have or that were not exposed: does impression_id of an "
    "action name the same thing as impression_ids of the feature event, and is its column exposed right?",
    "outside_window": "come later than the label window allows: is window_ms of the task too short, or are the clocks of the "
    "two producers apart?",
    "early_actions": "happened before their impressions by more than early_ms: are the clocks of the two producers apart?",
    "late_actions": "came after their windows were closed: are they sent late, or is [flink] lateness_ms too short?",
}
#: why records are refused, by the kind of their error, and what to look at
_REFUSALS = {
    "SpecMismatchError": "were written under another feature spec than {spec} {hash:#x}: deploy the same spec to what logs "
    "feature events and to the joiner, or name theirs in also_accepts",
    "TimeUnitError": "have event times in another unit than milliseconds since 1970: a dead letter names the unit",
    "FutureTimeError": "have event times that lie further than max_ahead_ms after they entered their topic: is the clock right "
    "that they are read from? A dead letter names both times",
    "WaitingFullError": "are actions for which there is no room to wait for their feature events: are request ids the same on "
    "both topics, and do feature events reach theirs? [joiner] waiting_bytes is the room",
    "DecodeError": "are no records of a known schema: is [sources] set to the format of the topic?",
}
_OTHER_REFUSAL = "cannot be used: dead letters say why"


class Alarms:
    """Watches counts that only grow, also over restarts of the job."""

    def __init__(self, spec: FeatureSpec, config: JoinerConfig, clock: Callable[[], float]) -> None:
        """:param clock: seconds, of any beginning."""
        self._spec = spec
        self._config = config
        self._clock = clock
        self._stretches = {kind: _Stretch(_STRETCH) for kind in ("actions", "settled", "features")}
        # Orphans of a whole slice are given up at one watermark.
        schedule = SliceSchedule(spec, config)
        self._stretches["orphans"] = _Stretch(_STRETCH, schedule.slice_ms + schedule.action_wait_ms)
        self._stretches["waiting"] = _Stretch(_STRETCH, _WAIT_MS)
        # Of refused records a few are enough.
        self._stretches["records"] = _Stretch(_STRETCH // 5)
        #: by task
        self._values: dict[str, _Stretch] = {}
        #: by the kind of their error
        self._refusals: dict[str, _Refusals] = {}
        #: what was told of each subject and is not well again
        self._told: dict[str, str] = {}
        #: when the last line of a subject was told, and when its share was last too high to be well
        self._lines_s: dict[str, float] = {}
        self._bad_s: dict[str, float] = {}

    def judge(
        self,
        counts: Mapping[str, int],
        unknown_actions: Mapping[str, int],
        refused: Mapping[str, int],
        watermark_ms: int | None = None,
        *,
        valued: Mapping[str, int] | None = None,
        valueless: Mapping[str, int] | None = None,
    ) -> list[str]:
        """What has to be told now, one line each.

        :param counts: of :class:`rillet.joiner.Counters`, ``dead_letters``, and how many ``waiting_actions`` there are now.
        :param unknown_actions: by name.
        :param refused: dead letters by the kind of their error.
        :param watermark_ms: event time up to which the joiner has come; None while there is none, and then orphans are
            not judged.
        :param valued: of the tasks that ask for values, actions that have one, by task; ``valueless`` those that have none.
        """
        lines = self._unknown(counts, unknown_actions) + self._waiting(counts) + self._settled(counts, watermark_ms)
        lines += self._valueless(valued or {}, valueless or {})
        total = counts["features"] + counts["duplicate_features"] + counts["actions"] + counts["dead_letters"]
        if (grown := self._stretches["records"].grown(total, refused)) is not None:
            of, more = grown
            for kind, count in more.items():
                lines += self._refused(kind, count, of)
        features = counts["features"] + counts["duplicate_features"]
        if (grown := self._stretches["features"].grown(features, {"": counts["duplicate_features"]})) is not None:
            of, more = grown
            text = (
                f"{_share(more[''], of)} of {of:,} feature events have the request id of an earlier one and are left out: "
                "does each request get an id of its own?"
            )
            lines += self._tell("duplicate_features", more[""] / of, text)
        return lines

    def _unknown(self, counts: Mapping[str, int], unknown_actions: Mapping[str, int]) -> list[str]:
        grown = self._stretches["actions"].grown(counts["actions"], unknown_actions)
        if grown is None:
            return []
        of, more = grown
        name = max(more, key=lambda name: more[name], default="")
        # Counters are read one after the other while records come.
        unknown = min(of, sum(more.values()))
        about = name
        if more.get(name, 0) < 0.9 * unknown:
            about = ""  # which is the most frequent now is no news
            named = ", ".join(repr(name) for name in sorted(more, key=lambda name: -more[name])[:3])
            text = f"{_share(unknown, of)} of {of:,} actions have names that no task asks for ({named} and others)"
        else:
            text = f"{_share(unknown, of)} of {of:,} actions are named {name!r}, which no task asks for"
        text += f"; {self._spec.advice_on_action(name)}"
        return self._tell("unknown_actions", unknown / of, text, about=about)

    def _valueless(self, valued: Mapping[str, int], valueless: Mapping[str, int]) -> list[str]:
        lines = []
        for task, count in valueless.items():
            stretch = self._values.setdefault(task, _Stretch(_STRETCH))
            grown = stretch.grown(count + valued.get(task, 0), {"": count})
            if grown is not None:
                of, more = grown
                text = (
                    f"{_share(more[''], of)} of {of:,} actions on task {task} have no value, which its at_least asks for: "
                    "does [sources.actions] value say where it lies, and do producers send it?"
                )
                absurd = _ABSURD_VALUELESS
                lines += self._tell(f"valueless {task}", more[""] / of, text, absurd=absurd, well=absurd)
        return lines

    def _waiting(self, counts: Mapping[str, int]) -> list[str]:
        """Long before the first of them is given up as an orphan."""
        features = counts["features"] + counts["duplicate_features"]
        parts = {"": counts["unmatched_actions"] - counts["matched_later"], "features": features}
        grown = self._stretches["waiting"].grown(counts["actions"], parts, round(1_000 * self._clock()))
        if grown is None:
            return []
        of, more = grown
        # Those that were given up wait no more, whenever they came.
        waiting = min(more[""], counts["waiting_actions"])
        text = f"{_share(waiting, of)} of {of:,} actions wait for feature events of their requests"
        if more["features"]:
            text += " that have not come: are request ids the same on both topics?"
        else:
            text += ", and none has come: does anything write feature events to their topic?"
        return self._tell("waiting_actions", waiting / of, text)

    def _settled(self, counts: Mapping[str, int], watermark_ms: int | None) -> list[str]:
        total = sum(counts[name] for name in _SETTLED)
        orphans = {"orphan_actions": counts["orphan_actions"]}
        others = {name: counts[name] for name in _ADVICE if name not in orphans}
        lines = []
        found = [self._stretches["settled"].grown(total, others)]
        if watermark_ms is not None:
            found.append(self._stretches["orphans"].grown(total, orphans, watermark_ms))
        for grown in found:
            of, more = grown or (0, {})
            for name, count in more.items():
                advice = _ADVICE[name].format(wait=self._config.action_wait_ms / 1_000)
                lines += self._tell(name, count / of, f"{_share(count, of)} of {of:,} actions {advice}")
        return lines

    def _refused(self, kind: str, count: int, of: int) -> list[str]:
        """:param count: records of ``of`` that were refused with an error of this kind since the last judgement."""
        absurd = _ABSURD_SYSTEMATIC if kind in _SYSTEMATIC else _ABSURD_REFUSED
        advice = _REFUSALS.get(kind, _OTHER_REFUSAL).format(spec=self._spec.name, hash=self._spec.hash)
        all_ = self._refusals.setdefault(kind, _Refusals())
        all_.count += count
        all_.of += of
        text = f"{all_.count:,} of {all_.of:,} records, now dead letters, {advice}"
        subject = f"refused {kind}"
        if subject not in self._told:
            if all_.count < absurd * all_.of:
                del self._refusals[kind]
                return []
            if all_.count < _FEWEST_REFUSED:
                return []
            lines = self._tell(subject, all_.count / all_.of, text, absurd=absurd, well=_WELL_REFUSED)
        elif all_.count >= _TOLD_AGAIN * all_.told:
            self._lines_s[subject] = self._bad_s[subject] = self._clock()
            lines = [text]
        else:
            lines = self._tell(
                subject, count / of, f"{count:,} of {of:,} records, now dead letters", well=_WELL_REFUSED
            )
        if lines and subject in self._told:
            all_.told = all_.count
        elif lines:
            del self._refusals[kind]
        return lines

    def _tell(
        self, subject: str, share: float, text: str, *, about: str = "", absurd: float = _ABSURD, well: float = _WELL
    ) -> list[str]:
        told, now_s = self._told.get(subject), self._clock()
        if share >= well:
            self._bad_s[subject] = now_s
        if now_s - self._lines_s.get(subject, -_QUIET_S) < _QUIET_S:
            return []
        if share >= absurd and told != about:
            self._told[subject] = about
        elif told is not None and now_s - self._bad_s[subject] >= _QUIET_S:
            del self._told[subject]
            text = f"well again: {text.partition(':')[0].partition(';')[0]}"
        else:
            return []
        self._lines_s[subject] = now_s
        return [text]


@dataclass(slots=True)
class _Refusals:
    """Records refused with one kind of error since the first that was not well again."""

    count: int = 0
    #: records that were read since then
    of: int = 0
    #: ``count`` as it was last told
    told: int = 0


class _Stretch:
    """How much counts have grown since the last stretch that was long enough."""

    def __init__(self, least: int, least_ms: int = 0) -> None:
        """
        :param least: the total has to grow by.
        :param least_ms: time has to go on by.
        """
        self._least, self._least_ms = least, least_ms
        self._total = 0
        self._parts: dict[str, int] = {}
        #: when the stretch began
        self._since_ms: int | None = None

    def grown(self, total: int, parts: Mapping[str, int], time_ms: int = 0) -> tuple[int, dict[str, int]] | None:
        """The growth of the total and of each part; None while there is too little for a judgement.

        The counts are not read at one moment, so a part may have grown by more than the total: the rest is of the next stretch.
        """
        if self._since_ms is None:
            self._since_ms = time_ms
            if self._least_ms:
                # What was waiting before the start may have been given up already.
                self._total, self._parts = total, dict(parts)
        of = total - self._total
        if of < self._least or time_ms - self._since_ms < self._least_ms:
            return None
        before = self._parts
        more = {name: min(max(0, count - before.get(name, 0)), of) for name, count in parts.items()}
        self._total, self._since_ms = total, time_ms
        self._parts = {name: min(count, before.get(name, 0) + of) for name, count in parts.items()}
        return of, more


def _share(count: int, of: int) -> str:
    return f"{100 * count / of:.0f} %"
