// Sends the pages of pages.json to the two raw topics, and what was watched on them, with an Avro encoder of ten lines.
//
//   npm ci && node producer.mjs 127.0.0.1:9092 for_sale.features for_sale.actions
//
// What every byte means is written down in docs/wire.md.

import { createHash, randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";
import kafkajs from "kafkajs";

// as `rillet check-config --config examples/producers/rillet.toml` prints it
const SPEC_HASH = 0xb5e7237ef57a94an;
const BINS = [2.5, 5.0, 10.0];
const SLOT = { user: 1, interests: 2, film: 16, genres: 17, priceBand: 18 };
// C3 01 and the fingerprint of the schema
const FEATURE_EVENT = Buffer.from("c301f685b0755e48df48", "hex");
const ACTION_EVENT = Buffer.from("c30187bef12641c8bcf3", "hex");

const fid = (slot, value) => (BigInt(slot) << 48n) | BigInt(value);
const token = (text) => parseInt(createHash("sha256").update(text, "utf8").digest("hex").slice(0, 12), 16);
const bin = (value) => BINS.filter((edge) => edge <= value).length;

// Columns of numbers: little-endian, one after the other.
const int64s = (values) => Buffer.from(new BigInt64Array(values.map(BigInt)).buffer);
const uint16s = (values) => Buffer.from(new Uint16Array(values).buffer);
const float32s = (values) => Buffer.from(new Float32Array(values).buffer);
if (new Uint8Array(new Uint16Array([1]).buffer)[0] !== 1) throw new Error("this machine is big-endian: use DataView");

// Avro: a long as a zigzag varint; bytes and text as their length and themselves; of a union the branch, then the value.
function long(value) {
  let left = BigInt.asUintN(64, (BigInt(value) << 1n) ^ (BigInt(value) >> 63n));
  const bytes = [];
  for (; left > 0x7fn; left >>= 7n) bytes.push(Number(left & 0x7fn) | 0x80);
  return Buffer.from([...bytes, Number(left)]);
}
const bytes = (data) => Buffer.concat([long(data.length), data]);
const text = (value) => bytes(Buffer.from(value, "utf8"));
const NULL = long(0);
const some = (encoded) => Buffer.concat([long(1), encoded]);

function featureEvent(requestId, timeMs, page) {
  const interests = page.interests.map((interest) => fid(SLOT.interests, token(interest)));
  const itemFids = page.films.flatMap((film) => [
    fid(SLOT.film, film.film),
    ...film.genres.map((genre) => fid(SLOT.genres, token(genre))),
    fid(SLOT.priceBand, bin(film.price)),
  ]);
  return Buffer.concat([
    FEATURE_EVENT,
    text(requestId),
    long(timeMs),
    long(SPEC_HASH),
    text(""), // model: none has scored it
    long(0), // model_version
    bytes(int64s([fid(SLOT.user, page.user), ...interests])),
    some(bytes(uint16s([1, interests.length]))),
    bytes(int64s(page.films.map((film) => film.film))),
    bytes(int64s(itemFids)),
    some(bytes(uint16s(page.films.flatMap((film) => [1, film.genres.length, 1])))),
    bytes(float32s(page.films.map((film) => film.rating))),
    NULL, // served_logits
    NULL, // exposed: all of them
  ]);
}

function actionEvent(requestId, timeMs, film) {
  return Buffer.concat([ACTION_EVENT, text(requestId), long(timeMs), long(film), text("watch"), NULL, NULL]);
}

const [servers, features, actions] = process.argv.slice(2);
const kafka = new kafkajs.Kafka({ brokers: servers.split(","), logLevel: kafkajs.logLevel.ERROR });
const producer = kafka.producer({ idempotent: true, createPartitioner: kafkajs.Partitioners.DefaultPartitioner });
const message = (requestId, timeMs, value) => ({
  key: requestId,
  value,
  timestamp: String(timeMs),
  headers: { ingest_ms: String(Date.now()) },
});

await producer.connect();
for (const page of JSON.parse(readFileSync(new URL("../pages.json", import.meta.url), "utf8"))) {
  const requestId = randomUUID();
  const now = Date.now();
  await producer.send({ topic: features, messages: [message(requestId, now, featureEvent(requestId, now, page))] });
  if (page.watched !== null) {
    const value = actionEvent(requestId, now + 1, page.watched);
    await producer.send({ topic: actions, messages: [message(requestId, now + 1, value)] });
  }
}
await producer.disconnect();
