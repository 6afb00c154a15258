// The connection to the service. Failed requests wait here, and one probe is sent for all of them.

const LONGEST_PAUSE = 30;
/** Milliseconds of silence after which a connection is dead: a result takes up to 20 s to start, and an event stream sends a comment every 15 s. */
const SILENCE = 45_000;
const PROBE_SILENCE = 10_000;

let returning = null;
let wake = () => {};
let tellOf = () => {};
let lost = null;

/** Set the callback: `tell({seconds})` while the connection is lost, `tell(null)` when it is back. */
export function onConnection(tell) {
  tellOf = tell;
}

function show(next) {
  lost = next;
  tellOf(lost);
}

/** True if the connection is lost. */
export const isAway = () => lost !== null;

/** Retry immediately. */
export function tryNow() {
  wake();
}

/** Resolves when the service responds again. */
export function reachable(signal) {
  returning ??= probe().finally(() => {
    returning = null;
  });
  return new Promise((resolve, reject) => {
    signal?.addEventListener("abort", () => reject(signal.reason), { once: true });
    returning.then(resolve);
  });
}

/** A fetch that fails like a lost connection if no data arrives for `silence` milliseconds. */
export async function fetched(path, { signal, silence = SILENCE, ...options }) {
  const line = new AbortController();
  const listened = (work) =>
    new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        reject(new TypeError("the service is silent"));
        line.abort();
      }, silence);
      work.then(resolve, reject).finally(() => clearTimeout(timer));
    });
  const answer = await listened(fetch(path, { ...options, signal: signal ? AbortSignal.any([signal, line.signal]) : line.signal }));
  if (!answer.body || answer.status === 204) return answer; // Chromium has an empty body here, which a Response rejects
  const reader = answer.body.getReader();
  const body = new ReadableStream(
    {
      async pull(controller) {
        const { value, done } = await listened(reader.read());
        if (done) controller.close();
        else controller.enqueue(value);
      },
      cancel: (reason) => reader.cancel(reason),
    },
    { highWaterMark: 0 },
  );
  return new Response(body, answer);
}

async function probe() {
  for (let pause = 1; ; pause = Math.min(2 * pause, LONGEST_PAUSE)) {
    await countdown(pause);
    if (await answers()) break;
  }
  show(null);
}

async function answers() {
  try {
    return (await fetched("livez", { cache: "no-store", silence: PROBE_SILENCE })).ok;
  } catch {
    return false;
  }
}

// A silent stream does not notice that the network is gone; a service on this machine can still be reached.
window.addEventListener("offline", async () => (await answers()) || reachable());

/** Wait so many seconds, or until the user retries or the network is back. */
async function countdown(seconds) {
  let woken = false;
  wake = () => {
    woken = true;
    rouse();
  };
  let rouse = () => {};
  window.addEventListener("online", wake, { once: true });
  for (let left = seconds; left > 0 && !woken; left -= 1) {
    show({ seconds: left });
    await new Promise((resolve) => {
      rouse = resolve;
      setTimeout(resolve, 1000);
    });
  }
  window.removeEventListener("online", wake);
}
