// The connection to the service. Everything that loses it waits here; one probe goes out for all.

const LONGEST_PAUSE = 30;

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

async function probe() {
  for (let pause = 1; ; pause = Math.min(2 * pause, LONGEST_PAUSE)) {
    await countdown(pause);
    if (await answers()) break;
  }
  show(null);
}

async function answers() {
  try {
    return (await fetch("livez", { cache: "no-store" })).ok;
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
