// Results that the service derives from a finished job. Some of it is there, some is a small job of its own.

import { request } from "./api.js";
import { ended, follow } from "./events.js";

const WAIT = { Prefer: "wait=20" };

/** The answer with the picture of a job: `wanted` are the fields of its result's address. */
export async function result(id, wanted, signal) {
  const address = `jobs/${id}/result?${new URLSearchParams(wanted)}`;
  for (;;) {
    const answer = await request(address, { signal, headers: WAIT });
    if (answer.status !== 202) return answer;
    await made(answer, signal);
  }
}

/** The same by a map, a PNG file that gives each pixel a trade-off of its own. */
export async function resultByMap(id, map, wanted) {
  const address = `jobs/${id}/result?${new URLSearchParams(wanted)}`;
  for (;;) {
    const body = new FormData();
    body.append("map", map, "map.png");
    const answer = await request(address, { method: "POST", body, headers: WAIT });
    if (answer.status !== 202) return answer;
    await made(answer);
  }
}

async function made(answer, signal = new AbortController().signal) {
  const job = await answer.json();
  if (!ended(job)) await follow(job.id, () => {}, signal);
}
