// What the service makes of a finished job. Some of it is there, some is a small job of its own.

import { request } from "./api.js";
import { ended, follow } from "./events.js";

/** The answer with the picture of a job: `wanted` are the fields of its result's address. */
export async function result(id, wanted, signal = new AbortController().signal) {
  const address = `jobs/${id}/result?${new URLSearchParams(wanted)}`;
  for (;;) {
    const answer = await request(address, { signal, headers: { Prefer: "wait=20" } });
    if (answer.status !== 202) return answer;
    const job = await answer.json();
    if (!ended(job)) await follow(job.id, () => {}, signal);
  }
}
