// The connection to the service. Everything that loses it waits here; one probe goes out for all.

const LONGEST_PAUSE = 30;
/** A result takes up to 20 s to begin, and an event stream sends something every 15 s: after so many milliseconds of silence the line is dead. */
const SILENCE = 45_000;
const PROBE_SILENCE = 10_000;

let returning = null;
let wake = () => {};
let tellOf = () => {};
let lost = null;

/** Say where losses are to be told: `tell({seconds})` while it is lost, `tell(null)` when it is back. */
export function onConnection(tell) {
  tellOf = tell;
}

function show(next) {
  lost = next;
  tellOf(lost);
}

/** Whether the connection is lost. */
export const isAway = () => lost !== null;

/** Try again at once. */
export function tryNow() {
  wake();
}

/** Resolves when the service answers again. */
export function reachable(signal) {
  returning ??= probe().finally(() => {
    returning = null;
  });
  return new Promise((resolve, reject) => {
    signal?.addEventListener("abort", () => reject(signal.reason), { once: true });
    returning.then(resolve);
  });
}

/** A fetch that fails as with a lost connection when nothing comes for `silence` milliseconds, of the head or of the body. */
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
  if (!answer.body || answer.status === 204) return answer; // Chromium has a body of nothing, which no Response takes
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

// A stream that nothing comes from does not notice it; a service on this machine can still be reached.
window.addEventListener("offline", async () => (await answers()) || reachable());

/** Wait so many seconds, or until somebody is impatient or the network comes back. */
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
