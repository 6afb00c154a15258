// Derived results of a finished job. Some exist already, others are small jobs of their own.

import { request } from "./api.js";
import { ended, follow } from "./events.js";

const WAIT = { Prefer: "wait=20" };

/** The response with the picture of a job; `wanted` are query fields of the result. */
export async function result(id, wanted, signal) {
  const address = `jobs/${id}/result?${new URLSearchParams(wanted)}`;
  for (;;) {
    const answer = await request(address, { signal, headers: WAIT });
    if (answer.status !== 202) return answer;
    await made(answer, signal);
  }
}

/** The same by a map: a PNG file with a trade-off for each pixel. */
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
