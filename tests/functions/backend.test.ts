import assert from "node:assert/strict";
import { backend } from "./backend.ts";

const project = await backend();

Deno.test("fresh() puts back what the migrations left, settings included", async () => {
  const before = await project.sql`select * from care.settings`;
  await project.fresh();
  const { error } = await project.client.from("patients").insert({ name: "Ana", timezone: "Europe/Lisbon" });
  assert.equal(error, null);
  await project.sql`delete from care.settings`;
  await project.fresh();
  const [count] = await project.sql`select count(*)::int as patients from public.patients`;
  assert.equal(count?.patients, 0);
  assert.deepEqual([...await project.sql`select * from care.settings`], [...before]);
});

Deno.test("Storage keeps the bytes that were uploaded last", async () => {
  await project.fresh();
  const bucket = project.client.storage.from(project.bucket);
  for (const length of [70_000, 100_001]) {
    const bytes = new Uint8Array(length).map((_, index) => index % 251);
    const { error } = await bucket.upload("a/b.wav", bytes, { contentType: "audio/wav", upsert: true });
    assert.equal(error, null);
    const { data } = await bucket.download("a/b.wav");
    assert.deepEqual(new Uint8Array(await data!.arrayBuffer()), bytes);
  }
});
