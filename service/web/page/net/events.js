// Changes of a job, from its event stream. Uses fetch, because an EventSource cannot send an API key.

import { received, request } from "./api.js";
import { reachable } from "./connection.js";

/** Browsers open six connections to a host: streams may use half of them. */
const STREAMS = 3;
const LOOK_AGAIN = 3000;

let streams = 0;
const turns = [];

/** Report each change until the job has ended; then resolves, with null if the job was deleted. */
export async function follow(id, tell, signal) {
  let view = await look(id, tell, signal);
  while (!ended(view) && streams >= STREAMS) {
    await turnOrPause(signal);
    if (streams >= STREAMS) view = await look(id, tell, signal);
  }
  if (ended(view)) return view;
  streams += 1;
  try {
    return await watch(id, view, tell, signal);
  } finally {
    streams -= 1;
    turns.shift()?.();
  }
}

export function ended(view) {
  return ["succeeded", "failed", "cancelled"].includes(view.state);
}

async function look(id, tell, signal) {
  const view = await viewOf(id, signal);
  tell(view);
  return view;
}

/** The current job, with the time `now` of the service: the local clock may be wrong by hours. */
export const viewOf = (id, signal) =>
  received(() => persistent(`jobs/${id}`, { signal }), async (answer) => ({ ...(await answer.json()), now: answer.headers.get("Date") }), signal);

/** Repeat a request while the service is up but cannot answer, for example while Redis is away. */
async function persistent(path, options) {
  for (;;) {
    try {
      return await request(path, options);
    } catch (problem) {
      if (!(problem.status >= 500)) throw problem;
      await reachable(options.signal);
    }
  }
}

function turnOrPause(signal) {
  return new Promise((resolve, reject) => {
    const go = () => {
      const place = turns.indexOf(go);
      if (place >= 0) turns.splice(place, 1);
      resolve();
    };
    turns.push(go);
    setTimeout(go, LOOK_AGAIN);
    signal.addEventListener("abort", () => reject(signal.reason), { once: true });
  });
}

async function watch(id, known, tell, signal) {
  let view = known;
  let last = "";
  for (;;) {
    const headers = last ? { "Last-Event-ID": last } : {};
    const line = new AbortController();
    const stop = () => line.abort(signal.reason);
    signal.addEventListener("abort", stop, { once: true });
    try {
      const answer = await persistent(`jobs/${id}/events`, { headers, signal: line.signal });
      if (answer.status === 204) return await look(id, tell, signal);
      for await (const event of messages(answer.body)) {
        last = event.id || last;
        if (event.name === "gone") return null;
        if (event.name === "bye") break;
        view = { ...view, ...JSON.parse(event.data) };
        tell(view);
        if (event.name === "done") return view;
      }
    } catch (failure) {
      if (signal.aborted) throw signal.reason;
      if (!(failure instanceof TypeError)) throw failure;
    } finally {
      signal.removeEventListener("abort", stop);
      line.abort();
    }
    await reachable(signal);
  }
}

/** Parse the events of a stream (HTML standard, 9.2). */
async function* messages(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const blocks = (rest + value).replaceAll("\r\n", "\n").split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const event = { name: "message", id: "", data: "" };
      for (const line of block.split("\n")) {
        const [, field, text] = /^(\w*): ?(.*)$/.exec(line) ?? [];
        if (field === "event") event.name = text;
        else if (field === "id") event.id = text;
        else if (field === "data") event.data += text;
      }
      if (event.data) yield event;
    }
  }
}
