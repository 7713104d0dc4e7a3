"""One feature spec and changed ones, for what is tested on records of several."""

from __future__ import annotations

from dataclasses import replace

from rillet.schemas import DenseFeature, FeatureSpec, Slot, Task

USER, RECENT = Slot("user", 1, "id"), Slot("recent", 2, "id", 4)
FILM, GENRES = Slot("film", 16, "id"), Slot("genres", 17, "token", 3)
CLICK, BUY = Task("click", "click", 10_000), Task("buy", "buy", 60_000, 0.5, labels="aligned")

OLD = FeatureSpec("films", (USER, RECENT), (FILM, GENRES), (DenseFeature("price"), DenseFeature("age")), (CLICK, BUY))
#: without ragged slots and dense features
PLAIN = FeatureSpec("films", (USER,), (FILM,), (), (CLICK, BUY))

#: one change of OLD each, and all of them together
CHANGED = {
    "slot of one value added": replace(OLD, item=(Slot("shop", 18, "id"), *OLD.item)),
    "slot of several values added": replace(OLD, item=(*OLD.item, Slot("tags", 19, "token", 5))),
    "context slot added": replace(OLD, context=(Slot("device", 3, "token"), *OLD.context)),
    "slot removed": replace(OLD, item=(GENRES,)),
    "ragged slots removed": replace(OLD, context=(USER,), item=(FILM,)),
    "slots in another order": replace(OLD, context=(RECENT, USER), item=(GENRES, FILM)),
    "fewer values": replace(
        OLD, context=(USER, replace(RECENT, max_values=2)), item=(FILM, replace(GENRES, max_values=1))
    ),
    "more values": replace(OLD, item=(replace(FILM, max_values=2), GENRES)),
    "dense feature added": replace(OLD, dense=(DenseFeature("size"), *OLD.dense)),
    "dense feature removed": replace(OLD, dense=OLD.dense[1:]),
    "all dense features removed": replace(OLD, dense=()),
    "dense features in another order": replace(OLD, dense=OLD.dense[::-1]),
    "task added": replace(OLD, tasks=(Task("like", "like", 5_000), *OLD.tasks)),
    "task removed": replace(OLD, tasks=(BUY,)),
    "tasks in another order": replace(OLD, tasks=(BUY, CLICK)),
    "window and rate": replace(OLD, tasks=(replace(CLICK, window_ms=20_000, negative_rate=0.25), BUY)),
    "everything": FeatureSpec(
        "films 2",
        (Slot("device", 3, "token"), replace(RECENT, max_values=3)),
        (Slot("shop", 18, "id"), GENRES),
        (DenseFeature("size"), DenseFeature("price", "log1p")),
        (Task("like", "like", 5_000), replace(CLICK, window_ms=20_000)),
        sampling_seed=9,
    ),
}
