// The connection to the service. Everything that loses it waits here; one probe goes out for all.

const LONGEST_PAUSE = 30;

let returning = null;
let wake = () => {};
let show = () => {};

/** Say where losses are to be told: `tell({seconds})` while it is lost, `tell(null)` when it is back. */
export function onConnection(tell) {
  show = tell;
}

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
    try {
      const answer = await fetch("livez", { cache: "no-store" });
      if (answer.ok) break;
    } catch {
      // still away
    }
  }
  show(null);
}

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
