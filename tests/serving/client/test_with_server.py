"""Both clients against the real server over a socket, beside Triton's own client."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
import tritonclient.http as triton

from rillet.schemas import Slot, SpecMismatchError, Task, make_fids
from rillet.serving.client import (
    AsyncClient,
    CandidateEncoder,
    Candidates,
    Client,
    DeadlineExceededError,
    RequestRefusedError,
    RetryPolicy,
    ServerUnavailableError,
    Timeouts,
)
from tests.serving.helpers import (
    MODEL,
    WIDTH,
    FakeModel,
    Linear,
    Running,
    demo_spec,
    empty_table,
    program,
    request_tensor,
    running_server,
)

pytestmark = pytest.mark.integration

SPEC = demo_spec(dense=True)
CONTEXT = {"user": 7, "age": 3, "gender": "F", "occupation": 2, "zip": "94110"}


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    """Film f has linear weight f / 1000, so that a logit tells which film was meant."""
    model = FakeModel(empty_table(), program(Linear(2), SPEC))
    values = np.zeros((3000, WIDTH), np.float32)
    values[:, 0] = np.arange(1, 3001) / 1000
    model.table.upsert(make_fids(16, np.arange(1, 3001)), values)
    with running_server(SPEC, model) as running:
        yield running


@pytest.fixture
def client(server: Running) -> Iterator[Client]:
    with Client(f"http://{server.url}", MODEL) as client:
        yield client


def _random(rows: int) -> Candidates:
    rng = np.random.default_rng(rows)
    tensor = request_tensor(rng, rows)
    return Candidates(tensor, rng.random((rows, 2), np.float32), np.arange(rows) + 100, ("watch", "like"))


def _by_triton(url: str, films: Candidates) -> triton.InferResult:
    inputs = []
    tensors = [("fids", "INT64", films.fids), ("impression_ids", "INT64", films.impression_ids)]
    for name, datatype, array in [*tensors, ("dense", "FP32", films.dense)]:
        inputs.append(triton.InferInput(name, array.shape, datatype))
        inputs[-1].set_data_from_numpy(array)
    return triton.InferenceServerClient(url).infer(MODEL, inputs, request_id="triton", parameters={"log": False})


@pytest.mark.parametrize("rows", [1, 10, 500])
def test_scores_are_those_that_tritons_client_gets(server: Running, client: Client, rows: int) -> None:
    films = _random(rows)
    theirs, ours = _by_triton(server.url, films), client.score(films, log=False)
    np.testing.assert_array_equal(ours.logits, theirs.as_numpy("logits"))
    np.testing.assert_array_equal(ours.scores, theirs.as_numpy("scores"))
    assert ours.version == theirs.get_response()["model_version"]


def test_raw_features_are_scored_and_logged_as_they_were_encoded(server: Running, client: Client) -> None:
    films = CandidateEncoder(SPEC).from_features(
        context=CONTEXT,
        items={"film": [17, 23], "year": [1990, 1991], "genres": [["War", "Drama"], []]},
        dense={"price": [1.5, 2], "age_days": [3, 4]},
        impression_ids=[170, 230],
    )
    before = len(server.features.events)
    scores = client.score(films, request_id="page-1", event_time_ms=978_300_000_000, timeout_ms=5000)
    np.testing.assert_allclose(scores.logits[:, 0], [0.017, 0.023], rtol=1e-5)
    np.testing.assert_allclose(scores.task("like"), 1 / (1 + np.exp(-scores.logits[:, 1])), rtol=1e-6)
    assert scores.logged
    (event,) = server.features.events[before:]
    SPEC.check_feature(event)
    assert (event.request_id, event.event_time_ms) == ("page-1", 978_300_000_000)
    assert event.impression_ids.tolist() == [170, 230]
    item_fids, item_lengths = SPEC.encode_side(
        "item", {"film": [17, 23], "year": [1990, 1991], "genres": [["War", "Drama"], []]}
    )
    np.testing.assert_array_equal(event.item_fids, item_fids)
    np.testing.assert_array_equal(event.item_lengths, item_lengths)
    assert event.dense.tolist() == [1.5, 3, 2, 4]


def test_what_is_not_to_be_logged_is_not(server: Running, client: Client) -> None:
    before = len(server.features.events)
    assert not client.score(_random(2), log=False).logged
    assert len(server.features.events) == before


def test_a_logged_event_is_scored_again_to_the_same(server: Running, client: Client) -> None:
    first = client.score(_random(20))
    event = next(event for event in server.features.events if event.request_id == first.request_id)
    again = client.score(CandidateEncoder(SPEC).from_event(event), log=False)
    np.testing.assert_array_equal(again.logits, first.logits)


def test_a_refusal_has_the_servers_words(client: Client) -> None:
    with pytest.raises(RequestRefusedError, match=r"fids\.shape: \[1, 3\], expected \[N, 13\]") as caught:
        client.score(Candidates(np.ones((1, 3), np.int64)))
    assert (caught.value.status, caught.value.attempts) == (400, 1)


def test_the_server_drops_the_attempts_that_nobody_waits_for(server: Running) -> None:
    computed: list[int] = []
    inner = server.model.program

    def slow(embeddings: torch.Tensor, dense: torch.Tensor) -> torch.Tensor:
        computed.append(len(embeddings))
        time.sleep(0.5)
        return inner(embeddings, dense)

    before = len(server.features.events)
    server.model.program = slow
    try:
        timeouts = Timeouts(attempt_s=0.1, total_s=1.0)
        retries = RetryPolicy(attempts=4, first_wait_s=0.001)
        with Client(f"http://{server.url}", MODEL, timeouts=timeouts, retries=retries) as client:
            with pytest.raises(DeadlineExceededError, match="after 4 attempts"):
                client.score(_random(10))
            time.sleep(1.0)
    finally:
        server.model.program = inner
    assert len(computed) == 1
    assert len(server.features.events) == before, "nobody was shown the page"


def test_metadata_and_readiness(server: Running, client: Client) -> None:
    metadata = client.metadata()
    assert (metadata.name, metadata.versions, metadata.tasks) == (MODEL, ("1",), ("watch", "like"))
    metadata.check_spec(SPEC)
    with pytest.raises(SpecMismatchError):
        metadata.check_spec(demo_spec())
    assert client.ready()
    server.model.ready = False
    try:
        assert not client.ready()
        impatient = Client(f"http://{server.url}", MODEL, retries=RetryPolicy(attempts=1))
        with impatient, pytest.raises(ServerUnavailableError, match="no model is loaded yet"):
            impatient.score(_random(2))
    finally:
        server.model.ready = True
    other = Client(f"http://{server.url}", "songs")
    with other, pytest.raises(RequestRefusedError, match="'songs' is not served here"):
        other.ready()


def test_many_requests_at_once_each_get_their_own_answer(server: Running) -> None:
    async def run() -> None:
        async with AsyncClient(f"http://{server.url}", MODEL, max_connections=4) as client:
            films = [_random(rows) for rows in range(1, 40)]
            answers = await asyncio.gather(*(client.score(one, request_id=f"many-{len(one)}") for one in films))
            for one, answer in zip(films, answers, strict=True):
                np.testing.assert_allclose(answer.logits[:, 0], (one.fids[:, 5] & ((1 << 48) - 1)) / 1000, rtol=1e-5)
                assert answer.request_id == f"many-{len(one)}"
            assert await client.ready()
            assert (await client.metadata()).tasks == ("watch", "like")

    asyncio.run(run())


def test_where_nothing_listens_the_server_is_unavailable() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}"
        with Client(url, MODEL, retries=RetryPolicy(attempts=2, first_wait_s=0.001)) as client:
            assert not client.ready()
            with pytest.raises(ServerUnavailableError, match=r"no connection.*after 2 attempts"):
                client.score(_random(1))


def test_clients_before_and_after_a_change_of_the_spec_are_answered_by_one_server() -> None:
    share = Task("share", "share", 1_000)
    new = replace(SPEC, item=(*SPEC.item, Slot("shop", 20, "id")), tasks=(share, *SPEC.tasks))
    model = FakeModel(empty_table(), program(Linear(2), SPEC))
    model.table.upsert(make_fids(16, [17]), np.full((1, WIDTH), 0.5, np.float32))
    items = {"film": [17], "year": [1990], "genres": [["War"]]}
    numbers = {"price": [1.5], "age_days": [3]}
    with running_server(SPEC, model, also_accepts=[new]) as server, Client(f"http://{server.url}", MODEL) as client:
        client.metadata().check_spec(new)
        old_page = CandidateEncoder(SPEC).from_features(context=CONTEXT, items=items, dense=numbers)
        new_page = CandidateEncoder(new).from_features(context=CONTEXT, items={**items, "shop": [3]}, dense=numbers)
        before, after = client.score(old_page), client.score(new_page)
        np.testing.assert_array_equal(after.logits[:, 1:], before.logits)
        assert np.isnan(after.task("share")).all()
        for event in server.features.events:
            SPEC.check_feature(event)
        assert len(server.features.events) == 2
        stranger = CandidateEncoder(replace(SPEC, name="others"))
        with pytest.raises(RequestRefusedError, match=r"parameters\.spec_hash.*also_accepts"):
            client.score(stranger.from_features(context=CONTEXT, items=items, dense=numbers))
